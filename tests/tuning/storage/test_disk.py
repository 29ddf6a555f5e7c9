import errno
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
import torch
from sqlalchemy import create_engine, text

from tune_ddvae.errors import StorageError
from tune_ddvae.tuning.storage import disk
from tune_ddvae.tuning.storage.disk import (
    RAYS_MARK,
    RESERVE_BYTES,
    Watch,
    check_space,
    is_full,
    needs,
    sweep,
)

MB = 10**6


def needed(**changes):
    facts = {"checkpoint": 10 * MB, "num_new": 20, "kept": 3, "slots": 2}
    return needs(**{**facts, **changes})


@pytest.fixture
def free(monkeypatch):
    """Says how much is free."""
    sizes = [0]
    monkeypatch.setattr(disk, "free_bytes", lambda _: sizes[-1])
    return sizes.append


def test_every_new_trial_leaves_one_checkpoint_at_least_and_three_at_most():
    found = needed()
    assert found.working == RESERVE_BYTES + 2 * 2 * 10 * MB
    assert found.least == found.working + 20 * 10 * MB
    assert found.most == found.working + 20 * 3 * 10 * MB


def test_without_a_number_of_trials_only_room_to_work_is_asked_for():
    found = needed(num_new=None)
    assert (found.least, found.most) == (found.working, None)


def test_a_disk_that_is_clearly_too_small_is_refused_with_both_sizes(free, tmp_path):
    free(100 * MB)
    with pytest.raises(StorageError) as refused:
        check_space(tmp_path / "not" / "made", needed())
    assert f"storage {tmp_path}/not/made must have 257 MB free" in str(refused.value)
    assert "100 MB are free there" in str(refused.value)
    assert "--storage" in str(refused.value)


def test_a_disk_that_may_be_too_small_is_warned_of(free, tmp_path):
    free(300 * MB)
    warning = check_space(tmp_path, needed())
    assert "has 300 MB free" in warning
    assert "may take 657 MB" in warning
    assert check_space(tmp_path, needed(num_new=None)) == ""


def test_a_disk_with_room_for_everything_is_not_spoken_of(free, tmp_path):
    free(1000 * MB)
    assert check_space(tmp_path, needed()) == ""


def test_a_watch_complains_once_there_is_too_little(free, tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "LOOK_EVERY_S", 0.0)
    watch = Watch(tmp_path, 50 * MB)
    free(50 * MB)
    assert watch.complaint() == ""
    free(50 * MB - 1)
    assert watch.complaint() == (
        f"no space left in storage {tmp_path} (50 MB left of 50 MB needed); free some, and the same "
        "command goes on"
    )


def test_a_watch_looks_no_more_than_once_a_second(tmp_path, monkeypatch):
    looks = []
    monkeypatch.setattr(disk, "free_bytes", lambda folder: looks.append(folder) or 0)
    watch = Watch(tmp_path, 1)
    complaints = [watch.complaint() for _ in range(1000)]
    assert len(looks) == 1
    assert complaints[0]
    assert not any(complaints[1:])


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A study's folder that Ray has marked, and its watch."""
    monkeypatch.setattr(disk, "LOOK_EVERY_S", 0.0)
    watch = Watch(tmp_path / "study", 1)
    assert watch.complaint() == ""  # nothing is missed that has not been there
    trials = tmp_path / "study" / "trials"
    trials.mkdir(parents=True)
    (trials / RAYS_MARK).touch()
    assert watch.complaint() == ""
    return trials, watch


@pytest.mark.parametrize("is_there_again", [True, False])
def test_a_watch_complains_of_a_trials_folder_that_was_taken_away(is_there_again, watched):
    trials, watch = watched
    shutil.rmtree(trials)
    if is_there_again:  # a worker makes its own folder, and all above it
        (trials / "00000-a").mkdir(parents=True)
    assert watch.complaint().startswith(f"{trials} was removed or replaced while the study ran")


def test_a_watch_that_has_just_looked_can_be_made_to_look_again(watched, monkeypatch):
    trials, watch = watched
    monkeypatch.setattr(disk, "LOOK_EVERY_S", 3600.0)
    shutil.rmtree(trials)
    assert watch.complaint() == ""
    assert watch.complaint(at_once=True)


def test_a_file_system_that_does_not_answer_is_not_complained_of(watched, monkeypatch):
    trials, watch = watched
    monkeypatch.setattr(disk, "free_bytes", lambda _: None)

    def stale(*_, **__):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(type(trials), "stat", stale)
    assert watch.complaint() == ""


def raised(call) -> BaseException:
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_checkpoint_that_does_not_fit_is_told_from_any_other_error():
    def save():
        with open("/dev/full", "wb") as file:  # noqa: PTH123 - a device
            torch.save({"weights": torch.zeros(100_000)}, file)

    assert is_full(raised(save))


def test_a_record_that_does_not_fit_is_told_from_any_other_error(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    with engine.connect() as connection:
        connection.execute(text("create table t (x)"))
        connection.execute(text("pragma max_page_count = 3"))
        fill = text("insert into t values (zeroblob(100000))")
        error = raised(lambda: connection.execute(fill))
        other = raised(lambda: connection.execute(text("insert into nothing values (1)")))
    engine.dispose()
    assert "full" in str(error)
    assert is_full(error)
    assert not is_full(other)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_behind_another_error_is_found(number):
    error = RuntimeError("unexpected pos 704 vs 598")
    error.__cause__ = OSError(number, os.strerror(number))
    assert is_full(error)


def test_other_errors_are_not_taken_for_a_full_disk():
    for error in (OSError(errno.EACCES, "no"), sqlite3.OperationalError("locked"), None):
        assert not is_full(error)


def test_what_was_half_copied_is_swept_and_what_is_recorded_stays(tmp_path):
    known = "trials/00000-a/checkpoint_000001"
    for name in (known, "trials/00000-a/checkpoint_000002", "trials/00001-b/checkpoint_000000"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "state.pt").write_text("x")
    (tmp_path / "trials" / "00001-b" / "last-words.txt").write_text("")
    sweep(tmp_path, {known})
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {f"{known}/state.pt", "trials/00001-b/last-words.txt"}


def test_a_study_that_has_not_begun_has_nothing_to_sweep(tmp_path):
    sweep(tmp_path, set())
    assert list(tmp_path.iterdir()) == []
