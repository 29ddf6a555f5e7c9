"""What a published setting yields over its seeds: means with two standard errors, never one seed."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tune_ddvae.tuning.trials import Trial


@dataclass(frozen=True)
class Spread:
    """One metric over several seeds."""

    mean: float
    two_standard_errors: float | None  # None for a single seed, which says nothing of others


@dataclass(frozen=True)
class SettingScores:
    """One setting's values at the last epoch, over the seeds that got there."""

    name: str
    num_seeds: int
    spreads: Mapping[str, Spread]  # a metric that any seed lacks is left out


def spread(values: Sequence[float]) -> Spread:
    """Mean of at least one value, and twice its standard error (standard deviation with n - 1)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Spread(mean, None)
    return Spread(mean, 2.0 * statistics.stdev(values) / math.sqrt(len(values)))


def over_seeds(
    trials: Iterable[Trial], settings: Iterable[str], metrics: Iterable[str]
) -> list[SettingScores]:
    """Each setting's scores, in the order of ``settings``; one without a whole trial is left out.

    Seeds that collapsed at the last epoch count: leaving them out would flatter the setting.
    """
    whole = [trial for trial in trials if trial.is_whole]
    metrics, scores = list(metrics), []
    for name in settings:
        rows = [trial.rows[trial.last_epoch].metrics for trial in whole if trial.setting == name]
        if rows:
            spreads = {
                metric: spread([row[metric] for row in rows])
                for metric in metrics
                if all(metric in row for row in rows)
            }
            scores.append(SettingScores(name, len(rows), spreads))
    return scores
