"""Ctrl-C, SIGTERM and a closed terminal: the stop switch while trials train, the end before that."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import psutil

from tune_ddvae import exit_codes

ENDS_WITHIN_S = 28.0  # after a signal: Slurm, Kubernetes and spot machines give 30 s

_CODES = {
    signal.SIGINT: ("interrupted", exit_codes.INTERRUPTED),
    signal.SIGTERM: ("terminated", exit_codes.TERMINATED),
    signal.SIGHUP: (
        "terminated",
        exit_codes.TERMINATED,
    ),  # its terminal, or the line to it, is gone
}
ECHO_S = 0.5  # a launcher that signals a process and its group, or passes on what both got, does it twice
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
    """Route signals to the switch; a second one while stopping ends the process at once."""
    ends: list[SystemExit] = []
    first: tuple[int, float] = (0, 0.0)

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal first
        reason, code = _CODES[signal.Signals(number)]
        is_echo = number == first[0] and time.monotonic() - first[1] < ECHO_S
        if not switch.is_set():
            switch.set(reason)
            first = number, time.monotonic()
        elif number == signal.SIGINT or not is_echo:  # a person means each Ctrl-C
            ends.append(_ended(reason, code))
            raise ends[-1]

    before = _handled_by(handle)
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


@contextmanager
def ending_in_time(limit_s: float = ENDS_WITHIN_S) -> Iterator[None]:
    """End the process for good where the orderly end that a signal asked for takes too long.

    A database that somebody has locked and a file system that is away hold the main thread where no
    handler of ours gets a turn: the system tells another thread of the signal. What is recorded by
    then is safe, as after any other hard end.
    """
    hears, tells = socket.socketpair()
    tells.setblocking(False)
    before = signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
    watch = threading.Thread(target=_end_hard, args=[hears, limit_s], name="end", daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        tells.close()
        watch.join()
        hears.close()


def exit_code_of(reason: str) -> int | None:
    """Exit code of a signal's reason; None for any other reason."""
    return dict(_CODES.values()).get(reason)


def terminate_cleanly() -> None:
    """Let SIGTERM and SIGHUP unwind the stack, as Ctrl-C does, so that locks and workers are let go."""

    def handle(number: int, _frame: FrameType | None) -> None:
        raise _ended(*_CODES[signal.Signals(number)])

    _handled_by(handle, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals_end(told: str) -> Iterator[None]:
    """Let signals unwind the stack, where no later command goes on with what is under way.

    Args:
        told: What then becomes of it, for the user.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        raise _ended(*_CODES[signal.Signals(number)], told)

    before = _handled_by(handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handled_by(
    handle: Callable[[int, FrameType | None], None], *numbers: signal.Signals
) -> dict[signal.Signals, Any]:
    """Set a handler for these signals, or for all of ours; those there were before."""
    wanted = list(numbers or _CODES)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and signal.SIGHUP in wanted:
        wanted.remove(signal.SIGHUP)  # as nohup wants it
    return {number: signal.signal(number, handle) for number in wanted}


def _ended(reason: str, code: int, told: str = _GOES_ON) -> SystemExit:
    """The end of the process, with a note for whoever tells the user of it."""
    end = SystemExit(code)
    end.add_note(f"{reason}: {told}")
    return end


def _end_hard(hears: socket.socket, limit_s: float) -> None:
    """Wait for a signal, then for the end of what it ends; end the process if that takes too long."""
    number, until = 0, 0.0
    family: list[psutil.Process] = []
    while heard := _heard(hears, until - time.monotonic() if number else None):
        if not number and heard[0] in _CODES:
            number, until = heard[0], time.monotonic() + limit_s
            family = _family()  # what ends from here on leaves its children to nobody
    if heard is not None:
        return
    reason, code = _CODES[signal.Signals(number)]
    # A live table has hidden the cursor and left it in its last line.
    cursor = "\x1b[?25h\n" if os.isatty(2) else ""
    told = (
        f"{cursor}{reason}: record, storage or Ray did not let go within {limit_s:g} s, so this "
        f"process ends without them; {_GOES_ON}\n"
    )
    # Whoever reads our stderr may hang as well.
    telling = threading.Thread(target=os.write, args=[2, told.encode()], daemon=True)
    telling.start()
    telling.join(0.5)
    for process in {*family, *_family()}:  # a Ray of our own; its agents outlive it otherwise
        with suppress(psutil.Error):
            process.kill()  # looks first that it is no other by now
    os._exit(code)


def _family() -> list[psutil.Process]:
    with suppress(psutil.Error):
        return psutil.Process().children(recursive=True)
    return []


def _heard(hears: socket.socket, timeout_s: float | None) -> bytes | None:
    """The next signal's number; nothing once no more come, None where none came in time."""
    try:
        hears.settimeout(None if timeout_s is None else max(timeout_s, 0.001))
        return hears.recv(1)
    except TimeoutError:
        return None
