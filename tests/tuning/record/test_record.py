import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tests.tuning.simulated import drive, make_spec, open_study, outcome
from tune_ddvae.config import to_flat
from tune_ddvae.errors import RecordError
from tune_ddvae.spec import flat_space
from tune_ddvae.tuning.record import opening
from tune_ddvae.tuning.record import record as record_module
from tune_ddvae.tuning.record.opening import (
    FILE_NAME,
    check_recorded,
    open_record,
    record_url,
)
from tune_ddvae.tuning.record.record import Record
from tune_ddvae.tuning.record.tables import SENT
from tune_ddvae.tuning.trials import Checkpoint, Decision, Row, State, Trial

ROOT = Path(__file__).parents[3]
SPEC = make_spec()
CONFIG = to_flat(SPEC.base)
EPOCHS = 5


def open_at(folder: Path, name: str = "simulated", spec=SPEC, **identity) -> Record:
    return open_record(record_url(folder), name, spec, {**spec.identity(), **identity}, {})


def make_trial(number: int) -> Trial:
    params = {"objective/beta": 1.0 + number / 1000, "prior/kind": "normal"}
    return Trial(number, {**CONFIG, **params, "training/seed": number}, params, started=1.0)


def make_row(number: int, epoch: int, **changes) -> Row:
    return Row(epoch, time=float(epoch), metrics={"sparsity/hoyer": number + epoch / 8}, **changes)


def ended(trial: Trial, state: State) -> Trial:
    values = (0.25, -80.5) if state is State.COMPLETE else None
    reason = "" if state is State.COMPLETE else f"because {state}"
    return dataclasses.replace(trial, state=state, reason=reason, values=values, ended=2.0)


def optunas_view(folder: Path, name: str = "simulated") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=record_url(folder))


@pytest.fixture
def record(tmp_path):
    record = open_at(tmp_path)
    yield record
    record.close()


# -- reading back --------------------------------------------------------------------------------


def test_what_was_written_is_read_back_as_it_was(record, tmp_path):
    rows = [
        make_row(0, 1, decision=Decision(True, 0.1 + 0.2, (), "")),
        make_row(0, 2, absent={"latent/kl": "no closed form"}),
        make_row(0, 3, decision=Decision(False, None, (0.1, None, 1e-300), "collapsed: …")),
    ]
    trial = dataclasses.replace(
        make_trial(0),
        setting="plain",
        losses=2,
        facts={"device": "cpu", "threads": 2, "none": None, "yes": True},
    )
    record.add_trial(trial)
    for row in rows:
        record.add_row(0, row)
        record.add_checkpoint(0, Checkpoint(row.epoch, f"trials/0/{row.epoch}"))
    record.end_trial(ended(trial, State.FAILED))
    expected = dataclasses.replace(
        ended(trial, State.FAILED),
        rows={row.epoch: row for row in rows},
        checkpoints=[Checkpoint(epoch, f"trials/0/{epoch}") for epoch in (1, 2, 3)],
    )
    assert record.trials() == [expected]
    again = open_at(tmp_path)
    assert again.trials() == [expected]
    again.close()


def test_trials_come_back_in_order_of_number_and_rows_in_order_of_epoch(record):
    for number in range(12):
        record.add_trial(make_trial(number))
    for epoch in (10, 2, 9, 1):
        record.add_row(11, make_row(11, epoch))
    record.flush()
    assert [trial.number for trial in record.trials()] == list(range(12))
    assert list(record.trials()[11].rows) == [1, 2, 9, 10]


def test_a_row_is_unique_by_trial_and_epoch_and_the_first_stays(record, tmp_path):
    for number in (0, 1):
        record.add_trial(make_trial(number))
    first, other = make_row(0, 1), make_row(7, 1, decision=Decision(False, 7.0, ()))
    for row in (first, other):
        record.add_row(0, row)
    record.add_row(1, other)
    record.flush()
    again = open_at(tmp_path)  # another driver trains the epoch once more
    again.add_row(0, other)
    again.flush()
    assert [trial.rows for trial in again.trials()] == [{1: first}, {1: other}]
    again.close()


def test_a_checkpoint_is_marked_once_and_let_go_of_before_its_files_are(record):
    record.add_trial(make_trial(0))
    for _ in range(2):
        record.add_checkpoint(0, Checkpoint(1, "trials/0/1"))
    seen = []
    record.drop_checkpoint("trials/0/1", lambda: seen.append(record.trials()[0].checkpoints))
    record.flush()
    assert seen == [[]]


def test_a_rungs_decision_can_be_added_to_its_row(record):
    record.add_trial(make_trial(0))
    record.add_row(0, make_row(0, 1))
    decided = make_row(0, 1, decision=Decision(True, 0.5, (0.25,)))
    record.settle_row(0, decided)
    record.flush()
    assert record.trials()[0].rows == {1: decided}


def test_hours_used_are_those_of_earlier_drivers(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(record_module.time, "time", lambda: clock[0])
    for hours in (1.0, 0.5):
        driver = open_at(tmp_path)
        driver.begin_session()
        clock[0] += hours * 3600
        driver.seen()
        driver.flush()
        assert driver.used_hours() == pytest.approx(0.0 if hours == 1.0 else 1.0)
        driver.close()
        clock[0] += 86_400  # nobody was there
    last = open_at(tmp_path)
    assert last.used_hours() == pytest.approx(1.5)
    last.close()


# -- errors --------------------------------------------------------------------------------------


def test_what_the_database_fails_with_reaches_whoever_writes_next_and_the_close(tmp_path):
    record = open_at(tmp_path)
    record.add_trial(make_trial(0))
    with record.engine.begin() as connection:
        connection.execute(text("DROP TABLE ddvae_rows"))
    record.add_row(0, make_row(0, 1))
    for look in (record.flush, record.check, record.close):
        with pytest.raises(OperationalError, match="ddvae_rows"):
            look()


def test_a_record_of_another_study_is_refused_with_every_difference_and_the_mend(tmp_path):
    open_at(tmp_path, seed=0, data="abc").close()
    with pytest.raises(RecordError) as refused:
        open_at(tmp_path, seed=1, data="abd")
    message = str(refused.value)
    assert "seed: 0 in the record, 1 now" in message
    assert "data: abc in the record, abd now" in message
    assert "rank_by" not in message
    assert "--name" in message


def test_a_record_of_another_format_is_refused(tmp_path, monkeypatch):
    open_at(tmp_path).close()
    monkeypatch.setattr(opening, "FORMAT", opening.FORMAT + 1)
    formats = f"record_format: {opening.FORMAT - 1} in the record, {opening.FORMAT} now"
    with pytest.raises(RecordError, match=formats):
        open_at(tmp_path)


def test_what_is_no_record_is_refused_with_its_place_and_the_mend(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"not a database " * 1000)
    for look in (open_at, lambda folder: check_recorded(folder, "simulated", SPEC.identity())):
        with pytest.raises(RecordError) as refused:
            look(tmp_path)
        assert str(refused.value).startswith(
            f"the record {tmp_path}/{FILE_NAME} is damaged (file is not a database). Put back a copy"
        )


def damage(folder: Path, statement: str) -> None:
    engine = create_engine(record_url(folder))
    with engine.begin() as connection:
        assert connection.execute(text(statement)).rowcount == 1
    engine.dispose()


@pytest.mark.parametrize(
    ("statement", "where"),
    [
        ("ddvae_trials SET config = '{\"a\": ' WHERE number = 1", "trial 1 in table ddvae_trials"),
        ("ddvae_trials SET config = '[1]' WHERE number = 1", "trial 1 in table ddvae_trials"),
        ("ddvae_trials SET params = '' WHERE number = 0", "trial 0 in table ddvae_trials"),
        ("ddvae_trials SET facts = 'x' WHERE number = 0", "trial 0 in table ddvae_trials"),
        ("ddvae_trials SET state = 'fine' WHERE number = 0", "trial 0 in table ddvae_trials"),
        ("ddvae_trials SET rank_values = '1' WHERE number = 0", "trial 0 in table ddvae_trials"),
        ("ddvae_rows SET metrics = '{'", "trial 1, epoch 3 in table ddvae_rows"),
        ("ddvae_rows SET absent = 'null'", "trial 1, epoch 3 in table ddvae_rows"),
        ("ddvae_rows SET decision = '{}'", "trial 1, epoch 3 in table ddvae_rows"),
        ("ddvae_rows SET number = 7", "trial 7, epoch 3 in table ddvae_rows"),
        ("ddvae_checkpoints SET number = 7", "trial 7, trials/1/3 in table ddvae_checkpoints"),
        ("ddvae_studies SET identity = 'x'", "study 'simulated' in table ddvae_studies"),
    ],
)
def test_damage_inside_a_record_is_refused_with_its_place_and_the_mend(statement, where, tmp_path):
    record = open_at(tmp_path)
    for number in (0, 1):
        record.add_trial(make_trial(number))
    record.add_row(1, make_row(1, 3, decision=Decision(True, 0.5, ())))
    record.add_checkpoint(1, Checkpoint(3, "trials/1/3"))
    record.close()
    damage(tmp_path, f"UPDATE {statement}")
    for look in (open_at, lambda folder: check_recorded(folder, "simulated", SPEC.identity())):
        with pytest.raises(RecordError) as refused:
            look(tmp_path)
        message = str(refused.value)
        assert message.startswith(f"the record {tmp_path}/{FILE_NAME} is damaged: {where} cannot")
        assert message.endswith("Put back a copy from before, or begin anew under another --name")


@pytest.mark.parametrize("content", [None, b""], ids=["gone", "empty"])
def test_a_study_whose_record_is_lost_beside_its_trials_never_begins_anew(content, tmp_path):
    (tmp_path / "trials" / "00000-abc").mkdir(parents=True)
    if content is not None:
        (tmp_path / FILE_NAME).write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    for look in (open_at, lambda folder: check_recorded(folder, "simulated", SPEC.identity())):
        with pytest.raises(RecordError, match=f"{FILE_NAME} is .*, but {tmp_path}/trials holds"):
            look(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_record_without_trials_is_begun(tmp_path):
    (tmp_path / FILE_NAME).touch()
    (tmp_path / "trials").mkdir()
    assert check_recorded(tmp_path, "simulated", SPEC.identity()) == 0
    open_at(tmp_path).close()


@pytest.fixture
def one_database(monkeypatch):
    """Many studies in one file, as on a server; begun in one by one."""
    monkeypatch.setattr(opening, "_check_alone", lambda *_: None)


@pytest.mark.usefixtures("one_database")
def test_a_dry_look_counts_this_studys_trials_and_makes_nothing(tmp_path):
    identity = SPEC.identity()
    assert check_recorded(tmp_path / "nowhere", "simulated", identity) == 0
    assert list(tmp_path.iterdir()) == []
    for name in ("simulated", "other"):
        record = open_at(tmp_path, name)
        for number in range(3):
            record.add_trial(make_trial(number))
        record.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    assert check_recorded(tmp_path, "simulated", identity) == 3
    assert check_recorded(tmp_path, "third", identity) == 0
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_a_dry_look_refuses_another_study_in_the_words_of_opening(tmp_path):
    open_at(tmp_path, seed=0).close()
    said = []
    for look in (
        lambda: open_at(tmp_path, seed=1),
        lambda: check_recorded(tmp_path, "simulated", {**SPEC.identity(), "seed": 1}),
    ):
        with pytest.raises(RecordError, match="seed: 0 in the record, 1 now") as refused:
            look()
        said.append(str(refused.value))
    assert said[0] == said[1]


def test_a_dry_look_refuses_a_name_that_is_another_programs(tmp_path):
    optuna.create_study(study_name="theirs", storage=record_url(tmp_path))
    for look in (
        lambda: check_recorded(tmp_path, "theirs", SPEC.identity()),
        lambda: open_at(tmp_path, "theirs"),
        lambda: check_recorded(tmp_path, "theirs", SPEC.identity()),
    ):
        with pytest.raises(RecordError, match="a study 'theirs' that is another program's"):
            look()


def test_a_dry_look_at_what_is_no_record_says_so_on_one_line_without_sql(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"not a database " * 1000)
    with pytest.raises(RecordError) as refused:
        check_recorded(tmp_path, "simulated", {})
    assert str(refused.value) == (
        f"the record {tmp_path}/{FILE_NAME} is damaged (file is not a database). Put back a copy from "
        "before, or begin anew under another --name; the trials' checkpoints and what MLflow holds are "
        "not part of it"
    )


def test_counting_trials_makes_and_changes_nothing(tmp_path):
    assert check_recorded(tmp_path, "simulated", SPEC.identity()) == 0
    assert list(tmp_path.iterdir()) == []
    record = open_at(tmp_path)
    for number in range(3):
        record.add_trial(make_trial(number))
    record.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    assert check_recorded(tmp_path, "simulated", SPEC.identity()) == 3
    assert (tmp_path / FILE_NAME).read_bytes() == before


# -- where it lives ------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_database")
def test_studies_in_one_database_do_not_mix(tmp_path):
    first, second = open_at(tmp_path, "first"), open_at(tmp_path, "second", seed=1)
    first.add_trial(make_trial(0))
    first.add_row(0, make_row(0, 1))
    second.add_trial(make_trial(0))
    for record in (first, second):
        record.flush()
    assert [len(record.trials()) for record in (first, second)] == [1, 1]
    assert first.trials()[0].rows
    assert not second.trials()[0].rows
    second.end_trial(ended(make_trial(0), State.COMPLETE))
    assert first.trials()[0].state is State.UNFINISHED
    assert optunas_view(tmp_path, "first").trials[0].state.name == "RUNNING"
    for record in (first, second):
        record.close()


@pytest.mark.parametrize("name", ["moved", "with a space", "größer@home+1"])
def test_a_study_can_be_moved_and_read_on(name, tmp_path):
    here, there = tmp_path / "here", tmp_path / name
    here.mkdir()
    study = open_study(here, SPEC, trials=2)
    drive(study)
    study.record.close()
    before = outcome(study.trials)
    here.rename(there)
    study = open_study(there, SPEC, trials=3)
    assert outcome(study.trials) == before
    paths = [mark.path for trial in study.trials.values() for mark in trial.checkpoints]
    assert paths
    assert all((there / path).is_dir() for path in paths)
    drive(study)
    assert len(study.trials) == 3
    study.record.close()
    assert check_recorded(there, "simulated", {**SPEC.identity(), "seed": 0}) == 3
    assert not here.exists()


def test_a_renamed_folder_is_refused_under_its_new_name_and_goes_on_under_the_old(tmp_path):
    here, there = tmp_path / "a", tmp_path / "b"
    here.mkdir()
    open_at(here, "a").close()
    here.rename(there)
    before = (there / FILE_NAME).read_bytes()
    said = []
    for look in (
        lambda: check_recorded(there, "b", SPEC.identity()),
        lambda: open_at(there, "b"),
    ):
        with pytest.raises(
            RecordError, match=f"{there} must be of study 'b', but .*'a'"
        ) as refused:
            look()
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert "the folder its name 'a' back" in said[0]
    assert (there / FILE_NAME).read_bytes() == before
    assert check_recorded(there, "a", SPEC.identity()) == 0
    open_at(there, "a").close()


@pytest.mark.usefixtures("one_database")
def test_the_checkpoints_of_all_studies_in_a_database_are_known(tmp_path):
    records = [open_at(tmp_path, name) for name in ("a", "b")]
    for number, record in enumerate(records):
        record.add_trial(make_trial(0))
        record.add_checkpoint(0, Checkpoint(1, f"trials/{number}/1"))
        record.flush()
    for record in records:
        assert record.checkpoint_paths() == {"trials/0/1", "trials/1/1"}
        record.close()


def test_everything_is_in_one_file_once_closed(tmp_path):
    record = open_at(tmp_path)
    record.add_trial(make_trial(0))
    record.close()
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize(("has_wal", "mode"), [(True, "wal"), (False, "delete")])
def test_a_write_survives_a_power_cut_whatever_the_file_system(
    has_wal, mode, tmp_path, monkeypatch
):
    monkeypatch.setattr("tune_ddvae.tuning.storage.folders.takes_wal", lambda _: has_wal)
    record = open_at(tmp_path)
    for _ in range(3):  # connections of the pool and fresh ones
        with record.engine.connect() as connection:
            assert connection.execute(text("PRAGMA journal_mode")).scalar() == mode
            assert connection.execute(text("PRAGMA synchronous")).scalar() == 2  # FULL
            connection.invalidate()
    record.close()


# -- Optuna's own tables -------------------------------------------------------------------------


def test_optuna_itself_loads_the_file(record, tmp_path):
    states = [State.COMPLETE, State.STOPPED, State.COLLAPSED, State.FAILED, State.UNFINISHED]
    for number, state in enumerate(states):
        trial = make_trial(number)
        record.add_trial(trial)
        record.add_row(number, make_row(number, 1))
        if state is not State.UNFINISHED:
            record.end_trial(ended(trial, state))
    record.add_trial(dataclasses.replace(make_trial(5), params=None, setting="outside"))
    study = optunas_view(tmp_path)
    names = ["COMPLETE", "PRUNED", "PRUNED", "FAIL", "RUNNING", "RUNNING"]
    assert [trial.state.name for trial in study.trials] == names
    assert [trial.number for trial in study.trials] == list(range(6))
    assert study.metric_names == list(SPEC.rank_by)
    assert [way.name for way in study.directions] == ["MAXIMIZE", "MAXIMIZE"]
    assert [trial.number for trial in study.best_trials] == [0]
    assert study.trials[0].values == [0.25, -80.5]
    assert study.trials[0].params == make_trial(0).params
    assert study.trials[2].constraints == {"collapsed": 1000.0}
    assert study.trials[5].user_attrs == {"setting": "outside"}
    study.ask(flat_space(SPEC.space))  # Optuna's own sampler can go on from here


def test_optuna_finds_a_trial_before_anyone_trains_it(record, tmp_path):
    record.add_trial(make_trial(0))
    assert [trial.state.name for trial in optunas_view(tmp_path).trials] == ["RUNNING"]


def reopened(record: Record, number: int) -> Trial:
    """A trial that has failed after its first epoch and is taken up again."""
    trial = dataclasses.replace(make_trial(number), losses=4)
    record.add_trial(trial)
    record.add_row(number, make_row(number, 1))
    record.end_trial(ended(trial, State.FAILED))
    row = {number: make_row(number, 1)}
    again = dataclasses.replace(trial, losses=0)
    record.mark_sent(
        {"tracking": "t", "number": number, "run_id": "r", "epoch": 1, "status": "failed"}
    )
    record.reopen_trial(again)
    return dataclasses.replace(again, rows={row[number].epoch: row[number]})


def test_a_failed_trial_that_is_taken_up_again_runs_for_optuna_too_and_may_end(record, tmp_path):
    again = reopened(record, 0)
    assert record.trials() == [again]
    (told,) = optunas_view(tmp_path).trials
    assert (told.state.name, told.datetime_complete) == ("RUNNING", None)
    (mark,) = record.read(SENT.select())
    assert (mark.run_id, mark.epoch, mark.status) == ("r", 1, "")
    record.end_trial(ended(again, State.COMPLETE))
    assert record.trials()[0].state is State.COMPLETE
    (told,) = optunas_view(tmp_path).trials
    assert (told.state.name, told.values) == ("COMPLETE", [0.25, -80.5])


def test_a_driver_killed_while_it_takes_a_trial_up_again_leaves_nothing_half_done(
    tmp_path, monkeypatch
):
    record = open_at(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Record, "_mirror_again", lambda *_: None)
        again = reopened(record, 0)
    record.close()
    assert optunas_view(tmp_path).trials[0].state.name == "FAIL"
    record = open_at(tmp_path)
    assert record.trials() == [again]
    assert optunas_view(tmp_path).trials[0].state.name == "RUNNING"
    record.close()


# -- killed --------------------------------------------------------------------------------------

# Adds trials and rows for ever; says each trial that it holds to be durable.
DRIVER = """
import sys
from pathlib import Path
from tests.tuning.record import test_record as t
record = t.open_at(Path(sys.argv[1]))
number = 0
while True:
    record.add_trial(t.make_trial(number))
    print(number, flush=True)
    for epoch in range(1, t.EPOCHS + 1):
        record.add_row(number, t.make_row(number, epoch))
    record.end_trial(t.ended(t.make_trial(number), t.State.COMPLETE)) if number % 2 else None
    number += 1
"""
# Does the same, and is gone in the middle of the n-th call of one of Optuna's steps.
SUICIDE = """
import os
from tune_ddvae.tuning.record.record import Record
from optuna.storages import RDBStorage
owner, step, calls = {owner}, "{step}", [0]
whole = getattr(owner, step)
def call(*args, **kwargs):
    calls[0] += 1
    if calls[0] == 3:
        os._exit(9)
    return whole(*args, **kwargs)
setattr(owner, step, call)
"""


def start_driver(folder: Path, before: str = "") -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", before + DRIVER, str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_whole(folder: Path, least: int) -> None:
    """At least so many trials, none of them half, nothing missing but the end of the queue."""
    record = open_at(folder)
    trials = record.trials()
    record.close()
    assert len(trials) >= least
    for number, trial in enumerate(trials):
        assert (trial.number, trial.config) == (number, make_trial(number).config)
        assert trial.rows == {e: make_row(number, e) for e in range(1, len(trial.rows) + 1)}
        is_last = number == len(trials) - 1
        if not is_last:
            assert len(trial.rows) == EPOCHS
            assert (trial.state is State.COMPLETE) == bool(number % 2)
        if trial.state is State.COMPLETE:
            assert len(trial.rows) == EPOCHS
    told = optunas_view(folder).trials
    assert len(told) == len(trials)
    for mine, theirs in zip(trials, told, strict=True):
        assert theirs.params == mine.params
        assert (theirs.state.name == "COMPLETE") == (mine.state is State.COMPLETE)
        assert (theirs.values is not None) == (mine.state is State.COMPLETE)


@pytest.mark.parametrize("trials", [1, 8])
def test_a_hard_kill_loses_at_most_what_was_queued_and_never_half_a_trial(trials, tmp_path):
    driver = start_driver(tmp_path)
    for number in range(trials):
        assert driver.stdout.readline() == f"{number}\n", driver.stderr.read()
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    driver.communicate()
    assert_whole(tmp_path, trials)


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        ("Record", "_mirror_trial"),
        ("Record", "_mirror_end"),
        ("RDBStorage", "set_trial_state_values"),
    ],
)
def test_optunas_tables_are_caught_up_after_a_kill_between_ours_and_theirs(owner, step, tmp_path):
    driver = start_driver(tmp_path, SUICIDE.format(owner=owner, step=step))
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 9, err
    least = len(out.splitlines())
    with create_engine(record_url(tmp_path)).connect() as connection:
        ours = connection.execute(text("SELECT number, state FROM ddvae_trials")).all()
    theirs = optunas_view(tmp_path).trials
    num_ended = sum(state == State.COMPLETE for _, state in ours)
    assert (len(ours), num_ended) != (
        len(theirs),
        sum(trial.state.is_finished() for trial in theirs),
    )
    assert_whole(tmp_path, least)
