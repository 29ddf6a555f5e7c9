"""Generative factors on their grid, by arithmetic on the place of a point: no mask over the data."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from tune_ddvae.errors import AbsentMetric
from tune_ddvae.metrics.latent import check_codes


def grid_factors(sizes: tuple[int, ...]) -> Int64[Tensor, "points factor"]:
    """The value's index of each factor at each point of the grid, the last one changing fastest."""
    return torch.stack(torch.unravel_index(torch.arange(math.prod(sizes)), sizes), 1)


def check_grid(codes: Float[Tensor, "points latent"], sizes: tuple[int, ...]) -> None:
    """Refuse codes that are not one finite code for each point of the grid.

    Raises:
        AbsentMetric: If a code is not finite, or there is but one.
        ValueError: If the codes are not one per point of the grid.
    """
    if math.prod(sizes) != len(codes):
        raise ValueError(
            f"codes must cover the factor grid, {math.prod(sizes)} points, got {len(codes)}"
        )
    check_codes(codes)


def unit_range(codes: Float[Tensor, "points latent"]) -> Float64[Tensor, "points varying"]:
    """The dimensions that vary at all, each shifted and scaled to reach from 0 to 1.

    What is measured on these codes does not change with a dimension's scale, nor with one that is
    constant.

    Raises:
        AbsentMetric: If a code is not finite, or there is but one.
    """
    check_codes(codes)
    low, high = codes.amin(0), codes.amax(0)
    varies = high > low
    low, high = low[varies].double(), high[varies].double()
    return (codes[:, varies].double() - low) / (high - low)


@dataclass(frozen=True)
class Axes:
    """The factors of a grid that have more than one value: those that can be held fixed.

    Attributes:
        strides: Points of the flattened grid from one value to the next.
        sizes: Number of values.
    """

    strides: Int64[Tensor, " factor"]
    sizes: Int64[Tensor, " factor"]

    @classmethod
    def of(cls, sizes: tuple[int, ...], device: torch.device) -> "Axes":
        """Of a grid of these sizes.

        Raises:
            AbsentMetric: If there are fewer than two such factors: nothing is to be told apart.
        """
        factors = [factor for factor, size in enumerate(sizes) if size > 1]
        if len(factors) < 2:
            raise AbsentMetric(
                f"needs at least two factors of more than one value, got {len(factors)}"
            )
        strides = [math.prod(sizes[factor + 1 :]) for factor in factors]
        return cls(
            torch.tensor(strides, device=device),
            torch.tensor([sizes[factor] for factor in factors], device=device),
        )

    def __len__(self) -> int:
        """Number of factors."""
        return len(self.sizes)

    def with_value_of(
        self,
        donors: Int64[Tensor, " vote #group"],
        points: Int64[Tensor, "vote group"],
        factor: Int64[Tensor, "vote 1"],
    ) -> Int64[Tensor, "vote group"]:
        """The points moved along one factor's axis to where the donors are on it."""
        stride, size = self.strides[factor], self.sizes[factor]
        # Moving along one axis of the grid is adding a multiple of its stride.
        return points + (donors // stride % size - points // stride % size) * stride
