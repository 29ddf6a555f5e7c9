import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

import pytest
from rich.console import Console

from tests.tuning.screens import first_step, printed
from tests.tuning.simulated import drive, make_spec, open_study
from tune_ddvae.tuning.cluster.resources import Slots
from tune_ddvae.tuning.running.progress import STATUS_S, Progress, counts_text, time_text
from tune_ddvae.tuning.trials import Report, Trial


def at_once(concurrent: int) -> Slots:
    return Slots(concurrent=concurrent, num_cpus=1.0, num_gpus=0.0)


def plain_console() -> Console:
    return Console(file=io.StringIO(), width=40)


def terminal(width: int = 120, height: int = 24, file: TextIO | None = None) -> Console:
    return Console(
        file=file or io.StringIO(),
        force_terminal=True,
        width=width,
        height=height,
        _environ={"TERM": "xterm"},
    )


def screen_of(progress: Progress, width: int, height: int) -> list[str]:
    return printed(progress.screen(), width, height).splitlines()


@contextmanager
def unreadable_soon(make_ends) -> Iterator[tuple[TextIO, Callable[[], None]]]:
    """Something to write to, and what takes its reader away."""
    reader, writer = make_ends()
    file = os.fdopen(writer, "w")
    yield file, lambda: os.close(reader)
    file.close()  # fails where something is left that cannot be written


def test_a_log_file_gets_one_line_for_each_start_and_end(study):
    console = plain_console()
    with Progress(study, console, slots=at_once(1)):
        drive(study)
    lines = console.file.getvalue().splitlines()
    assert "\x1b" not in console.file.getvalue()
    for trial in study.trials.values():
        starts = [line for line in lines if line.startswith(f"trial {trial.number} started")]
        ends = [line for line in lines if line.startswith(f"trial {trial.number} {trial.state}")]
        assert len(starts) == len(ends) == 1
        assert "sparsity/hoyer" in ends[0]
        assert "latent/active_units 8" in ends[0]
    assert len(lines) == 8
    assert "plain: beta 1, prior normal" in lines[0]


def test_a_failure_is_told_with_its_reason_and_a_note_once(study):
    console = plain_console()
    with Progress(study, console, slots=at_once(1)):
        assignment = study.next_assignment()
        study.lose_attempt(assignment.attempt, "its node died")
        assignment = study.next_assignment()
        report = Report(0, error_kind="DivergedError", error="kl is nan\nat epoch 1", is_last=True)
        study.take(assignment.attempt, report)
        study.end_attempt(assignment.attempt)
    text = console.file.getvalue()
    assert "trial 0 failed after 0 epochs; DivergedError: kl is nan at epoch 1\n" in text
    assert text.count("its node died") == 1


def test_a_log_file_gets_a_status_line_at_most_every_half_minute(study):
    console, now = plain_console(), [0.0]
    progress = Progress(study, console, slots=at_once(1), clock=lambda: now[0])
    first_step(study)
    for _ in range(5):
        now[0] += STATUS_S - 1
        progress._tell_status()
        now[0] += 1
        progress._tell_status()
    assert console.file.getvalue().count("elapsed") == 1  # nothing has changed since
    first_step(study)
    progress._tell_status()
    progress._tell_status()
    assert console.file.getvalue().count("elapsed") == 2


def test_a_terminal_shows_a_table_while_running_and_is_clean_after(study):
    console = terminal()
    with Progress(study, console, slots=at_once(1)):
        first_step(study)
        deadline = time.monotonic() + 5
        while "training" not in console.file.getvalue() and time.monotonic() < deadline:
            time.sleep(0.02)
    text = console.file.getvalue()
    assert "active" in text
    assert "1/27" in text
    assert "\x1b[?25h" in text  # the cursor is back
    assert "started" not in text


def test_the_console_is_left_clean_when_the_study_raises(study):
    console = terminal()
    with (
        pytest.raises(RuntimeError, match="the disk is full"),
        Progress(study, console, slots=at_once(1)),
    ):
        raise RuntimeError("the disk is full")
    assert not any(thread.name == "progress" for thread in threading.enumerate())
    with Progress(
        study, console, slots=at_once(1)
    ):  # nothing of the first one is left on the console
        pass


@pytest.mark.parametrize(("width", "height"), [(80, 14), (80, 24), (120, 30), (200, 60)])
def test_the_screen_fits_the_terminal(driven, width, height):
    progress = Progress(driven, terminal(width, height), slots=at_once(2))
    lines = screen_of(progress, width, height)
    assert all(len(line) <= width for line in lines)
    assert len(lines) < height
    assert "hoyer" in "\n".join(lines)


def test_time_left_is_unknown_before_the_first_result(study):
    progress = Progress(study, plain_console(), slots=at_once(2))
    study.next_assignment()
    assert "time left unknown yet" in "\n".join(screen_of(progress, 80, 24))


def test_the_hours_are_told_with_what_earlier_sessions_used(study):
    assert time_text(60.0, 7200.0, 600.0, is_open_ended=False) == (
        "1 min elapsed, about 2 h left, hours are used up in 9 min"
    )
    assert time_text(60.0, None, 600.0, is_open_ended=True) == (
        "1 min elapsed, hours are used up in 9 min"
    )
    study.record.used_hours = lambda: 1.5
    progress = Progress(study, plain_console(), slots=at_once(1), hours=2.0)
    assert "hours are used up in 30 min" in "\n".join(screen_of(progress, 80, 24))


def test_counts_say_where_every_trial_stands(driven):
    trials = list(driven.trials.values())
    text = counts_text([*trials, Trial(15, {}, {}), Trial(16, {}, {})], {15}, 100, 1, 3)
    assert text.startswith("15 of 100 trials ended (")
    assert text.endswith("; 1 training in 1 slot, 1 waiting to go on; 3 carried over")


def test_the_study_may_change_while_it_is_drawn(tmp_path):
    study = open_study(tmp_path, make_spec(startup_trials=100), trials=3)
    progress = Progress(study, terminal(), slots=at_once(1))
    errors = []

    def look() -> None:
        try:
            while driver.is_alive():
                progress.screen()
                list(progress._news.lines(brief=False))
        except Exception as error:  # noqa: BLE001 - a thread must hand it over
            errors.append(error)

    driver = threading.Thread(target=drive, args=[study])
    viewer = threading.Thread(target=look)
    driver.start()
    viewer.start()
    driver.join()
    viewer.join()
    study.record.close()
    assert errors == []


@pytest.mark.parametrize("is_started", [True, False])
def test_a_terminal_that_is_gone_leaves_the_study_running(study, is_started):
    with unreadable_soon(os.openpty) as (file, vanish):
        console = terminal(file=file)
        progress = Progress(study, console, slots=at_once(1))
        before = sys.stdout, sys.stderr
        if not is_started:
            vanish()
        with progress:
            if is_started:
                vanish()
                progress._thread.join(timeout=10)
                assert not progress._thread.is_alive()
                assert (sys.stdout, sys.stderr) == before
            drive(study)
        assert (sys.stdout, sys.stderr) == before
        console.print("what others say there is lost, and fails nowhere")
        with console.status("so is this"):
            pass
    assert study.is_complete


@pytest.mark.parametrize("make_ends", [os.openpty, os.pipe])
def test_one_that_is_gone_at_the_end_changes_nothing(study, make_ends):
    with unreadable_soon(make_ends) as (file, vanish), redirect_stdout(file):
        console = Console(file=file, force_terminal=False)
        with Progress(study, console, slots=at_once(1)):
            drive(study)
            vanish()
    assert study.is_complete


def test_a_signal_still_ends_the_process(study):
    progress = Progress(study, plain_console(), slots=at_once(1))
    with pytest.raises(SystemExit), progress._console_may_go():
        raise SystemExit(130)
