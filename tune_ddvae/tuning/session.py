"""One driver's session: everything that is opened around the engine, and closed in order again."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
    redirect_stdout,
    suppress,
)
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from tune_ddvae import exit_codes
from tune_ddvae.config import Value
from tune_ddvae.errors import (
    BrokenOffError,
    DdvaeError,
    RecordError,
    StorageError,
    StorageFullError,
)
from tune_ddvae.spec import StudySpec
from tune_ddvae.tuning import provenance
from tune_ddvae.tuning.cluster import cluster, shipping
from tune_ddvae.tuning.cluster.autoscaler import is_infeasible
from tune_ddvae.tuning.cluster.fitness import leave_mark, remove_marks
from tune_ddvae.tuning.cluster.resources import Slots
from tune_ddvae.tuning.cluster.slots import ClusterSlots, Waiting, cluster_wait_s
from tune_ddvae.tuning.record.opening import open_record
from tune_ddvae.tuning.record.postgresql import is_server, plain_cause
from tune_ddvae.tuning.reporting.summary import Summary, summarise
from tune_ddvae.tuning.running import engine
from tune_ddvae.tuning.running.live import Conditions, LiveStudy
from tune_ddvae.tuning.running.progress import Progress
from tune_ddvae.tuning.signals import StopSwitch, exit_code_of, signals_stop
from tune_ddvae.tuning.storage import disk
from tune_ddvae.tuning.storage.bucket import Bucket, says_away
from tune_ddvae.tuning.storage.lock import sole_driver
from tune_ddvae.tuning.storage.place import Place, database_folder
from tune_ddvae.tuning.tracking.tracking import Outcome, Tracker
from tune_ddvae.tuning.tracking.tracking import Summary as Tracked
from tune_ddvae.tuning.tracking.view import FOLDER_TAG
from tune_ddvae.tuning.trials import State

PATIENCE_S = 30.0  # for a tracking server that is slow to take the last of it
NO_REPORT = "the report was broken off; the same command makes it"
HASTE_S = 8.0  # the same after a signal: Slurm and Kubernetes give 30 s in all


@dataclass(frozen=True, kw_only=True)
class Request:
    """A study as it is to be run now: all choices made, all checks passed."""

    name: str
    experiment: str  # MLflow's: the study file's name
    question: str
    spec: StudySpec
    folder: Place  # the study's own
    tracking_uri: str
    record: str  # address
    data_checksum: str
    command: str  # that starts or continues it
    seed: int
    trials: int | None
    hours: float | None
    slots: Slots | ClusterSlots
    data_dir: str | None = None
    files: Any | None = None  # Ray's reference to the data's, for machines that lack them
    stall_s: float = 600.0  # a worker that finishes no batch for so long is ended
    working_bytes: int = disk.RESERVE_BYTES  # that must be free in the storage while trials train
    report: bool = True  # whether figures are made once the study is complete

    @property
    def is_joined(self) -> bool:
        """Whether a cluster has been joined for it."""
        return isinstance(self.slots, ClusterSlots)

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
        BrokenOffError: Record or storage went away in the middle, or could not be written to.
    """
    try:
        return _run_session(request, console)
    except Exception as error:
        if disk.is_full(error):
            cause = plain_cause(getattr(error, "orig", None) or error)
            raise StorageFullError(disk.full_text(request.folder, cause)) from error
        if isinstance(request.folder, Bucket) and says_away(str(error)):
            raise BrokenOffError(
                f"storage {request.folder} went away ({plain_cause(error)}); what was recorded is kept, "
                "and the same command goes on once it answers"
            ) from error
        raise


def _run_session(request: Request, console: Console) -> Ended:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not isinstance(request.folder, Bucket):
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
            if exit_code_of(switch.reason) is None:
                report = _report(request, study, tracked, console)
            else:  # the last trial ended as the signal came, and a report takes longer than it leaves
                _tell(console, NO_REPORT)
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
            _tell(console, str(tracked))
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
    if is_server(request.record):
        return nullcontext()
    return sole_driver(database_folder(request.folder))


@contextmanager
def _marked(request: Request) -> Iterator[str]:
    """A mark in the study's folder by which workers know it; none where they surely see the same."""
    folder = request.folder
    if not request.is_joined or isinstance(folder, Bucket):
        yield ""
        return
    mark = leave_mark(folder)
    try:
        yield mark
    finally:
        with suppress(OSError):  # what is left goes with the next start
            remove_marks(folder)


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
        with _marked(request) as mark:
            conditions = Conditions(
                storage=request.folder,
                seed=request.seed,
                trials=request.trials,
                data_dir=request.data_dir,
                data_checksum=request.data_checksum,
                num_cpus=request.slots.num_cpus,
                num_gpus=request.slots.num_gpus,
                stall_s=request.stall_s,
                code=shipping.digest() if request.is_joined else "",
                mark=mark,
            )
            study = LiveStudy(request.spec, record, conditions)
            if not is_server(
                request.record
            ):  # there a frozen driver's workers may still be writing
                disk.sweep(database_folder(request.folder), record.checkpoint_paths())
            with _work_left():
                yield study
    finally:
        with _work_left():  # it raises what its writer failed with
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
        "memory_gb_per_trial": slots.memory_gb,
    }
    uri, experiment = request.tracking_uri, request.experiment
    tracker = Tracker(study.record, uri, experiment, study.notes.append, extra)

    def finish() -> Tracked:
        with console.status("bringing MLflow up to date"):
            patience_s = PATIENCE_S if exit_code_of(switch.reason) is None else HASTE_S
            return tracker.finish(_outcome(study, switch.reason), switch.reason, patience_s)

    try:
        if not study.is_complete:
            _run_engine(request, study, switch, console, tracker.wake)
    except BaseException as error:
        switch.set(f"stopped by {type(error).__name__}")
        with suppress(DdvaeError, SQLAlchemyError):  # what ended the study is what is said
            finish()
        raise
    return finish()


@contextmanager
def _work_left() -> Iterator[None]:
    """Tell what ends a study in the middle from what refuses it before anything is created.

    Raises:
        BrokenOffError: Record or storage went away, could not be written to, or is another driver's.
    """
    try:
        yield
    except StorageFullError:
        raise
    except (RecordError, StorageError) as error:
        raise BrokenOffError(str(error)) from error
    except (SQLAlchemyError, StorageInternalError) as error:
        # Optuna's own is one around another.
        failed = error.__cause__ if isinstance(error, StorageInternalError) else error
        cause = plain_cause(getattr(failed, "orig", None) or failed or error)
        raise BrokenOffError(
            f"the record could not be written to ({cause}); what it holds is safe, and the same "
            "command goes on"
        ) from error


def _run_engine(
    request: Request,
    study: LiveStudy,
    switch: StopSwitch,
    console: Console,
    on_change: Callable[[], None],
) -> None:
    study.record.begin_session(request.trials, request.command, str(Path.cwd()))
    slots = request.slots
    waiting = None
    if isinstance(slots, ClusterSlots):
        waiting = Waiting(slots, study.notes.append, is_infeasible, wait_s=cluster_wait_s())
    with (
        redirect_stdout(console.file),  # Ray prints of lost workers, and --json owns our stdout
        signals_stop(switch),
        _budget(request.hours, study, switch),
        Progress(study, console, slots=slots, hours=request.hours, waiting=waiting),
    ):
        try:
            cluster.start_ray()
            watch = disk.Watch(request.folder, request.working_bytes)
            engine.run(study, slots, switch, on_change, watch, waiting, request.files)
        finally:
            cluster.stop_ray()
    study.record.seen(ended_as=switch.reason or "complete")
    study.record.flush()


def _report(request: Request, study: LiveStudy, tracked: Tracked, console: Console) -> Place | None:
    """Make the report; whatever happens meanwhile, the study is complete and is shown as that."""
    from tune_ddvae.tuning.reporting.report import report_on  # loads Matplotlib, for this end alone

    tell = partial(_tell, console)
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
        tell(NO_REPORT)
        return None


def _tell(console: Console, line: str) -> None:
    console.print(f"warning: {line}", markup=False, soft_wrap=True)


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
