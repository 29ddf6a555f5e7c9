import random
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from tune_ddvae.tuning.search.halving import goes_on

FACTOR, LAST, RUNGS = 3, 81, (1, 3, 9, 27)


@pytest.mark.parametrize("seed", range(5))
def test_an_uninterrupted_study_stops_the_trials_that_rays_own_scheduler_stops(seed):
    rays = AsyncHyperBandScheduler(
        metric="m", mode="max", max_t=LAST, grace_period=1, reduction_factor=FACTOR
    )
    numbers = random.Random(seed)
    trials = [SimpleNamespace(trial_id=str(n), skill=numbers.random()) for n in range(60)]
    for trial in trials:
        rays.on_trial_add(None, trial)
    recorded = {rung: [] for rung in RUNGS}
    alive = {trial.trial_id: 0 for trial in trials}
    stopped = 0
    while alive:
        trial = trials[int(numbers.choice(list(alive)))]
        alive[trial.trial_id] += 1
        epoch = alive[trial.trial_id]
        value = trial.skill * epoch + numbers.random()
        theirs = rays.on_trial_result(None, trial, {"training_iteration": epoch, "m": value})
        ours = True
        if epoch in RUNGS:
            ours = goes_on(value, recorded[epoch], FACTOR)
            recorded[epoch].append(value)
        if epoch == LAST:  # the last epoch is no rung of ours: the trial has ended anyway
            del alive[trial.trial_id]
            continue
        assert ours == (theirs == TrialScheduler.CONTINUE)
        if not ours:
            del alive[trial.trial_id]
            stopped += 1
    assert stopped > 30


def test_the_first_to_arrive_goes_on():
    assert goes_on(-1e9, [], FACTOR)
    assert goes_on(None, [], FACTOR)


def test_an_absent_value_ranks_last():
    assert not goes_on(None, [0.1], FACTOR)
    assert goes_on(0.1, [None, None], FACTOR)
    assert goes_on(0.2, [None, 0.1, None], FACTOR)
    assert not goes_on(0.1, [None, 0.2, 0.3], FACTOR)


def test_an_equal_value_goes_on():
    assert goes_on(0.5, [0.5, 0.5, 0.5], FACTOR)
