"""A tracking server that dies under a study, or is not there at all; and one that refuses."""

import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from sqlalchemy import create_engine

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
from tune_ddvae.catalogue import find_study
from tune_ddvae.study import sized_spec
from tune_ddvae.tuning.opening import open_record, record_url
from tune_ddvae.tuning.tables import STUDIES
from tune_ddvae.tuning.tracking import Outcome, sync

pytestmark = [pytest.mark.field, pytest.mark.timeout(280)]

LEFT, ALONE = "left", "alone"  # one study's server goes away, the other's was never there
EPOCHS = 200
PATIENCE_S = 30.0  # that a study has for a server at its end


class Server:
    """A local MLflow server on SQLite, which can be killed and started again at its address."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "server.db"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        words = ["--backend-store-uri", f"sqlite:///{self.database}", "--workers", "1"]
        words += ["--artifacts-destination", str(self._folder / "artifacts")]
        words += ["--host", "127.0.0.1", "--port", str(self.port)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert wait_until(self._process, self._answers)

    def kill(self) -> None:
        """End the server and its workers at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=30)
            self._process = None

    def num_points(self) -> int:
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)
        try:
            return connection.execute("select count(*) from metrics").fetchone()[0]
        finally:
            connection.close()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


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
        server.start()
        self.points_before = server.num_points()
        self.summaries = [self.synced(LEFT) for _ in range(2)]
        self.alone_again = run(self.study, folder, *again)

    def synced(self, name: str):
        """What anyone can do at any later time, with the record alone."""
        url = record_url(record_path(self.folder, name))
        engine = create_engine(url)
        with engine.connect() as connection:
            (row,) = connection.execute(STUDIES.select()).all()
        engine.dispose()
        pins = {"training/epochs": EPOCHS}
        spec = sized_spec(find_study(str(self.study)).spec, pins=pins, first_rung="none")
        record = open_record(url, name, spec, json.loads(row.identity), {})
        try:
            return sync(record, self.server.address, "tiny", outcome=Outcome.COMPLETE)
        finally:
            record.close()


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
    assert [summary.is_whole for summary in deserted.summaries] == [True, True]
    tracked = Tracked(deserted.folder, LEFT, "tiny", deserted.server.address)
    tracked.assert_equals(trials)
    assert tracked.parent.info.status == "FINISHED"
    assert json.loads(tracked.artifact(tracked.children[0], "config.json")) == trials[0].config


def test_a_study_without_any_server_runs_and_is_brought_by_the_same_command(deserted):
    assert deserted.alone.returncode == exit_codes.COMPLETE, deserted.alone.stderr
    assert "does not answer" in deserted.alone.stderr
    assert "is behind, still to be sent" in deserted.alone.stderr
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
