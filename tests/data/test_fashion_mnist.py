import dataclasses
from pathlib import Path

import pytest
import torch

from tune_ddvae.config import DataConfig
from tune_ddvae.data import fashion_mnist
from tune_ddvae.data.dataset import Dataset, Split

installed = pytest.mark.skipif(
    not fashion_mnist.FASHION_MNIST.system_dir.is_dir(), reason="dataset-fashion-mnist is absent"
)


@pytest.fixture
def given(fake_files, tmp_path) -> Path:
    return fake_files.write(tmp_path / "given")


@pytest.fixture
def load(fake_files, given, config):
    def loaded(**changes) -> Dataset:
        return fashion_mnist.load(dataclasses.replace(config, **changes), given, fake_files.source)

    return loaded


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Dataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNE_DDVAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("TUNE_DDVAE_DATA", raising=False)
        return fashion_mnist.load(DataConfig(num_validation=5_000))


def greys(split: Split) -> set[int]:
    """The images' greys, each of which stands for one image of the fake files."""
    values = split.inputs.flatten(1).unique(dim=1)
    assert values.shape[1] == 1
    return set(values.flatten().tolist())


def test_splits_are_disjoint_and_of_the_sizes_asked_for(load):
    data = load()
    assert [len(greys(s)) for s in (data.train, data.validation, data.test)] == [20, 8, 10]
    assert not greys(data.train) & greys(data.validation)
    assert min(greys(data.test)) >= 200  # from the test files
    assert max(greys(data.train) | greys(data.validation)) < 40


def test_class_goes_with_its_image(load):
    for split in (load().train, load().validation, load().test):
        assert torch.equal(split.inputs[:, 0, 0, 0].long() % 10, split.classes)


def test_validation_does_not_depend_on_the_number_of_training_points(load):
    few, many = load(num_train=2), load(num_train=32)
    assert torch.equal(few.validation.inputs, many.validation.inputs)
    assert greys(few.train) < greys(many.train)


def test_training_points_do_not_depend_on_the_number_of_validation_points(load):
    assert torch.equal(load(num_validation=0).train.inputs, load().train.inputs)


def test_splits_follow_from_the_data_seed_alone(load):
    assert greys(load(seed=0).validation) != greys(load(seed=1).validation)
    assert torch.equal(load(seed=1).train.inputs, load(seed=1).train.inputs)


def test_all_points_are_used_when_none_are_left_out(load):
    data = load(num_train=40, num_validation=0, num_test=12)
    assert greys(data.train) == set(range(40))
    assert greys(data.test) == set(range(200, 212))
    assert data.validation is None
    assert data.evaluation is data.test


def test_splits_are_slices_of_one_mapping_not_copies(load):
    data = load(num_train=32)
    first = data.validation.inputs.data_ptr()
    assert data.train.inputs.data_ptr() - first == 8 * 32 * 32
    assert data.test.inputs.data_ptr() - first == 40 * 32 * 32


def test_damaged_cache_is_made_again(load, fake_files, given, config):
    path = fashion_mnist.prepare(config, given, fake_files.source)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert len(greys(load().train)) == 20


def test_other_content_has_another_cache_file_and_checksum(fake_files, config):
    other = dataclasses.replace(
        fake_files.source, sha256={**fake_files.source.sha256, fashion_mnist.TEST_IMAGES: "0" * 64}
    )
    sums = {fashion_mnist.checksum(config, None, source) for source in (fake_files.source, other)}
    assert len(sums) == 2


def test_checksum_tells_splits_apart_and_reads_no_file(fake_files, config, load):
    def checksum(**changes) -> str:
        changed = dataclasses.replace(config, **changes)
        return fashion_mnist.checksum(changed, Path("/nowhere"), fake_files.source)

    assert checksum() == load().checksum
    variants = [{}, {"seed": 1}, {"num_train": 19}, {"num_validation": 7}, {"num_test": 9}]
    assert len({checksum(**changes) for changes in variants}) == len(variants)
    assert fashion_mnist.checksum(DataConfig()) == fashion_mnist.checksum(
        DataConfig(num_train=60_000, num_test=10_000)
    )


@installed
def test_pixels_lie_strictly_inside_the_unit_interval(real):
    pixels = real.to_float(real.test.inputs)
    assert pixels.dtype == torch.float32
    assert 0.0 < pixels.min() < 1e-5
    assert 1.0 - 1e-5 < pixels.max() < 1.0
    assert pixels.mean() == pytest.approx(0.2868, abs=1e-3)  # published for the 28x28 test images


@installed
def test_real_images_are_whole_and_stay_bytes(real):
    assert real.train.inputs.shape == (55_000, 1, 32, 32)
    assert real.train.inputs.dtype == torch.uint8
    every = torch.cat((real.train.classes, real.validation.classes))
    assert every.bincount().tolist() == [6_000] * 10
    assert real.test.classes.bincount().tolist() == [1_000] * 10
    assert len(real.class_names) == 10


@installed
def test_resizing_keeps_an_image_upright_and_centred(real):
    trousers = real.to_float(real.test.inputs[real.test.classes == 1]).mean(dim=(0, 1))
    assert trousers[:, 12:20].mean() > 3 * trousers[:, :8].mean()  # taller than wide
