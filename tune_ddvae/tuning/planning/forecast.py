"""How many epochs trials will train under halving, and how long that will take."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tune_ddvae.spec import StudySpec
from tune_ddvae.tuning.trials import Row, State, Trial

EULER_GAMMA = 0.5772156649


def expected_epochs(spec: StudySpec, trials: int) -> float:
    """Epochs that so many trials train together, those that halving saves left out."""
    total, arrivals, before = 0.0, float(trials), 0
    for rung in spec.rungs:
        total += arrivals * (rung - before)
        arrivals = expected_to_go_on(arrivals, spec.size.reduction_factor)
        before = rung
    return total + arrivals * (spec.base.training.epochs - before)


def expected_to_go_on(arrivals: float, reduction_factor: int) -> float:
    """How many of the trials that reach a rung pass it, if good and bad ones come in any order.

    More than one in ``reduction_factor``, since a rung starts empty: the first to arrive passes, and
    after i others one does with probability (1 + (i - 1) / factor) / (i + 1), the share of places
    above the interpolated quantile that ``halving.goes_on`` asks for. In a study of a dozen trials
    that makes a third more epochs.
    """
    if arrivals <= 1:
        return arrivals
    harmonic = math.log(arrivals) + EULER_GAMMA + 1 / (2 * arrivals)
    share = 1 / reduction_factor
    return min(arrivals, arrivals * share + (1 - 2 * share) * harmonic + share)


def epochs_left(spec: StudySpec, epoch: int, passing: Mapping[int, float]) -> float:
    """Epochs that a trial at ``epoch`` still trains on average.

    Args:
        spec: The study.
        epoch: Where the trial stands.
        passing: Share of the trials that pass, for every rung.
    """
    left, chance, at = 0.0, 1.0, epoch
    for rung in (*spec.rungs, spec.base.training.epochs):
        if rung > epoch:
            left += chance * (rung - at)
            at = rung
            chance *= passing.get(rung, 1.0)
    return left


@dataclass
class Pace:
    """How fast trials train and how many are let go on, from what has been recorded so far."""

    since: float  # seconds since 1970; earlier rows may come from another machine
    seconds: float = 0.0
    epochs: int = 0
    arrived: Counter[int] = field(default_factory=Counter)  # by rung
    passed: Counter[int] = field(default_factory=Counter)
    _taken: set[tuple[int, int]] = field(default_factory=set)
    _closed: set[int] = field(default_factory=set)

    def take(self, spec: StudySpec, trials: Sequence[Trial]) -> None:
        """Count the rows that are new."""
        for trial in trials:
            if trial.number in self._closed:
                continue
            has_ended = trial.state is not State.UNFINISHED
            for row in list(trial.rows.values()):
                if (trial.number, row.epoch) not in self._taken:
                    self._taken.add((trial.number, row.epoch))
                    self._count(spec, row)
            if has_ended:  # asked before its rows were read, so none was missed
                self._closed.add(trial.number)
                self._taken = {key for key in self._taken if key[0] != trial.number}

    def time_left(
        self,
        spec: StudySpec,
        trials: Sequence[Trial],
        wanted: int | None,
        slots: int,
    ) -> float | None:
        """Seconds until all trials have ended; None before there is anything to tell it from."""
        if not self.epochs or wanted is None:
            return None
        factor = spec.size.reduction_factor
        # One trial in `factor` passes, until enough have arrived to say it better.
        passing = {
            rung: (self.passed[rung] + 1) / (self.arrived[rung] + factor) for rung in spec.rungs
        }
        unfinished = [t for t in trials if t.state is State.UNFINISHED]
        left = [epochs_left(spec, max(list(t.rows), default=0), passing) for t in unfinished]
        left += [epochs_left(spec, 0, passing)] * max(wanted - len(trials), 0)
        if not left:
            return 0.0
        at_once = max(min(slots, len(left)), 1)
        return max(sum(left) / at_once, *left) * self.seconds / self.epochs

    def _count(self, spec: StudySpec, row: Row) -> None:
        if row.decision is not None:
            self.arrived[row.epoch] += 1
            self.passed[row.epoch] += row.decision.goes_on
        seconds = row.metrics.get("training/seconds")
        if seconds is not None and row.time >= self.since:
            self.seconds += seconds + row.metrics.get("training/evaluation_seconds", 0.0)
            self.epochs += spec.base.training.evaluate_every
