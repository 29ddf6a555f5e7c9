"""A tracking server that dies under a study, or is not there at all; and one that refuses."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.mlflow_server import Server
from tests.studies import (
    Tracked,
    driving,
    ended,
    record_path,
    result,
    run,
    trials_of,
    wait_until,
    write_tiny,
)
from tune_ddvae import exit_codes

pytestmark = [pytest.mark.field, pytest.mark.timeout(280)]

LEFT, ALONE = "left", "alone"  # one study's server goes away, the other's was never there
EPOCHS = 200
PATIENCE_S = 30.0  # that a study has for a server at its end


class Deserted:
    """Both studies, first without and then with a server again."""

    def __init__(self, folder: Path, server: Server, ray_address: str) -> None:
        self.folder, self.server = folder, server
        self.study = write_tiny(folder, trials=3)
        server.start()
        words = ["--epochs", EPOCHS, "--first-rung", "none", "--address", ray_address, "--json"]
        words += ["--max-concurrent", 2, "--cpus-per-trial", 1, "--tracking-uri", server.address]
        with driving(self.study, folder, *words, "--name", LEFT) as driver:
            assert wait_until(driver, server.num_points), ended(driver)
            server.kill()
            self.left = ended(driver)
            self.left_ended = time.time()
        again = ["--name", ALONE, "--epochs", 9, "--first-rung", "none", *words[4:]]
        self.alone = run(self.study, folder, *again)
        self.unsynced = self.synced(ALONE)
        server.start()
        self.points_before = server.num_points()
        self.left_synced = [self.synced(LEFT) for _ in range(2)]
        self.alone_synced = self.synced(ALONE)
        self.alone_again = run(self.study, folder, *again)

    def synced(self, name: str) -> subprocess.CompletedProcess:
        """What anyone can do at any later time, with the record alone."""
        words = ["-m", "tune_ddvae.sync", name, "--storage", str(self.folder / "studies")]
        return subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, timeout=120, check=False
        )


@pytest.fixture(scope="module")
def deserted(tmp_path_factory, ray_address):
    server = Server(tmp_path_factory.mktemp("server"))
    try:
        yield Deserted(tmp_path_factory.mktemp("deserted"), server, ray_address)
    finally:
        server.kill()


def test_a_study_outlives_its_tracking_server_and_says_what_is_missing(deserted):
    assert deserted.left.returncode == exit_codes.COMPLETE, deserted.left.stderr
    address = deserted.server.address
    assert f"MLflow at {address} cannot be brought up to date" in deserted.left.stderr
    assert f"warning: MLflow at {address}, experiment tiny is behind" in deserted.left.stderr
    assert "Nothing is lost, the record holds it all" in deserted.left.stderr
    assert result(deserted.left)["findings"]


def test_a_dead_server_delays_the_end_by_no_more_than_it_is_given(deserted):
    last = max(trial.ended for trial in trials_of(deserted.folder, LEFT))
    assert deserted.left_ended - last < PATIENCE_S


def test_what_a_dead_server_missed_is_brought_once_by_sync(deserted):
    trials = trials_of(deserted.folder, LEFT)
    expected = sum(len(row.metrics) for trial in trials for row in trial.rows.values())
    assert 0 < deserted.points_before < expected
    for done in deserted.left_synced:
        assert done.returncode == exit_codes.COMPLETE, done.stderr
        assert "everything is there" in done.stdout
    assert not deserted.left_synced[0].stdout.startswith("sent 0 evaluations")
    assert deserted.left_synced[1].stdout.startswith("sent 0 evaluations")
    tracked = Tracked(deserted.folder, LEFT, "tiny", deserted.server.address)
    tracked.assert_equals(trials)
    assert tracked.parent.info.status == "FINISHED"
    assert json.loads(tracked.artifact(tracked.children[0], "config.json")) == trials[0].config


def test_a_study_without_any_server_runs_and_says_so(deserted):
    assert deserted.alone.returncode == exit_codes.COMPLETE, deserted.alone.stderr
    assert "does not answer" in deserted.alone.stderr
    assert "is behind, still to be sent" in deserted.alone.stderr


def test_sync_says_what_it_could_not_send(deserted):
    assert deserted.unsynced.returncode == exit_codes.WORK_LEFT
    assert "is behind, still to be sent" in deserted.unsynced.stdout


def test_sync_brings_everything_of_a_study_that_had_no_server(deserted):
    """Without an address: the record knows where the study wanted to be shown."""
    trials = trials_of(deserted.folder, ALONE)
    num_rows = sum(len(trial.rows) for trial in trials)
    assert deserted.alone_synced.returncode == exit_codes.COMPLETE, deserted.alone_synced.stderr
    told = f"sent {num_rows} evaluations; {len(trials) + 1} runs described or closed"
    assert deserted.alone_synced.stdout.startswith(told)
    tracked = Tracked(deserted.folder, ALONE, "tiny", deserted.server.address)
    tracked.assert_equals(trials)
    assert tracked.parent.info.status == "FINISHED"


def test_the_same_command_after_that_finds_nothing_to_do(deserted):
    assert deserted.alone_again.returncode == exit_codes.COMPLETE, deserted.alone_again.stderr
    assert result(deserted.alone_again)["outcome"] == "already complete"
    assert "behind" not in deserted.alone_again.stderr
    tracked = Tracked(deserted.folder, ALONE, "tiny", deserted.server.address)
    tracked.assert_equals(trials_of(deserted.folder, ALONE))


def test_a_deleted_experiments_name_is_refused_before_anything_starts(workplace):
    uri = f"sqlite:///{workplace / 'studies' / 'mlflow.db'}"
    client = MlflowClient(uri)
    number = client.create_experiment("tiny")
    client.delete_experiment(number)
    began = time.monotonic()
    done = run(write_tiny(workplace), workplace)
    assert time.monotonic() - began < 15.0
    assert done.returncode == exit_codes.REFUSED
    assert f"experiments restore --experiment-id {number}" in done.stderr
    assert not record_path(workplace, "tiny").exists()
    assert client.search_runs([number], run_view_type=3) == []
