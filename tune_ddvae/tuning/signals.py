"""Ctrl-C and SIGTERM set the stop switch while trials train, and end the process before that."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tune_ddvae import exit_codes
from tune_ddvae.tuning.engine import StopSwitch

_CODES = {
    signal.SIGINT: ("interrupted", exit_codes.INTERRUPTED),
    signal.SIGTERM: ("terminated", exit_codes.TERMINATED),
}


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


def _ended(reason: str, code: int) -> SystemExit:
    """The end of the process, with a note for whoever tells the user of it."""
    end = SystemExit(code)
    end.add_note(f"{reason}: what was recorded is kept; the same command goes on")
    return end
