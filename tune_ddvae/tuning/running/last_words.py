"""What a worker can still say as it dies: a crash and a stall leave their trace beside its checkpoints.

Ray tells a crash, a stall and a kill from outside in the same words, so this file tells them apart: it
holds Python's own trace, or nothing where the worker was killed before it could write a word.
"""

import faulthandler
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from tune_ddvae.tuning.storage.place import Place

FILE_NAME = "last-words.txt"
NOWHERE = -1

_CRASH = re.compile(r"^Fatal Python error: (.+)$", re.MULTILINE)
_STALL = re.compile(r"^Timeout \((.+?)\)!$", re.MULTILINE)
_PLACE = re.compile(r'^  File "(.+?)", line (\d+) in (\w+)$', re.MULTILINE)


class LastWords:
    """The file that Python's fault handler writes to while one attempt is being made."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._handle = NOWHERE

    @property
    def handle(self) -> int:
        """File descriptor to write to; that of the standard error stream while there is no file."""
        return 2 if self._handle == NOWHERE else self._handle

    def open(self, folder: Place) -> None:
        """Let what is said from now on be found in that folder; where it cannot be, go without.

        It cannot be in a bucket, where nothing is there before it is whole: there the trace goes to
        the standard error stream, which Ray keeps in the worker's log.
        """
        self.close()
        if not isinstance(folder, Path):
            return
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / FILE_NAME
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            self._path = path
            faulthandler.enable(file=self._handle)

    def close(self) -> None:
        """The attempt is over: there was nothing to say."""
        if self._handle == NOWHERE or self._path is None:
            return
        faulthandler.cancel_dump_traceback_later()
        faulthandler.disable()
        if sys.__stderr__ is not None:
            faulthandler.enable(file=sys.__stderr__)
        os.close(self._handle)
        self._handle = NOWHERE
        with suppress(OSError):
            self._path.unlink()


def heard(folder: Place) -> str:
    """What a lost worker's own trace says, in a few words; nothing where it left none."""
    if not isinstance(folder, Path):
        return ""
    try:
        text = (folder / FILE_NAME).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    place = _PLACE.search(text)
    where = "" if place is None else f", in {place[3]} ({Path(place[1]).name}:{place[2]})"
    if crash := _CRASH.search(text):
        return f"crashed: {crash[1]}{where}"
    if stall := _STALL.search(text):
        return f"stalled: nothing was finished for {stall[1]}{where}"
    return ""
