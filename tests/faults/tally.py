"""What the faults did: how many were survived, and how many results were lost or doubled by them."""

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.studies import Tracked, outcome, trials_of
from tune_ddvae.tuning.trials import State


@dataclass
class Tally:
    """Counts over all tests of a run."""

    survived: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def take(self, faults: Counter[str], wrong: list[str]) -> None:
        """Add the faults of one study, and what was found wrong with it in the end."""
        self.survived += faults
        self.wrong += wrong

    def to_plain(self) -> list:
        """As one process of several can send it."""
        return [dict(self.survived), self.wrong]

    @staticmethod
    def from_plain(plain: list) -> tuple[Counter[str], list[str]]:
        """What ``take`` takes, of what another process has sent."""
        survived, wrong = plain
        return Counter(survived), wrong

    def text(self, uncompared: int = 0) -> str:
        """The count, and how many tests ended before their studies could be compared."""
        kinds = ", ".join(f"{num} x {kind}" for kind, num in sorted(self.survived.items()))
        lines = [f"faults: {kinds or 'none'}", *self.wrong]
        took = time.monotonic() - self.started
        if uncompared:
            lines.append(f"{uncompared} tests failed: what became of their studies is not counted")
        lines.append(
            f"{self.survived.total()} faults survived, {len(self.wrong)} results lost or doubled "
            f"({took / 60:.1f} min)"
        )
        return "\n".join(lines) + "\n"

    def write(self, path: Path, uncompared: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.text(uncompared), encoding="utf-8")


def differences(folder: Path, name: str, undisturbed: list) -> list[str]:
    """What of a serial study is not to the last bit what an undisturbed one of the same seed has."""
    found, wrong = outcome(folder, name), []
    if len(found) != len(undisturbed):
        wrong.append(f"{name}: {len(found)} trials instead of {len(undisturbed)}")
    for ours, theirs in zip(found, undisturbed, strict=False):
        *facts, rows = ours
        *expected_facts, expected_rows = theirs
        if facts != expected_facts:
            wrong.append(f"{name}, trial {ours[0]}: {facts} instead of {expected_facts}")
        wrong += [
            f"{name}, trial {ours[0]}: {row} instead of {expected}"
            for row, expected in zip(rows, expected_rows, strict=False)
            if row != expected
        ]
        if len(rows) != len(expected_rows):
            wrong.append(f"{name}, trial {ours[0]}: {len(rows)} rows, not {len(expected_rows)}")
    return wrong


def gaps(folder: Path, name: str, wanted: int) -> list[str]:
    """What a study with several slots lacks: a trial, an end, an epoch."""
    trials = trials_of(folder, name)
    wrong = [] if len(trials) == wanted else [f"{name}: {len(trials)} trials instead of {wanted}"]
    for trial in trials:
        if trial.state not in (State.COMPLETE, State.STOPPED, State.COLLAPSED):
            wrong.append(f"{name}, trial {trial.number}: {trial.state} ({trial.reason})")
        if list(trial.rows) != list(range(1, trial.last_epoch + 1)):
            wrong.append(f"{name}, trial {trial.number}: epochs {list(trial.rows)}")
    return wrong


def unlike_the_record(folder: Path, name: str, experiment: str, uri: str | None) -> list[str]:
    """Where MLflow is not exactly the record: a run, a point or a param too few or too many."""
    statuses = {State.COMPLETE: "FINISHED", State.FAILED: "FAILED"}
    trials = trials_of(folder, name)
    tracked = Tracked(folder, name, experiment, uri)
    wrong = []
    if tracked.parent.info.status != "FINISHED":
        wrong.append(f"{name}: its run is {tracked.parent.info.status}")
    numbers = [int(run.data.tags["tune_ddvae.trial"]) for run in tracked.children]
    if numbers != [trial.number for trial in trials]:
        return [*wrong, f"{name}: runs of trials {numbers}"]
    for run, trial in zip(tracked.children, trials, strict=True):
        place = f"{name}, run of trial {trial.number}"
        if run.info.status != statuses.get(trial.state, "KILLED"):
            wrong.append(f"{place}: {run.info.status}, but it is {trial.state}")
        if run.data.params.keys() != trial.config.keys():
            wrong.append(f"{place}: params {sorted(run.data.params)}")
        expected: dict[str, list] = {}
        for epoch, row in trial.rows.items():
            for metric, value in row.metrics.items():
                expected.setdefault(metric, []).append((epoch, value))
        extra = {key for key in run.data.metrics if not key.startswith("best/")} - expected.keys()
        wrong += [f"{place}: unknown metric {key}" for key in extra]
        for metric, points in expected.items():
            shown = tracked.history(run, metric)
            missed = Counter(points) - Counter(shown)
            doubled = Counter(shown) - Counter(points)
            wrong += [f"{place}: {metric} lacks {point}" for point in missed.elements()]
            wrong += [f"{place}: {metric} has {point} too often" for point in doubled.elements()]
    return wrong
