"""Ctrl-C and SIGTERM set the stop switch while trials train, and end the process before that."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tune_ddvae import exit_codes

_CODES = {
    signal.SIGINT: ("interrupted", exit_codes.INTERRUPTED),
    signal.SIGTERM: ("terminated", exit_codes.TERMINATED),
}
_GOES_ON = "what was recorded is kept; the same command goes on"


class StopSwitch:
    """One flag that signals, budgets and repeated errors set, and that the loop reads."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason = ""
        self.error: Exception | None = None

    def set(self, reason: str) -> None:
        """Ask for the end; the first reason stays."""
        if not self._event.is_set():
            self.reason = reason
            self._event.set()

    def fail(self, error: Exception) -> None:
        """Keep an error of our own that a hook met where Tune would swallow it; the first stays."""
        self.error = self.error or error

    def is_set(self) -> bool:
        """Whether the end was asked for."""
        return self._event.is_set()


@contextmanager
def signals_stop(switch: StopSwitch) -> Iterator[None]:
    """Route both signals to the switch; a second one while stopping ends the process at once."""
    ends: list[SystemExit] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        reason, code = _CODES[signal.Signals(number)]
        if switch.is_set():
            ends.append(_ended(reason, code))
            raise ends[-1]
        switch.set(reason)

    before = {number: signal.signal(number, handle) for number in _CODES}
    try:
        yield
    except SystemExit as error:
        # Where the signal reaches Ray's own code, that raises an exit with code 1 instead of ours.
        if ends and error not in ends:
            raise ends[-1] from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code_of(reason: str) -> int | None:
    """Exit code of a signal's reason; None for any other reason."""
    return dict(_CODES.values()).get(reason)


def terminate_cleanly() -> None:
    """Let SIGTERM unwind the stack, as Ctrl-C does, so that locks and workers are let go."""

    def handle(number: int, _frame: FrameType | None) -> None:
        raise _ended(*_CODES[signal.Signals(number)])

    signal.signal(signal.SIGTERM, handle)


@contextmanager
def signals_end(told: str) -> Iterator[None]:
    """Let both signals unwind the stack, where no later command goes on with what is under way.

    Args:
        told: What then becomes of it, for the user.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        raise _ended(*_CODES[signal.Signals(number)], told)

    before = {number: signal.signal(number, handle) for number in _CODES}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ended(reason: str, code: int, told: str = _GOES_ON) -> SystemExit:
    """The end of the process, with a note for whoever tells the user of it."""
    end = SystemExit(code)
    end.add_note(f"{reason}: {told}")
    return end
