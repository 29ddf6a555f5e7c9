import json
import shutil
import socket
import threading

import pytest
from mlflow import MlflowClient

from tests.training.tiny import make_trainer, tiny
from tune_ddvae.config import parse_value, to_flat
from tune_ddvae.training.folder import TrainedRow, open_folder
from tune_ddvae.training.trainer import StepResult
from tune_ddvae.tuning.one_training import tracked_training
from tune_ddvae.tuning.one_training.tracked_training import (
    EXPERIMENT,
    PATIENCE_S,
    TrackedTraining,
    TrackingThread,
    history_of,
    rungs_of,
    tags_of,
)
from tune_ddvae.tuning.tracking import view
from tune_ddvae.tuning.tracking.tracked_run import checkpoint_of, fetch_run

CONFIG = tiny(objective__beta=0.1 + 0.2)
METRIC = "log_likelihood/iwae"


def result(epoch: int) -> StepResult:
    metrics = {METRIC: -3.0 + epoch / 7, "training/seconds": 0.5}
    return StepResult(epoch, metrics, {"sparsity/hoyer": "too few"}, {METRIC: {"samples": 4}})


class Tracking:
    """One training's folder, and the address that it is tracked at."""

    def __init__(self, path, uri: str) -> None:
        self.path, self.uri = path, uri
        path.mkdir()
        self.said: list[str] = []
        self.now = 0.0
        self.folder = open_folder(path, to_flat(CONFIG))

    def begin(self, **changes) -> TrackedTraining:
        """As a fresh process would."""
        self.folder = open_folder(self.path, to_flat(CONFIG))
        facts = {
            "uri": self.uri,
            "name": "my training",
            "folder": self.folder,
            "config": CONFIG,
            "about": {"threads": "1", "torch": "2.1"},
            "tell": self.said.append,
            "clock": lambda: self.now,
        }
        return TrackedTraining(**{**facts, **changes})

    def runs(self):
        client = MlflowClient(self.uri)
        found = client.get_experiment_by_name(EXPERIMENT)
        return client.search_runs([found.experiment_id])

    @property
    def run(self):
        (found,) = self.runs()
        return found

    def points(self, metric=METRIC) -> list[tuple[int, float, int]]:
        found = MlflowClient(self.uri).get_metric_history(self.run.info.run_id, metric)
        return sorted((point.step, point.value, point.timestamp) for point in found)

    def expected(self, metric=METRIC) -> list[tuple[int, float, int]]:
        rows = self.folder.rows.values()
        return [(row.epoch, row.metrics[metric], round(row.time * 1000)) for row in rows]


@pytest.fixture
def tracking(tmp_path, ready_tracking):
    shutil.copy(ready_tracking, tmp_path / "mlflow.db")
    return Tracking(tmp_path / "training", f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture
def dead_uri():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_a_training_is_one_run_with_its_configuration_and_one_point_an_epoch(tracking):
    tracked = tracking.begin()
    for epoch in (1, 2, 3):
        tracking.folder.add(result(epoch))
        assert tracked.send()
        assert tracking.points() == tracking.expected()
    run = tracking.run
    assert (run.info.run_name, run.info.status) == ("my training", "RUNNING")
    assert run.info.start_time == round(tracking.folder.started * 1000)
    params = {key: parse_value(key, text) for key, text in run.data.params.items()}
    assert params == to_flat(CONFIG)
    expected = {
        "threads": "1",
        "folder": str(tracking.path),
        "state": "running",
        f"protocol/{METRIC}": "samples 4",
        "absent/sparsity/hoyer": "too few (epoch 3)",
    }
    assert expected.items() <= run.data.tags.items()
    assert tracking.said == []


def test_going_on_finds_the_run_again_and_doubles_nothing(tracking):
    tracking.folder.add(result(1))
    tracked = tracking.begin()
    tracked.send()
    tracked.end(view.KILLED, "interrupted", "terminated")
    assert tracking.run.info.status == "KILLED"
    assert tracking.run.data.tags["reason"] == "terminated"

    again = tracking.begin()
    tracking.folder.add(result(2))
    assert again.send()
    assert tracking.run.info.status == "RUNNING"
    assert again.end(view.FINISHED, "complete")
    assert tracking.points() == tracking.expected()
    assert len(tracking.points()) == 2
    run = tracking.run
    assert (run.info.status, run.data.tags["state"]) == ("FINISHED", "complete")
    assert (run.data.tags["last_epoch"], run.data.tags["reason"]) == ("2", "")
    assert again.run_id == tracked.run_id == run.info.run_id


def test_what_an_earlier_process_could_not_send_is_sent(tracking, dead_uri):
    tracking.begin(uri=dead_uri)
    tracking.folder.add(result(1))
    tracking.folder.add(result(2))
    assert tracking.begin().end(view.FINISHED, "complete")
    assert tracking.points() == tracking.expected()


def test_a_dead_server_is_told_of_once_and_left_alone_for_a_while(tracking, dead_uri, monkeypatch):
    tries = []
    connect = tracked_training.Server

    def counted(*args):
        tries.append(tracking.now)
        return connect(*args)

    monkeypatch.setattr(tracked_training, "Server", counted)
    tracked = tracking.begin(uri=dead_uri)
    for epoch in (1, 2, 3):
        tracking.folder.add(result(epoch))
        assert not tracked.send()
        tracking.now += 0.4 * PATIENCE_S
    assert tries == [0.0]
    tracking.now = PATIENCE_S
    assert not tracked.send()
    assert tries == [0.0, PATIENCE_S]
    (said,) = tracking.said
    assert dead_uri in said
    assert "its metrics are kept in its folder" in said


def test_a_server_that_comes_back_gets_everything_once(tracking, monkeypatch):
    tracked = tracking.begin()
    tracking.folder.add(result(1))
    tracked.send()
    broken = pytest.MonkeyPatch()

    def fail(*_args, **_facts):
        raise ConnectionError("gone")

    broken.setattr(tracked_training.Server, "log", fail)
    tracking.folder.add(result(2))
    assert not tracked.send()
    broken.undo()
    tracking.folder.add(result(3))
    tracking.now = PATIENCE_S
    assert tracked.send()
    assert tracking.points() == tracking.expected()
    assert len(tracking.points()) == 3
    assert "gone" in tracking.said[0]
    assert "has everything now" in tracking.said[1]


def test_the_end_is_tried_at_once_even_after_a_failure(tracking, monkeypatch):
    broken = pytest.MonkeyPatch()
    broken.setattr(tracked_training, "Server", lambda *_: 1 / 0)
    tracked = tracking.begin()
    tracking.folder.add(result(1))
    tracked.send()
    broken.undo()
    assert tracked.end(view.FAILED, "failed", "DivergedError: kl is nan")
    assert tracking.run.info.status == "FAILED"
    assert tracking.run.data.tags["reason"] == "DivergedError: kl is nan"
    assert tracking.points() == tracking.expected()


def test_a_server_without_a_place_for_artifacts_gets_everything_else(tracking, monkeypatch):
    def fail(*_args):
        raise OSError("no bucket")

    monkeypatch.setattr(tracked_training.Server, "store", fail)
    tracked = tracking.begin()
    tracking.folder.add(result(1))
    assert tracked.send()
    assert tracking.points() == tracking.expected()
    assert "takes no artifacts (no bucket)" in tracking.said[0]


def test_it_is_read_back_like_a_trial(tracking):
    tracked, trainer = tracking.begin(), make_trainer(CONFIG)
    for _ in range(2):
        tracking.folder.add(trainer.step())
        tracking.folder.save(trainer)
    tracked.end(view.FINISHED, "complete")
    run = fetch_run(tracked.run_id, tracking.uri)
    assert run.config == CONFIG
    assert run.history == history_of(tracking.folder.rows.values())
    assert checkpoint_of(run) == tracking.path / "checkpoint_000002"
    assert (
        json.loads((checkpoint_of(run) / "config.json").read_text())["objective/beta"] == 0.1 + 0.2
    )


def test_rungs_are_those_that_the_trial_came_to():
    tags = {"rung/9": "stopped", "rung/1": "goes on", "rung/3": "goes on", "rungs": "[1, 3, 9, 27]"}
    assert rungs_of(tags) == (1, 3, 9)
    assert rungs_of({"state": "complete"}) == ()


def test_facts_have_the_names_that_trials_have_them_under():
    facts = {"tune_ddvae": "0.1", "threads": 2, "setting": "", "seed": None}
    assert tags_of(facts) == {"version": "0.1", "threads": "2"}


def test_a_history_is_by_metric_and_epoch():
    rows = [TrainedRow(1, 0.0, {"a": 1.0}), TrainedRow(2, 0.0, {"a": 2.0, "b": 3.0})]
    assert history_of(rows) == {"a": {1: 1.0, 2: 2.0}, "b": {2: 3.0}}


def test_in_the_background_a_training_comes_to_the_same(tracking):
    thread = TrackingThread(tracking.begin())
    for epoch in (1, 2, 3):
        tracking.folder.add(result(epoch))
        thread.wake()
    thread.finish(view.FINISHED, "complete")
    assert (tracking.run.info.status, tracking.said) == ("FINISHED", [])
    assert tracking.points() == tracking.expected()
    assert len(tracking.points()) == 3


@pytest.fixture
def stuck(monkeypatch):
    """A server that lets its caller wait until the test is over."""
    is_asked, may_go_on = threading.Event(), threading.Event()

    def wait(*_args):
        is_asked.set()
        may_go_on.wait()
        raise ConnectionError("too late")

    monkeypatch.setattr(tracked_training.Server, "__init__", wait)
    yield is_asked
    may_go_on.set()
    for thread in threading.enumerate():
        if thread.name == "tracking":
            thread.join()


def test_a_server_that_never_answers_delays_nothing_and_is_told_of_once(tracking, stuck):
    thread = TrackingThread(tracking.begin())
    thread.wake()
    assert stuck.wait(30)
    for epoch in (1, 2, 3):
        tracking.folder.add(result(epoch))
        thread.wake()
    thread.finish(view.FINISHED, "complete", timeout_s=0.1)
    (said,) = tracking.said
    assert tracking.uri in said
    assert "too slow: 0.1 s were over" in said
    assert "kept in its folder and sent by the same command" in said


def test_nothing_is_told_once_nobody_waits_any_longer(tracking, stuck):
    tracked = tracking.begin()
    tracked.abandon(0.1)
    tracking.said.clear()
    thread = TrackingThread(tracked)
    thread.finish(view.FINISHED, "complete", timeout_s=0.1)
    assert tracking.said == []


def test_a_dead_server_is_told_of_once_by_the_end_too(tracking, dead_uri):
    thread = TrackingThread(tracking.begin(uri=dead_uri))
    tracking.folder.add(result(1))
    thread.wake()
    thread.finish(view.FINISHED, "complete")
    (said,) = tracking.said
    assert f"MLflow at {dead_uri} does not take this training" in said
