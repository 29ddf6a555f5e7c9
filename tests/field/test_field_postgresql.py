"""Two real studies at once whose records, and MLflow's, are in one PostgreSQL that crashes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from tests.mlflow_server import Server
from tests.studies import Tracked, driving, ended, outcome_of, run, wait_until, write_tiny
from tune_ddvae import exit_codes
from tune_ddvae.tuning.record.record import read_trials
from tune_ddvae.tuning.record.tables import STUDIES

pytestmark = [pytest.mark.field, pytest.mark.timeout(600)]

NAMES = ("one", "two")
SERIAL = ("--max-concurrent", 1, "--cpus-per-trial", 1)


def trials_at(url: str, name: str):
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(STUDIES.select().where(STUDIES.c.name == name)).one_or_none()
    trials = [] if found is None else read_trials(engine, found.study_id)
    engine.dispose()
    return trials


@contextmanager
def tracking_on(server, folder: Path) -> Iterator[str]:
    """Address of an MLflow server that keeps its runs in a database of the PostgreSQL server."""
    mlflow = Server(folder, server.new_database("template1"))
    try:
        mlflow.start()
        yield mlflow.address
    finally:
        mlflow.kill()


@pytest.fixture(scope="module")
def tracking(server, tmp_path_factory):
    with tracking_on(server, tmp_path_factory.mktemp("mlflow")) as address:
        yield address


def test_a_crash_of_the_one_database_of_two_studies_loses_and_doubles_nothing(
    server, tracking, workplace, ray_address
):
    url = server.new_database()
    study = write_tiny(workplace)
    words = (
        *SERIAL,
        "--record",
        url,
        "--tracking-uri",
        tracking,
        "--address",
        ray_address,
        "--json",
    )

    def num_rows() -> int:  # of the one that is behind: a driver that is starting is refused
        return min(sum(len(trial.rows) for trial in trials_at(url, name)) for name in NAMES)

    with ExitStack() as stack:
        drivers = [
            stack.enter_context(driving(study, workplace, *words, "--name", name)) for name in NAMES
        ]
        for rows in (5, 25):
            assert wait_until(drivers[0], lambda rows=rows: num_rows() >= rows)
            server.restart()
        for driver in drivers:
            done = ended(driver, 300)
            assert done.returncode == exit_codes.COMPLETE, done.stderr
    first, second = (trials_at(url, name) for name in NAMES)
    # Both are one serial study: neither the crashes nor the other one may show in what they found.
    alone = run(
        study, workplace, *SERIAL, "--address", ray_address, "--name", "alone", "--record", url
    )
    assert alone.returncode == exit_codes.COMPLETE, alone.stderr
    expected = outcome_of(trials_at(url, "alone"))
    assert outcome_of(first) == outcome_of(second) == expected
    for name, trials in zip(NAMES, (first, second), strict=True):
        Tracked(workplace, name, "tiny", tracking).assert_equals(trials)
