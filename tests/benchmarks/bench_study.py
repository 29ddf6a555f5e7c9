"""What a study costs beyond its trials' own training, on real Ray with record and tracking on.

Run    python -m tests.benchmarks.bench_study
Goal   wall / (training time / slots) at most 1.15; at most 0.3 s from one trial's end to the next
       one's first step on a reused worker
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from tests.studies import trials_of
from tune_ddvae.tuning.trials import Trial

SLOTS = 2


def first_step(trial: Trial) -> float:
    """When the trial's first step began, in seconds since 1970."""
    row = trial.rows[min(trial.rows)]
    return row.time - row.metrics["training/seconds"] - row.metrics["training/evaluation_seconds"]


def worked_s(trial: Trial) -> float:
    return sum(
        row.metrics["training/seconds"] + row.metrics["training/evaluation_seconds"]
        for row in trial.rows.values()
    )


@click.command(help=__doc__)
@click.option("--trials", "num_trials", default=24, show_default=True)
@click.option("--epochs", default=800, show_default=True)
def main(num_trials: int, epochs: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        words = ["--trials", str(num_trials), "--epochs", str(epochs), "--first-rung", "none"]
        words += ["--max-concurrent", str(SLOTS), "--cpus-per-trial", "1", "--json"]
        words += ["--storage", f"{place}/studies", "--set", "objective/alpha=1"]
        command = [sys.executable, "-m", "tune_ddvae.study", "clustering", *words]
        subprocess.run(command, check=True, capture_output=True)
        trials = trials_of(Path(place), "clustering")
    start = min(first_step(trial) for trial in trials)
    wall_s = max(trial.ended for trial in trials) - start
    training_s = sum(map(worked_s, trials))
    gaps = []
    for trial in sorted(trials, key=lambda t: t.started)[SLOTS:]:
        freed = max(t.ended for t in trials if t.ended <= trial.started + 1e-3)
        gaps.append(first_step(trial) - freed)
    each_s = training_s / num_trials
    click.echo(f"{num_trials} trials of {each_s:.1f} s in {SLOTS} slots: {wall_s:.1f} s")
    click.echo(f"wall / (training time / slots): {wall_s / (training_s / SLOTS):.3f}")
    click.echo(
        f"from one trial's end to the next one's first step: {statistics.median(gaps):.3f} s"
    )


if __name__ == "__main__":
    main()
