import shutil

import pytest
import torch

from tests.training.tiny import CPU, make_trainer, tiny
from tune_ddvae.analysis.model import find_checkpoints, open_checkpoint
from tune_ddvae.data import load
from tune_ddvae.errors import CheckpointError, DataError
from tune_ddvae.metrics.evaluate import evaluate
from tune_ddvae.training import checkpoint


@pytest.fixture
def trained(tmp_path):
    """A trainer after one epoch, and its checkpoint."""
    trainer = make_trainer(tiny())
    trainer.step()
    checkpoint.save(trainer, tmp_path / "checkpoint_000001")
    return trainer, tmp_path / "checkpoint_000001"


def change(folder, **entries):
    """Other facts in a checkpoint than those that it was written with."""
    state = torch.load(folder / "state.pt")
    state["belongs_to"].update({key.replace("__", "/"): value for key, value in entries.items()})
    torch.save(state, folder / "state.pt")


def test_the_model_gives_the_numbers_that_it_gave_in_training(trained):
    trainer, folder = trained
    model = open_checkpoint(folder, device=CPU)
    assert (model.config, model.epoch, model.folder) == (trainer.config, 1, folder)
    assert not model.vae.training
    found = [
        evaluate(vae, dataset, dataset.test, trainer.config, CPU)
        for vae, dataset in ((trainer.vae, trainer.dataset), (model.vae, model.dataset))
    ]
    assert found[0] == found[1]


def test_learned_variances_of_a_prior_come_from_the_checkpoint(tmp_path):
    config = tiny(prior__kind="anisotropic", prior__learns_variance=True)
    trainer = make_trainer(config)
    trainer.step()
    checkpoint.save(trainer, tmp_path)
    codes = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    ours = open_checkpoint(tmp_path, device=CPU).vae.prior.log_prob(codes)
    assert torch.equal(ours, trainer.vae.prior.log_prob(codes))
    untrained = make_trainer(config).vae.prior.log_prob(codes)
    assert not torch.equal(ours, untrained)


def test_a_relative_folder_becomes_absolute(trained, monkeypatch):
    _, folder = trained
    monkeypatch.chdir(folder.parent)
    assert open_checkpoint(folder.relative_to(folder.parent), device=CPU).folder == folder


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=f"no checkpoint at {tmp_path}/state.pt"):
        open_checkpoint(tmp_path)


def test_weights_that_do_not_fit_the_configuration_are_damage(trained):
    _, folder = trained
    change(folder, model__latent_dim=5)
    with pytest.raises(CheckpointError, match="damaged or not one of ours"):
        open_checkpoint(folder, device=CPU)


def test_other_data_than_it_was_trained_on_are_refused_before_they_are_loaded(trained, monkeypatch):
    _, folder = trained
    change(folder, data__seed=1)
    monkeypatch.delattr("tune_ddvae.data.load")
    with pytest.raises(CheckpointError, match="gives other digits data .*--data-dir"):
        open_checkpoint(folder, device=CPU)


def test_missing_data_are_named_with_where_they_were_looked_for(trained, tmp_path):
    _, folder = trained
    change(folder, data__name="fashion_mnist")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=str(empty)):
        open_checkpoint(folder, data_dir=empty, device=CPU)


# -- finding them -----------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path):
    """A folder with the checkpoints of epochs 1 to 3; later ones were written later."""
    trainer = make_trainer(tiny())
    for number in range(3):
        trainer.step()
        checkpoint.save(trainer, tmp_path / "run" / f"checkpoint_{number:06d}")
    return tmp_path / "run"


def test_a_checkpoint_is_found_by_its_own_folder_and_by_the_one_around_it(three):
    own = three / "checkpoint_000001"
    assert find_checkpoints(own).by_epoch == {2: own}
    assert [*find_checkpoints(three).by_epoch] == [1, 2, 3]


def test_the_last_epoch_is_taken_unless_another_is_asked_for(three):
    found = find_checkpoints(three)
    assert found.at(None, "it") == three / "checkpoint_000002"
    assert found.at(1, "it") == three / "checkpoint_000000"
    with pytest.raises(CheckpointError, match="it has no checkpoint of epoch 7; .* 1, 2, 3"):
        found.at(7, "it")


def test_of_an_epoch_that_was_saved_twice_the_later_one_counts(three, tmp_path):
    again = tmp_path / "attempt" / "checkpoint_000002"
    shutil.copytree(three / "checkpoint_000002", again)
    later = (three / "checkpoint_000002" / "state.pt").stat().st_mtime + 10
    import os

    os.utime(again / "state.pt", (later, later))
    for places in ((three, again.parent), (again.parent, three)):
        assert find_checkpoints(*places).at(3, "it") == again


def test_a_damaged_one_is_passed_over_with_a_word(three):
    (three / "checkpoint_000002" / "state.pt").write_bytes(b"half of a file")
    found = find_checkpoints(three)
    assert found.at(None, "it") == three / "checkpoint_000001"
    assert len(found.problems) == 1
    assert f"{three}/checkpoint_000002/state.pt is damaged" in found.problems[0]


def test_nothing_but_damaged_ones_is_said_with_all_of_them(three):
    for file in three.glob("*/state.pt"):
        file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="it has no checkpoint; .*000000.*; .*; .*000002"):
        find_checkpoints(three).at(None, "it")


def test_an_empty_folder_is_refused_with_what_a_checkpoint_is(tmp_path):
    with pytest.raises(CheckpointError, match=r"the folder has no checkpoint; name .* state\.pt"):
        find_checkpoints(tmp_path).at(None, "the folder")


def test_the_data_of_the_model_are_those_that_are_here(trained):
    trainer, folder = trained
    assert (
        open_checkpoint(folder, device=CPU).dataset.checksum == load(trainer.config.data).checksum
    )
