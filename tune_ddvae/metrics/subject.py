"""What a metric may look at during one evaluation; everything is encoded once and shared."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tune_ddvae.config import MetricsConfig, TrialConfig
from tune_ddvae.data import Dataset, Split
from tune_ddvae.errors import AbsentMetric
from tune_ddvae.metrics.encoding import Encodings, encode_grid
from tune_ddvae.metrics.factors import grid_factors
from tune_ddvae.metrics.mutual_information import Information, information
from tune_ddvae.metrics.streams import stream
from tune_ddvae.models import VAE
from tune_ddvae.models.transport import to_normal


@dataclass(frozen=True)
class GridCodes:
    """A factor grid as the model sees it.

    Attributes:
        codes: Posterior means in the order of the grid, under a Student-t prior mapped to a normal.
        sizes: Number of values of each factor, as encoded.
        is_unordered: For each factor whether its values have no order.
        protocol: What every score on it is reported with.
    """

    codes: Float[Tensor, "points latent"]
    sizes: tuple[int, ...]
    is_unordered: tuple[bool, ...]
    protocol: dict[str, Any]

    @cached_property
    def factors(self) -> Int64[Tensor, "points factor"]:
        """Index of each factor's value at each point."""
        return grid_factors(self.sizes).to(self.codes.device)


@dataclass(frozen=True)
class Subject:
    """Model, data and encodings of one evaluation, and the facts that its metrics add."""

    vae: VAE
    dataset: Dataset
    split: Split
    config: TrialConfig
    device: torch.device
    on_batch: Callable[[], None]
    at_end: bool
    encodings: Encodings
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def means(self) -> Float[Tensor, "batch latent"]:
        """Posterior means of the split."""
        return self.encodings.posterior.mean

    def stream(self, purpose: str) -> torch.Generator:
        """A generator anew at each evaluation: the noise is the same at every epoch."""
        return stream(self.config.metrics.seed, purpose, self.device)

    def comparable(self, means: Float[Tensor, "points latent"]) -> Float[Tensor, "points latent"]:
        """Codes to measure disentanglement on: as under a normal prior, whatever the prior.

        Under Student-t each dimension goes through the optimal-transport map to a standard normal.
        """
        df = self.config.prior.df
        return means if df is None else to_normal(means, df)

    @property
    def codes_in_words(self) -> str:
        """What ``comparable`` returns."""
        return "posterior means" + ("" if self.config.prior.df is None else ", mapped to normal")

    @cached_property
    def grid(self) -> GridCodes:
        """The data set's factor grid: whole on a GPU, else as coarse as configured.

        Raises:
            AbsentMetric: If the data set has none.
            DivergedError: If an encoding is not finite.
        """
        grid = self.dataset.grid
        if grid is None:
            raise AbsentMetric(f"needs known factors, {self.dataset.name} has none")
        stride = grid_stride(self.config.metrics, self.device, at_end=self.at_end)
        rows, sizes = grid.strided(stride)
        means = encode_grid(self.vae, self.dataset, grid, rows, self.device, self.on_batch)
        return GridCodes(
            codes=self.comparable(means),
            sizes=sizes,
            is_unordered=tuple(name in grid.unordered for name in grid.names),
            protocol={
                "codes": self.codes_in_words,
                "points": len(rows),
                "grid_stride": stride,
            },
        )

    @cached_property
    def grid_information(self) -> Information:
        """What the grid's codes tell of its factors.

        Raises:
            AbsentMetric: If there is no grid, or no factor of more than one value.
        """
        return information(self.grid.codes, self.grid.factors, self.config.metrics.num_bins)


def grid_stride(config: MetricsConfig, device: torch.device, *, at_end: bool) -> int:
    """Which values of the long factors are encoded: every one on a GPU, else as configured."""
    if device.type == "cuda":
        return 1
    return config.grid_stride_at_end if at_end else config.grid_stride
