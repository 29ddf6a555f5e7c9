import pytest
import torch

from tune_ddvae.config import DataConfig
from tune_ddvae.data import digits

CONFIG = DataConfig(name="digits", num_validation=250)


def rows(images: torch.Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in images.flatten(1).tolist()}


def test_splits_share_no_image_and_use_all():
    data = digits.load(CONFIG)
    parts = [rows(split.inputs) for split in (data.train, data.validation, data.test)]
    assert [len(part) for part in parts] == [1_297, 250, 250]
    assert len(set.union(*parts)) == 1_797


def test_pixels_lie_strictly_inside_the_unit_interval():
    data = digits.load(CONFIG)
    pixels = data.to_float(data.train.inputs)
    assert pixels.shape == (1_297, 1, 16, 16)
    assert 0.0 < pixels.min() < 1e-5
    assert 1.0 - 1e-5 < pixels.max() < 1.0
    assert pixels.mean() == pytest.approx(0.305, abs=0.01)  # of the 8x8 images


def test_scaling_leaves_the_resident_images_as_they_are():
    data = digits.load(CONFIG)
    before = data.train.inputs.clone()
    data.to_float(data.train.inputs)
    assert torch.equal(data.train.inputs, before)
    assert data.train.inputs.max() == 16.0


def test_test_images_do_not_depend_on_the_other_sizes():
    whole = digits.load(DataConfig(name="digits"))
    small = digits.load(DataConfig(name="digits", num_train=50, num_validation=90, num_test=30))
    assert torch.equal(small.test.inputs, whole.test.inputs[:30])
    assert torch.equal(small.train.inputs, whole.train.inputs[-50:])
    assert rows(small.validation.inputs) < rows(whole.train.inputs)


def test_splits_follow_from_the_data_seed_alone():
    other = DataConfig(name="digits", num_validation=250, seed=1)
    assert torch.equal(digits.load(CONFIG).test.inputs, digits.load(CONFIG).test.inputs)
    assert rows(digits.load(CONFIG).test.inputs) != rows(digits.load(other).test.inputs)
    assert digits.checksum(CONFIG) != digits.checksum(other)


def test_class_goes_with_its_image():
    data = digits.load(CONFIG)
    nearest = torch.cdist(data.test.inputs.flatten(1), data.train.inputs.flatten(1)).argmin(1)
    agree = (data.train.classes[nearest] == data.test.classes).float().mean()
    assert agree > 0.95  # one nearest neighbour is right that often on these images
