"""Real studies with their record on a PostgreSQL server that fails them, or that they fail."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from tests.postgres import PASSWORD
from tests.studies import Tracked, driving, ended, result, run, wait_until, write_tiny
from tune_ddvae import exit_codes
from tune_ddvae.tuning.record.postgresql import LEASE_S
from tune_ddvae.tuning.record.record import read_trials
from tune_ddvae.tuning.record.tables import STUDIES
from tune_ddvae.tuning.trials import State

pytestmark = [pytest.mark.field, pytest.mark.timeout(280)]


@pytest.fixture
def url(server):
    return server.new_database()


def trials_at(url: str):
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(STUDIES.select().where(STUDIES.c.name == "tiny")).one_or_none()
    trials = [] if found is None else read_trials(engine, found.study_id)
    engine.dispose()
    return trials


def num_rows_at(url: str) -> int:
    return sum(len(trial.rows) for trial in trials_at(url))


def holdings(server, url: str) -> list:
    with server.connected(url) as connection:
        return [
            sorted(map(repr, connection.execute(text(f"SELECT * FROM {table}")).all()))  # noqa: S608
            for table in ("ddvae_trials", "ddvae_rows", "ddvae_checkpoints", "trials")
        ]


def assert_no_password(folder: Path, *texts: str) -> None:
    assert not any(PASSWORD in text for text in texts)
    for path in folder.rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes(), path


def synced_with(folder: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tune_ddvae.sync", "tiny", "--storage", folder / "studies"]
    return subprocess.run(
        [*map(str, command), *words], capture_output=True, text=True, timeout=120, check=False
    )


def test_a_study_that_a_driver_holds_on_a_server_is_left_alone_by_sync_and_ended_by_stop(
    workplace, url
):
    study = write_tiny(workplace, trials=2)
    words = ["--epochs", "100000", "--first-rung", "none", "--record", url]
    with driving(study, workplace, *words) as driver:
        assert wait_until(driver, lambda: num_rows_at(url) >= 5)
        refused = synced_with(workplace, "--record", url)
        assert refused.returncode == exit_codes.REFUSED
        assert f"another driver holds this study: process {driver.pid} on" in refused.stderr
        stopped = subprocess.run(
            [sys.executable, "-m", "tune_ddvae.studies", "stop", "tiny", "--record", url],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert stopped.returncode == exit_codes.COMPLETE, stopped.stderr
        assert f"process {driver.pid} on" in stopped.stdout + stopped.stderr
        assert ended(driver).returncode == exit_codes.TERMINATED
    done = synced_with(workplace, "--record", url)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    unknown = subprocess.run(
        [sys.executable, "-m", "tune_ddvae.sync", "tony", "--record", url],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert unknown.returncode == exit_codes.REFUSED
    assert "there are: tiny" in unknown.stderr
    assert_no_password(workplace, refused.stderr, done.stdout, unknown.stderr)


def test_a_driver_frozen_past_its_lease_writes_nothing_more(workplace, url, server):
    study = write_tiny(workplace, trials=8)
    words = ["--max-concurrent", 1, "--record", url, "--json"]
    with driving(study, workplace, *words) as frozen:
        assert wait_until(frozen, lambda: num_rows_at(url) >= 10)
        frozen.send_signal(signal.SIGSTOP)
        since = time.monotonic()
        refused = run(study, workplace, *words)
        assert refused.returncode == exit_codes.REFUSED
        assert f"another driver holds this study: process {frozen.pid} on" in refused.stderr
        time.sleep(
            max(0.0, since + LEASE_S + 1 - time.monotonic())
        )  # the server's clock is awaited
        done = run(study, workplace, *words)
        assert done.returncode == exit_codes.COMPLETE, done.stderr
        before = holdings(server, url)
        frozen.send_signal(signal.SIGCONT)
        end = ended(frozen, timeout_s=60)
    assert end.returncode == exit_codes.WORK_LEFT, end.stderr
    assert "error: this driver has lost its hold on the study" in end.stderr
    assert "Traceback" not in end.stderr
    assert holdings(server, url) == before
    # What it was just telling MLflow when it was frozen may have arrived all the same.
    synced = synced_with(workplace, "--record", url)
    assert synced.returncode == exit_codes.COMPLETE, synced.stderr
    Tracked(workplace, "tiny", "tiny").assert_equals(trials_at(url))
    assert_no_password(workplace, end.stdout, end.stderr, done.stdout, done.stderr, refused.stderr)


def test_a_server_that_crashes_in_the_middle_costs_nothing(workplace, url, server):
    study = write_tiny(workplace, trials=8)
    words = ["--record", url, "--json"]
    planned = run(study, workplace, *words, "--dry-run")
    assert json.loads(planned.stdout)["record"] == url.replace(PASSWORD, "***")
    with driving(study, workplace, *words) as driver:
        for rows in (10, 60):
            assert wait_until(driver, lambda rows=rows: num_rows_at(url) >= rows)
            server.restart()
        driver.send_signal(signal.SIGINT)
        stopped = ended(driver)
    assert stopped.returncode == exit_codes.INTERRUPTED, stopped.stderr
    go_on = result(stopped)["continue_command"]
    assert f"--record '{url.replace(PASSWORD, '***')}'" in go_on
    done = run(study, workplace, *words)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    assert result(done)["record"] == url.replace(PASSWORD, "***")
    trials = trials_at(url)
    assert len(trials) == 8
    assert all(trial.state is not State.UNFINISHED for trial in trials)
    assert all(list(trial.rows) == list(range(1, trial.last_epoch + 1)) for trial in trials)
    Tracked(workplace, "tiny", "tiny").assert_equals(trials)
    assert_no_password(workplace, stopped.stdout, stopped.stderr, done.stdout, done.stderr)
