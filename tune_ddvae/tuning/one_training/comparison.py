"""Whether a training came out as a tracked one did: every value of every epoch. All pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tune_ddvae.tuning.tracking.names import plain_key
from tune_ddvae.tuning.wording import plural

History = Mapping[str, Mapping[int, float]]  # metric -> epoch -> value

# What numbers rest on beside the configuration, as it is tagged.
CONDITIONS = ("version", "torch", "device", "device_name", "threads", "host", "data")
_DERIVED = ("best/", "analysis/")  # measured or said again after training


@dataclass(frozen=True)
class Difference:
    """One value that is not the same; None where there is none."""

    epoch: int
    metric: str
    there: float | None
    here: float | None

    @property
    def relative(self) -> float | None:
        """Its size, relative to the larger value."""
        if self.there is None or self.here is None:
            return None
        return abs(self.there - self.here) / max(abs(self.there), abs(self.here))

    def __str__(self) -> str:
        """The difference in a few words, its values unrounded."""
        there, here = (_text(value) for value in (self.there, self.here))
        return f"epoch {self.epoch}, {self.metric}: {there} there, {here} here"


@dataclass(frozen=True)
class Comparison:
    """What two trainings of one configuration have in common.

    Attributes:
        num_values: How many values were compared.
        differences: Those that are not the same, the earliest first.
        unknown: Metrics that the tracked training does not know.
        conditions: Versions and machine that differ, as there and as here.
    """

    num_values: int
    differences: tuple[Difference, ...]
    unknown: tuple[str, ...]
    conditions: Mapping[str, tuple[str, str]]

    @property
    def is_same(self) -> bool:
        """Whether all values are identical to the last bit."""
        return not self.differences

    @property
    def largest(self) -> Difference | None:
        """The largest of the relative differences."""
        sized = [found for found in self.differences if found.relative is not None]
        return max(sized, key=lambda found: found.relative or 0.0, default=None)

    def lines(self) -> list[str]:
        """What is said of it, a line each."""
        values = f"{self.num_values} {plural('value', self.num_values)}"
        if self.is_same:
            said = [f"identical to the last bit ({values})"]
        else:
            said = [f"not the same: {len(self.differences)} of {values} differ"]
            said.append(f"first differs {self.differences[0]}")
        if (largest := self.largest) is not None:
            said.append(f"largest relative difference {largest.relative:.2g}: {largest}")
        if self.unknown:
            said.append(f"not measured there: {', '.join(self.unknown)}")
        said += [
            f"{key} differs: {there} there, {here} here"
            for key, (there, here) in self.conditions.items()
        ]
        return said

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        first, largest = next(iter(self.differences), None), self.largest
        return {
            "is_same": self.is_same,
            "num_values": self.num_values,
            "num_different": len(self.differences),
            "first_difference": first and _plain(first),
            "largest_relative_difference": largest
            and {**_plain(largest), "relative": largest.relative},
            "not_measured_there": list(self.unknown),
            "conditions": {key: {"there": t, "here": h} for key, (t, h) in self.conditions.items()},
        }


def compared(
    there: History, here: History, tags: Mapping[str, str], own_tags: Mapping[str, str]
) -> Comparison:
    """Compare a repeated training with the tracked one.

    Times are left out, and what is no measurement of training's own.

    Args:
        there: What the tracked one measured, up to its last epoch.
        here: What the repeated one measured, up to the same epoch.
        tags: The tracked one's: versions and machine, and which metrics were absent.
        own_tags: The repeated one's versions and machine.
    """
    theirs, ours = dict(_points(there)), dict(_points(here))
    known = {metric for _, metric in theirs} | {
        key.removeprefix("absent/") for key in tags if key.startswith("absent/")
    }
    unknown = {metric for _, metric in ours if metric not in known}
    points = sorted(key for key in {*theirs, *ours} if key[1] not in unknown)
    return Comparison(
        num_values=len(points),
        differences=tuple(
            Difference(epoch, metric, theirs.get((epoch, metric)), ours.get((epoch, metric)))
            for epoch, metric in points
            if theirs.get((epoch, metric)) != ours.get((epoch, metric))
        ),
        unknown=tuple(sorted(unknown)),
        conditions={
            key: (tags[key], own_tags[key])
            for key in CONDITIONS
            if key in tags and key in own_tags and tags[key] != own_tags[key]
        },
    )


def is_compared(metric: str) -> bool:
    """Whether a metric follows from the configuration; what a clock says does not."""
    return not metric.endswith("seconds") and not metric.startswith(_DERIVED)


def _points(history: History) -> Iterator[tuple[tuple[int, str], float]]:
    for metric, values in history.items():
        if is_compared(metric):
            for epoch, value in values.items():
                yield (epoch, plain_key(metric)), value


def _plain(difference: Difference) -> dict[str, Any]:
    return {
        "epoch": difference.epoch,
        "metric": difference.metric,
        "there": difference.there,
        "here": difference.here,
    }


def _text(value: float | None) -> str:
    return "no value" if value is None else repr(value)
