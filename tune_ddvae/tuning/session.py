"""One driver's session: everything that is opened around the engine, and closed in order again."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import optuna
from rich.console import Console

from tune_ddvae import exit_codes
from tune_ddvae.config import Value
from tune_ddvae.errors import StorageFullError
from tune_ddvae.spec import StudySpec
from tune_ddvae.tuning import disk, engine, provenance
from tune_ddvae.tuning.live import Conditions, LiveStudy
from tune_ddvae.tuning.lock import sole_driver
from tune_ddvae.tuning.opening import open_record
from tune_ddvae.tuning.postgresql import is_server, plain_cause
from tune_ddvae.tuning.progress import Progress
from tune_ddvae.tuning.resources import Slots
from tune_ddvae.tuning.signals import StopSwitch, exit_code_of, signals_stop
from tune_ddvae.tuning.summary import Summary, summarise
from tune_ddvae.tuning.tracking import Outcome, Tracker
from tune_ddvae.tuning.tracking import Summary as Tracked
from tune_ddvae.tuning.tracking_view import FOLDER_TAG
from tune_ddvae.tuning.trials import State

PATIENCE_S = 30.0  # for a tracking server that is slow to take the last of it
HASTE_S = 8.0  # the same after a signal: Slurm and Kubernetes give 30 s in all


@dataclass(frozen=True, kw_only=True)
class Request:
    """A study as it is to be run now: all choices made, all checks passed."""

    name: str
    experiment: str  # MLflow's: the study file's name
    question: str
    spec: StudySpec
    folder: Path  # the study's own
    tracking_uri: str
    record: str  # address
    data_checksum: str
    command: str  # that starts or continues it
    seed: int
    trials: int | None
    hours: float | None
    slots: Slots
    data_dir: str | None = None
    stall_s: float = 600.0  # a worker that finishes no batch for so long is ended
    working_bytes: int = disk.RESERVE_BYTES  # that must be free in the storage while trials train
    report: bool = True  # whether figures are made once the study is complete

    def identity(self) -> dict[str, Value]:
        """What the record compares: the spec, the seed and the data."""
        return {**self.spec.identity(), "seed": self.seed, "data": self.data_checksum}

    def about(self) -> dict[str, Value]:
        """What is logged of the study, but never compared."""
        return {
            **provenance.versions(),
            "experiment": self.experiment,
            "question": self.question,
            "command": self.command,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Ended:
    """How a session ended."""

    summary: Summary
    exit_code: int


def run_session(request: Request, console: Console) -> Ended:
    """Continue the study until it is complete or has to stop, and say how it ended.

    Raises:
        StudyLockedError: Another driver holds the study.
        RecordError: The record holds another study under this name.
        StorageFullError: The disk was so full that not even the record could be written.
    """
    try:
        return _run_session(request, console)
    except Exception as error:
        if disk.is_full(error):
            cause = plain_cause(getattr(error, "orig", None) or error)
            raise StorageFullError(disk.full_text(request.folder, cause)) from error
        raise


def _run_session(request: Request, console: Console) -> Ended:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    request.folder.mkdir(parents=True, exist_ok=True)
    with _held(request), _open_study(request) as study:
        switch = StopSwitch()
        started = time.monotonic()
        if study.is_complete:
            switch.set("already complete")
        tracked = _train(request, study, switch, console)
        hours = (time.monotonic() - started) / 3600
        code = exit_code(study, switch.reason)
        report = None
        if code == exit_codes.COMPLETE and request.report:
            report = _report(request, study, tracked, console)
        summary = summarise(
            study,
            name=request.name,
            folder=request.folder,
            record=request.record,
            tracking_uri=request.tracking_uri,
            outcome=switch.reason or "complete",
            command=request.command,
            hours=hours,
            earlier_hours=study.record.used_hours(),
            report=report,
        )
        if not tracked.is_whole:
            console.print(f"warning: {tracked}", markup=False, soft_wrap=True)
        return Ended(summary, code)


def exit_code(study: LiveStudy, reason: str) -> int:
    """Exit code of a study that stands like this after stopping for that reason."""
    if not study.is_complete:
        signalled = exit_code_of(reason)
        return exit_codes.WORK_LEFT if signalled is None else signalled
    succeeded = any(trial.state is State.COMPLETE for trial in study.trials.values())
    return exit_codes.COMPLETE if succeeded else exit_codes.NO_SUCCESS


def _held(request: Request) -> AbstractContextManager[None]:
    """Keep other drivers away from the folder; on a server the record's own lease does that."""
    return nullcontext() if is_server(request.record) else sole_driver(request.folder)


@contextmanager
def _open_study(request: Request) -> Iterator[LiveStudy]:
    record = open_record(
        request.record,
        request.name,
        request.spec,
        request.identity(),
        request.about(),
    )
    try:
        conditions = Conditions(
            storage=request.folder,
            seed=request.seed,
            trials=request.trials,
            data_dir=request.data_dir,
            data_checksum=request.data_checksum,
            num_cpus=request.slots.num_cpus,
            stall_s=request.stall_s,
        )
        study = LiveStudy(request.spec, record, conditions)
        if not is_server(request.record):  # there a frozen driver's workers may still be writing
            disk.sweep(
                request.folder, {m.path for t in study.trials.values() for m in t.checkpoints}
            )
        yield study
    finally:
        record.close()


def _train(request: Request, study: LiveStudy, switch: StopSwitch, console: Console) -> Tracked:
    """Train until there is nothing left to do or the switch is set, with MLflow following."""
    slots = request.slots
    extra: dict[str, Value] = {
        "command": request.command,
        FOLDER_TAG: str(request.folder),
        "slots": slots.concurrent,
        "cpus_per_trial": slots.num_cpus,
        "gpus_per_trial": slots.num_gpus,
    }
    uri, experiment = request.tracking_uri, request.experiment
    tracker = Tracker(study.record, uri, experiment, study.notes.append, extra)
    try:
        if not study.is_complete:
            _run_engine(request, study, switch, console, tracker.wake)
    except BaseException as error:
        switch.set(f"stopped by {type(error).__name__}")
        raise
    finally:
        with console.status("bringing MLflow up to date"):
            patience_s = PATIENCE_S if exit_code_of(switch.reason) is None else HASTE_S
            tracked = tracker.finish(_outcome(study, switch.reason), switch.reason, patience_s)
    return tracked


def _run_engine(
    request: Request,
    study: LiveStudy,
    switch: StopSwitch,
    console: Console,
    on_change: Callable[[], None],
) -> None:
    study.record.begin_session()
    slots = request.slots
    with (
        redirect_stdout(console.file),  # Ray prints of lost workers, and --json owns our stdout
        signals_stop(switch),
        _budget(request.hours, study, switch),
        Progress(study, console, slots=slots.concurrent, hours=request.hours),
    ):
        try:
            engine.start_ray()
            space = disk.Watch(request.folder, request.working_bytes)
            engine.run(study, slots, switch, on_change, space)
        finally:
            engine.stop_ray()
    study.record.seen(ended_as=switch.reason or "complete")
    study.record.flush()


def _report(request: Request, study: LiveStudy, tracked: Tracked, console: Console) -> Path | None:
    """Make the report; whatever happens meanwhile, the study is complete and is shown as that."""
    from tune_ddvae.tuning.report import report_on  # loads Matplotlib, for this end alone

    def tell(line: str) -> None:
        console.print(f"warning: {line}", markup=False, soft_wrap=True)

    try:
        with console.status("drawing the report"):
            return report_on(
                study,
                name=request.name,
                experiment=request.experiment,
                tracking_uri=request.tracking_uri,
                is_tracked=tracked.is_whole,
                tell=tell,
            )
    except (KeyboardInterrupt, SystemExit):  # a signal
        tell("the report was broken off; the same command makes it")
        return None


@contextmanager
def _budget(hours: float | None, study: LiveStudy, switch: StopSwitch) -> Iterator[None]:
    """Set the switch when the hours are used up, counting what earlier drivers used."""
    if hours is None:
        yield
        return
    left_s = (hours - study.record.used_hours()) * 3600
    timer = threading.Timer(max(left_s, 0.0), switch.set, args=[Outcome.OUT_OF_TIME])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _outcome(study: LiveStudy, reason: str) -> Outcome:
    code = exit_code(study, reason)
    if code == exit_codes.COMPLETE:
        return Outcome.COMPLETE
    if code == exit_codes.NO_SUCCESS:
        return Outcome.FAILED
    return Outcome.OUT_OF_TIME if reason == Outcome.OUT_OF_TIME else Outcome.INTERRUPTED
