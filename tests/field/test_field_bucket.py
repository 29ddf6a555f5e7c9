"""Studies whose checkpoints lie in a bucket and the record on a server: no machine holds anything."""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bucket import running
from tests.field.test_field_postgresql import tracking_on
from tests.field.test_field_server import assert_no_password, num_rows_at, trials_at
from tests.studies import (
    Tracked,
    command,
    driving,
    ended,
    outcome,
    outcome_of,
    result,
    run,
    wait_until,
    without_seconds,
    write_tiny,
)
from tune_ddvae import exit_codes
from tune_ddvae.errors import StorageAwayError
from tune_ddvae.study import main
from tune_ddvae.tuning.record.postgresql import LEASE_S
from tune_ddvae.tuning.trials import State, Trial

pytestmark = [pytest.mark.field, pytest.mark.timeout(400)]

NUM_TRIALS = 8  # the sampler speaks after five
SERIAL = ("--max-concurrent", 1, "--cpus-per-trial", 1)


@pytest.fixture(scope="module")
def s3():
    with running() as server:
        yield server


class Machine:
    """A machine that nothing lies on but the study file."""

    def __init__(self, folder: Path, **facts) -> None:
        (folder / "home").mkdir(parents=True)
        self.folder = folder
        self.study = write_tiny(folder, trials=NUM_TRIALS, **facts)
        self.env = {"HOME": str(folder / "home")}

    def command(self, name: str, *words: object) -> subprocess.CompletedProcess:
        """One of our other commands, run here."""
        return subprocess.run(
            [sys.executable, "-m", f"tune_ddvae.{name}", *map(str, words)],
            cwd=self.folder,
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    @property
    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


class Killed:
    """A serial study killed on one machine and resumed on another, from record and bucket alone."""

    def __init__(self, folder: Path, s3, url: str) -> None:
        self.url = url
        self.words = ["--storage", s3.address("deep/studies"), "--record", url]
        words = [*self.words, *SERIAL]
        first, self.machine = Machine(folder / "first"), Machine(folder / "second")
        with driving(first.study, first.folder, *words, env=first.env) as driver:
            assert wait_until(driver, lambda: num_rows_at(url) >= 40)
            driver.send_signal(signal.SIGKILL)
            driver.wait(timeout=30)
        self.before = trials_at(url)
        self.kept = s3.keys("deep/studies/tiny/trials")
        time.sleep(LEASE_S + 1)  # the server's clock is awaited
        self.done = subprocess.run(
            command(self.machine.study, self.machine.folder, *words, "--json", report=True),
            cwd=self.machine.folder,
            env={**os.environ, **self.machine.env},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert self.done.returncode == exit_codes.COMPLETE, self.done.stderr
        self.result = result(self.done)
        self.trials = trials_at(url)
        self.tracked = Tracked(self.machine.folder, "tiny", "tiny")

    def run_id(self, number: int) -> str:
        return self.tracked.children[number].info.run_id


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory, ready_tracking, ray_address):
    folder = tmp_path_factory.mktemp("left-alone")
    study = write_tiny(folder, trials=NUM_TRIALS)
    done = run(study, folder, *SERIAL, "--address", ray_address)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory, s3, server):
    return Killed(tmp_path_factory.mktemp("killed"), s3, server.new_database())


def test_a_study_that_is_resumed_on_an_empty_machine_ends_as_one_left_alone(killed, left_alone):
    unfinished = [trial for trial in killed.before if trial.state is State.UNFINISHED]
    assert unfinished
    assert any(trial.checkpoints for trial in unfinished)  # there was something to go on from
    assert outcome_of(killed.trials) == outcome(left_alone, "tiny")
    assert "passed over a checkpoint" not in killed.done.stderr


def assert_kept(before: list[Trial], after: list[Trial]) -> None:
    """Nothing that was recorded before was trained again, and no trial is blamed."""
    for cut, whole in zip(before, after, strict=False):
        assert {epoch: whole.rows[epoch].time for epoch in cut.rows} == {
            epoch: row.time for epoch, row in cut.rows.items()
        }
        assert whole.losses == 0


def test_nothing_is_trained_twice_but_what_was_never_recorded(killed):
    assert_kept(killed.before, killed.trials)


def test_mlflow_shows_all_of_it_once(killed):
    killed.tracked.assert_equals(killed.trials)
    assert killed.tracked.parent.info.status == "FINISHED"
    assert_no_password(killed.machine.folder, killed.done.stdout, killed.done.stderr)


def test_the_bucket_holds_what_the_record_names_and_the_machine_holds_none_of_it(killed, s3):
    keys = s3.keys("deep/studies/tiny")
    recorded = {
        f"deep/studies/tiny/{mark.path}/state.pt"
        for trial in killed.trials
        for mark in trial.checkpoints
    }
    there = {key for key in keys if key.endswith("/state.pt")}
    assert recorded <= there
    # Those of the killed driver that it had not come to removing may be left.
    assert there - recorded <= set(killed.kept)
    assert killed.machine.names == {"home", "studies", "tiny.py"}
    assert not (killed.machine.folder / "studies" / "tiny").exists()


def test_the_report_lies_in_the_bucket(killed, s3):
    keys = s3.keys("deep/studies/tiny/report/")
    contents = json.loads(s3.get("deep/studies/tiny/report/contents.json"))
    assert contents["problems"] == []
    assert {f"deep/studies/tiny/report/{name}" for name in contents["study"]} <= set(keys)
    assert contents["trials"]
    assert killed.result["report"].startswith(
        "s3://mine/deep/studies/tiny/report?endpoint_override="
    )


def test_a_trial_is_analysed_from_the_bucket_by_its_run_or_by_its_address(killed):
    (best, *_) = killed.result["findings"]
    words = ("--logp", "--iwae-samples", "4", "--points", "20", "--json")
    found = []
    for place in (killed.run_id(best["number"]), best["checkpoint"]):
        done = killed.machine.command("analyse", place, *words)
        assert done.returncode == exit_codes.COMPLETE, done.stderr
        found.append(json.loads(done.stdout))
    by_run, by_address = found
    assert by_run["checkpoint"] == by_address["checkpoint"] == best["checkpoint"]
    assert by_run["values"] == by_address["values"]
    assert by_run["epoch"] == 27
    attempt = Path(best["checkpoint"].partition("?")[0]).parent.name
    assert by_run["folder"] == str(killed.machine.folder / "analysis" / attempt / "epoch_27")


def test_a_trial_is_trained_again_from_its_run(killed):
    (best, *_) = killed.result["findings"]
    done = killed.machine.command("train", "--from-run", killed.run_id(best["number"]))
    assert done.returncode == exit_codes.COMPLETE, done.stdout + done.stderr


def test_another_mlflow_is_brought_up_to_date_from_record_and_bucket(killed, tmp_path):
    uri = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    done = Machine(tmp_path / "third").command("sync", "tiny", *killed.words, "--tracking-uri", uri)
    assert done.returncode == exit_codes.COMPLETE, done.stdout + done.stderr
    shown = Tracked(tmp_path, "tiny", "tiny", uri)
    shown.assert_equals(killed.trials)
    report = shown.client.list_artifacts(shown.parent.info.run_id, "report")
    assert len(report) == len(
        killed.tracked.client.list_artifacts(killed.tracked.parent.info.run_id, "report")
    )
    assert report


def shown(tracked: Tracked) -> list:
    """All that MLflow has of each trial, but for times and places."""
    return [
        (
            run.info.status,
            run.data.params,
            {key: tracked.history(run, key) for key in without_seconds(run.data.metrics)},
        )
        for run in tracked.children
    ]


def test_crashes_of_the_database_and_a_kill_show_in_neither_record_nor_mlflow(
    s3, server, left_alone, tmp_path
):
    """Both are on one PostgreSQL server, the checkpoints in a bucket, and nothing on any machine."""
    url = server.new_database()
    first, second = Machine(tmp_path / "first"), Machine(tmp_path / "second")
    with tracking_on(server, tmp_path) as tracking:
        words = ["--storage", s3.address("crashed"), "--record", url, "--tracking-uri", tracking]
        words += SERIAL
        with driving(first.study, first.folder, *words, env=first.env) as driver:
            assert wait_until(driver, lambda: num_rows_at(url) >= 20)
            server.restart()
            assert wait_until(driver, lambda: num_rows_at(url) >= 40)
            driver.send_signal(signal.SIGKILL)
            driver.wait(timeout=30)
        before, known = trials_at(url), num_rows_at(url)
        time.sleep(LEASE_S + 1)  # the server's clock is awaited
        with driving(second.study, second.folder, *words, env=second.env) as driver:
            assert wait_until(driver, lambda: num_rows_at(url) >= known + 10)
            server.restart()
            done = ended(driver, timeout_s=240)
        assert done.returncode == exit_codes.COMPLETE, done.stderr
        trials = trials_at(url)
        tracked = Tracked(second.folder, "tiny", "tiny", tracking)
        tracked.assert_equals(trials)
        assert shown(tracked) == shown(Tracked(left_alone, "tiny", "tiny"))
        assert tracked.parent.info.status == "FINISHED"
    assert outcome_of(trials) == outcome(left_alone, "tiny")
    assert any(trial.checkpoints for trial in before if trial.state is State.UNFINISHED)
    assert "passed over a checkpoint" not in done.stdout
    assert_kept(before, trials)
    for machine in (first, second):
        assert machine.names == {"home", "tiny.py"}
        assert_no_password(machine.folder, done.stdout, done.stderr)


def test_an_outage_of_the_bucket_costs_no_trial_anything(s3, server, tmp_path):
    url = server.new_database()
    machine = Machine(tmp_path / "machine")
    words = ["--storage", s3.address("outage"), "--record", url]
    words += ["--max-concurrent", 2, "--cpus-per-trial", 1]
    with driving(machine.study, machine.folder, *words, env=machine.env) as driver:
        assert wait_until(driver, lambda: num_rows_at(url) >= 20)
        with s3.away() as refusing:
            # More than all that call at once may have tried in vain before the first one gives up.
            assert wait_until(driver, lambda: refusing.num_calls >= 45)
        done = ended(driver, timeout_s=240)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    assert "lost its worker (the storage was away: OSError: When " in done.stdout
    assert "passed over a checkpoint" not in done.stdout
    trials = trials_at(url)
    assert len(trials) == NUM_TRIALS
    assert {trial.losses for trial in trials} == {0}
    assert all(list(trial.rows) == list(range(1, trial.last_epoch + 1)) for trial in trials)
    assert State.FAILED not in {trial.state for trial in trials}
    Tracked(machine.folder, "tiny", "tiny").assert_equals(trials)


def test_ctrl_c_while_the_bucket_is_away_ends_the_study_as_ever(s3, server, tmp_path):
    url = server.new_database()
    machine = Machine(tmp_path / "machine")
    words = ["--storage", s3.address("interrupted"), "--record", url]
    with driving(machine.study, machine.folder, *words, *SERIAL, env=machine.env) as driver:
        assert wait_until(driver, lambda: num_rows_at(url) >= 10)
        with s3.away() as refusing:
            assert wait_until(driver, lambda: refusing.num_calls >= 10)
            driver.send_signal(signal.SIGINT)
            done = ended(driver, timeout_s=60)
    assert done.returncode == exit_codes.INTERRUPTED, done.stderr
    assert "Traceback" not in done.stderr
    assert "Go on with it" in done.stdout


def test_a_server_that_takes_calls_and_says_nothing_is_refused_in_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"s3://mine/x?endpoint_override=127.0.0.1:{silent.getsockname()[1]}&scheme=http"
        words = ["clustering", "--storage", address, "--record", "postgresql://a@127.0.0.1:9/b"]
        importlib.import_module("tune_ddvae.tuning.assemble")
        began = time.monotonic()
        with pytest.raises(StorageAwayError, match="Timeout was reached"):
            main.main(words, standalone_mode=False)
    assert time.monotonic() - began < 20
    assert list(tmp_path.iterdir()) == []
