"""The disk that a study is kept on: what the study needs there, and whether that, or all of it, is gone.

A disk that is full is no fault of a trial's: the study stops while its record can still be written,
and the same command goes on once there is space again.
"""

import errno
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from tune_ddvae.errors import StorageError
from tune_ddvae.tuning.storage.folders import TRIALS_FOLDER
from tune_ddvae.tuning.storage.place import Place, free_bytes
from tune_ddvae.tuning.wording import file_size

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "database or disk is full")
RESERVE_BYTES = 16 * 2**20  # what record, MLflow and Ray write while a study ends
COPIES = 2  # of a checkpoint that each slot may be writing beside those that are kept
LOOK_EVERY_S = 1.0
# In the trials' folder: Ray makes it at its start, and saves no checkpoint where it is not.
RAYS_MARK = ".validate_storage_marker"


@dataclass(frozen=True)
class Needs:
    """What a study needs of the disk; all in bytes."""

    checkpoint: int  # of the largest model
    working: int  # free at any time while trials train
    least: int  # for the new trials to leave one checkpoint each, and to work with
    most: int | None  # with all checkpoints that are kept; None without a number of trials


def needs(*, checkpoint: int, num_new: int | None, kept: int, slots: int) -> Needs:
    """What the disk must hold.

    Args:
        checkpoint: Bytes of one.
        num_new: Trials still to be begun; None for as many as the hours allow.
        kept: Most checkpoints that a trial keeps.
        slots: Trials at once.
    """
    working = RESERVE_BYTES + slots * COPIES * checkpoint
    most = None if num_new is None else working + num_new * kept * checkpoint
    return Needs(checkpoint, working, working + (num_new or 0) * checkpoint, most)


def check_space(folder: Place, needed: Needs) -> str:
    """Refuse a disk that is clearly too small; a warning where it may be, else nothing.

    Raises:
        StorageError: Not even one checkpoint of each new trial would fit; names both sizes.
    """
    free = free_bytes(folder)
    if free is None:
        return ""
    if free < needed.least:
        raise StorageError(
            f"storage {folder} must have {file_size(needed.least)} free for this study (at least one "
            f"checkpoint of {file_size(needed.checkpoint)} for each trial, and "
            f"{file_size(needed.working)} to work with), but {file_size(free)} are free there: free "
            "some, ask for fewer --trials, or name another with --storage"
        )
    if needed.most is None or free >= needed.most:
        return ""
    return (
        f"storage {folder} has {file_size(free)} free, and the study's checkpoints may take "
        f"{file_size(needed.most)}; it stops before the disk is full, and goes on with the same "
        "command once there is space"
    )


class Watch:
    """Looks at a study's folder and its disk now and then; cheap enough to be asked at every step."""

    def __init__(self, folder: Place, needed_bytes: int) -> None:
        self._folder = folder
        self._needed = needed_bytes
        self._looked = -LOOK_EVERY_S
        self._was_marked = False

    def complaint(self, *, at_once: bool = False) -> str:
        """Why the study must stop now; nothing while the folder is there, with space enough.

        Args:
            at_once: Look, however soon after the last time.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_S and not at_once:
            return ""
        self._looked = now
        return self._gone() or self._full()

    def _gone(self) -> str:
        if not isinstance(self._folder, Path):
            return ""
        trials = self._folder / TRIALS_FOLDER
        try:
            (trials / RAYS_MARK).stat()
        except (FileNotFoundError, NotADirectoryError):
            if not self._was_marked:
                return ""  # Ray has not come to it yet
        except OSError:
            return ""  # a file system that does not answer says nothing of what is there
        else:
            self._was_marked = True
            return ""
        return (
            f"{trials} was removed or replaced while the study ran, and the checkpoints in it are gone "
            "from there; put it back if you can. The same command goes on, and trains anew what it finds "
            "no checkpoint of"
        )

    def _full(self) -> str:
        free = free_bytes(self._folder)
        if free is None or free >= self._needed:
            return ""
        return full_text(
            self._folder, f"{file_size(free)} left of {file_size(self._needed)} needed"
        )


def full_text(folder: Place, why: str) -> str:
    """What is said of a disk that is full."""
    return f"no space left in storage {folder} ({why}); free some, and the same command goes on"


def is_full(error: BaseException | None) -> bool:
    """Whether a full disk is what it comes from: torch, Ray and SQLite each say so in their way."""
    return any(
        (isinstance(link, OSError) and link.errno in FULL) or says_full(str(link))
        for link in _chain(error)
    )


def says_full(text: str) -> bool:
    """Whether a message speaks of a full disk."""
    return any(known in text for known in FULL_TEXTS)


def sweep(storage: Path, recorded: Collection[str]) -> None:
    """Remove checkpoints that the record does not name: what died while it was being copied.

    Args:
        storage: The study's folder, held by this driver alone.
        recorded: Paths of the others, relative to it; of all studies that its record holds.
    """
    for folder in (storage / TRIALS_FOLDER).glob("*/checkpoint_*"):
        if folder.relative_to(storage).as_posix() not in recorded:
            shutil.rmtree(folder, ignore_errors=True)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
