"""Which trials are best: the Pareto set over ``rank_by``, never one arbitrary winner of several."""

from collections.abc import Iterable, Mapping, Sequence

from tune_ddvae.config import Direction
from tune_ddvae.tuning.trials import State, Trial


def larger_is_better(value: float, direction: Direction) -> float:
    """The value with its sign turned where smaller is better."""
    return value if direction == "max" else -value


def pareto_set(trials: Iterable[Trial], rank_by: Mapping[str, Direction]) -> list[Trial]:
    """The complete trials that no other complete one beats in every metric, best first metric first."""
    directions = list(rank_by.values())
    scored = [
        (
            tuple(larger_is_better(v, d) for v, d in zip(trial.values, directions, strict=True)),
            trial,
        )
        for trial in trials
        if trial.state is State.COMPLETE and trial.values is not None
    ]
    front = [
        (score, trial)
        for score, trial in scored
        if not any(_dominates(other, score) for other, _ in scored)
    ]
    return [trial for _, trial in sorted(front, key=lambda pair: pair[0], reverse=True)]


def best_epoch(trial: Trial, metric: str, direction: Direction) -> int | None:
    """Epoch of the trial's best recorded value; None where the metric was always absent."""
    values = {
        epoch: larger_is_better(row.metrics[metric], direction)
        for epoch, row in trial.rows.items()
        if metric in row.metrics
    }
    return max(values, key=lambda epoch: (values[epoch], -epoch)) if values else None


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    pairs = list(zip(a, b, strict=True))
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)
