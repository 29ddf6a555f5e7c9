import contextlib
import dataclasses
import http.server
import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from sqlalchemy import delete

from search_spaces.clustering import STUDY as CLUSTERING
from tune_ddvae.config import to_flat, with_overrides
from tune_ddvae.errors import StudyLockedError, TrackingError
from tune_ddvae.tuning.record.opening import open_record, record_url
from tune_ddvae.tuning.record.tables import SENT
from tune_ddvae.tuning.tracking import check, view
from tune_ddvae.tuning.tracking import client as tracking_client
from tune_ddvae.tuning.tracking.client import Server, open_client
from tune_ddvae.tuning.tracking.names import plain_key, shortened
from tune_ddvae.tuning.tracking.sync import Sender, batches
from tune_ddvae.tuning.tracking.tracking import (
    Outcome,
    Tracker,
    check_tracking,
    default_tracking_uri,
    sync,
    without_password,
)
from tune_ddvae.tuning.trials import Checkpoint, Decision, Row, State, Trial

SPEC = CLUSTERING.resized(CLUSTERING.quick)
FIRST, SECOND = "log_likelihood/iwae", "divergence/inclusive_kl"
T0 = 1_700_000_000.125


@pytest.fixture(scope="session")
def ready_database(tmp_path_factory):
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    open_client(f"sqlite:///{path}")
    return path


@pytest.fixture
def uri(ready_database, tmp_path):
    return database(ready_database, tmp_path / "tracked")


@pytest.fixture(scope="session")
def ready_record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("record")
    make_record(folder).close()
    return folder / "record.db"


@pytest.fixture
def record(ready_record, tmp_path):
    shutil.copy(ready_record, tmp_path / "record.db")
    record = make_record(tmp_path)
    yield record
    record.close()


def database(ready, folder):
    folder.mkdir()
    shutil.copy(ready, folder / "mlflow.db")
    return f"sqlite:///{folder / 'mlflow.db'}"


def make_record(folder, name="clustering-quick", spec=SPEC):
    about = {
        "tune_ddvae": "0.1.0",
        "torch": "2.14.1",
        "question": "does it cluster?",
        "command": "study --tracking-uri http://me:hidden@host/",
    }
    return open_record(record_url(folder), name, spec, {**spec.identity(), "seed": 0}, about)


def make_trial(number, **facts):
    config = to_flat(with_overrides(SPEC.base, {"training/seed": 100 + number}))
    trial = Trial(number, config, {"objective/beta": 1.0}, started=T0 + number)
    for key, value in facts.items():
        setattr(trial, key, value)
    return trial


def make_row(number, epoch, **facts):
    metrics = {FIRST: -2.0 + epoch / 7 + number, SECOND: 3.0 / epoch, "training/seconds": 0.5}
    return Row(epoch, T0 + 10 * number + epoch, {**metrics, **facts.pop("metrics", {})}, **facts)


def add(record, number, epochs=(), **facts):
    trial = make_trial(number, **facts)
    record.add_trial(trial)
    for epoch in epochs:
        record.add_row(number, make_row(number, epoch))
    return trial


def end(record, trial, state, reason="", values=None):
    trial.state, trial.reason, trial.values, trial.ended = state, reason, values, T0 + 100
    record.end_trial(trial)


def forget_marks(record):
    with record.engine.begin() as connection:
        connection.execute(delete(SENT))


def runs_of(uri, experiment="clustering"):
    client = MlflowClient(tracking_uri=uri)
    number = client.get_experiment_by_name(experiment).experiment_id
    runs = client.search_runs([number])
    (parent,) = [run for run in runs if run.data.tags["tune_ddvae.role"] == "study"]
    children = [run for run in runs if run is not parent]
    return parent, sorted(children, key=lambda run: int(run.data.tags["tune_ddvae.trial"]))


def history(uri, run, key=FIRST):
    points = MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, key)
    return [(point.step, point.value, point.timestamp) for point in points]


def artifact(run, name):
    return json.loads(Path(run.info.artifact_uri.removeprefix("file://"), name).read_text())


def wait_until(is_so):
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def dead_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


# -- what is sent -----------------------------------------------------------------------------


def test_a_study_is_one_parent_run_with_a_child_for_every_trial(record, uri):
    facts = {"device": "cpu", "threads": 1, "prior": "clustered", "tune_ddvae": "0.1.0"}
    first = add(record, 0, (10, 20), setting="beta_1_alpha_0", facts=facts, losses=1)
    end(record, first, State.COMPLETE, values=(1.5, 0.25))
    add(record, 1, (10,))
    assert sync(record, uri, "clustering", outcome=None).is_whole
    parent, children = runs_of(uri)
    assert parent.info.run_name == "clustering-quick"
    assert parent.info.status == "RUNNING"
    assert [child.data.tags["mlflow.parentRunId"] for child in children] == [parent.info.run_id] * 2
    assert [child.info.run_name for child in children] == ["trial 0: beta_1_alpha_0", "trial 1"]
    assert [child.info.status for child in children] == ["FINISHED", "RUNNING"]
    assert children[0].info.start_time == round(T0 * 1000)
    assert children[0].info.end_time == round((T0 + 100) * 1000)
    tags = children[0].data.tags
    expected = {"state": "complete", "losses": "1", "seed": "100", "device": "cpu", "threads": "1"}
    assert expected.items() <= tags.items()
    assert (tags["version"], tags["setting"]) == ("0.1.0", "beta_1_alpha_0")


def test_the_parent_tells_space_rungs_versions_and_no_password(record, uri):
    sync(record, uri, "clustering", outcome=None)
    parent, _ = runs_of(uri)
    assert parent.data.params == {
        "objective/beta": "0.0 to 2.0",
        "objective/alpha": "0.1 to 10.0, log",
        "optimiser/learning_rate": "0.0003 to 0.01, log",
    }
    tags = parent.data.tags
    assert tags["rank_by"] == f"{FIRST} max, {SECOND} min"
    assert (tags["rungs"], tags["sampler"], tags["seed"]) == ("[10, 30, 90]", "tpe", "0")
    assert "one trial in 3" in tags["scheduler"]
    assert (tags["version"], tags["torch"]) == ("0.1.0", "2.14.1")
    assert tags["command"] == "study --tracking-uri http://me:***@host/"
    assert artifact(parent, "study.json")["base/data/name"] == "pinwheel"


def test_params_are_the_whole_configuration_as_used(record, uri):
    trial = add(record, 0)
    sync(record, uri, "clustering", outcome=None)
    _, (child,) = runs_of(uri)
    assert child.data.params.keys() == trial.config.keys()
    assert child.data.params["optimiser/amsgrad"] == "true"
    assert child.data.params["prior/df"] == "none"
    assert child.data.params["optimiser/learning_rate"] == "0.001"
    assert artifact(child, "config.json") == dict(trial.config)


def test_every_row_is_one_point_of_each_metric_with_its_recorded_time(record, uri):
    add(record, 0, (10, 20, 30))
    sync(record, uri, "clustering", outcome=None)
    record.add_row(0, make_row(0, 40))
    assert sync(record, uri, "clustering", outcome=None).rows_left == 0
    _, (child,) = runs_of(uri)
    expected = [make_row(0, epoch) for epoch in (10, 20, 30, 40)]
    assert history(uri, child) == [
        (row.epoch, row.metrics[FIRST], round(row.time * 1000)) for row in expected
    ]


def test_sending_everything_again_changes_nothing(record, uri):
    for number in range(2):
        end(record, add(record, number, (10, 20)), State.COMPLETE, values=(1.0, 1.0 + number))
    sync(record, uri, "clustering", outcome=Outcome.COMPLETE)
    before = runs_of(uri)
    points = [history(uri, child) for child in before[1]]
    forget_marks(record)
    record.add_row(1, make_row(1, 30))
    assert sync(record, uri, "clustering", outcome=Outcome.COMPLETE).is_whole
    parent, children = runs_of(uri)
    assert parent.info.run_id == before[0].info.run_id
    assert [child.info.run_id for child in children] == [run.info.run_id for run in before[1]]
    assert history(uri, children[0]) == points[0]
    assert history(uri, children[1])[:2] == points[1]
    assert len(history(uri, children[1])) == 3
    assert len(history(uri, children[0], f"best/{FIRST}")) == 1


def test_a_new_database_behind_the_same_address_gets_everything_once(
    record, uri, ready_database, tmp_path
):
    end(record, add(record, 0, (10, 20)), State.COMPLETE, values=(1.0, 1.0))
    for folder in ("first", "second"):
        fresh = database(ready_database, tmp_path / folder)
        path = fresh.removeprefix("sqlite:///")
        # Another database under the marks of the first: as if the server had been set up anew.
        with record.engine.begin() as connection:
            connection.execute(SENT.update().values(tracking=without_password(fresh)))
        assert sync(record, fresh, "clustering", outcome=Outcome.COMPLETE).is_whole
        assert Path(path).is_file()
        _, (child,) = runs_of(fresh)
        assert [step for step, _, _ in history(fresh, child)] == [10, 20]


def test_a_deleted_child_is_shown_again_once_there_is_something_new(record, uri):
    add(record, 0, (10,))
    sync(record, uri, "clustering", outcome=None)
    _, (child,) = runs_of(uri)
    MlflowClient(tracking_uri=uri).delete_run(child.info.run_id)
    record.add_row(0, make_row(0, 20))
    assert sync(record, uri, "clustering", outcome=None).is_whole
    _, (again,) = runs_of(uri)
    assert again.info.run_id != child.info.run_id
    assert [step for step, _, _ in history(uri, again)] == [10, 20]


def test_nothing_but_finite_values_is_sent(record, uri):
    add(record, 0)
    odd = {FIRST: float("nan"), SECOND: float("inf"), "latent/kl": 2.0}
    record.add_row(0, make_row(0, 10, metrics=odd, absent={"latent/x": "none is active"}))
    sync(record, uri, "clustering", outcome=None)
    _, (child,) = runs_of(uri)
    assert child.data.metrics == {"latent/kl": 2.0, "training/seconds": 0.5}
    assert child.data.tags[f"absent/{FIRST}"] == "nan is not finite (epoch 10)"
    assert child.data.tags["absent/latent/x"] == "none is active (epoch 10)"


def test_a_study_may_be_called_anything(tmp_path, uri):
    name = "a b/c@d [e] (f) 疎な符号 é " * 15
    record = make_record(tmp_path, name=name)
    add(record, 0, (10,), setting="gamma@0.8", facts={"odd@fact": "x" * 9000})
    assert sync(record, uri, "clustering", outcome=None).is_whole
    record.close()
    parent, (child,) = runs_of(uri)
    assert parent.data.tags["study"] == name
    assert len(parent.info.run_name) == 250
    (odd,) = [value for key, value in child.data.tags.items() if key.startswith("odd_fact-")]
    assert len(odd) == 8000


# -- how runs end -----------------------------------------------------------------------------


def test_every_state_has_its_status_and_its_reason(record, uri):
    complete = add(record, 0, (10, 20, 30))
    record.add_checkpoint(0, Checkpoint(30, "trials/a/30"))
    end(record, complete, State.COMPLETE, values=(2.0, 0.1))
    stopped = add(record, 1)
    record.add_row(1, make_row(1, 10, decision=Decision(False, -1.5, (1.0, 2.0))))
    end(record, stopped, State.STOPPED, "stopped at rung 10")
    end(record, add(record, 2, (10,)), State.COLLAPSED, "collapsed: no active unit")
    end(record, add(record, 3), State.FAILED, "DivergedError: kl is nan at epoch 1")
    add(record, 4, (10,))
    assert sync(record, uri, "clustering", outcome=Outcome.INTERRUPTED, reason="Ctrl-C").is_whole
    parent, children = runs_of(uri)
    assert [(child.info.status, child.data.tags["state"]) for child in children] == [
        ("FINISHED", "complete"),
        ("KILLED", "stopped early"),
        ("KILLED", "collapsed"),
        ("FAILED", "failed"),
        ("KILLED", "interrupted"),
    ]
    assert children[1].data.tags["rung/10"] == "stopped: -1.5 against 2 earlier"
    assert children[3].data.tags["reason"].startswith("DivergedError")
    best = {"best_epoch": "30", "last_epoch": "30", "best_checkpoint": "trials/a/30"}
    assert best.items() <= children[0].data.tags.items()
    assert float(children[0].data.tags["best_value"]) == make_row(0, 30).metrics[FIRST]
    assert (parent.info.status, parent.data.tags["reason"]) == ("KILLED", "Ctrl-C")


def test_an_interrupted_study_is_opened_again_in_the_same_runs(record, uri):
    trial = add(record, 0, (10,))
    sync(record, uri, "clustering", outcome=Outcome.OUT_OF_TIME)
    parent, (child,) = runs_of(uri)
    assert (child.info.status, child.data.tags["state"]) == ("KILLED", "out of time")
    sync(record, uri, "clustering", outcome=None)
    parent, (child,) = runs_of(uri)
    assert (parent.info.status, child.info.status) == ("RUNNING", "RUNNING")
    assert child.data.tags["state"] == "running"
    record.add_row(0, make_row(0, 20))
    end(record, trial, State.COMPLETE, values=(1.0, 2.0))
    sync(record, uri, "clustering", outcome=Outcome.COMPLETE)
    parent, (again,) = runs_of(uri)
    assert again.info.run_id == child.info.run_id
    assert (parent.info.status, again.info.status) == ("FINISHED", "FINISHED")
    assert [step for step, _, _ in history(uri, again)] == [10, 20]


def test_the_parent_lists_the_pareto_set(record, uri):
    for number, values in enumerate([(1.0, 1.0), (2.0, 2.0), (0.5, 2.5)]):
        end(record, add(record, number, (10,)), State.COMPLETE, values=values)
    sync(record, uri, "clustering", outcome=Outcome.COMPLETE)
    parent, children = runs_of(uri)
    assert parent.data.tags["pareto_trials"] == "1, 0"
    ids = [children[1].info.run_id, children[0].info.run_id]
    assert parent.data.tags["pareto_run_ids"] == ", ".join(ids)
    assert json.loads(parent.data.tags["pareto_values"])[0] == {FIRST: 2.0, SECOND: 2.0}
    assert parent.data.tags["trials"] == "3 complete"
    assert [member["run_id"] for member in artifact(parent, "result.json")["trials"]] == ids


def test_a_study_with_one_metric_names_its_best_trial(tmp_path, uri):
    spec = dataclasses.replace(SPEC, rank_by={SECOND: "min"})
    record = make_record(tmp_path, spec=spec)
    for number, value in enumerate([3.0, 1.0, 2.0]):
        end(record, add(record, number, (10,)), State.COMPLETE, values=(value,))
    sync(record, uri, "clustering", outcome=Outcome.COMPLETE)
    record.close()
    parent, children = runs_of(uri)
    assert parent.data.tags["best_trial"] == "1"
    assert parent.data.tags["best_run_id"] == children[1].info.run_id
    assert json.loads(parent.data.tags["best_values"]) == {SECOND: 1.0}


def test_a_study_without_a_single_success_is_failed(record, uri):
    end(record, add(record, 0), State.FAILED, "DataError: no data")
    sync(record, uri, "clustering", outcome=Outcome.FAILED, reason="the same error again and again")
    parent, _ = runs_of(uri)
    assert parent.info.status == "FAILED"


@pytest.mark.parametrize("is_shown_between", [True, False])
@pytest.mark.parametrize("last", [State.COMPLETE, State.FAILED])
def test_a_failed_trial_that_goes_on_does_so_in_its_run(record, uri, last, is_shown_between):
    trial = add(record, 0, (10,))
    end(record, trial, State.FAILED, "DataError: gone")
    sync(record, uri, "clustering", outcome=Outcome.FAILED)
    _, (before,) = runs_of(uri)
    trial.state, trial.reason, trial.ended = State.UNFINISHED, "", None
    record.reopen_trial(trial)
    if is_shown_between:
        assert sync(record, uri, "clustering", outcome=None).is_whole
        parent, (child,) = runs_of(uri)
        assert (parent.info.status, child.info.status) == ("RUNNING", "RUNNING")
        assert (child.data.tags["state"], child.data.tags["reason"]) == ("running", "")
    record.add_row(0, make_row(0, 20))
    reason, values = ("", (1.0, 2.0)) if last is State.COMPLETE else ("DataError: damaged", None)
    end(record, trial, last, reason, values)
    outcome = Outcome.COMPLETE if last is State.COMPLETE else Outcome.FAILED
    assert sync(record, uri, "clustering", outcome=outcome).is_whole
    parent, (child,) = runs_of(uri)
    status = "FINISHED" if last is State.COMPLETE else "FAILED"
    assert (parent.info.status, child.info.status) == (status, status)
    assert (child.info.run_id, child.data.tags["state"]) == (before.info.run_id, last)
    assert child.data.tags["reason"] == reason
    assert [step for step, _, _ in history(uri, child)] == [10, 20]


def test_a_tracking_database_put_back_from_a_backup_is_filled_up_again(record, uri, tmp_path):
    trial = add(record, 0, (10,))
    sync(record, uri, "clustering", outcome=None)
    path = uri.removeprefix("sqlite:///")
    _copy_database(path, tmp_path / "backup.db")
    record.add_row(0, make_row(0, 20))
    end(record, trial, State.COMPLETE, values=(1.0, 2.0))
    sync(record, uri, "clustering", outcome=Outcome.COMPLETE)
    whole = history(uri, runs_of(uri)[1][0])
    assert [step for step, _, _ in whole] == [10, 20]
    _copy_database(tmp_path / "backup.db", path)
    assert [step for step, _, _ in history(uri, runs_of(uri)[1][0])] == [10]
    assert sync(record, uri, "clustering", outcome=Outcome.COMPLETE).is_whole
    _, (child,) = runs_of(uri)
    assert (child.info.status, history(uri, child)) == ("FINISHED", whole)
    assert len(history(uri, child, f"best/{FIRST}")) == 1


def _copy_database(source, target):
    """While both may be open: files that are put in another's place would not be seen."""
    old, new = sqlite3.connect(source), sqlite3.connect(target)
    with contextlib.closing(old), contextlib.closing(new):
        old.backup(new)


# -- the thread ---------------------------------------------------------------------------------


def test_the_tracker_follows_the_record_and_leaves_no_run_open(record, uri):
    notes = []
    tracker = Tracker(record, uri, "clustering", notes.append, extra={"concurrency": 2})
    trial = add(record, 0, (10,))
    tracker.wake()
    wait_until(lambda: tracker._sender.rows_sent)
    record.add_row(0, make_row(0, 20))
    end(record, trial, State.COMPLETE, values=(1.0, 1.0))
    add(record, 1, (10,))
    summary = tracker.finish(Outcome.INTERRUPTED)
    assert summary.is_whole
    parent, children = runs_of(uri)
    assert summary.run_id == parent.info.run_id
    assert parent.data.tags["concurrency"] == "2"
    assert [run.info.status for run in (parent, *children)] == ["KILLED", "FINISHED", "KILLED"]
    assert notes == []


def test_a_dead_server_costs_no_time_and_is_told_of_honestly(record, uri):
    notes = []
    tracker = Tracker(
        record, f"http://me:hidden@127.0.0.1:{dead_port()}", "clustering", notes.append
    )
    end(record, add(record, 0, (10, 20)), State.COMPLETE, values=(1.0, 1.0))
    add(record, 1, (10,))
    wait_until(lambda: notes)
    began = time.monotonic()
    summary = tracker.finish(Outcome.INTERRUPTED)
    assert time.monotonic() - began < 3
    assert (summary.rows_left, summary.runs_left, summary.is_whole) == (3, 3, False)
    assert "refused" in summary.error
    assert "evaluations: 3, runs: 3" in str(summary)
    assert len(notes) == 1
    assert "hidden" not in str(summary) + notes[0]
    assert sync(record, uri, "clustering", outcome=Outcome.INTERRUPTED).is_whole
    _, children = runs_of(uri)
    assert [len(history(uri, child)) for child in children] == [2, 1]


def test_a_locked_database_only_delays(record, uri):
    notes = []
    add(record, 0, (10,))
    sync(record, uri, "clustering", outcome=None)
    record.add_row(0, make_row(0, 20))
    holder = sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    tracker = Tracker(record, uri, "clustering", notes.append)
    time.sleep(1)
    assert tracker._sender.rows_sent == 0
    holder.close()
    assert tracker.finish(Outcome.INTERRUPTED).is_whole
    assert notes == []
    _, (child,) = runs_of(uri)
    assert [step for step, _, _ in history(uri, child)] == [10, 20]


def test_a_server_that_comes_back_gets_what_it_missed(record, uri, monkeypatch):
    log = Server.log
    is_down = threading.Event()
    is_down.set()

    def moody(*args, **facts):
        if is_down.is_set():
            raise ConnectionResetError("gone for lunch")
        log(*args, **facts)

    monkeypatch.setattr(Server, "log", moody)
    add(record, 0, (10, 20))
    notes = []
    tracker = Tracker(record, uri, "clustering", notes.append)
    wait_until(lambda: notes)
    is_down.clear()
    wait_until(lambda: len(notes) == 2)
    assert tracker.finish(Outcome.INTERRUPTED).is_whole
    assert "gone for lunch" in notes[0]
    assert "answers again" in notes[1]
    _, (child,) = runs_of(uri)
    assert [step for step, _, _ in history(uri, child)] == [10, 20]


class DistantServer(http.server.BaseHTTPRequestHandler):
    """Takes everything, 200 ms away, and keeps the points."""

    points = None
    artifacts = ""

    def do_GET(self):
        self.answer({})

    def do_POST(self):
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, request):
        time.sleep(0.2)
        self.points += request.get("metrics", [])
        info = {"run_id": "a" * 32, "experiment_id": "1", "artifact_uri": self.artifacts}
        run = {"run": {"info": {**info, "lifecycle_stage": "active", "status": "RUNNING"}}}
        experiment = {"experiment_id": "1", "name": "clustering", "lifecycle_stage": "active"}
        answers = {"get-by-name": {"experiment": experiment}, "create": run, "get": run}
        body = json.dumps(answers.get(self.path.partition("?")[0].rpartition("/")[2], {})).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def test_the_tuning_loop_does_not_wait_for_a_distant_server(record, tmp_path, monkeypatch):
    monkeypatch.setattr(DistantServer, "artifacts", (tmp_path / "artifacts").as_uri())
    monkeypatch.setattr(DistantServer, "points", [])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), DistantServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    notes = []
    tracker = Tracker(record, f"http://127.0.0.1:{server.server_port}", "clustering", notes.append)
    add(record, 0)
    metrics = {f"m/{number}": 1.0 for number in range(17)}
    waited = 0.0
    for epoch in range(1, 201):
        row = make_row(0, epoch, metrics=metrics)
        began = time.perf_counter()
        record.add_row(0, row)
        tracker.wake()
        waited += time.perf_counter() - began
        time.sleep(0.01)
    summary = tracker.finish(Outcome.INTERRUPTED, timeout_s=20.0)
    server.shutdown()
    server.server_close()
    assert (summary.is_whole, notes) == (True, [])
    assert len({(p["key"], p["step"]) for p in DistantServer.points}) == 200 * 20
    assert waited < 200 * 0.2 / 10  # one answer each would have taken ten times as long


def test_finish_does_not_wait_for_a_server_that_hangs(record):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        tracker = Tracker(record, address, "clustering", [].append)
        began = time.monotonic()
        summary = tracker.finish(Outcome.INTERRUPTED, timeout_s=0.5)
        assert time.monotonic() - began < 2
        assert "too slow" in summary.error
    tracker._thread.join()


def test_one_refused_trial_does_not_keep_the_others_waiting(record, uri, monkeypatch):
    from mlflow.exceptions import MlflowException

    for number in range(2):
        add(record, number, (10,))
    log = Server.log

    def picky(server, run_id, points=(), params=None, tags=None):
        if (params or {}).get("training/seed") == "100":
            raise MlflowException.invalid_parameter_value("no such seed")
        log(server, run_id, points, params, tags)

    monkeypatch.setattr(Server, "log", picky)
    notes = []
    summary = sync(record, uri, "clustering", outcome=None, notes=notes.append)
    assert (summary.rows_left, summary.runs_left) == (1, 1)
    assert "trial 0" in notes[0]
    assert "no such seed" in notes[0]


def test_a_server_that_takes_short_values_only_gets_them_cut(record, uri, monkeypatch):
    from mlflow.exceptions import MlflowException

    log_batch = MlflowClient.log_batch

    def old(client, run_id, metrics=(), params=(), tags=(), **facts):
        if any(len(entity.value) > 250 for entity in [*params, *tags]):
            raise MlflowException.invalid_parameter_value("longer than 250")
        log_batch(client, run_id, metrics, params, tags, **facts)

    monkeypatch.setattr(MlflowClient, "log_batch", old)
    end(record, add(record, 0, (10,)), State.FAILED, "x" * 3000)
    assert sync(record, uri, "clustering", outcome=None).is_whole
    _, (child,) = runs_of(uri)
    assert len(child.data.tags["reason"]) == 250
    assert "[cut: 3000 characters" in child.data.tags["reason"]


def test_where_no_artifact_can_be_stored_the_rest_goes_on(record, uri, monkeypatch):
    store = Server.store

    def full(*args):
        raise OSError("no space left")

    add(record, 0, (10,))
    notes = []
    monkeypatch.setattr(Server, "store", full)
    summary = sync(record, uri, "clustering", outcome=None, notes=notes.append)
    assert (summary.rows_left, summary.runs_left, summary.artifacts_left) == (0, 0, 2)
    assert len(notes) == 1
    monkeypatch.setattr(Server, "store", store)
    assert sync(record, uri, "clustering", outcome=Outcome.INTERRUPTED).is_whole
    parent, (child,) = runs_of(uri)
    assert artifact(child, "config.json")["data/name"] == "pinwheel"
    assert artifact(parent, "study.json")["base/data/name"] == "pinwheel"


def test_of_a_thousand_trials_only_those_with_something_to_send_are_read(record, uri):
    from sqlalchemy import insert

    from tune_ddvae.tuning.record.tables import ROWS, TRIALS
    from tune_ddvae.tuning.tracking.backlog import Backlog

    shared = {"study_id": record.study_id}
    config = json.dumps(dict(make_trial(0).config))
    with record.engine.begin() as connection:
        trials = [
            {**shared, "number": n, "config": config, "state": "complete"} for n in range(1000)
        ]
        connection.execute(insert(TRIALS), trials)
        row = {"time": T0, "metrics": "{}", "absent": "{}", **shared}
        rows = [{**row, "number": n, "epoch": e} for n in range(1000) for e in range(1, 81)]
        connection.execute(insert(ROWS), rows)
        mark = {"tracking": uri, "run_id": "a", "epoch": 80, "status": "complete", **shared}
        connection.execute(insert(SENT), [{**mark, "number": n} for n in range(999)])
    backlog = Backlog(record, uri)
    due = backlog.due()
    assert [d.trial.number for d in due] == [999]
    assert (due[0].last_epoch, backlog.num_rows()) == (80, 80)


# -- one run for one trial ------------------------------------------------------------------------


class Held:
    """Whether a driver holds its study: a record's own answer, as the test wants it."""

    def __init__(self, record, monkeypatch):
        self.is_so = True
        monkeypatch.setattr(record, "check_held", self.check)

    def check(self):
        if not self.is_so:
            raise StudyLockedError("this driver has lost its hold on the study")


@pytest.fixture
def rival(record, uri, monkeypatch):
    """Lets another driver make the same run just before ours is made."""

    def arm(role, then=lambda: None):
        create = MlflowClient.create_run

        def late(client, experiment_id, **facts):
            if facts["tags"]["tune_ddvae.role"] == role:
                monkeypatch.setattr(MlflowClient, "create_run", create)
                create(client, experiment_id, **facts)
                then()
            return create(client, experiment_id, **facts)

        monkeypatch.setattr(MlflowClient, "create_run", late)

    return arm


@pytest.mark.parametrize("role", ["trial", "study"])
def test_who_holds_the_record_keeps_his_run_and_removes_the_other(record, uri, rival, role):
    add(record, 0, (10, 20))
    rival(role)
    assert sync(record, uri, "clustering", outcome=None).is_whole
    parent, (child,) = runs_of(uri)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert [step for step, _, _ in history(uri, child)] == [10, 20]


@pytest.mark.parametrize("role", ["trial", "study"])
def test_who_has_lost_the_record_removes_his_own_run_and_stops(
    record, uri, rival, role, monkeypatch
):
    add(record, 0, (10,))
    held = Held(record, monkeypatch)
    rival(role, then=lambda: setattr(held, "is_so", False))
    sender = Sender(record, uri, "clustering")
    with pytest.raises(StudyLockedError):
        sender.send(None)
    assert sender.rows_sent == 0
    client = MlflowClient(uri)
    number = client.get_experiment_by_name("clustering").experiment_id
    (left,) = client.search_runs([number], f"tags.`tune_ddvae.role` = '{role}'")
    held.is_so = True
    assert sync(record, uri, "clustering", outcome=None).is_whole  # the next driver
    parent, (child,) = runs_of(uri)
    assert left.info.run_id in (parent.info.run_id, child.info.run_id)


def test_a_run_made_just_before_the_record_was_lost_is_left_to_the_next_driver(
    record, uri, monkeypatch
):
    add(record, 0, (10,))
    held = Held(record, monkeypatch)
    create = Server.create

    def frozen(server, name, tags, started):
        made = create(server, name, tags, started)
        held.is_so = False
        return made

    monkeypatch.setattr(Server, "create", frozen)
    with pytest.raises(StudyLockedError):
        Sender(record, uri, "clustering").send(None)
    monkeypatch.undo()
    assert sync(record, uri, "clustering", outcome=None).is_whole
    assert len(runs_of(uri)[1]) == 1


def test_nothing_is_written_by_who_has_lost_the_record(record, uri, monkeypatch):
    add(record, 0, (10,))
    sender = Sender(record, uri, "clustering")
    sender.send(None)
    record.add_row(0, make_row(0, 20))
    Held(record, monkeypatch).is_so = False
    with pytest.raises(StudyLockedError):
        sender.send(Outcome.COMPLETE)
    monkeypatch.undo()
    parent, (child,) = runs_of(uri)
    assert (parent.info.status, child.info.status) == ("RUNNING", "RUNNING")
    assert len(history(uri, child)) == 1


def test_a_run_that_was_made_twice_all_the_same_is_single_at_the_end(record, uri):
    trial = add(record, 0, (10,))
    sync(record, uri, "clustering", outcome=None)
    _, (child,) = runs_of(uri)
    client = MlflowClient(uri)  # a request that was believed lost comes through now
    late = client.create_run(child.info.experiment_id, start_time=0, tags=child.data.tags)
    end(record, trial, State.COMPLETE, values=(1.0, 1.0))
    assert sync(record, uri, "clustering", outcome=Outcome.COMPLETE).is_whole
    _, (left,) = runs_of(uri)
    assert left.info.run_id == child.info.run_id
    assert client.get_run(late.info.run_id).info.lifecycle_stage == "deleted"


@pytest.mark.parametrize("outcome", [Outcome.COMPLETE, Outcome.INTERRUPTED])
def test_a_closed_run_that_was_opened_again_is_closed_by_the_next_start(record, uri, outcome):
    end(record, add(record, 0, (10,)), State.COMPLETE, values=(1.0, 1.0))
    add(record, 1, (10,))
    sync(record, uri, "clustering", outcome=outcome)
    parent, children = runs_of(uri)
    before = [(run.info.status, run.data.tags["state"]) for run in (parent, *children)]
    client = MlflowClient(uri)
    for run in (parent, *children):  # by a driver that was frozen in the middle of a request
        client.set_tag(run.info.run_id, "state", "running")
        client.update_run(run.info.run_id, status="RUNNING")
    assert sync(record, uri, "clustering", outcome=outcome).is_whole
    parent, children = runs_of(uri)
    assert [(run.info.status, run.data.tags["state"]) for run in (parent, *children)] == before


def test_more_runs_than_a_page_holds_are_all_looked_at(record, uri, monkeypatch):
    monkeypatch.setattr(tracking_client, "RUNS_PER_PAGE", 2)
    for number in range(5):
        end(record, add(record, number, (10,)), State.COMPLETE, values=(1.0, 1.0))
    sync(record, uri, "clustering", outcome=Outcome.COMPLETE)
    _, children = runs_of(uri)
    MlflowClient(uri).update_run(children[-1].info.run_id, status="RUNNING")
    sync(record, uri, "clustering", outcome=Outcome.COMPLETE)
    assert {child.info.status for child in runs_of(uri)[1]} == {"FINISHED"}


@pytest.fixture
def record_beside(ready_record, tmp_path, uri):
    """A record in the storage that the tracking database belongs to."""
    folder = tmp_path / "tracked" / "study"
    folder.mkdir()
    shutil.copy(ready_record, folder / "record.db")
    record = make_record(folder)
    yield record
    record.close()


def test_another_storages_database_may_be_a_copys_too_and_keeps_its_runs(record, uri):
    end(record, add(record, 0, (10, 20)), State.COMPLETE, values=(1.0, 1.0))
    sync(record, uri, "clustering", outcome=Outcome.COMPLETE)
    parent, before = runs_of(uri)
    client = MlflowClient(uri)
    client.log_metric(before[0].info.run_id, plain_key(FIRST), 7.0, round(T0 * 1000), 30)
    tags = {**before[0].data.tags, view.TRIAL_TAG: "1"}
    copys = client.create_run(parent.info.experiment_id, tags=tags).info.run_id
    sync(record, uri, "clustering", outcome=Outcome.COMPLETE, restores=True)
    assert {run.info.run_id for run in runs_of(uri)[1]} == {before[0].info.run_id, copys}


def test_a_run_with_points_that_the_record_lacks_is_made_anew_by_sync(record_beside, uri):
    record = record_beside
    end(record, add(record, 0, (10, 20)), State.COMPLETE, values=(1.0, 1.0))
    end(record, add(record, 1, (10, 20)), State.COMPLETE, values=(1.0, 1.0))
    sync(record, uri, "clustering", outcome=Outcome.COMPLETE)
    _, before = runs_of(uri)
    client = MlflowClient(uri)
    for key in (FIRST, SECOND, "training/seconds"):
        client.log_metric(before[0].info.run_id, key, 7.0, round(T0 * 1000), 20)
    for key in (f"best/{FIRST}", f"analysis/{FIRST}", "a colleague's own"):  # no row's
        client.log_metric(before[1].info.run_id, plain_key(key), 7.0, round(T0 * 1000), 20)
    again = sync(record, uri, "clustering", outcome=Outcome.COMPLETE, restores=True)
    assert again.is_whole
    _, after = runs_of(uri)
    assert after[0].info.run_id != before[0].info.run_id
    assert after[1].info.run_id == before[1].info.run_id
    for number, child in enumerate(after):
        rows = [make_row(number, epoch) for epoch in (10, 20)]
        expected = [(row.epoch, row.metrics[FIRST], round(row.time * 1000)) for row in rows]
        assert history(uri, child) == expected


# -- a folder that was moved ----------------------------------------------------------------------


def test_a_copied_database_finds_its_artifacts_beside_itself(tmp_path, uri):
    folder, copy = tmp_path / "tracked", tmp_path / "copy"
    before = (folder / "mlartifacts").as_uri()
    (folder / "mlartifacts").mkdir()
    experiment = MlflowClient(uri).create_experiment("there", artifact_location=before)
    run_id = MlflowClient(uri).create_run(experiment).info.run_id
    shutil.copytree(folder, copy)
    client = open_client(f"sqlite:///{copy / 'mlflow.db'}")
    after = (copy / "mlartifacts").as_uri()
    assert client.get_experiment(experiment).artifact_location == after
    assert client.get_run(run_id).info.artifact_uri == f"{after}/{run_id}/artifacts"
    assert open_client(uri).get_experiment(experiment).artifact_location == before


def test_artifacts_that_are_kept_elsewhere_stay_there(tmp_path, ready_database, uri):
    elsewhere = tmp_path / "elsewhere" / "mlartifacts"
    elsewhere.mkdir(parents=True)
    (tmp_path / "tracked" / "mlartifacts").mkdir()
    client = MlflowClient(uri)
    for name, place in (("there", elsewhere.as_uri()), ("bucket", "s3://bucket/mlartifacts")):
        client.create_experiment(name, artifact_location=place)
        open_client(uri)
        assert client.get_experiment_by_name(name).artifact_location == place


# -- before anything starts ---------------------------------------------------------------------


@pytest.mark.parametrize("address", ["./mlruns", "file:///tmp/mlruns", "/tmp/mlruns"])  # noqa: S108
def test_a_folder_is_refused_with_the_address_to_use_instead(address):
    with pytest.raises(
        TrackingError, match=r"plain folder, got .* Use sqlite:////.*/mlruns/mlflow.db"
    ):
        check_tracking(address, "clustering")


@pytest.mark.parametrize("address", ["ftp://me:hidden@host/x", "localhost:5000", "sqlite:x.db"])
def test_an_unknown_kind_of_address_is_refused(address):
    with pytest.raises(
        TrackingError, match="must begin with http://, https://, sqlite://"
    ) as error:
        check_tracking(address, "clustering")
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
    "address",
    [
        *("http://", "https://:5000", "http://host:port", "http://[::1"),
        *("http://me:hid/den@host", "http://me:12/hidden@host:5000"),
    ],
)
def test_an_address_without_a_host_is_refused(address):
    with pytest.raises(TrackingError, match="must name a host") as error:
        check_tracking(address, "clustering")
    assert "hid" not in str(error.value)


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_password_with_an_at_sign_is_refused_with_what_to_write(scheme):
    with pytest.raises(TrackingError, match="write %40 for @") as error:
        check_tracking(f"{scheme}://me:hid@den@host/x", "clustering")
    assert not any(part in str(error.value) for part in ("hid", "den", "host/"))


def test_a_database_that_does_not_exist_yet_is_fine_and_not_made(tmp_path):
    address = default_tracking_uri(tmp_path / "studies")
    assert address == f"sqlite:///{tmp_path}/studies/mlflow.db"
    assert check_tracking(address, "clustering") == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:", "sqlite:////"])
def test_a_database_that_vanishes_is_refused(address):
    with pytest.raises(TrackingError, match="must name a file"):
        check_tracking(address, "clustering")


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("this is not a database at all")
    with pytest.raises(TrackingError, match="must be an SQLite file"):
        check_tracking(f"sqlite:///{tmp_path}/notes.txt", "clustering")
    with pytest.raises(TrackingError, match=r"notes\.txt cannot"):
        check_tracking(f"sqlite:///{tmp_path}/notes.txt/mlflow.db", "clustering")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc, where nobody can write")
def test_a_database_that_nobody_can_make_is_refused_even_for_root():
    for path in ("/proc/x.db", "/proc/self/status"):
        with pytest.raises(TrackingError, match=rf"the tracking database {path} must be"):
            check_tracking(f"sqlite:///{path}", "clustering")


def test_a_database_in_a_folder_that_takes_no_journal_is_refused(uri, tmp_path, monkeypatch):
    def refuse(**_facts):
        raise PermissionError(13, "Permission denied")

    assert check_tracking(uri, "clustering") == []
    monkeypatch.setattr(check.tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(TrackingError, match=r"Permission denied.*--tracking-uri"):
        check_tracking(uri, "clustering")


def test_a_deleted_experiment_is_found_with_the_step_that_restores_it(uri):
    client = MlflowClient(tracking_uri=uri)
    number = client.create_experiment("clustering")
    assert check_tracking(uri, "clustering") == []
    client.delete_experiment(number)
    with pytest.raises(
        TrackingError, match=f" -m mlflow experiments restore --experiment-id {number}\n"
    ) as error:
        check_tracking(uri, "clustering")
    assert f"MLFLOW_TRACKING_URI={uri}" in str(error.value)
    assert check_tracking(uri, "another") == []


def test_tables_of_another_version_are_refused_with_the_command_that_moves_them(uri):
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
        connection.execute("update alembic_version set version_num = '451aebb31d03'")
    connection.close()
    with pytest.raises(TrackingError, match=" -m mlflow db upgrade sqlite:///"):
        check_tracking(uri, "clustering")


def test_a_server_that_does_not_answer_is_only_warned_of(monkeypatch):
    (warning,) = check_tracking(f"http://me:hidden@127.0.0.1:{dead_port()}", "clustering")
    assert "does not answer" in warning
    assert "hidden" not in warning
    monkeypatch.setattr(check, "ANSWER_S", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        (warning,) = check_tracking(f"http://127.0.0.1:{silent.getsockname()[1]}", "clustering")
    assert "no answer within 0.3 s" in warning


def test_two_studies_that_start_together_share_one_new_database(tmp_path):
    code = (
        "import sys; from tune_ddvae.tuning.tracking.client import Server; "
        "print(Server(sys.argv[1], 'clustering').experiment_id)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, default_tracking_uri(tmp_path)]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=60) for process in started]
    assert told == [("1\n", ""), ("1\n", "")]
    assert not Path("mlruns").exists()


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["log_likelihood/iwae", "a b.c-d:e", "x" * 250])
def test_a_name_that_mlflow_takes_stays(name):
    assert plain_key(name) == name


@pytest.mark.parametrize(
    "name", ["a@b", "kl(q||p)", "日本", "/a", "a//b", "../a", "a/.", "", "y" * 251, "f1±"]
)
def test_any_other_name_becomes_one_that_mlflow_takes(name):
    from mlflow.utils.validation import _validate_metric_name

    plain = plain_key(name)
    _validate_metric_name(plain)
    assert len(plain) <= 250
    assert plain[-9] == "-"


def test_different_names_stay_different():
    names = ["a@b", "a#b", "a_b", "z" * 300, "z" * 301, "é", "è"]
    assert len({plain_key(name) for name in names}) == len(names)
    assert plain_key("a@b").startswith("a_b-")


def test_a_long_value_is_cut_and_says_so():
    text = str(list(range(2000)))
    cut = shortened(text, 6000)
    assert len(cut) == 6000
    assert cut[:5000] == text[:5000]
    assert f"[cut: {len(text)} characters, sha256 " in cut
    assert shortened("short", 6000) == "short"
    assert shortened("a\0b\ud800", 10) == "a?b?"


def test_a_row_is_never_split():
    rows = [make_row(0, epoch) for epoch in range(1, 8)]
    portions = list(batches(rows, 7))
    assert [len(portion) for portion in portions] == [2, 2, 2, 1]
    assert [row for portion in portions for row in portion] == rows
