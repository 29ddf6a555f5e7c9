"""What keeps going wrong in a study, whichever trial it meets: then to go on would be in vain.

Nothing of this is recorded: the study stops with work left, and the same command tries anew.
"""

import re
from collections import Counter

SAME_ERROR_LIMIT = 3  # trials running that fail alike
UNFIT_LIMIT = 3  # attempts in a row that one machine cannot take
CUT_OFF_LIMIT = 20  # workers that one trial loses with their nodes between two of its evaluations

_PATH = re.compile(
    r"(?<![\w.])(?:[a-z][a-z\d+.-]*:/|~|\.{1,2})?/[^\s'\"`,;:()\[\]]+", re.IGNORECASE
)
_ID = re.compile(
    r"(?<![a-z\d])(?:0x[\da-f]+|[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}|(?=[a-f]*\d)[\da-f]{6,})"
    r"(?![a-z\d])",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:[eE][+-]?\d+)?(?: ?[KMGT]i?B\b)?")


class Troubles:
    """Counts them; one thread tells it and asks it."""

    def __init__(self) -> None:
        self._alike: list[tuple[str, str]] = []  # failures in a row: what they share, and in full
        self._unfit: Counter[str] = Counter()  # by what a machine lacks; its name is in it
        self._cut_off: Counter[int] = Counter()  # by trial
        self._last_cut = ""  # of a trial that was cut off too often

    @property
    def reason_to_stop(self) -> str:
        """Why to go on would be in vain, or nothing."""
        for why, times in self._unfit.items():
            if times >= UNFIT_LIMIT:
                return f"a machine could take no trial: {why}"
        alike = self._alike[-SAME_ERROR_LIMIT:]
        if len(alike) == SAME_ERROR_LIMIT and len({shared for shared, _ in alike}) == 1:
            return f"the same error again and again: {alike[-1][1]}"
        return self._last_cut

    def failed(self, kind: str, message: str) -> None:
        """A trial failed, or could not go on, for a reason that may be every trial's."""
        self._alike.append((f"{kind}: {gist(message)}", f"{kind}: {message}"))

    def lost_too_often(self, reason: str) -> None:
        """A trial failed since it lost more workers than it may, the last one for this reason."""
        self._alike.append(("worker lost", f"worker lost, more often than a trial may: {reason}"))

    def went_well(self) -> None:
        """A trial ended otherwise, or by a fault of its own: failures are not in a row any more."""
        self._alike = []

    def unfit(self, why: str) -> None:
        """A machine could not take an attempt.

        Args:
            why: Begins with the machine's name.
        """
        self._unfit[why] += 1

    def fit(self, host: str) -> None:
        """A machine has trained: what it lacked before is there now."""
        for why in [why for why in self._unfit if host and why.startswith(f"{host} ")]:
            del self._unfit[why]

    def cut_off(self, number: int, reason: str) -> None:
        """A trial lost its worker by no fault of its own."""
        self._cut_off[number] += 1
        if (times := self._cut_off[number]) > CUT_OFF_LIMIT:
            self._last_cut = (
                f"trial {number} was cut off {times} times without coming to a new evaluation; "
                f"last: {reason}"
            )

    def came_on(self, number: int) -> None:
        """A trial was evaluated: losses before that do not keep it from its end."""
        del self._cut_off[number]


def gist(text: str) -> str:
    """An error's text without what differs each time: absolute paths, hexadecimal ids and numbers."""
    for pattern, sign in ((_PATH, "<path>"), (_ID, "<id>"), (_NUMBER, "<number>")):
        text = pattern.sub(sign, text)
    return text
