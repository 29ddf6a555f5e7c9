"""A record's file that is removed, replaced or damaged; a study that has one on a server has none."""

import random
import shutil
import signal
import sqlite3
import subprocess
import sys

import pytest
from sqlalchemy import text

from tests.tuning.simulated import drive, make_spec, open_study
from tune_ddvae.errors import RecordError
from tune_ddvae.tuning.record import file as file_module
from tune_ddvae.tuning.record.file import RecordFile
from tune_ddvae.tuning.record.opening import FILE_NAME, num_recorded, open_ledger, record_url
from tune_ddvae.tuning.trials import State

PUT_BACK = "Put back a copy from before, or begin anew under another --name"


@pytest.fixture
def begun(tmp_path):
    """A study in the folder "a" with one trial of two that has ended, and the driver at work."""
    folder = tmp_path / "a"
    folder.mkdir()
    study = open_study(folder, make_spec(), trials=1)
    drive(study)
    study.record.close()
    study = open_study(folder, make_spec(), trials=2)
    yield study
    study.record.engine.dispose()


def remove(folder) -> None:
    shutil.rmtree(folder)


def replace(folder) -> None:
    """As a worker and a second driver do: the folder is there again, and so is a record."""
    shutil.rmtree(folder)
    folder.mkdir()
    open_study(folder, make_spec()).record.close()


@pytest.mark.parametrize(
    ("change", "how"), [(remove, "was removed"), (replace, "was replaced by another file")]
)
def test_nothing_is_written_to_a_record_that_nobody_would_find(change, how, begun):
    folder = begun.conditions.storage
    change(folder)
    said = f"the record {folder}/{FILE_NAME} {how} while the study ran"
    begun.record.seen()
    for look in (begun.record.flush, begun.next_assignment, begun.record.close):
        with pytest.raises(RecordError, match=said) as lost:
            look()
        assert "kept" not in str(lost.value)


def test_optuna_writes_nothing_to_it_either(begun):
    record = begun.record
    remove(begun.conditions.storage)
    with pytest.raises(RecordError, match="was removed"):
        record._storage.set_study_user_attr(record._optuna_study_id, "x", 1)


def test_a_driver_that_writes_nothing_finds_out_when_it_looks(begun, monkeypatch):
    begun.record.check()
    monkeypatch.setattr(file_module, "LOOK_EVERY_S", 0.0)
    begun.record.check()
    remove(begun.conditions.storage)
    with pytest.raises(RecordError, match="was removed"):
        begun.record.check()


def test_a_worker_lost_with_the_record_is_no_loss_of_its_trials(begun):
    assignment = begun.next_assignment()
    remove(begun.conditions.storage)
    with pytest.raises(RecordError, match="was removed"):
        begun.lose_attempt(assignment.attempt, "it could not save")
    trial = begun.trials[assignment.number]
    assert (trial.losses, trial.state) == (0, State.UNFINISHED)


def test_a_record_that_goes_after_the_last_write_is_missed_at_the_close(begun):
    drive(begun)
    remove(begun.conditions.storage)
    with pytest.raises(RecordError, match="was removed"):
        begun.record.close()


def test_what_sqlite_does_to_its_own_file_does_not_count(begun):
    for statement in ("PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM"):
        with sqlite3.connect(begun.conditions.storage / FILE_NAME) as connection:
            connection.execute(statement)
        connection.close()
        begun.record.check_held()
    drive(begun)
    begun.record.close()


def test_a_file_system_that_does_not_answer_says_nothing_of_the_record(tmp_path, monkeypatch):
    (tmp_path / "x.db").touch()
    held = RecordFile(tmp_path / "x.db")

    def stale(*_, **__):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(type(tmp_path), "stat", stale)
    held.check()


# -- damage --------------------------------------------------------------------------------------


def page_of(path, table: str) -> int:
    with sqlite3.connect(path) as connection:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
        (page,) = connection.execute(query, [table]).fetchone()
    connection.close()
    return page


def spoil(path, table: str) -> None:
    page = page_of(path, table)
    with path.open("r+b") as file:
        file.seek(4096 * (page - 1))
        file.write(random.Random(0).randbytes(4096))


@pytest.mark.parametrize("table", ["ddvae_sent", "ddvae_asked", "ddvae_rows", "trial_params"])
def test_a_damaged_page_is_refused_at_the_start_whichever_table_it_is_of(table, begun):
    folder = begun.conditions.storage
    begun.record.close()
    spoil(folder / FILE_NAME, table)
    for look in (
        lambda: open_study(folder, make_spec()),
        lambda: open_ledger(record_url(folder), "simulated"),
    ):
        with pytest.raises(RecordError) as refused:
            look()
        assert str(refused.value).startswith(f"the record {folder}/{FILE_NAME} is damaged (")
        assert PUT_BACK in str(refused.value)


def test_a_record_cut_short_is_refused_with_the_mend(begun):
    folder = begun.conditions.storage
    begun.record.close()
    with (folder / FILE_NAME).open("r+b") as file:
        file.truncate(4096 * 5)
    with pytest.raises(RecordError, match=PUT_BACK):
        open_study(folder, make_spec())


@pytest.mark.parametrize("table", ["ddvae_rows", "trials"])
def test_damage_that_shows_in_the_middle_is_told_as_what_it_is(table, begun):
    """By our own statements, and by Optuna's, which would make another error of it."""
    path = begun.conditions.storage / FILE_NAME
    begun.record.engine.dispose()  # nothing of it stays in memory
    spoil(path, table)
    with pytest.raises(RecordError, match="is damaged .*malformed") as told:
        drive(begun)
    assert PUT_BACK in str(told.value)


def test_other_errors_of_the_database_stay_what_they_are(begun):
    with (
        begun.record.engine.connect() as connection,
        pytest.raises(Exception, match="no such table"),
    ):
        connection.execute(text("SELECT * FROM nowhere"))


DIES = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA journal_mode = DELETE")
database.execute("PRAGMA cache_size = 5")
database.execute("BEGIN IMMEDIATE")
database.execute("CREATE TABLE half_written (what BLOB)")
for _ in range(200):
    database.execute("INSERT INTO half_written VALUES (randomblob(4000))")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_driver_had_half_written_is_put_back_by_the_next_start(tmp_path):
    """Where there is no write-ahead log, as on NFS, and while a record is made."""
    study = open_study(tmp_path, make_spec(), trials=1)
    drive(study)
    rows = dict(study.trials[0].rows)
    study.record.close()
    (database,) = tmp_path.rglob("record.db")
    done = subprocess.run([sys.executable, "-c", DIES, str(database)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert database.with_name("record.db-journal").stat().st_size > 0
    assert num_recorded(record_url(database.parent), "simulated") == (1, 1)
    again = open_study(tmp_path, make_spec(), trials=1)
    assert again.trials[0].rows == rows
    again.record.close()
