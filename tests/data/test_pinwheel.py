import numpy as np
import pytest
import torch

from tune_ddvae.config import DataConfig
from tune_ddvae.data import pinwheel
from tune_ddvae.errors import ConfigError

CONFIG = DataConfig(name="pinwheel", num_validation=400)


def test_undoing_the_turn_gives_back_the_published_statistics():
    draws = [pinwheel.draw(seed, 0) for seed in range(25)]
    plane = np.concatenate([points[:, 0] + 1j * points[:, 1] for points, _ in draws])
    arms = np.concatenate([arms for _, arms in draws])
    # The length stands for r, being within t^2 / 2r = .005 of it.
    turn = 2 * np.pi * arms / 4 + 0.25 * np.exp(np.abs(plane))
    straight = plane * np.exp(-1j * turn)
    assert straight.real.mean() == pytest.approx(1.0, abs=0.02)
    assert straight.real.std() == pytest.approx(0.3, abs=0.02)
    assert straight.imag.mean() == pytest.approx(0.0, abs=0.01)
    assert straight.imag.std() == pytest.approx(0.1, abs=0.01)


def test_arms_are_quarter_turns_of_each_other():
    points, arms = pinwheel.draw(0, 0)
    centres = np.stack([points[arms == arm].mean(0) for arm in range(4)])
    quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
    np.testing.assert_allclose(centres[1:], centres[:-1] @ quarter.T, atol=0.12)


def test_every_arm_has_a_hundred_points():
    data = pinwheel.load(CONFIG)
    for split in (data.train, data.validation, data.test):
        assert split.classes.bincount().tolist() == [100] * 4
        assert split.inputs.dtype == torch.float32


def test_fewer_points_are_an_even_share_of_each_arm():
    few = pinwheel.load(DataConfig(name="pinwheel", num_train=40, num_test=8))
    assert few.train.classes.bincount().tolist() == [10] * 4
    assert few.test.classes.bincount().tolist() == [2] * 4
    assert torch.equal(few.train.inputs, pinwheel.load(CONFIG).train.inputs[:40])


def test_training_validation_and_test_are_different_draws():
    data = pinwheel.load(CONFIG)
    assert not torch.equal(data.train.inputs, data.validation.inputs)
    assert not torch.equal(data.train.inputs, data.test.inputs)
    assert not torch.equal(data.validation.inputs, data.test.inputs)


def test_points_follow_from_the_data_seed_alone():
    torch.manual_seed(1)
    first = pinwheel.load(CONFIG)
    torch.manual_seed(2)
    assert torch.equal(first.train.inputs, pinwheel.load(CONFIG).train.inputs)
    other = pinwheel.load(DataConfig(name="pinwheel", num_validation=400, seed=1))
    assert not torch.equal(first.train.inputs, other.train.inputs)
    assert first.checksum != other.checksum


def test_points_are_not_scaled():
    data = pinwheel.load(CONFIG)
    assert torch.equal(data.to_float(data.train.inputs), data.train.inputs)


def test_more_points_than_a_draw_has_are_refused():
    with pytest.raises(ConfigError, match="at most 400"):
        pinwheel.load(DataConfig(name="pinwheel", num_validation=401))
