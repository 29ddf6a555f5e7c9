"""One study that faults fall on, and what must be there once it is complete."""

import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.faults.tally import Tally, differences, unlike_the_record
from tests.studies import driving, outcome, record_path, run, write_tiny
from tune_ddvae import exit_codes

NAME = "tiny"
SERIAL = ("--max-concurrent", "1", "--cpus-per-trial", "1")
EPOCHS = 81  # with 15 trials and rungs at 1, 3, 9 and 27 some 200 rows
STARTS_WITHIN_S = 6.0  # where a driver may be struck before it has recorded anything
# What is left of a driver that was killed, and of its Ray: one that was just starting waits for a
# minute for its own other half.
DIES_WITHIN_S = 120.0
END_S = 300.0


class Undisturbed:
    """The same study, left alone."""

    def __init__(self, folder: Path, ray_address: str, epochs: int = EPOCHS) -> None:
        words = (*SERIAL, "--epochs", epochs, "--address", ray_address)
        done = run(write_tiny(folder), folder, *words)
        assert done.returncode == exit_codes.COMPLETE, done.stderr
        self.outcome = outcome(folder, NAME)
        self.num_rows = num_rows(folder)


class Stricken:
    """A study with everything needed to disturb it; faults are counted as they happen."""

    def __init__(
        self, folder: Path, *words: str, seed: int = 0, name: str = NAME, epochs: int = EPOCHS
    ) -> None:
        self.folder, self.name = folder, name
        self.study = write_tiny(folder)
        self.words = (*SERIAL, "--epochs", epochs, *words, "--name", name)
        self.dice = random.Random(seed)
        self.faults: Counter[str] = Counter()

    @contextmanager
    def driving(self) -> Iterator[subprocess.Popen]:
        with driving(self.study, self.folder, *self.words) as driver:
            yield driver

    def num_rows(self) -> int:
        return num_rows(self.folder, self.name)

    def await_rows(self, driver: subprocess.Popen, rows: int) -> bool:
        """Whether the record came to hold so many rows while the driver lived."""
        return await_so(driver, lambda: self.num_rows() >= rows)

    def await_moment(self, driver: subprocess.Popen, most_rows: int = 8) -> bool:
        """Wait for a random moment: some rows further on, or while the driver is still starting."""
        more = self.dice.randint(0, most_rows)
        if more and not self.await_rows(driver, self.num_rows() + more):
            return False
        time.sleep(self.dice.uniform(0, 0.5 if more else STARTS_WITHIN_S))  # the moment itself
        return driver.poll() is None

    def finish(self) -> subprocess.CompletedProcess:
        """The same command again, undisturbed, to the end."""
        done = run(self.study, self.folder, *self.words, timeout_s=END_S)
        assert done.returncode == exit_codes.COMPLETE, done.stderr
        return done

    def sync(self, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [
                *(sys.executable, "-m", "tune_ddvae.sync", self.name),
                *("--storage", str(self.folder / "studies"), *words),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def judge(self, tally: Tally, undisturbed: Undisturbed, uri: str | None = None) -> None:
        """Compare record and MLflow with the study that was left alone; nothing may differ."""
        wrong = differences(self.folder, self.name, undisturbed.outcome)
        wrong += unlike_the_record(self.folder, self.name, NAME, uri)
        tally.take(self.faults, wrong)
        assert wrong == []


def num_rows(folder: Path, name: str = NAME) -> int:
    """Rows in the record; none while it is being made."""
    path = record_path(folder, name) / "record.db"
    if not path.exists():
        return 0
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute("select count(*) from ddvae_rows").fetchone()[0]
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def await_so(driver: subprocess.Popen, is_so: Callable[[], bool], timeout_s: float = END_S) -> bool:
    """Wait while the driver lives until something is so; whether it came to be so."""
    until = time.monotonic() + timeout_s
    while driver.poll() is None:
        if is_so():
            return True
        assert time.monotonic() < until, driver.args
        time.sleep(0.03)  # neither the record nor a process table has an event to wait on
    return False


def family(pid: int) -> list[psutil.Process]:
    """A process' children of all generations."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=DIES_WITHIN_S)
    assert alive == []


def kill(driver: subprocess.Popen) -> list[psutil.Process]:
    """SIGKILL for the driver alone; returned is what it had started, which must go by itself."""
    children = family(driver.pid)
    driver.kill()
    driver.communicate(timeout=60)
    return children


def worker_of(folder: Path, name: str = NAME) -> tuple[int, int] | None:
    """Losses and process of the trial that is being trained, as the record names them."""
    path = record_path(folder, name) / "record.db"
    query = (
        "select losses, json_extract(facts, '$.pid') from ddvae_trials where state = 'unfinished' "
        "and json_extract(facts, '$.pid') is not null order by number limit 1"
    )
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute(query).fetchone()
    except sqlite3.OperationalError:
        return None
    finally:
        connection.close()


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


__all__ = [
    "NAME",
    "SERIAL",
    "Stricken",
    "Undisturbed",
    "assert_gone",
    "await_so",
    "family",
    "is_alive",
    "kill",
    "num_rows",
    "worker_of",
]
