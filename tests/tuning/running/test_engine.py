"""The four hooks driven by hand, in the order in which Ray Tune 2.60 calls them; no cluster."""

import copy
import os
import pickle
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray import cloudpickle
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError
from ray.train._internal.storage import _VALIDATE_STORAGE_MARKER_FILENAME
from ray.tune.error import TuneError
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from tests.tuning.simulated import drive, make_spec, metrics_at, open_study, outcome
from tune_ddvae.errors import RecordError
from tune_ddvae.tuning.cluster import cluster
from tune_ddvae.tuning.cluster.resources import Slots
from tune_ddvae.tuning.cluster.slots import Waiting
from tune_ddvae.tuning.record.opening import FILE_NAME
from tune_ddvae.tuning.running import engine
from tune_ddvae.tuning.running.engine import (
    StudyCallback,
    StudyScheduler,
    StudySearcher,
    StudyStopper,
    loss_of,
)
from tune_ddvae.tuning.running.losses import Loss, Memory, judge
from tune_ddvae.tuning.running.trainable import ASSIGNMENT, REPORT
from tune_ddvae.tuning.signals import StopSwitch
from tune_ddvae.tuning.storage import disk
from tune_ddvae.tuning.trials import Report, State

SPEC = make_spec()


class Tune:
    """Ray Tune's loop around our hooks, as far as they see it."""

    def __init__(self, study, concurrent: int = 1) -> None:
        slots = Slots(concurrent=concurrent, num_cpus=1.0, num_gpus=0.0)
        self.study = study
        self.switch = StopSwitch()
        self.changes: list[None] = []
        self.watch = disk.Watch(study.conditions.storage, needed_bytes=1)
        self.searcher = StudySearcher(study, slots, self.switch, self.watch)
        memory = Memory()
        self.scheduler = StudyScheduler(study, memory)
        self.callback = StudyCallback(
            study, self.switch, lambda: self.changes.append(None), self.watch, memory
        )
        self.stopper = StudyStopper(study, self.switch)
        self.search_alg = SimpleNamespace(searcher=self.searcher)
        self.trials: list[SimpleNamespace] = []

    def suggest(self):
        """A new trial, or what the searcher says instead of one."""
        trial_id = f"id-{len(self.trials)}"
        config = self.searcher.suggest(trial_id)
        if not isinstance(config, dict):
            return config
        trial = SimpleNamespace(
            trial_id=trial_id, config=config, last_result={}, error_file=None, status="PENDING"
        )
        self.trials.append(trial)
        return trial

    def report(self, trial, report: Report, *, checkpoint: bool = True) -> bool:
        """Bring one result; whether the trial goes on."""
        result = {REPORT: report, "done": report.is_last}
        trial.last_result = result
        goes_on = not report.is_last
        assert not self.stopper(trial.trial_id, result)
        if report.is_last:  # the scheduler is not asked about a last result
            self.callback.on_trial_result(0, self.trials, trial, result)
        else:
            decision = self.scheduler.on_trial_result(self, trial, result)
            goes_on = decision == TrialScheduler.CONTINUE
            self.searcher.on_trial_result(trial.trial_id, result)
            self.callback.on_trial_result(0, self.trials, trial, result)
        if checkpoint:
            place = self.folder(trial) / f"checkpoint_{report.epoch}"
            place.mkdir(parents=True)
            (place / "epoch").write_text(str(report.epoch))
            self.callback.on_checkpoint(0, self.trials, trial, SimpleNamespace(path=str(place)))
        if not goes_on:
            self.searcher.on_trial_complete(trial.trial_id, result)
            self.callback.on_trial_complete(0, self.trials, trial)
        return goes_on

    def lose(self, trial, text: str | None) -> None:
        """The trial's worker is gone, and Ray wrote that down."""
        if text is not None:
            trial.error_file = str(self.folder(trial) / "error.txt")
            self.folder(trial).mkdir(parents=True, exist_ok=True)
            Path(trial.error_file).write_text(text)
        self.scheduler.on_trial_error(self, trial)
        self.searcher.on_trial_complete(trial.trial_id, error=True)

    def folder(self, trial) -> Path:
        return self.study.conditions.storage / "trials" / engine._trial_name(trial)

    def train(self, trial, *, until: int | None = None) -> bool:
        """Report epoch after epoch as a simulated study does; whether it was stopped or has ended."""
        assignment = trial.config[ASSIGNMENT]
        last = self.study.spec.base.training.epochs
        epoch = self.study.trials[assignment.number].last_epoch
        while epoch < (until or last):
            epoch += 1
            report = Report(
                epoch, metrics_at(dict(assignment.config), epoch), is_last=epoch == last
            )
            if not self.report(trial, report):
                return True
        return False

    def fit(self) -> None:
        while True:
            self.callback.on_step_begin(0, self.trials)
            trial = self.suggest()
            if trial == Searcher.FINISHED:
                return
            assert trial is not None  # nothing is in flight: Tune would wait for minutes
            assert self.train(trial)


@pytest.fixture(scope="module")
def empty_record(tmp_path_factory) -> Path:
    """A record without trials, made once: its tables take a while."""
    folder = tmp_path_factory.mktemp("empty")
    open_study(folder, SPEC).record.close()
    return folder / FILE_NAME


@pytest.fixture
def study(tmp_path, empty_record):
    shutil.copy(empty_record, tmp_path)
    study = open_study(tmp_path, SPEC, trials=3)
    yield study
    study.record.close()


@pytest.fixture
def tune(study):
    return Tune(study)


def first_report(trial, **changes) -> Report:
    return Report(1, metrics_at(dict(trial.config[ASSIGNMENT].config), 1), **changes)


# -- the whole -----------------------------------------------------------------------------------


def test_a_study_run_through_tunes_hooks_is_the_study_that_was_decided(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "tune").mkdir()
    plain = open_study(tmp_path / "plain", SPEC, trials=6)
    drive(plain)
    through = open_study(tmp_path / "tune", SPEC, trials=6)
    Tune(through).fit()
    assert outcome(through.trials) == outcome(plain.trials)
    assert outcome({t.number: t for t in through.record.trials()}) == outcome(plain.trials)
    for opened in (plain, through):
        opened.record.close()


# -- searcher ------------------------------------------------------------------------------------


def test_as_many_trials_are_handed_out_as_there_are_slots(study):
    tune = Tune(study, concurrent=2)
    first, second = tune.suggest(), tune.suggest()
    assert [t.config[ASSIGNMENT].number for t in (first, second)] == [0, 1]
    assert tune.suggest() is None
    assert tune.train(first)
    assert tune.suggest().config[ASSIGNMENT].number == 2
    assert tune.suggest() is None


def test_the_searcher_never_makes_tune_wait_with_nothing_in_flight(tune):
    for _ in range(3):
        assert tune.train(tune.suggest())
    assert tune.study.in_flight == frozenset()
    assert tune.suggest() == Searcher.FINISHED


def test_nothing_new_is_handed_out_once_the_end_was_asked_for(tune):
    trial = tune.suggest()
    tune.switch.set("interrupted")
    assert tune.suggest() == Searcher.FINISHED
    assert tune.study.in_flight == {0}
    assert tune.study.trials[0].state is State.UNFINISHED
    assert trial.config[ASSIGNMENT].number == 0


def test_a_lost_workers_trial_is_handed_out_next_from_its_newest_checkpoint(tune):
    trial = tune.suggest()
    assert not tune.train(trial, until=2)
    tune.lose(trial, "The actor is temporarily unavailable: Socket closed")
    again = tune.suggest()
    assignment = again.config[ASSIGNMENT]
    assert assignment.number == 0
    assert assignment.attempt != trial.config[ASSIGNMENT].attempt
    assert assignment.checkpoints[0].endswith("checkpoint_2")
    assert "Socket closed" in tune.study.notes[-1]
    assert tune.study.trials[0].losses == 1


def test_each_loss_is_told_with_its_own_cause(study):
    tune = Tune(study, concurrent=2)
    first, second = tune.suggest(), tune.suggest()
    tune.lose(first, "cause of the first")
    tune.lose(second, None)
    assert "trial 0 lost its worker (cause of the first)" in tune.study.notes[0]
    assert "trial 1 lost its worker (no cause was given)" in tune.study.notes[1]
    assert tune.searcher.losses == {}


def test_an_end_that_tune_tells_of_a_trial_it_was_not_given_changes_nothing(tune):
    tune.searcher.on_trial_complete("nobody", {}, error=True)
    tune.searcher.on_trial_complete("nobody")
    assert tune.study.trials == {}


def test_what_the_record_failed_with_reaches_tune_as_it_is(study, monkeypatch):
    error = OSError("disk full")
    tune = Tune(study, concurrent=2)
    trial = tune.suggest()
    monkeypatch.setattr(study.record._writer, "_error", error)
    hooks = [
        lambda: tune.callback.on_step_begin(0, []),
        lambda: tune.searcher.suggest("x"),
        lambda: tune.report(trial, first_report(trial)),
    ]
    for hook in hooks:
        with pytest.raises(OSError) as caught:
            hook()
        assert caught.value is error
    monkeypatch.undo()


# -- a disk that fills up ------------------------------------------------------------------------

FULL = "OSError: [Errno 28] Error writing bytes to file. Detail: No space left on device"


def stopped_for_space(tune) -> bool:
    reason = tune.switch.reason
    assert tune.study.trials[0].state is State.UNFINISHED
    assert tune.study.trials[0].losses == 0
    assert tune.suggest() == Searcher.FINISHED
    return reason.startswith(f"no space left in storage {tune.study.conditions.storage}")


def test_a_checkpoint_that_ray_cannot_copy_stops_the_study_and_costs_its_trial_nothing(tune):
    tune.lose(tune.suggest(), FULL)
    assert stopped_for_space(tune)


def test_a_checkpoint_that_a_worker_cannot_write_stops_the_study_too(tune):
    report = Report(0, error_kind="StorageFullError", error="cannot write", is_last=True)
    assert not tune.report(tune.suggest(), report, checkpoint=False)
    assert stopped_for_space(tune)


def test_a_disk_that_is_nearly_full_stops_the_study_before_it_is(tune, monkeypatch):
    tune.suggest()
    monkeypatch.setattr(disk, "free_bytes", lambda _: 0)
    tune.callback.on_step_begin(0, [])
    assert stopped_for_space(tune)


def test_a_lost_workers_last_words_are_told(tune):
    trial = tune.suggest()
    tune.folder(trial).mkdir(parents=True)
    thread = 'Current thread 0x1 (first):\n  File "/x/vae.py", line 7 in forward\n'
    said = f"Fatal Python error: Segmentation fault\n\n{thread}"
    (tune.folder(trial) / "last-words.txt").write_text(said)
    tune.lose(trial, KILLED)
    assert "(crashed: Segmentation fault, in forward (vae.py:7))" in tune.study.notes[-1]


def test_memory_is_evidence_only_on_the_machine_that_it_is_of(tune):
    trial = tune.suggest()
    tune.lose(trial, KILLED)
    assert "of this machine's memory" in tune.study.notes[-1]
    trial = tune.suggest()
    assert tune.report(trial, first_report(trial, facts={"host": "elsewhere"}))
    tune.lose(trial, KILLED)
    assert "of this machine's memory" not in tune.study.notes[-1]


# -- scheduler and callback ----------------------------------------------------------------------


def test_a_result_that_both_scheduler_and_callback_see_is_one_row(tune):
    trial = tune.suggest()
    assert tune.report(trial, first_report(trial))
    tune.study.record.flush()
    (recorded,) = tune.study.record.trials()
    assert list(recorded.rows) == [1]
    assert recorded.rows[1].decision is not None
    assert tune.changes


def test_a_trial_that_fails_a_rung_is_stopped(tune):
    trial = tune.suggest()
    assert tune.train(trial)
    trial = tune.suggest()
    poor = Report(1, {"sparsity/hoyer": 0.0, "log_likelihood/iwae": -1e9})
    assert not tune.report(trial, poor)
    assert tune.study.trials[1].state is State.STOPPED


def test_a_checkpoint_is_marked_with_a_path_that_can_be_moved(tune):
    trial = tune.suggest()
    tune.report(trial, first_report(trial))
    (mark,) = tune.study.trials[0].checkpoints
    assert mark.epoch == 1
    assert not Path(mark.path).is_absolute()
    assert (tune.study.conditions.storage / mark.path / "epoch").read_text() == "1"


def test_an_error_of_ours_ends_its_trial_as_failed_and_its_checkpoint_counts_for_nothing(tune):
    trial = tune.suggest()
    error = Report(0, error_kind="DivergedError", error="KL is inf at epoch 1", is_last=True)
    assert not tune.report(trial, error)
    assert tune.study.trials[0].state is State.FAILED
    assert tune.study.trials[0].reason == "DivergedError: KL is inf at epoch 1"
    assert tune.study.trials[0].checkpoints == []
    assert tune.study.trials[0].rows == {}


def test_one_error_again_and_again_asks_for_the_end(tune):
    for _ in range(3):
        assert not tune.stopper.stop_all()
        trial = tune.suggest()
        tune.report(trial, Report(0, error_kind="DataError", error="gone", is_last=True))
        tune.callback.on_step_begin(0, tune.trials)
    assert tune.stopper.stop_all()
    assert tune.switch.reason == "the same error again and again: DataError: gone"


def test_the_record_hears_now_and_then_that_the_driver_lives(tune, monkeypatch):
    seen = []
    monkeypatch.setattr(tune.study.record, "seen", lambda: seen.append("alive"))
    for _ in range(100):
        tune.callback.on_step_begin(0, [])
    assert seen == []
    monkeypatch.setattr(engine, "SEEN_EVERY_S", 0.0)
    tune.callback.on_step_begin(0, [])
    assert seen == ["alive"]


def test_the_first_waiting_trial_that_fits_runs(tune):
    trials = [SimpleNamespace(status=status) for status in ("RUNNING", "PENDING", "PENDING")]
    fits = {id(trials[2])}
    controller = SimpleNamespace(
        get_trials=lambda: trials,
        trial_executor=SimpleNamespace(has_resources_for_trial=lambda t: id(t) in fits),
    )
    assert tune.scheduler.choose_trial_to_run(controller) is trials[2]
    fits.clear()
    assert tune.scheduler.choose_trial_to_run(controller) is None


# -- stopping and what Tune does behind our back -------------------------------------------------


def test_the_first_reason_to_stop_stays(tune):
    assert not tune.stopper.stop_all()
    tune.switch.set("interrupted")
    tune.switch.set("out of time")
    assert tune.stopper.stop_all()
    assert tune.switch.reason == "interrupted"
    assert not tune.stopper("any", {"done": True})


def marked(tune, trial, epoch: int) -> None:
    place = tune.folder(trial) / f"checkpoint_{epoch}"
    tune.callback.on_checkpoint(0, tune.trials, trial, SimpleNamespace(path=str(place)))


def test_the_end_waits_for_the_checkpoints_that_are_just_being_saved_and_no_others(study):
    tune = Tune(study, concurrent=3)
    saving, training, lost = [tune.suggest() for _ in range(3)]
    tune.report(training, first_report(training))
    for trial in (saving, lost):
        tune.report(trial, first_report(trial), checkpoint=False)
    tune.switch.set("interrupted")
    assert not tune.stopper.stop_all()
    tune.lose(lost, KILLED)
    assert not tune.stopper.stop_all()
    report = Report(2, metrics_at(dict(training.config[ASSIGNMENT].config), 2))
    tune.study.take(training.config[ASSIGNMENT].attempt, report)  # its save begins after the signal
    marked(tune, saving, 1)
    assert tune.stopper.stop_all()
    assert [mark.epoch for mark in study.trials[0].checkpoints] == [1]


def test_the_end_does_not_wait_for_a_save_that_takes_too_long(tune, monkeypatch):
    trial = tune.suggest()
    tune.report(trial, first_report(trial), checkpoint=False)
    tune.switch.set("terminated")
    assert not tune.stopper.stop_all()
    later = time.monotonic() + engine.SAVE_S + 0.1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert tune.stopper.stop_all()


def test_workers_that_a_signal_ends_with_the_driver_are_not_held_against_their_trials(study):
    tune = Tune(study, concurrent=2)
    before, after = tune.suggest(), tune.suggest()
    tune.lose(before, KILLED)
    tune.switch.set("terminated")
    tune.lose(after, "killed from outside: receives a SIGTERM")
    assert [trial.losses for trial in study.trials.values()] == [1, 0]


class Wrapping:
    """A Tuner in which a hook of ours failed while it took a result."""

    def __init__(self, *_args, **_facts) -> None:
        pass

    def fit(self) -> None:
        raise TuneError("Traceback (most recent call last): …")


def run_engine(study, switch: StopSwitch) -> None:
    slots = Slots(concurrent=1, num_cpus=1.0, num_gpus=0.0)
    watch = disk.Watch(study.conditions.storage, needed_bytes=1)
    engine.run(study, slots, switch, lambda: None, watch)


@pytest.fixture
def fake_tuner(monkeypatch):
    monkeypatch.setattr(engine.tune, "Tuner", Wrapping)
    monkeypatch.setenv("TUNE_MAX_PENDING_TRIALS_PG", "")
    return Wrapping


def test_what_the_record_failed_with_is_not_wrapped_in_an_error_of_tunes(
    study, fake_tuner, monkeypatch
):
    with pytest.raises(TuneError):
        run_engine(study, StopSwitch())
    error = OSError("the record's server is gone")
    monkeypatch.setattr(study.record._writer, "_error", error)
    with pytest.raises(OSError, match="is gone") as caught:
        run_engine(study, StopSwitch())
    assert caught.value is error
    monkeypatch.undo()


@pytest.mark.parametrize("is_wrapped", [True, False])
def test_what_a_hook_met_in_tunes_last_step_is_raised_at_the_end(
    study, fake_tuner, monkeypatch, is_wrapped
):
    if not is_wrapped:
        monkeypatch.setattr(fake_tuner, "fit", lambda _: None)
    switch = StopSwitch()
    switch.fail(KeyError("a bug of ours"))
    with pytest.raises(KeyError, match="a bug of ours"):
        run_engine(study, switch)


@pytest.mark.parametrize("hook", ["searcher", "scheduler", "callback", "stopper"])
def test_a_pickle_of_a_hook_holds_nothing_that_is_open(hook, tune):
    pickled = cloudpickle.dumps(getattr(tune, hook))
    assert len(pickled) < 10_000
    assert type(pickle.loads(pickled)) is type(getattr(tune, hook))  # noqa: S301 - our own
    assert copy.deepcopy(getattr(tune, hook)) is getattr(tune, hook)


def test_tunes_own_snapshots_of_the_search_write_nothing(tune, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    tune.searcher.save(str(tmp_path / "searcher"))
    tune.searcher.save_to_dir(str(tmp_path))
    tune.searcher.restore(str(tmp_path / "searcher"))
    assert sorted(tmp_path.rglob("*")) == before


def test_an_attempts_folder_is_short_and_its_own(tune):
    first = tune.suggest()
    name = engine._trial_name(first)
    assert name.startswith("00000-")
    assert len(name) <= 40
    tune.lose(first, None)
    assert engine._trial_name(tune.suggest()) != name


def test_what_ray_is_sent_with_a_trial_is_small(tune):
    assert len(cloudpickle.dumps(tune.suggest().config)) < 10_000


def test_the_datas_files_go_along_as_rays_reference_where_there_are_any(study):
    slots = Slots(concurrent=1, num_cpus=1.0, num_gpus=0.0)
    watch = disk.Watch(study.conditions.storage, needed_bytes=1)
    searcher = StudySearcher(study, slots, StopSwitch(), watch, "reference")
    assert searcher.suggest("id")["files"] == "reference"


def test_a_worker_lost_with_the_trials_folder_ends_the_study_and_counts_against_no_trial(tune):
    trials = tune.study.conditions.storage / "trials"
    trials.mkdir(exist_ok=True)
    (trials / disk.RAYS_MARK).touch()
    tune.callback.on_step_begin(0, tune.trials)
    trial = tune.suggest()
    shutil.rmtree(trials)
    tune.lose(trial, "RuntimeError: whatever Ray says of it")  # before the next look is due
    assert tune.switch.reason.startswith(f"{trials} was removed")
    assert tune.study.trials[0].losses == 0


def test_a_worker_lost_with_the_record_ends_the_study_with_that(tune):
    trial = tune.suggest()
    folder = tune.study.conditions.storage
    tune.study.record.flush()
    elsewhere = folder.rename(folder.with_name("elsewhere"))
    tune.lose(trial, None)
    assert tune.study.trials[0].losses == 0
    with pytest.raises(RecordError, match="was removed while the study ran"):
        tune.callback.on_step_begin(0, tune.trials)
    elsewhere.rename(folder)


def test_the_mark_that_is_watched_for_is_rays_own():
    assert disk.RAYS_MARK == _VALIDATE_STORAGE_MARKER_FILENAME


class Watched(Waiting):
    """What a callback is told of trials without a place, and what it says to that."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.complaint = ""

    def look(self, *, num_running: int, num_waiting: int) -> str:
        self.seen.append((num_running, num_waiting))
        return self.complaint


def test_trials_without_a_place_are_watched_and_end_the_study_when_that_lasts(tune, monkeypatch):
    monkeypatch.setattr(engine, "COUNT_EVERY_S", 0.0)
    watched = Watched()
    callback = StudyCallback(tune.study, tune.switch, lambda: None, tune.watch, Memory(), watched)
    states = ["RUNNING", "PENDING", "PENDING", "TERMINATED", "ERROR"]
    trials = [SimpleNamespace(status=status) for status in states]
    callback.on_step_begin(0, trials)
    assert watched.seen == [(1, 2)]
    assert not tune.switch.is_set()
    watched.complaint = "no node of the cluster could hold a trial"
    callback.on_step_begin(0, trials)
    assert tune.switch.reason == watched.complaint


def test_a_machine_that_can_take_no_trial_ends_the_study(tune):
    report = Report(0, error_kind="UnfitNodeError", error="h2 lacks the folder", is_last=True)
    for _ in range(3):
        assert not tune.switch.is_set()
        tune.report(tune.suggest(), report, checkpoint=False)
        tune.callback.on_step_begin(0, tune.trials)
    assert tune.switch.reason == "a machine could take no trial: h2 lacks the folder"


@pytest.mark.parametrize("name", sorted(cluster.ENVIRONMENT))
def test_ray_still_reads_the_switches_that_we_set(name):
    import ray

    root = Path(ray.__file__).parent
    places = ["tune", "train", "air", "_common", "_private", "__init__.py"]
    files = [p for place in places for p in [root / place, *(root / place).rglob("*.py")]]
    texts = (p.read_text(encoding="utf-8", errors="replace") for p in files if p.is_file())
    short = name.removeprefix("RAY_")  # some names are put together
    assert any(name in text or f'"{short}"' in text for text in texts)


# -- why a worker was lost -----------------------------------------------------------------------

# What Ray 2.60 wrote into error.txt when a worker was sent SIGKILL, called os._exit, met a SIGSEGV or
# was ended by faulthandler: it cannot tell them apart.
HEAD = """Failure # 1 (occurred at 2026-11-25_16-17-03)
The actor died unexpectedly before finishing this task.
\tclass_name: TrialTrainable
\tactor_id: 3ce3882d45e539382e9f5fd401000000
\tpid: 24313
\tnamespace: 184f1bcd-729b-41e3-82eb-dd6b5bb071f9
\tip: 192.0.2.2
"""
KILLED = f"""{HEAD}The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR \
Worker exit detail: Worker unexpectedly exits with a connection error code 2. End of file. Some common \
causes include: (1) the process was killed by the OOM killer due to high memory usage, (2) ray stop \
--force was called, or (3) the worker crashed unexpectedly due to SIGSEGV or another unexpected error. \
If the process was killed by the kernel OOM killer (verifiable by checking for OOM in dmesg of the \
OOMing node), consider enabling resource isolation via --enable-resource-isolation to prevent node \
deaths by resource contention and significant loss of progress by uninformed kernel OOM killing.
"""
EXITED = f"""{HEAD}The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR \
Worker exit detail: Worker exits unexpectedly. Worker exits with an exit code 3.
"""
# When Ray's own memory monitor ended it (OutOfMemoryError), the long middle left out.
MONITORED = """Failure # 1 (occurred at 2026-11-25_16-18-25)
1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: \
c1afbcc6dd69) was 22.54GB used / 23.54GB limit (0.95)
OOM kill reason: Memory usage 2730803200B exceeded threshold of 252765104B (1.0% of 25276510208B limit)
Top 10 memory users: PID\tMEM(GB)\tCOMMAND
24567\t0.74\tpython
"""
# When its node was taken away: which of these comes depends on who notices first.
NODE_DIED = f"""{HEAD}The actor died because its node has died. Node Id: \
1b6400c2e1c7baecd2c00eb13894a4f1fc6f5d67364a700a9fcf2292
\tthe actor's node was terminated unexpectedly: health check failed due to missing too many heartbeats
"""
UNREACHABLE = """Failure # 1 (occurred at 2026-11-25_16-18-11)
The actor 52d02d4326a791bc58b1c72d01000000 is unavailable: The actor is temporarily unavailable: \
RpcError: RPC error: Socket closed rpc_code: 14. The task may or may not have been executed on the actor.
"""
OWNER_DIED = """The actor is dead because its owner has died. Owner Id: 01 Owner Ip address: 192.0.2.2
"""
RAISED = """Failure # 1 (occurred at 2026-11-25_16-17-13)
ray::TrialTrainable.train() (pid=24439, ip=192.0.2.2, actor_id=e4358e36e90b1cf6ba03955a01000000)
  File "/home/me/classroom/trainable.py", line 12, in step
    raise RuntimeError("boom")
RuntimeError: boom
"""


def described(folder: Path, text: str) -> str:
    path = folder / "error.txt"
    path.write_text(text)
    return loss_of(SimpleNamespace(error_file=str(path))).reason


def test_the_texts_here_are_those_that_this_ray_writes():
    died, unavailable = str(ActorDiedError()), str(ActorUnavailableError("x", None))
    assert died in KILLED
    assert died in NODE_DIED
    assert unavailable.removeprefix("The actor None is unavailable: x") in UNREACHABLE
    assert str(OutOfMemoryError(MONITORED)) == MONITORED


@pytest.mark.parametrize("text", [KILLED, MONITORED])
def test_a_worker_that_memory_ended_is_said_to_be_likely_out_of_memory(text, tmp_path):
    found = described(tmp_path, text)
    assert found.startswith("likely out of memory")
    assert "--max-concurrent" in found


def test_any_other_loss_keeps_rays_own_words(tmp_path):
    found = described(tmp_path, EXITED)
    assert "exit code 3" in found
    assert "memory" not in found
    assert len(found) <= 200
    assert "\n" not in found


@pytest.mark.parametrize("text", [NODE_DIED, UNREACHABLE, OWNER_DIED])
def test_a_lost_node_is_named_as_such_and_not_counted_against_its_trial(text):
    assert judge(text) == Loss("its node died or cannot be reached", counts=False)


def test_a_bug_is_not_taken_for_a_want_of_memory(tmp_path):
    assert described(tmp_path, RAISED) == "RuntimeError: boom"


@pytest.mark.parametrize("text", [None, "", "\n \n"])
def test_a_loss_without_a_word_from_ray_says_so(text, tmp_path):
    path = tmp_path / "error.txt"
    if text is not None:
        path.write_text(text)
    for place in (str(path), None, ""):
        assert loss_of(SimpleNamespace(error_file=place)).reason == "no cause was given"


def test_a_text_that_is_not_utf_8_is_read_all_the_same(tmp_path):
    path = tmp_path / "error.txt"
    path.write_bytes(b"caf\xe9 closed")
    assert "closed" in loss_of(SimpleNamespace(error_file=os.fspath(path))).reason


def test_a_trial_that_asked_for_no_gpu_sees_none(ray_address):
    @ray.remote(num_cpus=1, num_gpus=0)
    def visible():
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    assert ray.get(visible.remote()) == ""


@pytest.mark.parametrize("name", ["end_attempt", "lose_attempt", "take_checkpoint"])
def test_a_bug_of_ours_that_tune_would_swallow_ends_the_study(tune, monkeypatch, name):
    def broken(*args, **kwargs):
        raise KeyError("a bug of ours")

    trial = tune.suggest()
    monkeypatch.setattr(tune.study, name, broken)
    if name == "lose_attempt":
        tune.lose(trial, "killed")
    else:
        tune.train(trial)
    with pytest.raises(KeyError, match="a bug of ours"):
        tune.callback.on_step_begin(0, tune.trials)


def test_a_trial_that_nodes_cut_off_again_and_again_ends_the_study_with_work_left(tune):
    for _ in range(21):
        assert not tune.switch.is_set()
        tune.lose(tune.suggest(), NODE_DIED)
        tune.callback.on_step_begin(0, tune.trials)
    assert tune.switch.reason.startswith("trial 0 was cut off 21 times")
    assert tune.study.trials[0].state is State.UNFINISHED
