import io
import re
import threading
import time

import pytest
from rich.console import Console

from tests.tuning import simulated
from tests.tuning.simulated import drive, make_spec, open_study
from tune_ddvae.tuning import ranking
from tune_ddvae.tuning.progress import (
    STATUS_S,
    Best,
    News,
    Pace,
    Progress,
    chosen,
    counts_text,
    shown_metrics,
    time_text,
)
from tune_ddvae.tuning.trials import Report, Row, State, Trial


def plain_console() -> Console:
    return Console(file=io.StringIO(), width=40)


def terminal(width: int = 120, height: int = 24) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=True,
        width=width,
        height=height,
        _environ={"TERM": "xterm"},
    )


def screen_of(progress: Progress, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(progress.screen())
    return console.file.getvalue().splitlines()


def first_step(study) -> None:
    assignment = study.next_assignment()
    metrics = simulated.metrics_at(dict(assignment.config), 1)
    study.take(assignment.attempt, Report(1, metrics))


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    study = open_study(tmp_path_factory.mktemp("driven"), make_spec(), trials=15)
    drive(study)
    yield study
    study.record.close()


@pytest.fixture
def study(tmp_path):
    study = open_study(tmp_path, make_spec(), trials=6)
    yield study
    study.record.close()


def test_a_log_file_gets_one_line_for_each_start_and_end(study):
    console = plain_console()
    with Progress(study, console, slots=1):
        drive(study)
    lines = console.file.getvalue().splitlines()
    assert "\x1b" not in console.file.getvalue()
    for trial in study.trials.values():
        starts = [line for line in lines if line.startswith(f"trial {trial.number} started")]
        ends = [line for line in lines if line.startswith(f"trial {trial.number} {trial.state}")]
        assert len(starts) == len(ends) == 1
        assert "sparsity/hoyer" in ends[0]
        assert "latent/active_units 8" in ends[0]
    assert len(lines) == 12
    assert "plain: beta 1, prior normal" in lines[0]


def test_a_failure_is_told_with_its_reason_and_a_note_once(study):
    console = plain_console()
    with Progress(study, console, slots=1):
        assignment = study.next_assignment()
        study.lose_attempt(assignment.attempt, "its node died")
        assignment = study.next_assignment()
        report = Report(0, error_kind="DivergedError", error="kl is nan\nat epoch 1", is_last=True)
        study.take(assignment.attempt, report)
        study.end_attempt(assignment.attempt)
    text = console.file.getvalue()
    assert "trial 0 failed after 0 epochs; DivergedError: kl is nan at epoch 1\n" in text
    assert text.count("its node died") == 1


def test_a_trial_carried_over_is_not_told_again_and_an_unfinished_one_goes_on(study, tmp_path):
    first_step(study)
    study.record.flush()
    again = open_study(tmp_path, make_spec(), trials=2)
    news = News(again, Best(again.spec))
    assert list(news.lines(brief=False)) == []
    assignment = again.next_assignment()
    assert [line[:30] for line in news.lines(brief=False)] == ["trial 0 goes on after epoch 1:"]
    simulated.train(again, assignment)
    drive(again)
    assert sum("trial 0" in line for line in news.lines(brief=False)) == 1
    again.record.close()
    done = open_study(tmp_path, make_spec(), trials=2)
    assert list(News(done, Best(done.spec)).lines(brief=False)) == []
    done.record.close()


def test_a_log_file_gets_a_status_line_at_most_every_half_minute(study):
    console, now = plain_console(), [0.0]
    progress = Progress(study, console, slots=1, clock=lambda: now[0])
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
    with Progress(study, console, slots=1):
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
    with pytest.raises(RuntimeError, match="the disk is full"), Progress(study, console, slots=1):
        raise RuntimeError("the disk is full")
    assert not any(thread.name == "progress" for thread in threading.enumerate())
    with Progress(study, console, slots=1):  # nothing of the first one is left on the console
        pass


@pytest.mark.parametrize(("width", "height"), [(80, 14), (80, 24), (120, 30), (200, 60)])
def test_the_screen_fits_the_terminal(driven, width, height):
    progress = Progress(driven, terminal(width, height), slots=2)
    lines = screen_of(progress, width, height)
    assert all(len(line) <= width for line in lines)
    assert len(lines) < height
    assert "hoyer" in "\n".join(lines)


def test_params_get_columns_where_these_fit_and_share_one_else(driven):
    wide = screen_of(Progress(driven, terminal(160, 30), slots=2), 160, 30)
    narrow = screen_of(Progress(driven, terminal(72, 30), slots=2), 72, 30)
    assert "beta" in wide[1]
    assert "sparse gamma 0." in "\n".join(wide)
    assert narrow[1].rstrip().endswith("params")
    assert "beta 0." in "\n".join(narrow)


def test_the_stars_stand_at_the_pareto_set(driven):
    lines = screen_of(Progress(driven, terminal(120, 60), slots=2), 120, 60)
    starred = {int(line.split()[1]) for line in lines if re.match(r"\*\s+\d", line)}
    front = ranking.pareto_set(driven.trials.values(), driven.spec.rank_by)
    assert starred == {trial.number for trial in front}


def test_comparing_each_trial_once_gives_the_same_pareto_set(driven):
    best, trials = Best(driven.spec), list(driven.trials.values())
    for count in range(len(trials) + 1):
        found = best.take(trials[:count])
        assert found == ranking.pareto_set(trials[:count], driven.spec.rank_by)


def test_no_group_of_trials_crowds_out_the_others():
    training = [Trial(n, {}, {}) for n in range(100)]
    ended = [
        Trial(n, {}, {}, state=State.COMPLETE, values=(0.0,), ended=float(n))
        for n in range(100, 400)
    ]
    best = ended[:50]
    shown = chosen([*training, *ended], set(range(100)), best, 30)
    assert len(shown) == 30
    assert [t.number for t in shown[:10]] == list(range(10))
    assert shown[10:20] == best[:10]
    assert shown[20].number == 399
    assert len(chosen([*training[:3], *ended], {0, 1, 2}, best, 30)) == 30


def test_sparsity_never_stands_without_its_active_units():
    spec = make_spec(rank_by={"log_likelihood/iwae": "max", "sparsity/hoyer": "max"})
    assert shown_metrics(spec) == (
        "log_likelihood/iwae",
        "sparsity/hoyer",
        "latent/active_units",
    )
    assert shown_metrics(make_spec(rank_by={"latent/active_units": "min"})) == (
        "latent/active_units",
    )


def test_time_left_is_unknown_before_the_first_result(study):
    progress = Progress(study, plain_console(), slots=2)
    study.next_assignment()
    assert "time left unknown yet" in "\n".join(screen_of(progress, 80, 24))


def test_time_left_without_rungs_is_what_is_left_to_train():
    spec = make_spec(epochs=10, first_rung=None)
    rows = {
        e: Row(e, 5.0, {"training/seconds": 1.5, "training/evaluation_seconds": 0.5})
        for e in range(1, 5)
    }
    trials = [Trial(0, {}, {}, rows=rows)]
    pace = Pace(since=0.0)
    for _ in range(2):
        pace.take(spec, trials)  # a row counts once
    assert pace.epochs == 4
    assert pace.time_left(spec, trials, 4, 1) == pytest.approx((6 + 30) * 2.0)
    assert pace.time_left(spec, trials, 4, 2) == pytest.approx(18 * 2.0)
    assert pace.time_left(spec, trials, 4, 100) == pytest.approx(10 * 2.0)  # the longest one
    assert pace.time_left(spec, trials, None, 1) is None


def test_earlier_drivers_say_who_passes_but_not_how_fast(driven):
    pace = Pace(since=time.time() + 60)
    pace.take(driven.spec, list(driven.trials.values()))
    assert pace.epochs == 0
    assert pace.arrived[1] == 15
    assert 0 < pace.passed[9] <= pace.passed[3] < pace.passed[1] < 15


def test_time_left_falls_to_nothing_when_all_have_ended(driven):
    pace, trials = Pace(since=0.0), list(driven.trials.values())
    pace.take(driven.spec, trials)
    assert pace.time_left(driven.spec, trials, 15, 2) == 0.0
    more = pace.time_left(driven.spec, trials, 16, 2)
    assert 1 < more < 27  # one trial, one second an epoch, most are stopped early


def test_the_hours_are_told_with_what_earlier_sessions_used(study):
    assert time_text(60.0, 7200.0, 600.0, is_open_ended=False) == (
        "1 min elapsed, about 2 h left, hours are used up in 9 min"
    )
    assert time_text(60.0, None, 600.0, is_open_ended=True) == (
        "1 min elapsed, hours are used up in 9 min"
    )
    study.record.used_hours = lambda: 1.5
    progress = Progress(study, plain_console(), slots=1, hours=2.0)
    assert "hours are used up in 30 min" in "\n".join(screen_of(progress, 80, 24))


def test_counts_say_where_every_trial_stands(driven):
    trials = list(driven.trials.values())
    text = counts_text([*trials, Trial(15, {}, {}), Trial(16, {}, {})], {15}, 100, 1, 3)
    assert text.startswith("15 of 100 trials ended (")
    assert text.endswith("; 1 training in 1 slot, 1 waiting to go on; 3 carried over")


def test_the_study_may_change_while_it_is_drawn(tmp_path):
    study = open_study(tmp_path, make_spec(startup_trials=100), trials=3)
    progress = Progress(study, terminal(), slots=1)
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
