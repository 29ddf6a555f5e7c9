import shutil

import pytest
import torch

from tests.training.tiny import make_trainer, numbers, tiny
from tune_ddvae.config import TrialConfig, to_flat
from tune_ddvae.data import load
from tune_ddvae.errors import CheckpointError, DivergedError
from tune_ddvae.training import checkpoint
from tune_ddvae.training.folder import TrainedRow, TrainingFolder, open_folder
from tune_ddvae.training.run import train
from tune_ddvae.training.trainer import StepResult

EPOCHS = 6


class Watching:
    """Remembers what it was told, and asks for the end after so many batches."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.starts: list[int] = []
        self.rows: list[TrainedRow] = []
        self.notes: list[str] = []
        self.batches = 0
        self._stop_after = stop_after

    def should_stop(self) -> bool:
        return self._stop_after is not None and self.batches >= self._stop_after

    def on_start(self, epoch: int) -> None:
        self.starts.append(epoch)

    def on_batch(self) -> None:
        self.batches += 1

    def on_row(self, row: TrainedRow) -> None:
        self.rows.append(row)

    def on_note(self, note: str) -> None:
        self.notes.append(note)


@pytest.fixture(scope="module")
def config() -> TrialConfig:
    return tiny(training__epochs=EPOCHS, data__num_validation=0)


@pytest.fixture(scope="module")
def dataset(config):
    return load(config.data)


@pytest.fixture
def trained(config, dataset):
    """Trains in a folder; keyword arguments are those of ``train``."""

    def go_on(path, watching=None, until=EPOCHS, **kwargs) -> tuple[TrainingFolder, Watching, bool]:
        path.mkdir(exist_ok=True)
        folder, watching = open_folder(path, to_flat(config)), watching or Watching()
        is_done = train(
            folder,
            lambda on_batch: make_trainer(config, dataset, on_batch=on_batch),
            watching,
            until=until,
            should_stop=watching.should_stop,
            **kwargs,
        )
        return folder, watching, is_done

    return go_on


def values(folder: TrainingFolder) -> list[dict]:
    """Rows without what a clock says."""
    return [
        numbers(StepResult(row.epoch, dict(row.metrics), dict(row.absent), dict(row.facts)))
        for row in folder.rows.values()
    ]


def epochs_of(folder: TrainingFolder) -> list[int]:
    return [int(path.name[-6:]) for path in folder.checkpoints()]


def weights(folder: TrainingFolder) -> dict[str, torch.Tensor]:
    return checkpoint.read(folder.checkpoints()[0], torch.device("cpu")).vae


@pytest.fixture
def straight(trained, tmp_path) -> TrainingFolder:
    folder, watching, is_done = trained(tmp_path / "straight")
    assert is_done
    assert [row.epoch for row in watching.rows] == [1, 2, 3, 4, 5, 6]
    return folder


def assert_same(folder: TrainingFolder, other: TrainingFolder) -> None:
    again = open_folder(folder.path, to_flat(tiny(training__epochs=EPOCHS, data__num_validation=0)))
    assert values(again) == values(other)
    mine, theirs = weights(folder), weights(other)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("batches", [1, 20, 33, 60])
@pytest.mark.parametrize("save_every", [1, 4])
def test_a_training_that_was_stopped_anywhere_ends_as_one_left_alone(
    batches, save_every, trained, straight, tmp_path
):
    path = tmp_path / "stopped"
    folder, watching, is_done = trained(path, Watching(batches), save_every=save_every)
    assert not is_done
    assert watching.batches == batches
    # The last finished epoch has a checkpoint, however far apart they are.
    assert epochs_of(folder)[:1] == ([folder.last_epoch] if folder.last_epoch else [])
    folder, watching, is_done = trained(path, save_every=save_every)
    assert is_done
    assert watching.starts == [EPOCHS - len(watching.rows)]
    assert_same(folder, straight)


def test_a_finished_training_is_trained_no_further(straight, trained):
    before = (straight.path / "metrics.jsonl").read_bytes()
    _, watching, is_done = trained(straight.path)
    assert is_done
    assert (watching.starts, watching.rows, watching.batches) == ([EPOCHS], [], 0)
    assert (straight.path / "metrics.jsonl").read_bytes() == before


def test_checkpoints_are_as_far_apart_as_asked_and_the_last_epoch_has_one(trained, tmp_path):
    folder, _, _ = trained(tmp_path / "a", save_every=4)
    assert epochs_of(folder) == [6, 4]


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(
    trained, straight, tmp_path
):
    path = tmp_path / "damaged"
    folder, _, _ = trained(path, until=3)
    newest = folder.checkpoints()[0] / checkpoint.STATE_FILE
    newest.write_bytes(newest.read_bytes()[:1000])
    folder, watching, is_done = trained(path)
    assert is_done
    assert watching.starts == [2]
    assert len(watching.notes) == 1
    assert f"passed over a checkpoint: checkpoint {newest} is damaged" in watching.notes[0]
    assert_same(folder, straight)


def test_without_any_checkpoint_it_begins_anew_and_no_row_is_doubled(trained, straight, tmp_path):
    path = tmp_path / "lost"
    folder, _, _ = trained(path, until=2)
    for lost in folder.checkpoints():
        shutil.rmtree(lost)
    folder, watching, _ = trained(path)
    assert watching.starts == [0]
    assert_same(folder, straight)


def test_it_trains_no_further_than_asked(trained, tmp_path):
    folder, _, is_done = trained(tmp_path / "part", until=2, save_every=10)
    assert is_done
    assert (folder.last_epoch, epochs_of(folder)) == (2, [2])


def test_what_diverges_keeps_its_last_finished_epoch(trained, dataset, tmp_path):
    class Diverging(Watching):
        def on_batch(self) -> None:
            if len(self.rows) == 2:
                raise DivergedError("training/kl is nan at epoch 3")

    with pytest.raises(DivergedError):
        trained(tmp_path / "a", Diverging(), save_every=10)
    _, watching, _ = trained(tmp_path / "a")
    assert watching.starts == [2]


def test_a_checkpoint_that_cannot_be_written_is_told(trained, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "checkpoint_000001").touch()
    with pytest.raises(CheckpointError, match="checkpoint_000001"):
        trained(tmp_path / "a")


def test_without_evaluation_training_is_the_same(config, dataset, straight):
    trainer = make_trainer(config, dataset, is_evaluated=False)
    for epoch in range(1, EPOCHS + 1):
        found = trainer.step().metrics
        assert all(name.startswith("training/") for name in found)
        row = straight.rows[epoch].metrics
        assert {k: v for k, v in found.items() if not k.endswith("seconds")} == {
            k: v for k, v in row.items() if k.startswith("training/") and not k.endswith("seconds")
        }


def test_damaged_checkpoints_never_take_the_place_of_new_ones(trained, straight, tmp_path):
    path = tmp_path / "damaged"
    folder, _, _ = trained(path)
    assert epochs_of(folder) == [6, 5]
    for damaged in folder.checkpoints():
        (damaged / checkpoint.STATE_FILE).write_bytes(b"half")
    per_epoch = 20  # batches and metrics: more than two epochs have passed after 60
    folder, watching, is_done = trained(path, Watching(3 * per_epoch))
    assert not is_done
    assert watching.starts == [0]
    assert len(watching.rows) > 1
    last = watching.rows[-1].epoch
    assert (folder.kept_epoch, epochs_of(folder)) == (last, [last, last - 1])
    trained(path)
    assert_same(folder, straight)
