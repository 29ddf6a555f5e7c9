"""Networks that differ in one number and their seeds: means over seeds, and how many there are. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float64, Int64


@dataclass(frozen=True, kw_only=True)
class Series:
    """Trained networks that are shown as one: in one colour, under one name.

    Attributes:
        name: For the legend.
        swept: The number that was varied, of each network.
        metrics: Values of each network, by metric; nan where it has none.
        is_line: Whether the networks differ in the swept number and in their seeds alone, so that
            means over seeds have a meaning; else they are shown one by one.
        published: What the paper states for each network's setting, by metric; nan for nothing.
    """

    name: str
    swept: Float64[np.ndarray, " network"]
    metrics: Mapping[str, Float64[np.ndarray, " network"]]
    is_line: bool = True
    published: Mapping[str, Float64[np.ndarray, " network"]] = field(default_factory=dict)

    @property
    def line_name(self) -> str:
        """The name, and with how many seeds the points were trained."""
        num = np.unique(self.swept, return_counts=True)[1]
        low, high = int(num.min()), int(num.max())
        return f"{self.name} ({f'{low} to ' if low < high else ''}{_seeds(high)})"

    def has(self, metrics: Sequence[str]) -> Bool[np.ndarray, " network"]:
        """Which networks have all of these metrics."""
        found = np.ones(len(self.swept), dtype=np.bool_)
        for metric in metrics:
            found &= np.isfinite(self.metrics[metric])
        return found

    def absent(self, metrics: Sequence[str], symbol: str) -> list[str]:
        """In words, what has no point: settings without any network that has all of these metrics.

        Where networks are shown one by one, how many of them lack one.

        Args:
            metrics: That a point needs.
            symbol: Of the swept number.
        """
        known = self.has(metrics)
        if not self.is_line:
            return [] if known.all() else [f"{np.sum(~known)} of {len(known)} {self.name}"]
        return [
            f"{self.name} at {f'{symbol} {value:g}'.strip()} "
            f"(0 of {_seeds(int(np.sum(self.swept == value)))})"
            for value in np.setdiff1d(self.swept, self.swept[known])
        ]


@dataclass(frozen=True)
class Spread:
    """A metric over seeds, at each value of the swept number.

    Attributes:
        swept: The values, ascending.
        mean: Over the seeds.
        error: Two standard errors of that mean; nan where there is one seed.
        num: How many seeds have the metric.
        num_trained: How many seeds there are; those beyond ``num`` lack the metric.
    """

    swept: Float64[np.ndarray, " point"]
    mean: Float64[np.ndarray, " point"]
    error: Float64[np.ndarray, " point"]
    num: Int64[np.ndarray, " point"]
    num_trained: Int64[np.ndarray, " point"]

    def seeds(self, point: int) -> str:
        """How many seeds a point rests on, where they are fewer than the most; else nothing."""
        num, trained = int(self.num[point]), int(self.num_trained[point])
        if num < trained:
            return f"{num} of {_seeds(trained)}"
        return _seeds(num) if num < self.num_trained.max() else ""


def spread(
    swept: Float64[np.ndarray, " network"], values: Float64[np.ndarray, " network"]
) -> Spread:
    """Mean and two standard errors (n - 1) over the networks of each swept value; nan is left out."""
    known = np.isfinite(values)
    points, which = np.unique(swept[known], return_inverse=True)
    trained = np.array([np.sum(swept == point) for point in points], dtype=np.int64)
    groups = [values[known][which == index] for index in range(len(points))]
    num = np.array([len(group) for group in groups], dtype=np.int64)
    mean = np.array([group.mean() for group in groups], dtype=np.float64)
    error = np.array(
        [
            2.0 * group.std(ddof=1) / np.sqrt(len(group)) if len(group) > 1 else np.nan
            for group in groups
        ],
        dtype=np.float64,
    )
    return Spread(points, mean, error, num, trained)


def _seeds(num: int) -> str:
    return f"{num} seed{'s' * (num != 1)}"
