"""A Fashion-MNIST and a dSprites of a few images, and a data cache that nobody else sees."""

import dataclasses
import gzip
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tune_ddvae import data
from tune_ddvae.config import DataConfig
from tune_ddvae.data import dsprites, fashion_mnist
from tune_ddvae.data.dataset import Dataset
from tune_ddvae.data.sources import Source
from tune_ddvae.data.sprites_archive import NAME, SpriteSource
from tune_ddvae.data.sprites_drawn import draw, factor_values

NUM_TRAIN, NUM_TEST = 40, 12
REPOSITORY = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class FakeFiles:
    contents: dict[str, bytes]
    source: Source  # expects these contents; its Debian folder and mirrors hold nothing

    def write(self, folder: Path, *, gzipped: bool = True) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.contents.items():
            if gzipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
        return folder


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_DDVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TUNE_DDVAE_DATA", raising=False)
    monkeypatch.delenv("TUNE_DDVAE_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def fake_files(tmp_path: Path) -> FakeFiles:
    """Each image is of one grey, its own; its class is that grey modulo 10."""
    contents = {
        fashion_mnist.TRAIN_IMAGES: _images(range(NUM_TRAIN)),
        fashion_mnist.TRAIN_LABELS: _labels(range(NUM_TRAIN)),
        fashion_mnist.TEST_IMAGES: _images(range(200, 200 + NUM_TEST)),
        fashion_mnist.TEST_LABELS: _labels(range(200, 200 + NUM_TEST)),
    }
    source = dataclasses.replace(
        fashion_mnist.FASHION_MNIST,
        num_train=NUM_TRAIN,
        num_test=NUM_TEST,
        sha256={name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
        system_dir=tmp_path / "no-package",
        mirrors=("http://127.0.0.1:1/",),  # nothing listens there
    )
    return FakeFiles(contents, source)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@dataclasses.dataclass(frozen=True)
class FakeArchive:
    arrays: dict[str, np.ndarray]
    trap: Path  # is there once metadata has been unpickled

    def write(self, folder: Path, *, compressed: bool = True, **changes: np.ndarray | None) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {**self.arrays, "metadata": np.array(Trap(self.trap), dtype=object), **changes}
        save = np.savez_compressed if compressed else np.savez
        save(folder / NAME, **{key: array for key, array in arrays.items() if array is not None})
        return folder


@pytest.fixture
def few_sprites() -> SpriteSource:
    """A grid of 216 images; nothing listens where they could be fetched from."""
    return dataclasses.replace(
        dsprites.DSPRITES, sizes=(3, 2, 4, 3, 3), num_test=40, mirrors=("http://127.0.0.1:1/",)
    )


@pytest.fixture
def fake_archive(few_sprites: SpriteSource, tmp_path: Path) -> FakeArchive:
    """Like the published one but for its size; inverted, so as not to be taken for drawn."""
    sizes = few_sprites.sizes
    drawn = np.unpackbits(np.concatenate(list(draw(sizes))), axis=1)
    classes = np.indices((1, *sizes)).reshape(6, -1).T
    of_factor = (np.ones(1), *factor_values(sizes))
    arrays = {
        "imgs": 1 - drawn.reshape(-1, 64, 64),
        "latents_values": np.stack([v[c] for v, c in zip(of_factor, classes.T, strict=True)], 1),
        "latents_classes": classes.astype(np.int64),
    }
    return FakeArchive(arrays, tmp_path / "unpickled")


@pytest.fixture(scope="session")
def full_sprites_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data cache with all of drawn dSprites; made by the command, in ten seconds.

    Within the tests, which check every call's shapes, it would take twice as long.
    """
    folder = tmp_path_factory.mktemp("sprites")
    environment = {**os.environ, "TUNE_DDVAE_CACHE": str(folder)}
    environment.pop("TUNE_DDVAE_DATA", None)
    command = [sys.executable, "-m", "tune_ddvae.data", "dsprites"]
    done = subprocess.run(
        command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert f"dsprites is ready: {folder}" in done.stdout
    assert "drawn dSprites, same grid" in done.stdout
    return folder


@pytest.fixture
def full_sprites(full_sprites_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setenv("TUNE_DDVAE_CACHE", str(full_sprites_cache))
    return data.load(DataConfig(name="dsprites"))


@pytest.fixture
def config() -> DataConfig:
    return DataConfig(num_train=20, num_validation=8, num_test=10)


def _images(greys: range) -> bytes:
    header = np.array([0x803, len(greys), 28, 28], ">i4").tobytes()
    return header + b"".join(bytes([grey]) * (28 * 28) for grey in greys)


def _labels(greys: range) -> bytes:
    return np.array([0x801, len(greys)], ">i4").tobytes() + bytes(grey % 10 for grey in greys)
