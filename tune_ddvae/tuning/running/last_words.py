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

import tune_ddvae
from tune_ddvae.tuning.storage.place import Place

FILE_NAME = "last-words.txt"
STALL_VARIABLE = "TUNE_DDVAE_STALL_S"  # how long nothing may be finished before a worker is ended
NOWHERE = -1

_CRASH = re.compile(r"^Fatal Python error: (.+)$", re.MULTILINE)
_STALL = re.compile(r"^Timeout \((.+?)\)!$", re.MULTILINE)
_THREAD = re.compile(r"^(Current thread|Thread) 0x.*$", re.MULTILINE)
_FRAME = re.compile(r'^  File "(.+?)", line (\d+) in (\S+)$', re.MULTILINE)


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
    if crash := _CRASH.search(text):
        return f"crashed: {crash[1]}{_where(text)}"
    if stall := _STALL.search(text):
        return f"stalled: nothing was finished for {stall[1]} ({STALL_VARIABLE}){_where(text)}"
    return ""


def _where(text: str) -> str:
    """The frame that a trace ends in and, where that is another's code, ours that led there."""
    headings = list(_THREAD.finditer(text))
    if not headings:
        return ""
    # A crash marks its thread. A stall marks none: the main thread, which trains, is written last.
    thread = next((heading for heading in headings if heading[1] != "Thread"), headings[-1])
    trace = text[thread.end() :].split("\n\n", maxsplit=1)[0]
    frames = [(Path(path), line, name) for path, line, name in _FRAME.findall(trace)]
    ours = [frame for frame in frames if tune_ddvae.__name__ in frame[0].parts]
    told = dict.fromkeys((*frames[:1], *ours[:1]))
    return "".join(f", in {name} ({path.name}:{line})" for path, line, name in told)
