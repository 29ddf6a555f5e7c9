"""MLflow brought up to date with no driver there: what ``python -m tune_ddvae.sync`` does."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from sqlalchemy import update

from tests.tuning.simulated import drive, make_spec, open_study
from tune_ddvae import exit_codes
from tune_ddvae.errors import ConfigError, RecordError, StudyLockedError, TrackingError
from tune_ddvae.sync import main
from tune_ddvae.tuning.catch_up import ENDED_SILENTLY, catch_up
from tune_ddvae.tuning.record import opening
from tune_ddvae.tuning.record.tables import SENT, STUDIES
from tune_ddvae.tuning.storage.folders import slug
from tune_ddvae.tuning.storage.lock import sole_driver
from tune_ddvae.tuning.tracking.sync import Sender
from tune_ddvae.tuning.tracking.tracking import Outcome, Tracker, sync

TRIALS = 2


class Place:
    """A storage with one study in it."""

    def __init__(self, folder, ready_tracking, name="tiny"):
        self.storage = folder / "studies"
        self.folder = self.storage / slug(name)
        self.folder.mkdir(parents=True)
        self.name = name
        self.uri = f"sqlite:///{self.storage / 'mlflow.db'}"
        shutil.copy(ready_tracking, self.storage / "mlflow.db")

    def open(self, trials=TRIALS):
        return open_study(self.folder, make_spec(), trials=trials, name=self.name)

    def sync(self, **changes):
        facts = {"record": None, "tracking_uri": None, "notes": lambda _: None}
        return catch_up(self.name, storage=str(self.storage), **{**facts, **changes})

    def command(self, *words):
        return CliRunner().invoke(main, [self.name, "--storage", str(self.storage), *words])

    def runs(self, uri=None):
        client = MlflowClient(uri or self.uri)
        (found,) = client.search_experiments(filter_string="name = 'tiny'")
        runs = client.search_runs([found.experiment_id])
        (parent,) = [run for run in runs if run.data.tags["tune_ddvae.role"] == "study"]
        return parent, [run for run in runs if run is not parent]


@pytest.fixture
def place(tmp_path, ready_tracking, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Place(tmp_path, ready_tracking)


@pytest.fixture
def complete(place):
    """A study that is complete, of which MLflow has never heard."""
    study = place.open()
    study.record.begin_session()
    drive(study)
    study.record.seen(ended_as="complete")
    study.record.close()
    return study


def test_a_bucket_without_a_record_is_refused_with_that_advice():
    with pytest.raises(ConfigError, match=r"s3://mine/x is a bucket.* --record postgresql://"):
        catch_up("tiny", storage="s3://mine/x", record=None, tracking_uri=None, notes=pytest.fail)


def test_a_complete_study_is_shown_as_complete_and_only_once(place, complete):
    num_rows = sum(len(trial.rows) for trial in complete.trials.values())
    (first,) = place.sync()
    assert (first.rows_sent, first.runs_sent, first.is_whole) == (num_rows, TRIALS + 1, True)
    (second,) = place.sync()
    assert (second.rows_sent, second.is_whole) == (0, True)
    parent, children = place.runs()
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["state"] == "complete"
    assert len(children) == TRIALS


def test_a_killed_drivers_runs_are_closed(place):
    study = place.open()
    study.record.begin_session()
    study.next_assignment()
    assert sync(study.record, place.uri, "tiny", outcome=None).is_whole
    study.record.close()  # as far as the record goes, a kill
    assert {run.info.status for run in [place.runs()[0], *place.runs()[1]]} == {"RUNNING"}
    assert place.sync()[0].is_whole
    parent, (child,) = place.runs()
    assert (parent.info.status, child.info.status) == ("KILLED", "KILLED")
    assert parent.data.tags["reason"] == ENDED_SILENTLY
    assert child.data.tags["state"] == "interrupted"


@pytest.mark.parametrize("ended_as", ["out of time", "interrupted", "the same error " * 20])
def test_a_study_with_work_left_is_shown_with_its_reason(ended_as, place):
    study = place.open()
    study.record.begin_session()
    study.next_assignment()
    study.record.seen(ended_as=ended_as)
    study.record.close()
    place.sync()
    parent, (child,) = place.runs()
    state = "out of time" if ended_as == "out of time" else "interrupted"
    assert parent.data.tags["reason"] == ended_as
    assert parent.data.tags["state"] == child.data.tags["state"] == state


@pytest.mark.parametrize("ended_as", ["", "terminated"])
def test_a_driver_that_was_killed_after_its_last_trial_leaves_a_complete_study(ended_as, place):
    study = place.open()
    study.record.begin_session(trials=TRIALS)
    drive(study)
    study.record.seen(ended_as=ended_as)
    study.record.close()
    place.sync()
    parent, _ = place.runs()
    assert (parent.info.status, parent.data.tags["state"]) == ("FINISHED", "complete")


def test_a_study_that_was_extended_and_killed_is_not_shown_as_complete(place, complete):
    place.sync()
    study = place.open(trials=TRIALS + 1)
    study.record.begin_session()
    study.next_assignment()
    study.record.close()
    place.sync()
    assert place.runs()[0].info.status == "KILLED"


def test_a_study_that_a_driver_holds_is_left_alone(place, complete):
    with sole_driver(place.folder), pytest.raises(StudyLockedError, match="another driver holds"):
        place.sync()
    place.sync()


def test_an_unknown_study_is_refused_with_those_there_are(place, complete, tmp_path):
    with pytest.raises(RecordError, match=r"unknown study 'tony' in storage .*; there are: tiny\."):
        catch_up("tony", storage=str(place.storage), record=None, tracking_uri=None, notes=print)
    with pytest.raises(RecordError, match="there are: none"):
        catch_up("tiny", storage=str(tmp_path / "no"), record=None, tracking_uri=None, notes=print)
    assert not (tmp_path / "no").exists()


def test_a_record_of_another_format_is_refused(place, complete, monkeypatch):
    monkeypatch.setattr(opening, "FORMAT", opening.FORMAT + 1)
    with pytest.raises(RecordError, match="use the version that it was started with"):
        place.sync()


def test_a_record_address_that_is_none_is_refused(place):
    with pytest.raises(ConfigError, match="--record must be the address of a PostgreSQL"):
        place.sync(record="mysql://x/y")


def test_without_an_address_every_one_that_the_study_was_meant_for_is_served(
    place, complete, tmp_path, ready_tracking
):
    others = []
    for name in ("first", "second"):
        shutil.copy(ready_tracking, tmp_path / f"{name}.db")
        others.append(f"sqlite:///{tmp_path / f'{name}.db'}")
    study = place.open()
    for uri in others:  # nothing need ever have arrived there
        Sender(study.record, uri, "tiny").note_address()
    study.record.close()
    found = place.sync()
    assert [one.address for one in found] == others
    assert all(one.is_whole for one in found)
    assert [len(place.runs(uri)[1]) for uri in others] == [TRIALS, TRIALS]


def test_the_environments_address_goes_before_the_records(
    place, complete, tmp_path, ready_tracking, monkeypatch
):
    place.sync()
    shutil.copy(ready_tracking, tmp_path / "other.db")
    uri = f"sqlite:///{tmp_path / 'other.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (found,) = place.sync()
    assert (found.address, found.is_whole) == (uri, True)


def test_an_address_whose_password_the_record_does_not_keep_has_to_be_given(place, complete):
    study = place.open()
    sync(study.record, "http://me:hidden@127.0.0.1:9", "tiny", outcome=Outcome.COMPLETE)
    Sender(study.record, "http://me:hidden@127.0.0.1:9", "tiny").note_address()
    study.record.close()
    with pytest.raises(TrackingError, match=r"http://me:\*\*\*@127.0.0.1:9.*--tracking-uri"):
        place.sync()


def test_a_run_that_somebody_deleted_is_made_again(place, complete):
    place.sync()
    _, children = place.runs()
    MlflowClient(place.uri).delete_run(children[0].info.run_id)
    (found,) = place.sync()
    assert found.is_whole
    assert len(place.runs()[1]) == TRIALS


def test_a_storage_that_was_moved_is_shown_with_its_artifacts(place, complete, tmp_path):
    place.sync()
    there = tmp_path / "a new" / "place"
    there.parent.mkdir()
    place.storage.rename(there)
    # Another process, as it would be: MLflow keeps in mind where it wrote a run's artifacts before.
    words = ["-m", "tune_ddvae.sync", "tiny", "--storage", str(there)]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    parent, children = place.runs(f"sqlite:///{there / 'mlflow.db'}")
    for run in (parent, *children):
        folder = Path(unquote(run.info.artifact_uri.removeprefix("file://")))
        assert folder.is_relative_to(there)
        assert any(folder.glob("*.json"))
    assert not place.storage.exists()


@pytest.fixture
def copy(place, complete, tmp_path):
    """A copy of a study that is shown whole, in a storage of its own."""
    place.sync()
    twin = object.__new__(Place)
    twin.name, twin.storage = place.name, tmp_path / "copy"
    shutil.copytree(place.storage, twin.storage)
    twin.folder = twin.storage / slug(twin.name)
    twin.uri = f"sqlite:///{twin.storage / 'mlflow.db'}"
    return twin


def extend(place, trials=TRIALS + 1):
    study = place.open(trials=trials)
    study.record.begin_session(trials=trials)
    drive(study)
    study.record.seen(ended_as="complete")
    study.record.close()


def rename_marks(place, tracking):
    study = place.open()
    with study.record.engine.begin() as connection:
        connection.execute(update(SENT).values(tracking=tracking))
    study.record.close()


def num_values(place, uri=None):
    """How many points there are, and how many there would be with one for each metric and epoch."""
    client = MlflowClient(uri or place.uri)
    points = [
        (run.info.run_id, key, point.step)
        for run in place.runs(uri)[1]
        for key in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, key)
    ]
    return len(points), len(set(points))


@pytest.mark.parametrize("is_old", [False, True])
def test_a_copied_storage_leaves_the_originals_database_alone(place, copy, is_old):
    if is_old:  # of before the record had a name for the storage's own
        rename_marks(copy, place.uri)
    extend(copy)
    (found,) = copy.sync()
    assert (found.address, found.is_whole) == (copy.uri, True)
    assert len(copy.runs()[1]) == TRIALS + 1
    assert copy.runs()[0].data.tags["folder"] == str(copy.folder)
    assert len(place.runs()[1]) == TRIALS
    extend(place)
    (found,) = place.sync()
    assert (found.address, found.is_whole) == (place.uri, True)
    for one in (place, copy):
        shown, single = num_values(one)
        assert shown == single


def test_a_copy_goes_on_with_the_runs_that_were_copied(copy):
    (found,) = copy.sync()
    assert (found.address, found.rows_sent, found.is_whole) == (copy.uri, 0, True)


def test_another_database_that_was_named_is_used_by_a_moved_study(
    place, complete, tmp_path, ready_tracking
):
    shutil.copy(ready_tracking, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    place.sync(tracking_uri=uri)
    place.storage = place.storage.rename(tmp_path / "moved")
    assert [found.address for found in place.sync()] == [uri]


def test_one_database_shows_a_study_or_its_copy_and_not_both(place, copy, tmp_path, ready_tracking):
    shutil.copy(ready_tracking, tmp_path / "both.db")
    uri = f"sqlite:///{tmp_path / 'both.db'}"
    assert place.sync(tracking_uri=uri)[0].is_whole
    extend(copy)
    (found,) = copy.sync(tracking_uri=uri)
    assert not found.is_whole
    assert f"is that in {place.folder}, and this one in {copy.folder} is a copy" in found.error
    assert len(place.runs(uri)[1]) == TRIALS
    shutil.rmtree(place.folder)
    assert copy.sync(tracking_uri=uri)[0].is_whole
    assert len(copy.runs(uri)[1]) == TRIALS + 1


@pytest.mark.parametrize("goes_on", [False, True])
def test_what_a_copy_wrote_into_the_originals_database_is_removed_there(place, copy, goes_on):
    shutil.move(copy.storage / "mlflow.db", copy.storage / "aside.db")
    extend(copy)
    study = copy.open(trials=TRIALS + 1)
    (alien,) = [trial for number, trial in study.trials.items() if number == TRIALS]
    study.record.close()
    client = MlflowClient(place.uri)
    parent, children = place.runs()
    tags = {**children[0].data.tags, "tune_ddvae.trial": str(TRIALS)}
    run_id = client.create_run(parent.info.experiment_id, tags=tags).info.run_id
    for epoch, row in alien.rows.items():
        for key, value in row.metrics.items():
            client.log_metric(run_id, key, value, round(row.time * 1000), epoch)
    if goes_on:
        extend(place)
    said = []
    assert place.sync(notes=said.append)[0].is_whole
    assert len(place.runs()[1]) == TRIALS + goes_on
    shown, single = num_values(place)
    assert shown == single
    assert any(
        f"trials {TRIALS} held values that this study's record does not" in it for it in said
    )


def test_an_interruptions_reason_is_gone_once_the_study_is_complete(place):
    study = place.open()
    study.record.begin_session(trials=TRIALS)
    study.next_assignment()
    study.record.seen(ended_as="terminated")
    study.record.close()
    place.sync()
    assert place.runs()[0].data.tags["reason"] == "terminated"
    study = place.open()
    tracker = Tracker(study.record, place.uri, "tiny", print)
    drive(study)
    tracker.finish(Outcome.COMPLETE, "already complete")
    study.record.close()
    tags = place.runs()[0].data.tags
    assert (tags["state"], tags["reason"]) == ("complete", "")


def test_the_latest_command_stays_shown(place, complete):
    study = place.open()
    extra = {"command": "study tiny --trials 2"}
    tracker = Tracker(study.record, place.uri, "tiny", print, extra)
    tracker.finish(Outcome.COMPLETE)
    study.record.close()
    place.sync()
    assert place.runs()[0].data.tags["command"] == "study tiny --trials 2"


def test_the_command_says_what_it_sent_and_ends_with_0(place, complete):
    done = place.command()
    assert done.exit_code == 0, done.output
    assert "evaluations; 3 runs described or closed" in done.stdout
    assert "everything is there" in done.stdout


def test_the_command_ends_with_3_where_something_is_still_missing(place, complete):
    done = place.command("--tracking-uri", "http://127.0.0.1:9")
    assert done.exit_code == exit_codes.WORK_LEFT
    assert "is behind, still to be sent" in done.stdout


def test_a_damaged_record_is_refused(place, complete):
    study = place.open()
    with study.record.engine.begin() as connection:
        connection.execute(update(STUDIES).values(identity=json.dumps([1])))
    study.record.close()
    with pytest.raises(RecordError, match="is damaged"):
        place.sync()
