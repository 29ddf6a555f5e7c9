import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading

import psutil
import pytest

from tune_ddvae import exit_codes
from tune_ddvae.tuning import signals
from tune_ddvae.tuning.signals import (
    StopSwitch,
    ending_in_time,
    exit_code_of,
    signals_end,
    signals_stop,
    terminate_cleanly,
)

# Hangs where no signal reaches it, as a thread does that waits for a lock of SQLite's.
HANGING = """
import sqlite3, subprocess, sys
from tune_ddvae.tuning.signals import StopSwitch, ending_in_time, signals_stop
with ending_in_time(float(sys.argv[2])), signals_stop(StopSwitch()):
    database = sqlite3.connect(sys.argv[1], timeout=60)
    child = subprocess.Popen(["sleep", "600"])
    print("waiting", child.pid, flush=True)
    database.execute("BEGIN IMMEDIATE")
"""
KEPT = "what was recorded is kept; the same command goes on"
SIGNALS = [
    (signal.SIGINT, "interrupted", exit_codes.INTERRUPTED),
    (signal.SIGTERM, "terminated", exit_codes.TERMINATED),
    (signal.SIGHUP, "terminated", exit_codes.TERMINATED),
]


@pytest.fixture(autouse=True)
def handlers_as_before():
    before = {number: signal.getsignal(number) for number, *_ in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "reason", "code"), SIGNALS)
def test_a_signal_asks_for_the_end_and_interrupts_nothing(number, reason, code):
    switch = StopSwitch()
    with signals_stop(switch):
        signal.raise_signal(number)
    assert switch.is_set()
    assert switch.reason == reason
    assert exit_code_of(switch.reason) == code


@pytest.mark.parametrize(("number", "reason", "code"), SIGNALS)
def test_a_second_signal_ends_the_process_at_once_with_its_own_code(number, reason, code):
    switch = StopSwitch()
    with signals_stop(switch):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(number)
    assert ended.value.code == code
    assert ended.value.__notes__ == [f"{reason}: {KEPT}"]
    assert switch.reason == "interrupted"


@pytest.mark.parametrize(("number", "reason", "code"), SIGNALS)
def test_what_hangs_is_ended_all_the_same_and_says_so(number, reason, code, tmp_path):
    holder = sqlite3.connect(tmp_path / "record.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    command = [sys.executable, "-c", HANGING, str(tmp_path / "record.db"), "0.2"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as driver:
        child = psutil.Process(int(driver.stdout.readline().removeprefix("waiting ")))
        driver.send_signal(number)
        said = driver.communicate(timeout=30)[1]
    holder.close()
    assert driver.returncode == code
    assert psutil.wait_procs([child], timeout=10)[1] == []
    assert said.startswith(f"{reason}: record, storage or Ray did not let go within 0.2 s")
    assert KEPT in said


def test_on_a_terminal_the_hard_end_has_a_line_of_its_own_and_a_cursor(tmp_path):
    holder = sqlite3.connect(tmp_path / "record.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    command = [sys.executable, "-c", HANGING, str(tmp_path / "record.db"), "0.2"]
    screen, terminal = os.openpty()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal) as driver:
        driver.stdout.readline()
        os.write(terminal, b"1 min left")  # a live table's last line
        driver.send_signal(signal.SIGTERM)
        driver.communicate(timeout=30)
    holder.close()
    said = os.read(screen, 1000).decode()
    os.close(screen)
    os.close(terminal)
    assert said.startswith("1 min left\x1b[?25h\r")
    assert said.splitlines()[1].startswith("terminated: ")


def test_an_end_in_time_calls_the_hard_end_off(monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda _code: ended.set())
    with ending_in_time(0.05), signals_stop(StopSwitch()):
        signal.raise_signal(signal.SIGINT)
    assert not ended.wait(0.2)
    assert signal.set_wakeup_fd(-1) == -1
    assert [thread.name for thread in threading.enumerate() if thread.name == "end"] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_comes_twice_by_two_ways_is_one(number, monkeypatch):
    with signals_stop(StopSwitch()):
        signal.raise_signal(number)
        signal.raise_signal(number)
        monkeypatch.setattr(signals, "ECHO_S", 0.0)
        with pytest.raises(SystemExit):
            signal.raise_signal(number)


def test_who_is_started_to_outlive_its_terminal_does():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as by nohup
    switch = StopSwitch()
    terminate_cleanly()
    with signals_stop(switch):
        signal.raise_signal(signal.SIGHUP)
    assert not switch.is_set()


def test_an_exit_that_ray_makes_of_the_second_signal_keeps_the_signals_code():
    def interrupted_twice():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGINT)
        raise SystemExit(1)

    with pytest.raises(SystemExit) as ended, signals_stop(StopSwitch()):
        interrupted_twice()
    assert ended.value.code == exit_codes.INTERRUPTED
    assert ended.value.__notes__ == [f"interrupted: {KEPT}"]


def test_an_exit_that_is_no_signals_is_left_as_it_is():
    with pytest.raises(SystemExit) as ended, signals_stop(StopSwitch()):
        raise SystemExit(1)
    assert ended.value.code == 1


def test_signals_mean_afterwards_what_they_meant_before():
    before = [signal.getsignal(number) for number, *_ in SIGNALS]
    with pytest.raises(ZeroDivisionError), signals_stop(StopSwitch()):
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number, *_ in SIGNALS] == before


def test_other_ends_have_no_signals_exit_code():
    for reason in ("", "complete", "out of time", "the same error again and again: x"):
        assert exit_code_of(reason) is None


def test_termination_unwinds_the_stack_so_that_what_is_held_is_let_go():
    let_go = []
    terminate_cleanly()
    with contextlib.ExitStack() as held:
        ended = held.enter_context(pytest.raises(SystemExit))
        held.callback(let_go.append, "lock")
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == exit_codes.TERMINATED
    assert ended.value.__notes__ == [f"terminated: {KEPT}"]
    assert let_go == ["lock"]


@pytest.mark.parametrize(("number", "reason", "code"), SIGNALS)
def test_where_nothing_goes_on_a_signal_ends_with_a_note_of_its_own(number, reason, code):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended, signals_end("begin anew"):
        signal.raise_signal(number)
    assert (ended.value.code, ended.value.__notes__) == (code, [f"{reason}: begin anew"])
    assert signal.getsignal(number) == before
