"""What probably happened to a lost worker, by its last words, Ray's, and the machine's memory."""

import re
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import psutil

from tune_ddvae.tuning.storage.bucket import says_away
from tune_ddvae.tuning.storage.disk import says_full
from tune_ddvae.tuning.storage.folders import TRIALS_FOLDER

SAMPLE_EVERY_S = 1.0
REMEMBERED_S = 60.0
HIGH_PERCENT = 90.0
KERNEL_COUNTERS = Path("/proc/vmstat")  # Linux

_NODE_GONE = re.compile(
    r"its (node|owner) has died|node was (terminated|preempted)|is unavailable", re.IGNORECASE
)
_NO_STORAGE = re.compile(r"Unable to set up cluster storage")  # Ray finds no mark of its own there
_STORAGE_PATH = re.compile(r"storage_fs_path='([^']+)'")
_ENDED_BY_RAY = re.compile(r"low on memory|OutOfMemoryError", re.IGNORECASE)
_SIGNAL = re.compile(r"receives a (SIG[A-Z]+)")
_SILENT = re.compile(r"out of memory|\boom\b", re.IGNORECASE)
_ADVICE = (
    "if memory is short, run fewer trials at once with --max-concurrent, or ask for memory with "
    "--memory-per-trial"
)
_LONGEST = 200


@dataclass(frozen=True)
class Loss:
    """Why a worker was lost."""

    reason: str
    counts: bool = True  # against its trial; a node's end and whatever befalls the storage do not
    is_full: bool = False  # the storage's disk


class Memory:
    """How full this machine's memory was of late, and whether the kernel ended processes for it."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque()
        self._kills = _kernel_kills()

    def sample(self) -> None:
        """Look at it, at most once a second."""
        now = time.monotonic()
        if self._samples and now - self._samples[-1][0] < SAMPLE_EVERY_S:
            return
        self._samples.append((now, psutil.virtual_memory().percent))
        while now - self._samples[0][0] > REMEMBERED_S:
            self._samples.popleft()

    def evidence(self) -> str:
        """What it says about a worker of this machine that has just been killed."""
        self.sample()
        kills = _kernel_kills() - self._kills
        highest = max(percent for _, percent in self._samples)
        used = f"at most {highest:.0f} % of this machine's memory was in use in the last minute"
        if kills > 0:
            self._kills += kills
            return f"the kernel ended {kills} of this machine's processes for want of memory"
        return used if highest < HIGH_PERCENT else f"memory was short: {used}"


def judge(text: str, last_words: str = "", evidence: str = "") -> Loss:
    """The likely cause, in the user's words where it is known, else Ray's own last line.

    Args:
        text: What Ray wrote down.
        last_words: What the worker itself left behind.
        evidence: What is known of its machine's memory.
    """
    if says_full(text):
        return Loss(_last_line(text), counts=False, is_full=True)
    if says_away(text):
        return Loss(f"the storage was away: {_last_line(text)}", counts=False)
    if _NO_STORAGE.search(text):
        path = _STORAGE_PATH.search(text)
        where = f"{path[1]}/{TRIALS_FOLDER}" if path else "the trials' folder of the storage"
        return Loss(
            f"its checkpoint could not be saved: {where} is gone, or its machine does not see it",
            counts=False,
        )
    if _NODE_GONE.search(text):
        return Loss("its node died or cannot be reached", counts=False)
    if last_words:
        return Loss(last_words)
    if _ENDED_BY_RAY.search(text):
        return Loss(f"likely out of memory: Ray ended it, since its node ran short; {_ADVICE}")
    if signal := _SIGNAL.search(text):
        return Loss(f"killed from outside by {signal[1]}")
    if _SILENT.search(text):
        seen = f": {evidence}" if evidence else ""
        return Loss(
            "likely out of memory, or killed from outside (by SIGKILL: it left no word behind)"
            f"{seen}; {_ADVICE}"
        )
    return Loss(_last_line(text))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return "no cause was given"
    last = lines[-1]
    return last if len(last) <= _LONGEST else f"{last[: _LONGEST - 1].rsplit(' ', 1)[0]} …"


def _kernel_kills() -> int:
    """Processes that the kernel has ended for want of memory since it started; 0 where unknown."""
    try:
        text = KERNEL_COUNTERS.read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0
