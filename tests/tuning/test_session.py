"""How a session ends that something breaks off in the middle."""

import shutil

import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import OperationalError

from tests.tuning.simulated import drive, make_spec, open_study
from tune_ddvae.errors import (
    BrokenOffError,
    RecordError,
    RecordLostError,
    StorageAwayError,
    StorageFullError,
    StudyLockedError,
)
from tune_ddvae.tuning.cluster.resources import Slots
from tune_ddvae.tuning.record import opening
from tune_ddvae.tuning.record.opening import record_url
from tune_ddvae.tuning.session import Request, _open_study, _work_left

LOCKED = OperationalError("INSERT", {}, Exception("database is locked"))


@pytest.mark.parametrize(
    "error", [RecordLostError("gone"), StudyLockedError("gone"), StorageAwayError("gone")]
)
def test_what_refuses_a_study_at_its_start_breaks_it_off_in_the_middle(error):
    with pytest.raises(BrokenOffError, match="^gone$"), _work_left():
        raise error


def test_a_record_that_cannot_be_written_to_is_told_in_one_line_with_what_goes_on():
    told = r"the record could not be written to \(database is locked\).* the same command goes on"
    with pytest.raises(BrokenOffError, match=told), _work_left():
        raise LOCKED


def test_what_optuna_makes_of_it_is_told_in_the_same_words():
    told = r"the record could not be written to \(database is locked\)"
    with pytest.raises(BrokenOffError, match=told), _work_left():
        raise StorageInternalError("An exception is raised during the commit.") from LOCKED


def test_a_record_that_is_gone_ends_the_session_with_work_left_and_no_word_of_what_is_kept(
    tmp_path,
):
    folder = tmp_path / "a"
    folder.mkdir()

    def run() -> None:
        with _open_study(request_for(folder, "a")) as study:
            drive(study)
            assert study.is_complete
            shutil.rmtree(folder)

    with pytest.raises(BrokenOffError, match="was removed while the study ran") as told:
        run()
    assert "kept" not in str(told.value)


@pytest.mark.parametrize("error", [StorageFullError("full"), KeyError("a fault of ours")])
def test_everything_else_stays_what_it_is(error):
    with pytest.raises(type(error)), _work_left():
        raise error


def request_for(folder, name: str) -> Request:
    return Request(
        name=name,
        experiment="simulated",
        question="",
        spec=make_spec(),
        folder=folder,
        tracking_uri="",
        record=record_url(folder),
        data_checksum="",
        command="",
        seed=0,
        trials=2,
        hours=None,
        slots=Slots(concurrent=1, num_cpus=1.0, num_gpus=0.0),
    )


def checkpoints_in(folder) -> set:
    return {path.relative_to(folder) for path in folder.glob("trials/*/checkpoint_*")}


@pytest.fixture
def trained(tmp_path):
    """The folder of a study "a", with its checkpoints."""
    folder = tmp_path / "a"
    folder.mkdir()
    study = open_study(folder, make_spec(), trials=2, name="a")
    drive(study)
    study.record.close()
    assert checkpoints_in(folder)
    return folder


def test_a_copied_study_is_refused_under_another_name_and_keeps_its_checkpoints(trained):
    copy = trained.with_name("b")
    shutil.copytree(trained, copy)
    with (
        pytest.raises(RecordError, match="must be of study 'b'"),
        _open_study(request_for(copy, "b")),
    ):
        pass
    assert checkpoints_in(copy) == checkpoints_in(trained)


def test_no_study_sweeps_what_another_in_its_database_names(trained, monkeypatch):
    before = checkpoints_in(trained)
    monkeypatch.setattr(opening, "_check_alone", lambda *_: None)  # as it was once
    half_copied = trained / "trials" / "00000-x" / "checkpoint_000000"
    half_copied.mkdir(parents=True)
    with _open_study(request_for(trained, "b")) as study:
        assert not study.trials
    assert checkpoints_in(trained) == before
