"""Ray Tune as the engine: it runs trials, and our study decides about them.

Four hooks, each thin: the searcher hands out assignments and hears of ends, the scheduler passes the
study's decision on, the callback brings every result and checkpoint, the stopper ends everything.
Tune's own restore, snapshots, loggers and signal handlers are off: the record does their work.
"""

import logging
import os
import platform
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import AuthenticationError
from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, Stopper, TuneConfig
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

import tune_ddvae
from tune_ddvae import exit_codes
from tune_ddvae.errors import ResourceError, StorageFullError
from tune_ddvae.tuning import disk
from tune_ddvae.tuning.last_words import heard
from tune_ddvae.tuning.live import LiveStudy
from tune_ddvae.tuning.losses import Loss, Memory, judge
from tune_ddvae.tuning.resources import Available, Slots
from tune_ddvae.tuning.signals import StopSwitch
from tune_ddvae.tuning.storage import TRIALS_FOLDER, attempt_name
from tune_ddvae.tuning.trainable import ASSIGNMENT, REPORT, TrialTrainable
from tune_ddvae.tuning.trials import Assignment

SEEN_EVERY_S = 5.0  # how closely the hours that a killed driver used are known
ANSWER_S = 3.0  # how long a cluster may take to take a connection

ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours reports and records first
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # 41 ms of driver CPU a result
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",  # snapshots for a restore that we never use
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial that asked for no GPU sees none
    "RAY_USAGE_STATS_ENABLED": "0",
}


def run(
    study: LiveStudy,
    slots: Slots,
    switch: StopSwitch,
    on_change: Callable[[], None],
    space: disk.Watch,
) -> None:
    """Train until the study has nothing left to do or the switch is set.

    Raises:
        Exception: What the record or the study's own logic failed with.
    """
    # What Tune logs of a lost worker is a page of its own frames; our note says what happened.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots.concurrent)
    memory = Memory()
    tuner = tune.Tuner(
        tune.with_resources(TrialTrainable, tune.PlacementGroupFactory([_bundle(slots)])),
        tune_config=TuneConfig(
            num_samples=-1,
            search_alg=StudySearcher(study, slots, switch),
            scheduler=StudyScheduler(study, memory),
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=RunConfig(
            name=TRIALS_FOLDER,
            storage_path=str(study.conditions.storage),
            callbacks=[StudyCallback(study, switch, on_change, space, memory)],
            stop=StudyStopper(switch),
            failure_config=FailureConfig(max_failures=0),
            checkpoint_config=CheckpointConfig(checkpoint_frequency=1),
            verbose=0,
        ),
    )
    tuner.fit()
    study.record.flush()


class InDriver:
    """Stays in the driver: Tune pickles what it is given, and nobody reads that pickle here."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # open databases, threads and locks do not belong in it

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


class StudySearcher(InDriver, Searcher):
    """Hands Tune the study's assignments, and tells the study how attempts ended."""

    def __init__(self, study: LiveStudy, slots: Slots, switch: StopSwitch) -> None:
        super().__init__()
        self._study = study
        self._slots = slots
        self._switch = switch
        self._attempts: dict[str, str] = {}  # Tune's trial id -> attempt
        self.losses: dict[str, Loss] = {}

    def suggest(self, trial_id: str) -> Any:  # Ray's annotation knows no FINISHED
        """The next assignment; None while all slots are taken."""
        if self._switch.is_set():
            return Searcher.FINISHED
        in_flight = len(self._study.in_flight)
        if in_flight >= self._slots.concurrent:
            return None
        assignment = self._study.next_assignment()
        if assignment is not None:
            self._attempts[trial_id] = assignment.attempt
            return {ASSIGNMENT: assignment}
        # None with nothing in flight would make Tune wait for minutes, deaf to signals.
        return None if in_flight else Searcher.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """An attempt ended on its own terms, or its worker was lost."""
        attempt = self._attempts.pop(trial_id, None)
        if attempt is None:
            return
        try:
            if error:
                loss = self.losses.pop(trial_id, judge(""))
                if loss.is_full:
                    storage = self._study.conditions.storage
                    self._switch.set(disk.full_text(storage, loss.reason))
                self._study.lose_attempt(attempt, loss.reason, counts=loss.counts)
            else:
                self._study.end_attempt(attempt)
        except Exception as fault:  # noqa: BLE001 - Tune would take it for the trial's failure
            self._switch.fail(fault)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: every result reaches the callback."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the record is the state, and open databases do not belong in a pickle."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: Tune's restore is never used."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing, as ``save``."""


class StudyScheduler(InDriver, TrialScheduler):
    """Passes the study's decisions on to Tune."""

    def __init__(self, study: LiveStudy, memory: Memory) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._memory = memory
        self._study = study
        self._metric = None

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on; the report becomes a row here, with its decision."""
        goes_on = self._study.take(_assignment(trial).attempt, result[REPORT])
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Remember why the worker was lost; the searcher hears of the loss next."""
        searcher: StudySearcher = tune_controller.search_alg.searcher
        assignment = _assignment(trial)
        folder = self._study.conditions.storage / TRIALS_FOLDER / _trial_name(trial)
        host = self._study.trials[assignment.number].facts.get("host", platform.node())
        evidence = self._memory.evidence() if host == platform.node() else ""
        searcher.losses[trial.trial_id] = loss_of(trial, heard(folder), evidence)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Nothing to prepare."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: the searcher tells the study."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing to clean up."""

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The first that waits."""
        for trial in tune_controller.get_trials():
            if trial.status == "PENDING" and tune_controller.trial_executor.has_resources_for_trial(
                trial
            ):
                return trial
        return None

    def debug_string(self) -> str:
        """What Tune prints of it."""
        return "decisions come from the study's record"


class StudyCallback(InDriver, Callback):
    """Brings every result, the last ones included, and every whole checkpoint to the study."""

    def __init__(
        self,
        study: LiveStudy,
        switch: StopSwitch,
        on_change: Callable[[], None],
        space: disk.Watch,
        memory: Memory,
    ) -> None:
        self._space = space
        self._memory = memory
        self._study = study
        self._switch = switch
        self._on_change = on_change
        self._seen = time.monotonic()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Raise what the record failed with; stop when one error keeps coming back."""
        if self._switch.error is not None:
            raise self._switch.error
        self._study.record.check()
        self._memory.sample()
        if complaint := self._space.complaint():
            self._switch.set(complaint)
        if time.monotonic() - self._seen > SEEN_EVERY_S:
            self._seen = time.monotonic()
            self._study.record.seen()
            if ray.is_initialized() and not _has_nodes():
                # With no node left Tune would wait for one for ever.
                self._switch.set("Ray's last node died; likely for want of memory")
        if self._study.repeated_error:
            self._switch.set(f"the same error again and again: {self._study.repeated_error}")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Take the report (a second time, where the scheduler has seen it: that changes nothing)."""
        report = result[REPORT]
        self._study.take(_assignment(trial).attempt, report)
        if report.error_kind == StorageFullError.__name__:
            self._switch.set(disk.full_text(self._study.conditions.storage, report.error))
        self._on_change()

    def on_checkpoint(
        self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any
    ) -> None:
        """Mark a checkpoint as whole: Ray copies file by file, so only an announced one counts."""
        storage = self._study.conditions.storage
        path = Path(checkpoint.path).relative_to(storage).as_posix()
        epoch = trial.last_result[REPORT].epoch
        try:
            self._study.take_checkpoint(_assignment(trial).attempt, epoch, path)
        except Exception as error:  # noqa: BLE001 - Tune would only log it: on_step_begin raises it
            self._switch.fail(error)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show the end."""
        self._on_change()


class StudyStopper(InDriver, Stopper):
    """Ends everything once the switch is set."""

    def __init__(self, switch: StopSwitch) -> None:
        self._switch = switch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No rule of its own for a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether the end was asked for."""
        return self._switch.is_set()


def loss_of(trial: Any, last_words: str = "", evidence: str = "") -> Loss:
    """Why a worker was lost, from the file in which Ray wrote it down and what else is known of it."""
    if not trial.error_file or not Path(trial.error_file).is_file():
        return judge("", last_words, evidence)
    text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    return judge(text, last_words, evidence)


def _assignment(trial: Any) -> Assignment:
    assignment: Assignment = trial.config[ASSIGNMENT]
    return assignment


def _trial_name(trial: Any) -> str:
    assignment = _assignment(trial)
    return attempt_name(assignment.number, assignment.attempt)


def _bundle(slots: Slots) -> dict[str, float]:
    bundle = {"CPU": slots.num_cpus}
    if slots.num_gpus:
        bundle["GPU"] = slots.num_gpus
    return bundle


def join_cluster(address: str) -> Available:
    """Join the cluster at an address; what it has now.

    Raises:
        ResourceError: Nothing answers there, or it asks for a token that is not here.
    """
    os.environ.update(ENVIRONMENT)
    _check_answers(address)
    try:
        with _on_our_terms():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except AuthenticationError as error:
        raise ResourceError(
            f"the Ray cluster at --address {address} asks for a token that is not here: set "
            "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or copy its ~/.ray/auth_token"
        ) from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(
            f"no Ray cluster answers at --address {address} ({error}); start one with `ray start "
            "--head`, or leave --address out"
        ) from error
    there = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return Available(there.get("CPU", 0.0), there.get("GPU", 0.0))


def _has_nodes() -> bool:
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return any(node["Alive"] for node in nodes)


def _check_answers(address: str) -> None:
    """Ask the port first: Ray itself would try for minutes, deaf to signals."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        return  # a word of Ray's own, such as auto
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise ResourceError(
            f"nothing answers at --address {address} ({error}); start a cluster with `ray start "
            "--head`, or leave --address out"
        ) from error


def start_ray() -> None:
    """Start a Ray of our own on this machine, unless a cluster has been joined."""
    os.environ.update(ENVIRONMENT)
    if ray.is_initialized():
        return
    with _on_our_terms():
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=200_000_000,
        )


@contextmanager
def _on_our_terms() -> Iterator[None]:
    """Let ``ray.init`` change neither what SIGTERM does nor which code the workers run.

    It puts in a SIGTERM handler of its own, which exits with 15 and records nothing. And it puts the
    current folder first on its workers' path: a package of our name that lies there would win over
    us in the workers, so that folder has to be the one that we come from.
    """
    ours = signal.getsignal(signal.SIGTERM)
    try:
        with chdir(Path(tune_ddvae.__file__).parent.parent):
            yield
    except SystemExit as error:  # a signal came while Ray was starting
        raise SystemExit(exit_codes.TERMINATED) from error
    finally:
        signal.signal(signal.SIGTERM, ours)


def stop_ray() -> None:
    """End the Ray that we started, or leave the cluster that we joined."""
    ray.shutdown()
