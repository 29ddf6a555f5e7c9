"""What a loaded data set is, and the two rules that all of them share: splits and checksums."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64, Shaped
from torch import Tensor

from tune_ddvae.config import DataConfig

# Keeps scaled pixels off 0 and 1, as in the paper's experiments.
PIXEL_MARGIN = 1e-6
_LONG_FACTOR = 8  # values from which a coarser grid leaves some out


@dataclass(frozen=True, eq=False)
class Split:
    """Points kept resident on the CPU; a batch is gathered from them by index.

    Attributes:
        inputs: As stored: images are unscaled (uint8, or float32 where resizing needed fractions),
            points are float32. ``Dataset.to_float`` makes of them what a model sees.
        classes: One class index per point, or None where there are none.
        rows: Where in ``inputs`` each point lies, for inputs that a node holds once for several
            purposes; None: the points are the inputs.
    """

    inputs: Shaped[Tensor, " stored *shape"]  # the space keeps linters from reading a product
    classes: Int64[Tensor, " num"] | None
    rows: Int64[Tensor, " num"] | None = None

    def __len__(self) -> int:
        """Number of points."""
        return len(self.inputs if self.rows is None else self.rows)

    def gather(self, which: Int64[Tensor, " batch"]) -> Shaped[Tensor, " batch *shape"]:
        """Stored inputs of these points, on the inputs' device."""
        return self.inputs.index_select(0, which if self.rows is None else self.rows[which])

    def head(self, num: int) -> Shaped[Tensor, " batch *shape"]:
        """Stored inputs of the first points, all of them if there are fewer."""
        if self.rows is None:
            return self.inputs[:num]
        return self.inputs.index_select(0, self.rows[:num])


@dataclass(frozen=True, eq=False)
class FactorGrid:
    """Every combination of known generative factors, once.

    Attributes:
        inputs: Stored inputs in the order of the grid, the last factor changing fastest.
        sizes: Number of values of each factor.
        names: One per factor.
        unordered: Those whose values have no order, a shape for instance: they are told apart, where
            the value of others is predicted.
    """

    inputs: Shaped[Tensor, " points *shape"]
    sizes: tuple[int, ...]
    names: tuple[str, ...]
    unordered: frozenset[str] = frozenset()

    def strided(self, stride: int) -> tuple[Int64[Tensor, " rows"], tuple[int, ...]]:
        """Rows of a coarser grid, and its sizes: every ``stride``-th value of the long factors.

        Factors of fewer than 8 values keep them all. A stride of 1 is the whole grid.
        """
        kept = [range(0, size, stride if size >= _LONG_FACTOR else 1) for size in self.sizes]
        steps = [math.prod(self.sizes[factor + 1 :]) for factor in range(len(self.sizes))]
        rows = torch.zeros(1, dtype=torch.int64)
        for values, step in zip(kept, steps, strict=True):
            rows = (rows[:, None] + torch.tensor(list(values)) * step).flatten()
        return rows, tuple(map(len, kept))


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """One data set, split as its configuration asks.

    Attributes:
        name: As in ``config.DATASETS``.
        validation: None where data/num_validation is 0.
        class_names: One per class index.
        checksum: Hex digest of content and splits as used; equal data, equal checksum.
        origin: Where the content is from, for data that may be one of several under one name.
        grid: All combinations of the known generative factors; None where none are known.
        pixel_max: Stored value of a white pixel; None for points, which are not scaled.
        packed_shape: Shape of an image that is stored eight pixels to a byte; else None.
    """

    name: str
    train: Split
    validation: Split | None
    test: Split
    class_names: tuple[str, ...]
    checksum: str
    origin: str = ""
    grid: FactorGrid | None = None
    pixel_max: float | None = None
    packed_shape: tuple[int, ...] | None = None

    @property
    def evaluation(self) -> Split:
        """What unprefixed metrics are measured on: validation where there is one, else test."""
        return self.test if self.validation is None else self.validation

    def to_float(self, raw: Shaped[Tensor, " batch *shape"]) -> Float32[Tensor, " batch *seen"]:
        """What a model sees of stored inputs, on whatever device they are.

        Pixels are scaled to lie strictly inside the unit interval, packed ones are 0 or 1; points
        stay as they are.
        """
        if self.packed_shape is not None:
            return _unpacked(raw, self.packed_shape)
        if self.pixel_max is None:
            return raw.to(torch.float32)
        scaled = raw.to(torch.float32) / self.pixel_max
        return scaled.clamp_(PIXEL_MARGIN, 1.0 - PIXEL_MARGIN)


def _unpacked(
    packed: Shaped[Tensor, "batch bytes"], shape: tuple[int, ...]
) -> Float32[Tensor, " batch *shape"]:
    """Pixels of 0 and 1 from bytes whose highest bit is the first pixel, as numpy packs them."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    bits = packed[..., None].bitwise_right_shift(shifts).bitwise_and_(1)
    return bits.view(len(packed), *shape).to(torch.float32)


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
