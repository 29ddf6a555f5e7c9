"""One training on disk: which one it is, its metrics by epoch, its newest checkpoints.

A row of metrics is on disk before the checkpoint of its epoch, and the first row of an epoch stays:
an epoch that is trained again after a crash yields it once more.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tune_ddvae.config import Value
from tune_ddvae.errors import CheckpointError, ConfigError, StorageError
from tune_ddvae.training import checkpoint
from tune_ddvae.training.trainer import StepResult, Trainer

ABOUT_FILE = "training.json"
METRICS_FILE = "metrics.jsonl"
DAMAGED_FOLDER = "damaged"  # what was set aside: nobody looks for checkpoints there
NEWEST_KEPT = 2  # checkpoints
_PREFIX = "checkpoint_"
_ASIDE = f".{ABOUT_FILE}"
# In a folder that was made but not begun: the lock of whoever held it, and what a crash left.
_BEFORE_BEGIN = frozenset(("driver.lock", "driver.json", _ASIDE))

# Why a training with that key changed does not go on, where one might think so.
_WHY_ANOTHER: Mapping[str, str] = {
    "training/epochs": " (another number of epochs is another training: when and what is measured "
    "follows from it)"
}

Identity = Mapping[str, Value]  # all that the numbers follow from; another one is another training


@dataclass(frozen=True)
class TrainedRow:
    """What one step yielded, and when."""

    epoch: int
    time: float  # seconds since 1970
    metrics: Mapping[str, float]
    absent: Mapping[str, str] = field(default_factory=dict)  # metric -> why it has no value
    facts: Mapping[str, Any] = field(default_factory=dict)  # what metrics rest on

    @property
    def seconds(self) -> float:
        """How long the step took, evaluation included."""
        names = ("training/seconds", "training/evaluation_seconds")
        return sum(self.metrics.get(name, 0.0) for name in names)


@dataclass(frozen=True)
class TrainingFolder:
    """A folder that belongs to one training.

    Attributes:
        path: Where it lies.
        training_id: Its own, whatever it is called and wherever it is moved.
        started: When it was begun, seconds since 1970.
        rows: Its rows by epoch.
    """

    path: Path
    training_id: str
    started: float
    rows: dict[int, TrainedRow]

    @property
    def last_epoch(self) -> int:
        """Newest epoch with a row; 0 before the first."""
        return max(self.rows, default=0)

    @property
    def kept_epoch(self) -> int:
        """Epoch of the newest checkpoint; 0 before the first."""
        return max(map(_epoch, self.checkpoints()), default=0)

    def add(self, result: StepResult) -> TrainedRow:
        """Keep what a step yielded; it is on disk when this returns.

        Returns:
            The epoch's row: an earlier one where there is one.

        Raises:
            StorageError: The folder cannot be written to.
        """
        if result.epoch in self.rows:
            return self.rows[result.epoch]
        row = TrainedRow(result.epoch, time.time(), result.metrics, result.absent, result.facts)
        path = self.path / METRICS_FILE
        try:
            with path.open("ab") as file:
                file.write(json.dumps(asdict(row)).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(path, error) from error
        self.rows[row.epoch] = row
        return row

    def save(self, trainer: Trainer) -> Path:
        """Write a checkpoint, and let go of those that are not among the newest two.

        Raises:
            CheckpointError: The folder cannot be written to.
        """
        folder = self.path / f"{_PREFIX}{trainer.epoch:06d}"
        checkpoint.save(trainer, folder)
        for old in sorted(self._checkpoints(), reverse=True)[NEWEST_KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
        return folder

    def set_aside(self, checkpoint: Path) -> Path:
        """Move a checkpoint that cannot be used to where it counts for nothing.

        Else it would be among the newest that are kept, and said to be what training goes on from.

        Returns:
            Where it lies now.

        Raises:
            StorageError: The folder cannot be written to.
        """
        aside = self.path / DAMAGED_FOLDER / checkpoint.name
        try:
            aside.parent.mkdir(exist_ok=True)
            if aside.exists():
                shutil.rmtree(aside)
            return checkpoint.replace(aside)
        except OSError as error:
            raise _unwritable(aside, error) from error

    def clear(self) -> None:
        """Begin anew: let go of all rows and checkpoints.

        Raises:
            StorageError: The folder cannot be written to.
        """
        path = self.path / METRICS_FILE
        try:
            path.unlink(missing_ok=True)  # first: a checkpoint without its row counts for nothing
            self.rows.clear()
            for folder in self._checkpoints():
                shutil.rmtree(folder)
        except OSError as error:
            raise _unwritable(path, error) from error

    def checkpoints(self) -> list[Path]:
        """Folders of checkpoints, newest first; none is newer than the last row."""
        known = [path for path in self._checkpoints() if _epoch(path) <= self.last_epoch]
        return sorted(known, reverse=True)

    def _checkpoints(self) -> list[Path]:
        return [path for path in self.path.glob(f"{_PREFIX}*") if _epoch(path) > 0]


def check_folder(path: Path, identity: Identity) -> None:
    """Refuse a folder that is not this training's, without making or changing anything.

    Raises:
        ConfigError: It holds another training, whose first differing key is named, or other files.
        StorageError: It could not be made or written to.
    """
    if path.is_dir() and {file.name for file in path.iterdir()} - _BEFORE_BEGIN:
        about = _read_about(path)
        theirs = about["identity"]
        for key in [*identity, *theirs]:
            if key not in theirs or key not in identity or theirs[key] != identity[key]:
                raise ConfigError(
                    f"{path} holds another training: {key} is {theirs.get(key)!r} there, "
                    f"{identity.get(key)!r} here{_WHY_ANOTHER.get(key, '')}; give this one a --name or "
                    "--save-dir of its own"
                )
    place = next(place for place in (path, *path.parents) if place.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise StorageError(
            f"the training's folder {path} must be one that can be written to, but {place} is not: "
            "name another with --save-dir"
        )


def make_folder(path: Path) -> None:
    """Make the folder where it is not there yet.

    Raises:
        StorageError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def open_folder(path: Path, identity: Identity) -> TrainingFolder:
    """The training in the folder, begun where there is none.

    Args:
        path: Held by the caller alone, and checked before it was.
        identity: Of the training.

    Raises:
        ConfigError: As ``check_folder``.
        StorageError: It cannot be written to.
        CheckpointError: What was written there is damaged.
    """
    if not (path / ABOUT_FILE).exists():
        about = {"id": uuid.uuid4().hex, "started": time.time(), "identity": dict(identity)}
        try:
            with (path / _ASIDE).open("w", encoding="utf-8") as file:
                json.dump(about, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            (path / _ASIDE).replace(path / ABOUT_FILE)
        except OSError as error:
            raise _unwritable(path, error) from error
    check_folder(path, identity)
    found = _read_about(path)
    return TrainingFolder(path, found["id"], found["started"], _read_rows(path / METRICS_FILE))


def _read_about(path: Path) -> dict[str, Any]:
    file = path / ABOUT_FILE
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(about["identity"], dict):
            raise TypeError("its identity is no mapping")  # noqa: TRY301 - told just below
        return {key: about[key] for key in ("id", "started", "identity")}
    except FileNotFoundError:
        raise ConfigError(
            f"{path} must be a new folder, an empty one or this training's own, but it holds other "
            "files: name another with --save-dir"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file} is damaged ({type(error).__name__}: {error}); without it nobody knows which "
            "training this is: begin anew with another --save-dir"
        ) from error


def _read_rows(path: Path) -> dict[int, TrainedRow]:
    """Rows by epoch; a last line that was cut off by a crash is removed, and trained again."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    rows: dict[int, TrainedRow] = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            row = TrainedRow(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f"{path}, line {number} is damaged ({error}); remove it: its epoch is trained again "
                "where there is a checkpoint from before"
            ) from error
        rows.setdefault(row.epoch, row)
    return rows


def _epoch(path: Path) -> int:
    """The epoch in a checkpoint folder's name; 0 in any other."""
    digits = path.name.removeprefix(_PREFIX)
    return int(digits) if digits.isdecimal() else 0


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written ({error.strerror or error}): make room or name another --save-dir; "
        "what was kept before is whole"
    )
