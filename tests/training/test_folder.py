import json
import os

import pytest

from tests.training.tiny import make_trainer, tiny
from tune_ddvae.config import to_flat
from tune_ddvae.errors import CheckpointError, ConfigError, StorageError
from tune_ddvae.training.folder import (
    METRICS_FILE,
    check_folder,
    make_folder,
    open_folder,
)
from tune_ddvae.training.trainer import StepResult

IDENTITY = {**to_flat(tiny()), "checksum of the data": "abc"}
needs_rights = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")


def result(epoch: int, value: float = 0.5) -> StepResult:
    metrics = {"training/objective": value, "training/seconds": 1.5}
    return StepResult(epoch, metrics, {"sparsity/hoyer": "no"}, {"points": [1, 2]})


def test_a_training_is_found_again_as_it_was(tmp_path):
    make_folder(tmp_path / "a" / "b")
    folder = open_folder(tmp_path / "a" / "b", IDENTITY)
    rows = [folder.add(result(epoch, 0.1 + 0.2 * epoch)) for epoch in (1, 2)]
    again = open_folder(tmp_path / "a" / "b", IDENTITY)
    assert (again.training_id, again.started) == (folder.training_id, folder.started)
    assert list(again.rows.values()) == rows
    assert again.last_epoch == 2


def test_a_moved_folder_is_the_same_training(tmp_path):
    make_folder(tmp_path / "a")
    folder = open_folder(tmp_path / "a", IDENTITY)
    (tmp_path / "a").rename(tmp_path / "b")
    assert open_folder(tmp_path / "b", IDENTITY).training_id == folder.training_id


def test_the_first_row_of_an_epoch_stays(tmp_path):
    folder = open_folder(tmp_path, IDENTITY)
    first = folder.add(result(1, 0.5))
    assert folder.add(result(1, 0.6)) == first
    assert len((tmp_path / METRICS_FILE).read_text().splitlines()) == 1


def test_a_row_that_was_cut_off_is_written_once_more(tmp_path):
    folder = open_folder(tmp_path, IDENTITY)
    folder.add(result(1))
    folder.add(result(2))
    content = (tmp_path / METRICS_FILE).read_bytes()
    (tmp_path / METRICS_FILE).write_bytes(content[:-7])
    again = open_folder(tmp_path, IDENTITY)
    assert list(again.rows) == [1]
    again.add(result(2))
    lines = (tmp_path / METRICS_FILE).read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_a_damaged_line_is_named(tmp_path):
    open_folder(tmp_path, IDENTITY).add(result(1))
    content = (tmp_path / METRICS_FILE).read_text()
    (tmp_path / METRICS_FILE).write_text("{}\n" + content)
    with pytest.raises(CheckpointError, match="line 1 is damaged"):
        open_folder(tmp_path, IDENTITY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective/beta": 4.0}, "objective/beta is 1.0 there, 4.0 here; give this one"),
        (
            {"training/epochs": 9},
            r"training/epochs is 3 there, 9 here \(another number of epochs is another training: ",
        ),
        ({"checksum of the data": "xyz"}, "checksum of the data is 'abc' there, 'xyz' here"),
        ({"a/new_key": 1}, "a/new_key is None there, 1 here"),
    ],
)
def test_another_training_is_refused_by_the_first_key_that_differs(changes, message, tmp_path):
    open_folder(tmp_path, IDENTITY)
    for refuse in (check_folder, open_folder):
        with pytest.raises(ConfigError, match=f"holds another training: {message}"):
            refuse(tmp_path, {**IDENTITY, **changes})


def test_a_folder_of_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match=f"{tmp_path} must be a new folder"):
        check_folder(tmp_path, IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_was_only_locked_is_as_good_as_new(tmp_path):
    (tmp_path / "driver.lock").touch()
    check_folder(tmp_path, IDENTITY)


def test_checking_makes_nothing(tmp_path):
    check_folder(tmp_path / "a" / "b", IDENTITY)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").touch()
    for refuse in (lambda path: check_folder(path, IDENTITY), make_folder):
        with pytest.raises(StorageError, match=rf"{tmp_path}/file.*--save-dir"):
            refuse(tmp_path / "file" / "a")


@needs_rights
def test_a_folder_without_rights_is_named(tmp_path):
    (tmp_path / "a").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="can be written to"):
        check_folder(tmp_path / "a" / "b", IDENTITY)


def test_a_full_disk_is_named(tmp_path):
    folder = open_folder(tmp_path, IDENTITY)
    (tmp_path / METRICS_FILE).symlink_to("/dev/full")
    with pytest.raises(StorageError, match="No space left on device.*make room"):
        folder.add(result(1))
    assert folder.rows == {}


def test_the_newest_two_checkpoints_are_kept(tmp_path):
    folder, trainer = open_folder(tmp_path, IDENTITY), make_trainer(tiny(training__epochs=4))
    paths = []
    for _ in range(4):
        folder.add(trainer.step())
        paths.append(folder.save(trainer))
    assert folder.checkpoints() == [paths[3], paths[2]]
    assert [path.exists() for path in paths] == [False, False, True, True]


def test_a_checkpoint_that_is_newer_than_the_last_row_counts_for_nothing(tmp_path):
    folder, trainer = open_folder(tmp_path, IDENTITY), make_trainer(tiny())
    folder.add(trainer.step())
    first = folder.save(trainer)
    trainer.step()
    folder.save(trainer)
    assert folder.checkpoints() == [first]


def test_a_damaged_note_of_which_training_it_is_is_named(tmp_path):
    open_folder(tmp_path, IDENTITY)
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"training.json is damaged"):
        open_folder(tmp_path, IDENTITY)


def test_a_checkpoint_that_was_set_aside_counts_for_nothing_and_is_kept(tmp_path):
    folder, trainer = open_folder(tmp_path, IDENTITY), make_trainer(tiny())
    for _ in range(2):  # a second one of the same epoch takes the first one's place
        folder.add(trainer.step())
        aside = folder.set_aside(folder.save(trainer))
        trainer = make_trainer(tiny())
    assert (aside / "state.pt").is_file()
    assert (folder.checkpoints(), folder.kept_epoch) == ([], 0)
