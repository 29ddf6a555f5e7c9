"""A Fashion-MNIST of a few images, and a data cache that nobody else sees."""

import dataclasses
import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from tune_ddvae.config import DataConfig
from tune_ddvae.data import fashion_mnist
from tune_ddvae.data.sources import Source

NUM_TRAIN, NUM_TEST = 40, 12


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


@pytest.fixture
def config() -> DataConfig:
    return DataConfig(num_train=20, num_validation=8, num_test=10)


def _images(greys: range) -> bytes:
    header = np.array([0x803, len(greys), 28, 28], ">i4").tobytes()
    return header + b"".join(bytes([grey]) * (28 * 28) for grey in greys)


def _labels(greys: range) -> bytes:
    return np.array([0x801, len(greys)], ">i4").tobytes() + bytes(grey % 10 for grey in greys)
