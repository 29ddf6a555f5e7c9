import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tune_ddvae.config import DataConfig
from tune_ddvae.data import dsprites, sources
from tune_ddvae.data.dataset import Dataset, Split
from tune_ddvae.data.sprites_archive import NAME, download_path, find_given
from tune_ddvae.errors import DataError

CONFIG = DataConfig(name="dsprites", num_train=100, num_validation=20, num_test=30)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(url: str, _path: Path) -> None:
        raise AssertionError(f"{url} was asked for")

    monkeypatch.setattr(sources, "_fetch", refuse)


@pytest.fixture
def load(few_sprites):
    def loaded(**changes) -> Dataset:
        return dsprites.load(dataclasses.replace(CONFIG, **changes), None, few_sprites)

    return loaded


@pytest.fixture
def given(fake_archive, tmp_path) -> Path:
    return fake_archive.write(tmp_path / "given")


@pytest.fixture
def as_published(given, few_sprites):
    """A source that takes the fake archive for the published one."""
    return dataclasses.replace(few_sprites, blob_id=find_given(given, few_sprites).blob_id)


def images(split: Split) -> list[bytes]:
    return [image.numpy().tobytes() for image in split.head(len(split))]


def test_splits_are_of_the_sizes_asked_for_and_share_no_place_in_the_grid(load, few_sprites):
    # Of two orientations that look the same, one may be trained on and the other tested.
    train, validation, test = map(set, dsprites._rows(CONFIG, few_sprites))
    assert (len(train), len(validation), len(test)) == (100, 20, 30)
    assert len(train | validation | test) == 150
    assert list(map(len, (load().train, load().validation, load().test))) == [100, 20, 30]


def test_all_images_are_used_when_none_are_left_out(few_sprites):
    config = DataConfig(name="dsprites", num_train=176, num_test=40)
    train, validation, test = dsprites._rows(config, few_sprites)
    assert sorted([*train, *test]) == list(range(216))
    assert len(validation) == 0
    loaded = dsprites.load(config, None, few_sprites)
    assert loaded.validation is None
    assert loaded.evaluation is loaded.test


def test_splits_follow_from_the_data_seed_alone(load):
    assert images(load(seed=1).test) == images(load(seed=1).test)
    assert images(load(seed=1).test) != images(load(seed=0).test)
    assert set(images(load(num_train=50).train)) < set(images(load().train))
    assert images(load(num_validation=0).train) == images(load().train)
    assert images(load(num_train=2).validation) == images(load().validation)
    assert images(load(num_test=5).test) == images(load().test)[:5]


def test_class_is_the_shape_of_the_image(load):
    data = load()
    of_grid = dict(zip(images(Split(data.grid.inputs, None)), range(216), strict=False))
    for split in (data.train, data.validation, data.test):
        shapes = [of_grid[image] // 72 for image in images(split)]
        assert split.classes.tolist() == shapes
    assert data.class_names == ("square", "ellipse", "heart")


def test_model_sees_zeros_and_ones_of_the_image(load):
    data = load()
    seen = data.to_float(data.train.head(3))
    assert seen.shape == (3, 1, 64, 64)
    assert seen.dtype == torch.float32
    expected = np.unpackbits(data.train.head(3).numpy(), axis=1).reshape(3, 1, 64, 64)
    np.testing.assert_array_equal(seen, expected)


def test_grid_and_training_images_are_one_mapping_and_small_splits_copies(load):
    data = load()
    assert data.grid.inputs.data_ptr() == data.train.inputs.data_ptr()
    assert data.grid.inputs.shape == (216, 512)
    assert data.grid.sizes == (3, 2, 4, 3, 3)
    assert len(data.grid.names) == 5
    assert data.grid.unordered == {"shape"}
    assert (len(data.validation.inputs), len(data.test.inputs)) == (20, 30)


def test_one_cached_file_serves_every_seed_and_split(load, few_sprites, tmp_path):
    load(seed=0)
    load(seed=1, num_train=7)
    assert len(list((tmp_path / "cache").rglob("*.bin"))) == 1


def test_damaged_cache_is_drawn_again(load, few_sprites):
    path = dsprites.prepare(CONFIG, None, few_sprites)
    before = images(load().train)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert images(load().train) == before


def test_checksum_tells_splits_apart_and_needs_no_image(load, few_sprites, tmp_path):
    variants = [{}, {"seed": 1}, {"num_train": 99}, {"num_validation": 19}, {"num_test": 29}]
    checksums = {
        dsprites.checksum(dataclasses.replace(CONFIG, **changes), None, few_sprites)
        for changes in variants
    }
    assert len(checksums) == len(variants)
    assert not (tmp_path / "cache").exists()
    assert load().checksum in checksums


def test_drawn_images_are_called_drawn_everywhere(load, few_sprites):
    data = load()
    place = dsprites.place(None, few_sprites)
    assert place.startswith("drawn dSprites, same grid")
    assert "python -m tune_ddvae.data dsprites --fetch" in place
    assert data.origin == place
    assert data.checksum.startswith("drawn-")
    assert dsprites.prepare(CONFIG, None, few_sprites).name.startswith("drawn-")


def test_given_archive_is_used_and_named(given, few_sprites, fake_archive):
    data = dsprites.load(CONFIG, given, few_sprites)
    np.testing.assert_array_equal(
        np.unpackbits(data.grid.inputs.numpy(), axis=1),
        fake_archive.arrays["imgs"].reshape(216, -1),
    )
    assert data.origin.startswith(str(given / NAME))
    assert "drawn" not in data.checksum
    assert data.checksum == dsprites.checksum(CONFIG, given, few_sprites)


def test_archive_that_is_not_the_published_one_says_so(given, few_sprites, as_published):
    assert "not the published file" in dsprites.place(given, few_sprites)
    assert dsprites.place(given, as_published) == str(given / NAME)


def test_folder_in_the_environment_counts_as_given(given, few_sprites, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNE_DDVAE_DATA", str(given))
    assert dsprites.place(None, few_sprites).startswith(str(given / NAME))
    monkeypatch.setenv("TUNE_DDVAE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=f"{tmp_path}/nowhere/{NAME}"):
        dsprites.prepare(CONFIG, None, few_sprites)


def test_damaged_archive_is_refused_even_where_the_cache_would_do(given, few_sprites, tmp_path):
    dsprites.prepare(CONFIG, given, few_sprites)
    content = bytearray((given / NAME).read_bytes())
    content[3_000] ^= 1
    (given / NAME).write_bytes(content)
    with pytest.raises(DataError, match=f"{given / NAME} is damaged"):
        dsprites.prepare(CONFIG, given, few_sprites)
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_study_of_drawn_images_notices_that_the_archive_has_come(given, as_published):
    drawn = dsprites.checksum(CONFIG, None, as_published)
    download_path().parent.mkdir(parents=True)
    (given / NAME).rename(download_path())
    assert dsprites.checksum(CONFIG, None, as_published) != drawn
    assert dsprites.place(None, as_published) == str(download_path())


def test_packed_images_of_the_published_archive_outlive_it(given, as_published):
    data = dsprites.load(CONFIG, given, as_published)
    (given / NAME).unlink()
    left = dsprites.load(CONFIG, None, as_published)
    assert left.checksum == data.checksum
    assert torch.equal(left.train.head(100), data.train.head(100))
    assert "published archive" in left.origin


def test_damaged_rest_of_an_archive_is_not_replaced_by_drawing(given, as_published):
    path = dsprites.prepare(CONFIG, given, as_published)
    (given / NAME).unlink()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=f"{path} is damaged.*--data-dir.*--fetch.*delete the file"):
        dsprites.load(CONFIG, None, as_published)


def test_what_lies_here_is_verified_and_nothing_is_made(given, as_published, tmp_path):
    def found(folder: Path | None = None) -> str:
        return dsprites.found(CONFIG, folder, as_published)

    assert found().startswith("drawn")
    assert found(given) == str(given / NAME)
    assert not list(tmp_path.rglob("*.bin"))
    path = dsprites.prepare(CONFIG, given, as_published)
    assert found() == f"{path}, from the published archive"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=f"{path} is damaged"):
        found()
    assert found(given) == str(given / NAME)  # that makes it again


def test_cache_that_cannot_be_used_is_named_with_its_mend(few_sprites, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNE_DDVAE_CACHE", str(tmp_path / ("x" * 300)))
    assert dsprites.place(None, few_sprites).startswith("drawn")
    with pytest.raises(DataError, match="cannot write the data cache.*set TUNE_DDVAE_CACHE"):
        dsprites.prepare(CONFIG, None, few_sprites)


def test_full_grid_has_the_published_sizes_and_order(full_sprites):
    grid = full_sprites.grid
    assert grid.inputs.shape == (737_280, 512)
    assert grid.sizes == (3, 6, 40, 32, 32)
    assert grid.names == ("shape", "scale", "orientation", "position x", "position y")
    # ((shape * 6 + scale) * 40 + orientation) * 1024 + x * 32 + y: a square of scale 1, far right.
    raw = grid.inputs[[(5 * 40 + 0) * 1024 + 31 * 32 + 0]]
    rows, columns = full_sprites.to_float(raw)[0, 0].nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (6, 25, 38, 57)
