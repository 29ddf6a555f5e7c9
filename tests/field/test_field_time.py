"""A budget of hours, and slots that are really used at once."""

import time

import pytest

from tests.studies import Tracked, run, trials_of, write_tiny
from tune_ddvae import exit_codes
from tune_ddvae.tuning.trials import State

pytestmark = [pytest.mark.field, pytest.mark.timeout(280)]

TWO_AT_ONCE = ("--max-concurrent", "2", "--cpus-per-trial", "1")
HOURS = 0.008
GRACE_S = 30.0  # for what is under way when the budget is used up


@pytest.fixture(scope="module")
def out_of_time(tmp_path_factory, ready_tracking, ray_address):
    """As many trials as fit; one that the rungs spare trains for longer than the budget lasts."""
    folder = tmp_path_factory.mktemp("out-of-time")
    study = write_tiny(folder)
    began = time.monotonic()
    words = ("--hours", str(HOURS), "--epochs", "19683", *TWO_AT_ONCE, "--address", ray_address)
    done = run(study, folder, *words)
    return folder, done, time.monotonic() - began


def test_a_budget_of_hours_ends_the_study_in_time(out_of_time):
    _, done, took_s = out_of_time
    assert done.returncode == exit_codes.WORK_LEFT, done.stderr
    assert took_s < HOURS * 3600 + GRACE_S
    assert "Study tiny: out of time" in done.stdout
    assert "Go on with it" in done.stdout


def test_what_a_cut_trial_has_recorded_is_kept_and_labelled(out_of_time):
    folder, done, _ = out_of_time
    trials = trials_of(folder, "tiny")
    cut = [trial for trial in trials if trial.state is State.UNFINISHED]
    assert any(trial.rows for trial in cut)
    assert len(trials) > len(cut)
    tracked = Tracked(folder, "tiny", "tiny")
    tracked.assert_equals(trials)
    assert tracked.parent.info.status == "KILLED"
    for trial in cut:
        child = tracked.children[trial.number]
        assert child.info.status == "KILLED"
        assert child.data.tags["state"] == "out of time"
        assert f"{trial.number} at {trial.last_epoch}/" in done.stdout


def test_a_budget_too_short_for_any_evaluation_says_so(workplace, ray_address):
    study = write_tiny(workplace)
    done = run(study, workplace, "--hours", "0.0001", *TWO_AT_ONCE, "--address", ray_address)
    assert done.returncode == exit_codes.WORK_LEFT, done.stderr
    assert "No trial finished its first evaluation, so nothing was found." in done.stdout
    assert "Study tiny: out of time" in done.stdout
    tracked = Tracked(workplace, "tiny", "tiny")
    statuses = {run.info.status for run in (tracked.parent, *tracked.children)}
    assert statuses == {"KILLED"}


def test_two_trials_at_once_overlap_and_suggestions_wait_for_a_slot(workplace, ray_address):
    study = write_tiny(workplace, trials=6)
    words = ("--first-rung", "none", *TWO_AT_ONCE, "--address", ray_address)
    done = run(study, workplace, *words)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    trials = trials_of(workplace, "tiny")
    assert len(trials) == 6
    spans = {trial.number: (trial.started, trial.ended) for trial in trials}
    assert sum(overlaps(spans, number) for number in spans) >= 4
    assert most_at_once(spans) == 2
    assert trials[5].started >= trials[1].ended
    assert Tracked(workplace, "tiny", "tiny").parent.data.tags["slots"] == "2"


def overlaps(spans, number):
    began, ended = spans[number]
    others = (span for other, span in spans.items() if other != number)
    return any(start < ended and began < end for start, end in others)


def most_at_once(spans):
    return max(
        sum(start <= moment < end for start, end in spans.values()) for moment, _ in spans.values()
    )
