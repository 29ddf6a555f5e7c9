import json

import pytest
import torch

from tests.training.tiny import CPU, bit_flipped, make_trainer, numbers, run, tiny
from tune_ddvae.config import to_flat
from tune_ddvae.errors import CheckpointError
from tune_ddvae.training import checkpoint


def test_a_checkpoint_resumes_where_training_stopped(config, tmp_path):
    straight = make_trainer(config)
    straight.step()
    checkpoint.save(straight, tmp_path)
    expected = run(straight)

    resumed = make_trainer(config)
    checkpoint.load(resumed, tmp_path)
    assert resumed.epoch == config.training.evaluate_every
    assert run(resumed) == expected


def test_a_checkpoint_of_another_kind_of_device_goes_on_with_fresh_noise():
    trainer, other = make_trainer(tiny()), make_trainer(tiny())
    trainer.step()
    state = trainer.state_dict() | {"device": "cuda", "noise": torch.zeros(16, dtype=torch.uint8)}
    other.load_state_dict(state)
    assert other.epoch == 1
    assert other.step().epoch == 2


def test_it_opens_with_the_safe_loader_and_no_more_files_are_left(tmp_path):
    checkpoint.save(make_trainer(tiny()), tmp_path)
    state = torch.load(tmp_path / "state.pt")  # weights_only is torch's default
    assert state["trainer"]["epoch"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "state.pt"]


def test_the_configuration_can_be_read_beside_it(tmp_path):
    config = tiny(objective__beta=0.1 + 0.2)
    checkpoint.save(make_trainer(config), tmp_path)
    assert to_flat(config).items() <= json.loads((tmp_path / "config.json").read_text()).items()


def test_saving_again_replaces_it(tmp_path):
    trainer = make_trainer(tiny())
    for _ in range(2):
        trainer.step()
        checkpoint.save(trainer, tmp_path / "a" / "b")
    other = make_trainer(tiny())
    checkpoint.load(other, tmp_path / "a" / "b")
    assert other.epoch == 2


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=f"no checkpoint at {tmp_path}/state.pt"):
        checkpoint.load(make_trainer(tiny()), tmp_path)


@pytest.mark.parametrize(
    "damage", [bit_flipped, lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"no zip"]
)
def test_a_damaged_checkpoint_is_named_and_leaves_the_trainer_alone(damage, tmp_path):
    trainer = make_trainer(tiny())
    trainer.step()
    checkpoint.save(trainer, tmp_path)
    path = tmp_path / "state.pt"
    path.write_bytes(damage(path.read_bytes()))

    other = make_trainer(tiny())
    with pytest.raises(CheckpointError, match=f"{path} is damaged"):
        checkpoint.load(other, tmp_path)
    assert numbers(other.step()) == numbers(make_trainer(tiny()).step())


@pytest.mark.parametrize("content", [[1, 2], {"belongs_to": {}}, {"weights": torch.ones(2)}])
def test_a_foreign_file_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="not one of ours|another configuration"):
        checkpoint.load(make_trainer(tiny()), tmp_path)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"belongs_to": print}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="damaged or not one of ours"):
        checkpoint.load(make_trainer(tiny()), tmp_path)


def test_another_configuration_is_refused_by_its_key(tmp_path):
    checkpoint.save(make_trainer(tiny(model__latent_dim=5)), tmp_path)
    with pytest.raises(CheckpointError, match="model/latent_dim is 5 there, 4 here"):
        checkpoint.load(make_trainer(tiny()), tmp_path)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=f"checkpoint into {tmp_path}/file"):
        checkpoint.save(make_trainer(tiny()), tmp_path / "file")


def test_the_model_can_be_read_without_a_trainer(tmp_path):
    trainer = make_trainer(tiny(objective__beta=0.1 + 0.2))
    trainer.step()
    checkpoint.save(trainer, tmp_path)
    stored = checkpoint.read(tmp_path, CPU)
    assert stored.config == trainer.config
    assert (stored.epoch, stored.checksum) == (1, trainer.dataset.checksum)
    expected = trainer.vae.state_dict()
    assert stored.vae.keys() == expected.keys()
    assert all(torch.equal(stored.vae[name], expected[name]) for name in expected)
    assert checkpoint.epoch_of(tmp_path) == 1


@pytest.mark.parametrize("content", [[1, 2], {"belongs_to": {}}, {"trainer": {"epoch": "3"}}])
def test_a_foreign_file_cannot_be_read(content, tmp_path):
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=f"{tmp_path}/state.pt is damaged or not one of ours"):
        checkpoint.read(tmp_path, CPU)


def test_a_configuration_of_another_version_is_named(tmp_path):
    checkpoint.save(make_trainer(tiny()), tmp_path)
    state = torch.load(tmp_path / "state.pt")
    state["belongs_to"]["prior/skew"] = 2.0
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"does not know: unknown key 'prior/skew'"):
        checkpoint.read(tmp_path, CPU)
