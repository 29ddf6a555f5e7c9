"""What probably happened to a lost worker, judged from what Ray wrote down."""

import re
from dataclasses import dataclass

_NODE_GONE = re.compile(
    r"its (node|owner) has died|node was (terminated|preempted)|is unavailable", re.IGNORECASE
)
_MEMORY = re.compile(r"low on memory|out of memory|\boom\b", re.IGNORECASE)
_LONGEST = 200


@dataclass(frozen=True)
class Loss:
    """Why a worker was lost."""

    reason: str
    counts: bool = True  # against its trial; a node's end does not


def judge(text: str) -> Loss:
    """The likely cause, in the user's words where Ray's are known, else Ray's own last line."""
    if _NODE_GONE.search(text):
        return Loss("its node died or cannot be reached", counts=False)
    if _MEMORY.search(text):
        # Ray says the same of a kill from outside, a crash and our own watchdog's end of a stall.
        return Loss(
            "likely out of memory (or killed from outside, crashed, or stalled past the limit); "
            "if memory is short, run fewer trials at once with --max-concurrent"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return Loss(lines[-1][:_LONGEST] if lines else "no cause was given")
