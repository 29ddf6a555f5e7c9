import random
import time

import pytest

from tests.tuning.simulated import make_spec
from tune_ddvae.tuning.planning.forecast import (
    Pace,
    epochs_left,
    expected_epochs,
    expected_to_go_on,
)
from tune_ddvae.tuning.search import halving
from tune_ddvae.tuning.trials import Row, Trial


def test_without_rungs_every_trial_trains_all_epochs():
    assert expected_epochs(make_spec(epochs=7, first_rung=None), 5) == 35


@pytest.mark.parametrize("num_trials", [2, 5, 12])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_expected_passes_agree_with_the_rule_itself(num_trials, factor):
    draws, passes, repeats = random.Random(0), 0, 300
    for _ in range(repeats):
        values = [draws.random() for _ in range(num_trials)]
        passes += sum(halving.goes_on(v, values[:i], factor) for i, v in enumerate(values))
    assert expected_to_go_on(float(num_trials), factor) == pytest.approx(passes / repeats, rel=0.06)


def test_epochs_left_run_to_the_next_rung_where_nobody_passes_and_to_the_end_where_all_do():
    spec = make_spec(epochs=27)  # rungs 1, 3, 9
    assert epochs_left(spec, 0, dict.fromkeys(spec.rungs, 0.0)) == 1
    assert epochs_left(spec, 4, dict.fromkeys(spec.rungs, 0.0)) == 5
    assert epochs_left(spec, 4, dict.fromkeys(spec.rungs, 1.0)) == 23
    assert epochs_left(spec, 3, {9: 0.5}) == 6 + 0.5 * 18


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
