"""What a loaded data set is, and the two rules that all of them share: splits and checksums."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64, Shaped
from torch import Tensor

from tune_ddvae.config import DataConfig

# Keeps scaled pixels off 0 and 1, as in the paper's experiments.
PIXEL_MARGIN = 1e-6


@dataclass(frozen=True, eq=False)
class Split:
    """Points kept resident on the CPU; a batch is gathered from them by index.

    Attributes:
        inputs: As stored: images are unscaled (uint8, or float32 where resizing needed fractions),
            points are float32. ``Dataset.to_float`` makes of them what a model sees.
        classes: One class index per point, or None where there are none.
        factors: One row of known generative factors' indices per point, or None.
    """

    inputs: Shaped[Tensor, " num *shape"]  # the space keeps linters from reading a product
    classes: Int64[Tensor, " num"] | None
    factors: Int64[Tensor, "num factor"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """One data set, split as its configuration asks.

    Attributes:
        name: As in ``config.DATASETS``.
        validation: None where data/num_validation is 0.
        class_names: One per class index.
        checksum: Hex digest of content and splits as used; equal data, equal checksum.
        factor_sizes: Number of values of each known factor; empty when none are known.
        pixel_max: Stored value of a white pixel; None for points, which are not scaled.
    """

    name: str
    train: Split
    validation: Split | None
    test: Split
    class_names: tuple[str, ...]
    checksum: str
    factor_sizes: tuple[int, ...] = ()
    pixel_max: float | None = None

    @property
    def evaluation(self) -> Split:
        """What unprefixed metrics are measured on: validation where there is one, else test."""
        return self.test if self.validation is None else self.validation

    def to_float(self, raw: Shaped[Tensor, "*batch"]) -> Float32[Tensor, "*batch"]:
        """What a model sees of stored inputs, on whatever device they are.

        Pixels are scaled to lie strictly inside the unit interval; points stay as they are.
        """
        if self.pixel_max is None:
            return raw.to(torch.float32)
        scaled = raw.to(torch.float32) / self.pixel_max
        return scaled.clamp_(PIXEL_MARGIN, 1.0 - PIXEL_MARGIN)


def permutation(num: int, seed: int, stream: int) -> np.ndarray:
    """The order in which data/seed deals out ``num`` points; streams are independent of each other.

    Splits are cut from its ends: validation (or test) from the front, training from the back. So
    validation depends on nothing but the seed, training points do not change with its size, a
    smaller split lies inside a larger one, and the two cannot meet.
    """
    return np.random.default_rng((seed, stream)).permutation(num)


def checksum_of(*parts: bytes | str | int | np.ndarray) -> str:
    """SHA-256 over the parts, each with its length, as hex."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            data = np.ascontiguousarray(part).tobytes()
        else:
            data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def split_sizes(config: DataConfig) -> tuple[int, int, int]:
    """Numbers of training, validation and test points as used."""
    return config.train_size, config.num_validation, config.test_size
