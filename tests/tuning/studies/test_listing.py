import errno
import json
import os
import shutil
import sqlite3
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.tuning.simulated import drive, make_spec, open_study, train
from tune_ddvae.errors import ConfigError, RecordError, StorageError
from tune_ddvae.tuning.jobs.jobs import Cargo, Job
from tune_ddvae.tuning.record import postgresql
from tune_ddvae.tuning.search.ranking import pareto_set
from tune_ddvae.tuning.storage.folders import slug
from tune_ddvae.tuning.storage.lock import birth_of, sole_driver
from tune_ddvae.tuning.studies.finding import Found
from tune_ddvae.tuning.studies.listed import Standing, with_jobs
from tune_ddvae.tuning.studies.listing import find_study, list_studies
from tune_ddvae.tuning.trials import State

SPEC = make_spec(epochs=3, first_rung=1)
COMMAND = "python -m tune_ddvae.study simulated"


def make(storage: Path, name: str, *, trials=3, driven=True, ended_as=None, **changes):
    """A study in a storage, closed as its driver would have left it."""
    folder = storage / slug(name)
    folder.mkdir(parents=True, exist_ok=True)
    study = open_study(folder, changes.pop("spec", SPEC), trials=trials, name=name, **changes)
    study.record.begin_session(trials, COMMAND, str(storage))
    if driven:
        drive(study)
    if ended_as is not None:
        study.record.seen(ended_as=ended_as)
    study.record.close()
    return study


def listed(storage: Path, name: str = "a"):
    (found,) = [study for study in list_studies(str(storage)) if study.name == name]
    return found


def test_a_study_is_listed_as_its_record_has_it(tmp_path):
    study = make(tmp_path, "a", trials=5, ended_as="complete")
    found = listed(tmp_path)
    best = pareto_set(study.trials.values(), SPEC.rank_by)
    assert found.standing is Standing.COMPLETE
    assert (found.num_ended, found.asked) == (5, 5)
    assert found.rank_by == dict(SPEC.rank_by)
    assert (found.front, found.best) == (len(best), best[0].values[0])
    assert found.counts[State.COMPLETE] == sum(
        trial.state is State.COMPLETE for trial in study.trials.values()
    )
    assert time.time() - 60 < found.changed <= time.time()
    assert (found.command, found.folder) == (COMMAND, str(tmp_path))
    assert found.place == ("a", str(tmp_path))


@pytest.mark.parametrize(
    ("ended_as", "standing"),
    [
        ("interrupted", Standing.INTERRUPTED),
        ("terminated", Standing.INTERRUPTED),
        ("out of time", Standing.OUT_OF_TIME),
        ("the same error again and again: KeyError", Standing.STOPPED),
        (None, Standing.INTERRUPTED),
    ],
)
def test_a_study_with_work_left_stands_as_its_last_driver_said(tmp_path, ended_as, standing):
    make(tmp_path, "a", driven=False, ended_as=ended_as)
    found = listed(tmp_path)
    assert found.standing is standing
    assert (found.num_ended, found.asked) == (0, 3)
    if standing is not Standing.OUT_OF_TIME:
        assert found.why == (
            ended_as or "its driver ended without a word: killed, or its machine went down"
        )


def test_a_driver_that_was_killed_after_its_last_trial_has_completed_its_study(tmp_path):
    make(tmp_path, "a", ended_as=None)
    assert listed(tmp_path).standing is Standing.COMPLETE


def test_a_study_that_was_asked_for_more_since_is_not_complete(tmp_path):
    make(tmp_path, "a", trials=2, ended_as="complete")
    assert listed(tmp_path).standing is Standing.COMPLETE
    make(tmp_path, "a", trials=4, driven=False, ended_as="interrupted")
    found = listed(tmp_path)
    assert found.standing is Standing.INTERRUPTED
    assert (found.num_ended, found.asked) == (2, 4)


def test_a_study_in_which_nothing_succeeded_says_so(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    study = open_study(folder, SPEC, trials=1, name="a")
    study.record.begin_session(1, COMMAND, "")
    assignment = study.next_assignment()
    for _ in range(study.conditions.loss_limit + 1):
        study.lose_attempt(assignment.attempt, "killed")
        assignment = study.next_assignment() or assignment
    study.record.seen(ended_as="complete")
    study.record.close()
    found = listed(tmp_path)
    assert found.standing is Standing.NO_SUCCESS
    assert (found.best, found.front, found.counts[State.FAILED]) == (None, 0, 1)


def test_one_metrics_best_is_the_best(tmp_path):
    spec = make_spec(epochs=3, first_rung=None, rank_by={"log_likelihood/iwae": "max"})
    study = make(tmp_path, "a", trials=4, spec=spec, ended_as="complete")
    assert listed(tmp_path).best == max(trial.values[0] for trial in study.trials.values())


def test_what_changed_last_comes_first(tmp_path):
    for name in ("b", "a", "c"):
        make(tmp_path, name, trials=1, ended_as="complete")
    assert [study.name for study in list_studies(str(tmp_path))] == ["c", "a", "b"]


def test_a_study_that_a_driver_holds_is_running_and_says_which(tmp_path):
    make(tmp_path, "a", driven=False, ended_as="interrupted")
    with sole_driver(tmp_path / "a"):
        found = listed(tmp_path)
        assert found.standing is Standing.RUNNING
        assert found.holder is not None
        assert found.holder.is_here
        assert Found(study=found).holder(None) == found.holder
    assert Found(study=found).holder(None) is None
    assert listed(tmp_path).standing is Standing.INTERRUPTED


def test_looking_does_not_stand_in_a_drivers_way(tmp_path):
    make(tmp_path, "a", driven=False)
    with sole_driver(tmp_path / "a"):
        pass
    listed(tmp_path)
    with sole_driver(tmp_path / "a"):
        listed(tmp_path)


def test_a_study_that_is_just_beginning_is_running(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "record.db").touch()
    with sole_driver(folder):
        assert listed(tmp_path).standing is Standing.RUNNING


def test_looking_changes_nothing(tmp_path):
    make(tmp_path, "a", ended_as="complete")
    with sole_driver(tmp_path / "a"):
        pass

    def seen():
        return {
            path: path.read_bytes()
            for path in tmp_path.rglob("*")
            if path.is_file() and path.suffix not in (".db-shm", ".db-wal")
        }

    before = seen()
    listed(tmp_path)
    assert seen() == before


def damage_identity(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE ddvae_studies SET identity = '{'")


def damage_trials(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE ddvae_trials SET rank_values = '[1' WHERE rank_values NOT NULL")


def damage_values(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE ddvae_trials SET rank_values = '[1]' WHERE rank_values NOT NULL")


def overwrite(path: Path) -> None:
    path.write_bytes(b"no database at all, but long enough to be taken for one" * 100)


def tear(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * 20_000)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def later_format(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE ddvae_studies SET identity = '{\"record_format\": 99}'")


def drop_table(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE ddvae_trials")


@pytest.mark.parametrize(
    "damage",
    [
        damage_identity,
        damage_trials,
        damage_values,
        overwrite,
        tear,
        empty,
        later_format,
        drop_table,
    ],
)
def test_a_damaged_record_is_an_entry_that_says_so_and_hides_no_other(tmp_path, damage):
    make(tmp_path, "a", ended_as="complete")
    make(tmp_path, "b", ended_as="complete")
    for leftover in (tmp_path / "a").glob("record.db-*"):
        leftover.unlink()
    damage(tmp_path / "a" / "record.db")
    found = listed(tmp_path)
    assert found.standing is Standing.UNREADABLE
    assert found.why
    assert listed(tmp_path, "b").standing is Standing.COMPLETE
    with pytest.raises(RecordError, match="'a' cannot be told anything of"):
        find_study("a", str(tmp_path))


WRONG = {
    "seen": "UPDATE ddvae_sessions SET seen = 'abc'",
    "seen beyond dates": "UPDATE ddvae_sessions SET seen = 1e300",
    "created": "UPDATE ddvae_studies SET created = 'x'",
    "created before dates": "UPDATE ddvae_studies SET created = -1e300",
    "rows' time": "UPDATE ddvae_rows SET time = 'zzz'",
    "started": "UPDATE ddvae_trials SET started = 'x'",
    "ended": "UPDATE ddvae_trials SET ended = X'00'",
    "asked": "UPDATE ddvae_asked SET trials = 'many'",
    "command": "UPDATE ddvae_asked SET command = X'6162'",
    "name": "UPDATE ddvae_studies SET name = X'6162'",
    "values": "UPDATE ddvae_trials SET rank_values = '[\"x\", NaN]' WHERE rank_values NOT NULL",
    "identity": "UPDATE ddvae_studies SET identity = X'00'",
    "direction": 'UPDATE ddvae_studies SET identity = \'{"record_format": 2, "rank_by/x": 5}\'',
}


@pytest.mark.parametrize("damage", WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("is_running", [False, True])
def test_a_value_of_the_wrong_kind_is_damage_and_hides_no_other(tmp_path, damage, is_running):
    make(tmp_path, "a", ended_as="complete")
    make(tmp_path, "b", ended_as="complete")
    with sqlite3.connect(tmp_path / "a" / "record.db") as database:
        database.execute(damage)
    with sole_driver(tmp_path / "a") if is_running else nullcontext():
        found = listed(tmp_path)
    assert found.standing is Standing.UNREADABLE
    assert "is damaged" in found.why
    assert json.loads(json.dumps(found.to_json()))["name"] == "a"
    assert listed(tmp_path, "b").standing is Standing.COMPLETE
    assert (found.holder is not None) == is_running
    # What a driver has open is not to be replaced.
    assert ("Put back a copy" in found.why) != is_running
    assert ("stop it" in found.why) == is_running


@pytest.mark.parametrize("asked", ["is_file", "is_dir"])
def test_a_folder_that_may_not_be_looked_into_hides_no_other(tmp_path, monkeypatch, asked):
    make(tmp_path, "b", ended_as="complete")
    closed = tmp_path / "closed"
    closed.mkdir()
    plain = getattr(Path, asked)

    def look(path):
        if path.is_relative_to(closed) and path != closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return plain(path)

    monkeypatch.setattr(Path, asked, look)
    found = listed(tmp_path, "closed")
    assert found.standing is Standing.UNREADABLE
    assert os.strerror(errno.EACCES) in found.why
    assert find_study("b", str(tmp_path)).standing is Standing.COMPLETE


def test_a_folder_whose_name_is_no_text_hides_no_other(tmp_path):
    make(tmp_path, "a", trials=1, ended_as="complete")
    shutil.copytree(tmp_path / "a", Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")))
    assert listed(tmp_path, "\udcff").standing is Standing.UNREADABLE
    assert listed(tmp_path).standing is Standing.COMPLETE
    with pytest.raises(RecordError, match=r"there are: \\udcff, a\."):
        find_study("\udcfe", str(tmp_path))


def test_a_running_study_is_found_though_its_record_cannot_be_read(tmp_path):
    make(tmp_path, "a b", ended_as="complete")
    folder = tmp_path / slug("a b")
    overwrite(folder / "record.db")
    with sole_driver(folder):
        found = find_study("a b", str(tmp_path))
        assert found.standing is Standing.UNREADABLE
        assert found.holder.pid == os.getpid()
        assert Found(study=found).holder(None) == found.holder
    with pytest.raises(RecordError, match="cannot be told anything of"):
        find_study("a b", str(tmp_path))


def test_a_study_that_has_the_very_name_comes_before_a_folder_called_so(tmp_path):
    make(tmp_path, "a b", ended_as="complete")
    shutil.copytree(tmp_path / slug("a b"), tmp_path / "moved")
    overwrite(tmp_path / slug("a b") / "record.db")
    assert find_study("a b", str(tmp_path)).standing is Standing.COMPLETE


def test_a_folder_that_other_work_holds_is_no_study(tmp_path):
    folder = tmp_path / "training"
    folder.mkdir()
    (folder / "losses.json").touch()
    with sole_driver(folder):
        assert list_studies(str(tmp_path)) == []


def test_trials_without_a_record_are_an_entry_that_says_so(tmp_path):
    make(tmp_path, "a", ended_as="complete")
    (tmp_path / "a" / "record.db").unlink()
    assert listed(tmp_path).why == "its record is gone, its trials are not"


def test_a_record_of_before_words_were_kept_is_read_too(tmp_path):
    make(tmp_path, "a", ended_as="complete")
    with sqlite3.connect(tmp_path / "a" / "record.db") as database:
        database.execute("DROP TABLE ddvae_asked")
    found = listed(tmp_path)
    assert (found.standing, found.asked, found.command) == (Standing.COMPLETE, None, "")


def test_what_is_no_study_is_passed_over(tmp_path):
    make(tmp_path, "a", ended_as="complete")
    (tmp_path / "mlflow.db").write_bytes(b"")
    (tmp_path / "opening").mkdir()
    (tmp_path / "opening" / "opening.png").write_bytes(b"")
    assert [study.name for study in list_studies(str(tmp_path))] == ["a"]


def test_the_folder_of_one_study_may_be_named(tmp_path):
    make(tmp_path, "a/ü", ended_as="complete")
    (found,) = list_studies(str(tmp_path / slug("a/ü")))
    assert found.place == ("a/ü", str(tmp_path))


def test_a_storage_that_was_moved_is_listed_where_it_is(tmp_path):
    make(tmp_path / "here", "a", ended_as="complete")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert listed(tmp_path / "there").storage == str(tmp_path / "there")


def test_a_storage_that_is_not_there_is_refused_unless_it_need_not_be(tmp_path):
    with pytest.raises(StorageError, match="name where they are kept with --storage"):
        list_studies(str(tmp_path / "nowhere"))
    assert list_studies(str(tmp_path / "nowhere"), may_be_missing=True) == []
    assert list_studies(str(tmp_path)) == []


def test_a_bucket_without_its_database_is_refused_with_that_advice():
    with pytest.raises(ConfigError, match="--record postgresql://"):
        list_studies("s3://bucket/studies")


def test_an_unknown_study_lists_those_there_are(tmp_path):
    make(tmp_path, "a", trials=1, ended_as="complete")
    with pytest.raises(RecordError, match=r"unknown study '\.\./a'.*there are: a\. .*--record"):
        find_study("../a", str(tmp_path))


def test_every_value_of_the_json_is_plain_and_unrounded(tmp_path):
    make(tmp_path, "a", ended_as="complete")
    with sole_driver(tmp_path / "a"):
        found = listed(tmp_path)
    plain = json.loads(json.dumps(found.to_json()))
    assert plain["best"] == found.best
    assert plain["state"] == "running"
    assert plain["driver"]["pid"] == found.holder.pid
    assert plain["trials"]["ended"] == found.num_ended


def job_of(number: int, storage: str, name: str = "a", status: str = "RUNNING") -> Job:
    cargo = Cargo(study=name, storage=storage)
    return Job(id=f"{name}-{number}", status=status, cargo=cargo, started=float(number))


def test_jobs_stand_beside_the_studies_that_they_run(tmp_path):
    make(tmp_path, "a", ended_as="complete")
    mine, before = job_of(2, str(tmp_path)), job_of(1, str(tmp_path), status="FAILED")
    elsewhere, foreign = job_of(3, "/elsewhere"), Job(id="x", status="RUNNING")
    jobs = [elsewhere, mine, before, foreign]
    found = with_jobs(list_studies(str(tmp_path)), jobs, str(tmp_path))
    assert [(study.place[1], study.job) for study in found] == [
        (str(tmp_path), mine),
        ("/elsewhere", elsewhere),
    ]
    assert [study.standing for study in found] == [Standing.COMPLETE, Standing.UNSEEN]
    assert found[1].why == "its record, in /elsewhere, was not seen from here"


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ("PENDING", "it has no record yet"),
        ("RUNNING", "it has no record yet"),
        ("FAILED", "its job ended before there was a record: see studies logs a"),
        ("STOPPED", "its job ended before there was a record: see studies logs a"),
        ("SUCCEEDED", "its job succeeded, but its record, in /shared, is not there"),
    ],
)
def test_a_job_without_a_record_where_that_was_looked_for_says_so(status, why):
    (found,) = with_jobs([], [job_of(1, "/shared", status=status)], "/shared")
    assert found.standing is Standing.UNRECORDED
    assert found.why.startswith(why)


@pytest.fixture
def database(server) -> str:
    return server.new_database()


def test_a_database_lists_all_its_studies_and_who_holds_them(database, tmp_path):
    make(tmp_path, "a", url=database, ended_as="complete")
    study = open_study(tmp_path, SPEC, name="b", url=database)
    try:
        train(study, study.next_assignment())
        study.record.flush()
        found = {study.name: study for study in list_studies("", database)}
        assert found["a"].standing is Standing.COMPLETE
        assert found["b"].standing is Standing.RUNNING
        assert found["b"].num_ended == 1
        assert found["b"].holder.is_here
        assert found["b"].holder.birth == birth_of(os.getpid())
        assert "s3cret" not in str(found["b"].to_json())
        assert Found(study=found["b"]).holder(database) == found["b"].holder
    finally:
        study.record.close()
    assert Found(study=found["b"]).holder(database) is None
    assert listed_on(database, "b").standing is Standing.INTERRUPTED


def listed_on(database: str, name: str):
    return next(study for study in list_studies("", database) if study.name == name)


@pytest.mark.parametrize(
    "change", ["DROP TABLE ddvae_drivers", "UPDATE ddvae_drivers SET birth = 'damaged'"]
)
def test_a_holder_whose_process_was_not_recorded_is_listed_all_the_same(
    database, server, tmp_path, change
):
    study = open_study(tmp_path, SPEC, name="a", url=database)
    try:
        with server.connected(database) as connection:
            connection.execute(text(change))
        holder = listed_on(database, "a").holder
        assert holder.is_here
        assert not holder.birth  # hence stop leaves it alone
    finally:
        study.record.close()


def test_a_lease_that_has_run_out_holds_nothing(database, tmp_path, monkeypatch):
    monkeypatch.setattr(postgresql, "LEASE_S", 3.0)
    monkeypatch.setattr(postgresql, "IDLE_SHARE", 1)  # a busy machine rests for a second at times
    study = open_study(tmp_path, SPEC, name="a", url=database)
    study.record._lease._releasing.set()  # it is frozen: renews nothing
    study.record._lease._thread.join()
    until = time.monotonic() + 30
    while listed_on(database, "a").holder is not None and time.monotonic() < until:
        time.sleep(0.05)
    assert listed_on(database, "a").standing is Standing.INTERRUPTED
    study.record._writer.close()
    study.record._lease._engine.dispose()
    study.record.engine.dispose()


def test_an_empty_database_lists_nothing(server):
    server.execute("CREATE DATABASE nothing_yet")
    assert list_studies("", server.url("nothing_yet")) == []
