"""Ray Tune as the engine: it runs trials, and our study decides about them.

Four hooks, each thin: the searcher hands out assignments and hears of ends, the scheduler passes the
study's decision on, the callback brings every result and checkpoint, the stopper ends everything.
Tune's own restore, snapshots, loggers and signal handlers are off: the record does their work.
"""

import logging
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, Stopper, TuneConfig
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from tune_ddvae.errors import StorageFullError
from tune_ddvae.tuning.cluster import cluster
from tune_ddvae.tuning.cluster.resources import Slots
from tune_ddvae.tuning.cluster.slots import ClusterSlots, Waiting
from tune_ddvae.tuning.running.last_words import heard
from tune_ddvae.tuning.running.live import LiveStudy
from tune_ddvae.tuning.running.losses import Loss, Memory, judge
from tune_ddvae.tuning.running.trainable import ASSIGNMENT, FILES, REPORT, TrialTrainable
from tune_ddvae.tuning.signals import StopSwitch
from tune_ddvae.tuning.storage import disk
from tune_ddvae.tuning.storage.bucket import says_away
from tune_ddvae.tuning.storage.folders import TRIALS_FOLDER, attempt_name
from tune_ddvae.tuning.storage.place import below, for_ray
from tune_ddvae.tuning.trials import Assignment

COUNT_EVERY_S = 1.0  # how soon it is known that no trial has a place
SEEN_EVERY_S = 5.0  # how closely the hours that a killed driver used are known
SAVE_S = 5.0  # how long the end waits for checkpoints that are just being saved


def run(
    study: LiveStudy,
    slots: Slots | ClusterSlots,
    switch: StopSwitch,
    on_change: Callable[[], None],
    watch: disk.Watch,
    waiting: Waiting | None = None,
    files: Any | None = None,
) -> None:
    """Train until the study has nothing left to do or the switch is set.

    Args:
        study: What is to be trained.
        slots: What a trial takes and how many run at once.
        switch: Ends everything.
        on_change: Called when there is news.
        watch: Looks at the study's folder, and at the space on its disk.
        waiting: Watches for trials without a place, on a cluster.
        files: Ray's reference to the data's files, for machines that lack them.

    Raises:
        Exception: What the record or the study's own logic failed with.
    """
    # What Tune logs of a lost worker is a page of its own frames; our note says what happened.
    for name in ("ray.tune", "ray.train"):  # the latter of a bucket that is away
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots.most)
    memory = Memory()
    tuner = tune.Tuner(
        tune.with_resources(TrialTrainable, tune.PlacementGroupFactory([slots.trial.bundle])),
        tune_config=TuneConfig(
            num_samples=-1,
            search_alg=StudySearcher(study, slots, switch, watch, files),
            scheduler=StudyScheduler(study, memory),
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=RunConfig(
            name=TRIALS_FOLDER,
            **for_ray(study.conditions.storage),
            callbacks=[StudyCallback(study, switch, on_change, watch, memory, waiting)],
            stop=StudyStopper(study, switch),
            failure_config=FailureConfig(max_failures=0),
            checkpoint_config=CheckpointConfig(checkpoint_frequency=1),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except Exception as error:
        raise_ours(study, switch)  # Tune wraps what a hook raises while it takes a result
        # At its end Tune reads back what we never use: a bucket that is away then takes nothing from us.
        if not says_away(str(error)) or not (switch.is_set() or study.is_complete):
            raise
    raise_ours(study, switch)
    study.record.flush()


def raise_ours(study: LiveStudy, switch: StopSwitch) -> None:
    """Raise, as it is, what the record failed with, or what a hook met where Tune would swallow it.

    Raises:
        Exception: That.
    """
    if switch.error is not None:
        raise switch.error
    study.record.check()


class InDriver:
    """Stays in the driver: Tune pickles what it is given, and nobody reads that pickle here."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # open databases, threads and locks do not belong in it

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


class StudySearcher(InDriver, Searcher):
    """Hands Tune the study's assignments, and tells the study how attempts ended."""

    def __init__(
        self,
        study: LiveStudy,
        slots: Slots | ClusterSlots,
        switch: StopSwitch,
        watch: disk.Watch,
        files: Any | None = None,
    ) -> None:
        super().__init__()
        self._watch = watch
        self._files = {} if files is None else {FILES: files}
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
            return {ASSIGNMENT: assignment, **self._files}
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
                if complaint := self._watch.complaint(at_once=True):
                    self._switch.set(complaint)
                # A signal to the whole process group, or job, ends the workers as well.
                counts = loss.counts and not self._switch.is_set()
                self._study.lose_attempt(attempt, loss.reason, counts=counts)
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
        watch: disk.Watch,
        memory: Memory,
        waiting: Waiting | None = None,
    ) -> None:
        self._waiting = waiting
        self._counted = time.monotonic()
        self._watch = watch
        self._memory = memory
        self._study = study
        self._switch = switch
        self._on_change = on_change
        self._seen = time.monotonic()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Raise what the record failed with; stop when to go on would be in vain."""
        raise_ours(self._study, self._switch)
        self._memory.sample()
        if complaint := self._watch.complaint():
            self._switch.set(complaint)
        if self._waiting is not None and time.monotonic() - self._counted > COUNT_EVERY_S:
            self._counted = time.monotonic()
            states = [trial.status for trial in trials]
            if complaint := self._waiting.look(
                num_running=states.count("RUNNING"), num_waiting=states.count("PENDING")
            ):
                self._switch.set(complaint)
        if time.monotonic() - self._seen > SEEN_EVERY_S:
            self._seen = time.monotonic()
            self._study.record.seen()
            if self._waiting is None and ray.is_initialized() and not cluster.alive_nodes():
                # With no node left Tune would wait for one for ever.
                self._switch.set("Ray's last node died; likely for want of memory")
        if reason := self._study.troubles.reason_to_stop:
            self._switch.set(reason)

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
        path = below(checkpoint.path, self._study.conditions.storage)
        epoch = trial.last_result[REPORT].epoch
        try:
            self._study.take_checkpoint(_assignment(trial).attempt, epoch, path)
        except Exception as error:  # noqa: BLE001 - Tune would only log it: on_step_begin raises it
            self._switch.fail(error)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show the end."""
        self._on_change()


class StudyStopper(InDriver, Stopper):
    """Ends everything once the switch is set, and what was being saved at that moment is."""

    def __init__(self, study: LiveStudy, switch: StopSwitch) -> None:
        self._study = study
        self._switch = switch
        self._awaited: frozenset[str] | None = None  # attempts whose checkpoint is still to come
        self._until = 0.0

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No rule of its own for a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether the end was asked for, and no checkpoint would be dropped half saved.

        Its epoch would have to be trained again.
        """
        if not self._switch.is_set():
            return False
        if self._awaited is None:
            self._awaited, self._until = self._study.saving, time.monotonic() + SAVE_S
        self._awaited &= self._study.saving
        return not self._awaited or time.monotonic() > self._until


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
