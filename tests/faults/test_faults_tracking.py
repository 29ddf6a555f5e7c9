"""MLflow is killed, frozen, locked, shared by two, or away for the whole study."""

import contextlib
import signal
import sqlite3
import time

import pytest

from tests.faults.stricken import Stricken, await_so
from tests.faults.tally import unlike_the_record
from tests.mlflow_server import Server
from tests.studies import ended
from tune_ddvae import exit_codes

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

RESTARTS, FREEZES = 5, 2
FROZEN_S = 14.0  # longer than a request is waited for
LOCKED_S = 20.0


@pytest.fixture
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    try:
        yield server
    finally:
        server.kill()


def kill_and_restart(study: Stricken, driver, server: Server) -> None:
    if not study.await_moment(driver):
        return
    server.kill()
    study.faults["server killed"] += 1
    server.start()


def freeze(study: Stricken, driver, server: Server) -> None:
    if not study.await_moment(driver):
        return
    server.send(signal.SIGSTOP)
    time.sleep(FROZEN_S)  # the fault itself
    server.send(signal.SIGCONT)
    study.faults["server frozen"] += 1


@pytest.mark.parametrize("strike", [kill_and_restart, freeze])
def test_a_server_that_fails_again_and_again_gets_everything_once(
    strike, workplace, undisturbed, tally, ray_address, server
):
    times = RESTARTS if strike is kill_and_restart else FREEZES
    words = ("--address", ray_address, "--tracking-uri", server.address)
    number = num_alone = 0
    studies = []

    def num_faults() -> int:
        return sum(study.faults.total() for study in studies)

    while num_faults() < times or not num_alone:  # in as many as that takes
        number += 1
        study = Stricken(workplace, *words, seed=40 + number, name=f"study-{number}")
        studies.append(study)
        with study.driving() as driver:
            strike(study, driver, server)
            while driver.poll() is None and num_faults() < times:
                strike(study, driver, server)
            goes_on = study.num_rows() < undisturbed.num_rows
            done = ended(driver, 300)
        assert done.returncode == exit_codes.COMPLETE, done.stderr
        judge(study, tally, undisturbed, goes_on, server.address)
        num_alone += goes_on


def test_a_tracking_database_locked_for_long_gets_everything_once(
    workplace, undisturbed, tally, ray_address
):
    study = Stricken(workplace, "--address", ray_address, seed=50)
    with study.driving() as driver:
        assert study.await_rows(driver, 10)
        database = sqlite3.connect(workplace / "studies" / "mlflow.db", isolation_level=None)
        assert await_so(driver, lambda: _is_ours(database))
        time.sleep(LOCKED_S)  # the fault itself
        database.close()
        study.faults["MLflow's database locked"] += 1
        goes_on = study.num_rows() < undisturbed.num_rows
        done = ended(driver, 300)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    judge(study, tally, undisturbed, goes_on)


def judge(study: Stricken, tally, undisturbed, goes_on: bool, uri: str | None = None) -> None:
    """Compare it; without ``sync`` before, where it went on when MLflow was back: it sends by itself."""
    if not goes_on:
        synced = study.sync()
        assert synced.returncode == exit_codes.COMPLETE, synced.stdout + synced.stderr
    study.judge(tally, undisturbed, uri)
    assert_nothing_left_to_send(study)


def assert_nothing_left_to_send(study: Stricken) -> None:
    synced = study.sync()
    assert synced.returncode == exit_codes.COMPLETE, synced.stdout + synced.stderr
    assert synced.stdout.startswith("sent 0 evaluations"), synced.stdout


def _is_ours(database: sqlite3.Connection) -> bool:
    try:
        database.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:
        return False
    return True


def test_a_study_whose_server_was_never_there_is_shown_whole_by_sync(
    workplace, undisturbed, tally, ray_address, tmp_path_factory
):
    server = Server(tmp_path_factory.mktemp("server"))
    words = ("--address", ray_address, "--tracking-uri", server.address)
    study = Stricken(workplace, *words, seed=51)
    done = study.finish()
    assert f"warning: MLflow at {server.address}, experiment tiny is behind" in done.stdout
    study.faults["no server at all"] += 1
    server.start()
    try:
        synced = study.sync()
        assert synced.returncode == exit_codes.COMPLETE, synced.stdout + synced.stderr
        study.judge(tally, undisturbed, server.address)
        assert_nothing_left_to_send(study)
        assert unlike_the_record(workplace, "tiny", "tiny", server.address) == []
    finally:
        server.kill()


def test_two_studies_started_together_share_one_new_tracking_file(
    workplace, undisturbed, tally, ray_address
):
    (workplace / "studies" / "mlflow.db").unlink()
    studies = [
        Stricken(workplace, "--address", ray_address, seed=60 + number, name=f"twin-{number}")
        for number in range(2)
    ]
    with contextlib.ExitStack() as stack:
        drivers = [stack.enter_context(study.driving()) for study in studies]
        for driver in drivers:
            done = ended(driver, 300)
            assert done.returncode == exit_codes.COMPLETE, done.stderr
    for study in studies:
        study.faults["started with another"] += 1
        study.judge(tally, undisturbed)
