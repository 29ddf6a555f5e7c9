"""The record as a file: whether it is whole, and whether it still is the one that was opened.

A file that is removed while it is open goes on taking what is written to it, and nobody finds it again.
"""

import sqlite3
import time
from pathlib import Path

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

from tune_ddvae.errors import RecordError
from tune_ddvae.tuning.record.tables import PUT_BACK, place_of

LOOK_EVERY_S = 1.0
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRIMARY = 0xFF  # the part of SQLite's codes that tells kinds of error apart


class RecordFile:
    """The file that was open at a path when this was made."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._opened = _identity(self._path)
        self._looked = time.monotonic()

    def fence(self, engine: Engine) -> None:
        """Let no transaction of an engine commit into a file that nobody would find."""
        event.listen(engine, "commit", lambda _: self.check())

    def glance(self) -> None:
        """As ``check``, but at most once a second."""
        if time.monotonic() - self._looked >= LOOK_EVERY_S:
            self.check()

    def check(self) -> None:
        """Refuse to go on where the path leads to that file no more.

        Raises:
            RecordError: It was removed or replaced; says what to do.
        """
        self._looked = time.monotonic()
        try:
            found = _identity(self._path)
        except OSError:
            return  # a file system that does not answer says nothing; SQLite has its own patience
        if found == self._opened:
            return
        how = "was removed" if found is None else "was replaced by another file"
        raise RecordError(
            f"the record {self._path} {how} while the study ran; where what it held is now is not "
            "known. If its folder was moved, move it back, and the same command goes on; otherwise put "
            "back a copy of the whole folder, or begin anew under another --name"
        )


def name_damage(engine: Engine) -> None:
    """Let the engine raise ``RecordError`` where its file turns out to be damaged.

    Of that kind, so that it travels through Optuna as it is.
    """

    def damaged(context: ExceptionContext) -> None:
        code = getattr(context.original_exception, "sqlite_errorcode", 0)
        if code & _PRIMARY in _DAMAGED:
            raise damage(place_of(engine), str(context.original_exception))

    event.listen(engine, "handle_error", damaged)


def damage(place: str, cause: str) -> RecordError:
    """The refusal of a damaged file."""
    return RecordError(
        f"the record {place} is damaged ({' '.join(cause.split())}). {PUT_BACK}; the trials' "
        "checkpoints and what MLflow holds are not part of it"
    )


def check_whole(engine: Engine) -> None:
    """Refuse a damaged file before anything rests on it: 0.1 s for 100 MB, 1 s from a cold disk.

    Raises:
        RecordError: It is damaged; says where it is and what to do.
    """
    with engine.connect() as connection:
        found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if found != "ok":
        raise damage(place_of(engine), str(found))


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from every other one; None where there is none."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino
