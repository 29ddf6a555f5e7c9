"""Real studies in tests: the command as a user types it, and what it left behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient
from sqlalchemy import create_engine

from tune_ddvae.config import parse_value
from tune_ddvae.tuning.record.opening import record_url
from tune_ddvae.tuning.record.record import read_trials
from tune_ddvae.tuning.record.tables import STUDIES
from tune_ddvae.tuning.storage.folders import slug
from tune_ddvae.tuning.trials import Trial

# Pinwheel, small enough for a trial to take a second: 27 epochs, rungs 1, 3 and 9.
TINY = '''"""Is the machinery sound?

Run       python -m tune_ddvae.study tiny.py
"""
import dataclasses
from tune_ddvae.catalogue import find_study
from tune_ddvae.config import with_overrides
from tune_ddvae.spec import StudySize

_STUDY = find_study("clustering").spec
_SIZE = StudySize(trials={trials}, first_rung=1, startup_trials=5)
STUDY = dataclasses.replace(
    _STUDY,
    base=with_overrides(
        _STUDY.base,
        {{
            "training/epochs": 27,
            "training/evaluate_every": 1,
            "metrics/iwae_num_samples": 4,
            "metrics/iwae_num_points": 50,
            **{overrides!r},
        }},
    ),
    published={{**_STUDY.published, **{published!r}}},
    first={first!r},
    size=_SIZE,
    quick=_SIZE,
)
'''


def write_tiny(folder: Path, *, trials=15, overrides=None, published=None, first=()) -> Path:
    path = folder / "tiny.py"
    path.write_text(
        TINY.format(
            trials=trials, overrides=overrides or {}, published=published or {}, first=tuple(first)
        )
    )
    return path


def command(study, folder: Path, *words: str, report: bool = False) -> list[str]:
    options = ["--storage", str(folder / "studies"), *([] if report else ["--no-report"])]
    return [sys.executable, "-m", "tune_ddvae.study", str(study), *options, *map(str, words)]


def start(study, folder: Path, *words: str, env=None) -> subprocess.Popen:
    return subprocess.Popen(
        command(study, folder, *words),
        cwd=folder,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def driving(study, folder: Path, *words: str, env=None) -> Iterator[subprocess.Popen]:
    """A driver that does not outlive a test that fails."""
    driver = start(study, folder, *words, env=env)
    try:
        yield driver
    finally:
        if driver.poll() is None:
            driver.kill()
        driver.communicate(timeout=30)


def ended(driver: subprocess.Popen, timeout_s: float = 120.0) -> subprocess.CompletedProcess:
    """The driver once it has ended by itself."""
    out, err = driver.communicate(timeout=timeout_s)
    return subprocess.CompletedProcess(driver.args, driver.returncode, out, err)


def run(study, folder: Path, *words: str, timeout_s: float = 240.0, env=None):
    with driving(study, folder, *words, env=env) as driver:
        return ended(driver, timeout_s)


def record_path(folder: Path, name: str) -> Path:
    return folder / "studies" / slug(name)


def trials_of(folder: Path, name: str) -> list[Trial]:
    engine = create_engine(record_url(record_path(folder, name)))
    with engine.connect() as connection:
        (study,) = connection.execute(STUDIES.select().where(STUDIES.c.name == name)).all()
    found = read_trials(engine, study.study_id)
    engine.dispose()
    return found


def trials_so_far(folder: Path, name: str) -> list[Trial]:
    """The trials of a study that may not have come to making its record yet."""
    if not (record_path(folder, name) / "record.db").exists():
        return []
    try:
        return trials_of(folder, name)
    except Exception:  # noqa: BLE001 - the driver is just making its tables
        return []


def num_rows(folder: Path, name: str) -> int:
    return sum(len(trial.rows) for trial in trials_so_far(folder, name))


def wait_until(
    driver: subprocess.Popen, is_so: Callable[[], bool], timeout_s: float = 120.0
) -> bool:
    """Wait while the driver runs until something is so; whether it came to be so."""
    until = time.monotonic() + timeout_s
    while driver.poll() is None:
        if is_so():
            return True
        if time.monotonic() > until:
            driver.kill()
            raise AssertionError(f"waited for {timeout_s:g} s: {driver.communicate(timeout=5)}")
        time.sleep(0.02)  # the record is what is awaited; it has no event to wait on
    return False


def kill_after(driver: subprocess.Popen, folder: Path, name: str, rows: int, how: int) -> bool:
    """Signal the driver once the record holds so many rows; whether it was still running."""
    if not wait_until(driver, lambda: num_rows(folder, name) >= rows):
        return False
    driver.send_signal(how)
    return True


def outcome(folder: Path, name: str) -> list:
    """What two runs of one study must have in common: all but times and places."""
    return outcome_of(trials_of(folder, name))


def outcome_of(trials: list[Trial]) -> list:
    return [
        (
            trial.number,
            trial.config,
            trial.params,
            trial.setting,
            trial.state,
            trial.reason,
            trial.values,
            [
                (epoch, without_seconds(row.metrics), row.absent, row.decision)
                for epoch, row in trial.rows.items()
            ],
        )
        for trial in trials
    ]


def without_seconds(metrics):
    return {key: value for key, value in metrics.items() if not key.endswith("seconds")}


class Tracked:
    """A study as MLflow shows it."""

    def __init__(self, folder: Path, name: str, experiment: str, uri: str | None = None) -> None:
        self.client = MlflowClient(uri or f"sqlite:///{folder / 'studies' / 'mlflow.db'}")
        found = self.client.get_experiment_by_name(experiment)
        runs = self.client.search_runs(
            [found.experiment_id], run_view_type=ViewType.ALL, max_results=1000
        )
        parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        self.parents = [run for run in parents if run.info.run_name == name]
        (self.parent,) = self.parents
        self.children = sorted(
            (
                run
                for run in runs
                if run.data.tags.get("mlflow.parentRunId") == self.parent.info.run_id
            ),
            key=lambda run: int(run.data.tags["tune_ddvae.trial"]),
        )

    def history(self, run, metric: str) -> list[tuple[int, float]]:
        points = self.client.get_metric_history(run.info.run_id, metric)
        return sorted((point.step, point.value) for point in points)

    def artifact(self, run, name: str) -> str:
        """Content of one of a run's files."""
        with tempfile.TemporaryDirectory() as folder:
            return Path(self.client.download_artifacts(run.info.run_id, name, folder)).read_text()

    def assert_equals(self, trials: list[Trial]) -> None:
        """Each trial one child, each evaluation one point: no gap, no double, nothing running."""
        numbers = [int(run.data.tags["tune_ddvae.trial"]) for run in self.children]
        assert numbers == [trial.number for trial in trials]
        for run, trial in zip(self.children, trials, strict=True):
            assert run.info.status != "RUNNING"
            expected: dict[str, list] = {}
            for epoch, row in trial.rows.items():
                for metric, value in row.metrics.items():
                    expected.setdefault(metric, []).append((epoch, value))
            for metric, points in expected.items():
                assert self.history(run, metric) == points, (trial.number, metric)
            for key, value in trial.config.items():
                assert parse_value(key, run.data.params[key]) == value


def result(done: subprocess.CompletedProcess) -> dict:
    return json.loads(done.stdout)


__all__ = [
    "Tracked",
    "command",
    "driving",
    "ended",
    "kill_after",
    "num_rows",
    "outcome",
    "outcome_of",
    "record_path",
    "result",
    "run",
    "signal",
    "start",
    "trials_of",
    "trials_so_far",
    "wait_until",
    "without_seconds",
    "write_tiny",
]
