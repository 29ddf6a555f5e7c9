import dataclasses
import random
import statistics

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tests.tuning.simulated import make_spec
from tune_ddvae.config import to_flat, with_overrides
from tune_ddvae.tuning.search.sampling import (
    COLLAPSED,
    constraints_of,
    frozen_trial,
    merit,
    propose,
    searched_params,
    trial_seed,
)
from tune_ddvae.tuning.trials import Decision, Row, State, Trial

STARTUP = 5
ONE = {"sparsity/hoyer": "max"}
SPECS = {
    "two metrics": make_spec(startup_trials=STARTUP),
    "one metric": make_spec(startup_trials=STARTUP, rank_by=ONE),
    "random": make_spec(startup_trials=STARTUP, sampler="random"),
}


@pytest.fixture(autouse=True)
def quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(params=list(SPECS))
def spec(request):
    return SPECS[request.param]


@pytest.fixture
def tpe():
    return SPECS["two metrics"]


def make_trial(
    spec, number: int, beta: float, state: State, score: float, gamma: float | None = None
) -> Trial:
    """A trial whose every metric is ``score``; of the sparse prior where gamma is given."""
    params = {"objective/beta": beta, "prior/kind": "normal"}
    if gamma is not None:
        params |= {"prior/kind": "sparse", "prior/gamma": gamma}
    trial = Trial(number, {}, params, state=state)  # the sampler asks for no more of its config
    if state is State.COMPLETE:
        trial.values = (score,) * len(spec.rank_by)
    if state is State.STOPPED:
        trial.rows = {1: Row(1, 0.0, {}, decision=Decision(False, score, ()))}
    return trial


def record_of(spec, betas, score, state=State.STOPPED) -> list[Trial]:
    return [make_trial(spec, n, beta, state, score(beta)) for n, beta in enumerate(betas)]


def mixed_record(spec, size: int) -> list[Trial]:
    """What halving leaves: most stopped, a few complete, some failed, collapsed and unfinished."""
    game = random.Random(0)
    states = game.choices(list(State), weights=[1, 3, 14, 2, 1], k=size)
    gammas = [game.choice([None, game.uniform(0.5, 0.95)]) for _ in states]
    return [
        make_trial(spec, n, game.uniform(0.1, 5.0), state, game.random(), gammas[n])
        for n, state in enumerate(states)
    ]


def typical_beta(spec, trials) -> float:
    """Median of what is proposed after these trials, over many study seeds."""
    asked = [propose(spec, seed, len(trials), trials)["objective/beta"] for seed in range(25)]
    return statistics.median(asked)


# -- a pure function of (study seed, number, record) ---------------------------------------------


def test_the_same_question_has_the_same_answer(spec):
    trials = mixed_record(spec, 30)
    asked = [propose(spec, 3, 30, trials) for _ in range(3)]
    assert asked[0] == asked[1] == asked[2]


def test_another_seed_or_number_has_another_answer(spec):
    trials = mixed_record(spec, 30)
    asked = [
        propose(spec, seed, number, trials) for seed, number in [(0, 30), (1, 30), (0, 31), (30, 0)]
    ]
    assert len({answer["objective/beta"] for answer in asked}) == 4


def test_asking_leaves_no_trace(spec):
    trials = mixed_record(spec, 12)
    before = [dataclasses.replace(trial) for trial in trials]
    dice = np.random.get_state()[1].tolist()
    propose(spec, 0, 12, trials)
    assert trials == before
    assert np.random.get_state()[1].tolist() == dice


def test_settings_outside_the_space_are_not_shown(spec):
    trials = mixed_record(spec, 20)
    outside = dataclasses.replace(trials[0], number=20, params=None, state=State.COMPLETE)
    assert propose(spec, 0, 21, [*trials, outside]) == propose(spec, 0, 21, trials)


def test_training_seeds_differ_and_follow_from_study_seed_and_number():
    seeds = {trial_seed(study, number) for study in range(20) for number in range(50)}
    assert len(seeds) == 1000
    assert trial_seed(0, 7) == trial_seed(0, 7)
    assert all(0 <= seed < 2**32 for seed in seeds)


# -- what is proposed ----------------------------------------------------------------------------


def test_every_proposal_lies_in_the_space_with_conditional_ranges_under_their_option_only(spec):
    kinds = set()
    for number in range(40):
        params = propose(spec, 0, number, mixed_record(spec, number))
        kinds.add(params["prior/kind"])
        conditional = {"prior/gamma"} if params["prior/kind"] == "sparse" else set()
        assert set(params) == {"objective/beta", "prior/kind"} | conditional
        assert 0.1 <= params["objective/beta"] <= 5.0
        assert 0.5 <= params.get("prior/gamma", 0.5) <= 0.95
    assert kinds == {"normal", "sparse"}


def test_a_proposal_is_found_again_in_its_configuration(spec):
    trials = mixed_record(spec, 15)
    for number in range(15, 30):
        params = propose(spec, 0, number, trials)
        assert searched_params(spec, to_flat(with_overrides(spec.base, params))) == params


def test_every_kind_of_range_is_asked_for():
    space = {
        "model/latent_dim": IntDistribution(4, 12, step=4),
        "objective/alpha": FloatDistribution(0.0, 1.0, step=0.25),
        "training/batch_size": CategoricalDistribution((50, 100)),
    }
    spec = make_spec(space=space, published={}, first=())
    for number in range(20):
        params = propose(spec, 0, number, [])
        assert params["model/latent_dim"] in (4, 8, 12)
        assert params["objective/alpha"] in (0.0, 0.25, 0.5, 0.75, 1.0)
        assert params["training/batch_size"] in (50, 100)


# -- what the sampler learns ---------------------------------------------------------------------


def test_start_up_draws_are_blind_to_the_record(tpe):
    low = record_of(tpe, [0.2, 0.3, 0.4, 0.5], lambda beta: -beta, State.COMPLETE)
    high = record_of(tpe, [4.0, 3.0, 2.0, 1.0], lambda beta: beta, State.COMPLETE)
    assert propose(tpe, 0, 4, low) == propose(tpe, 0, 4, high) == propose(tpe, 0, 4, [])


@pytest.mark.parametrize("rank_by", [ONE, make_spec().rank_by])
def test_after_start_up_the_sampler_follows_what_was_good(rank_by):
    spec = make_spec(startup_trials=STARTUP, rank_by=rank_by)
    betas = list(np.geomspace(0.1, 5.0, 20).tolist())
    random.Random(0).shuffle(betas)
    liking_large = record_of(spec, betas, lambda beta: beta, State.COMPLETE)
    liking_small = record_of(spec, betas, lambda beta: -beta, State.COMPLETE)
    assert typical_beta(spec, liking_large) > 2.0
    assert typical_beta(spec, liking_small) < 0.5


def test_random_search_learns_nothing(tpe):
    spec = dataclasses.replace(tpe, sampler="random")
    trials = mixed_record(spec, 30)
    assert propose(spec, 0, 30, trials) == propose(spec, 0, 30, [])


@pytest.mark.parametrize("better", [+1, -1])
@pytest.mark.parametrize("complete", [0, 2])
def test_the_best_of_the_stopped_guide_the_sampler_not_the_first(tpe, better, complete):
    betas = np.geomspace(0.1, 5.0, 40).tolist()[::-better]  # the worst come first
    trials = record_of(tpe, betas, lambda beta: better * beta)
    for trial in trials[:complete]:
        trial.state, trial.values = State.COMPLETE, (0.0, 0.0)
    middle = 0.7
    assert better * typical_beta(tpe, trials) > better * middle


def test_pruned_trials_and_two_metrics_never_confuse_the_sampler(tpe):
    for size in range(0, 60, 3):
        trials = mixed_record(tpe, size)
        propose(tpe, 0, size, trials)
        stopped = [t for t in trials if t.state in (State.STOPPED, State.COLLAPSED)]
        propose(tpe, 0, size, stopped)


def test_the_sampler_keeps_away_from_what_collapses(tpe):
    betas = np.geomspace(0.1, 5.0, 30).tolist()
    trials = [
        make_trial(tpe, n, beta, State.COLLAPSED if beta > 0.7 else State.STOPPED, -beta)
        for n, beta in enumerate(reversed(betas))
    ]
    assert typical_beta(tpe, trials) < 0.7


def test_hundreds_of_trials_are_taken_in(tpe):
    assert set(propose(tpe, 0, 500, mixed_record(tpe, 500))) >= {"objective/beta", "prior/kind"}


# -- merit ---------------------------------------------------------------------------------------


def stopped_at(rung: int, value: float | None) -> Trial:
    rows = {
        epoch: Row(epoch, 0.0, {}, decision=Decision(epoch < rung, value, ()))
        for epoch in (1, 3, 9)
        if epoch <= rung
    }
    return Trial(0, {}, {}, state=State.STOPPED, rows=rows)


def test_a_later_rung_is_nearer_to_the_goal_whatever_the_values(tpe):
    trials = [stopped_at(1, 9.0), stopped_at(3, -9.0), stopped_at(9, None)]
    shortfalls = [merit(tpe, trial, trials) for trial in trials]
    assert shortfalls == sorted(shortfalls, reverse=True)
    assert len(set(shortfalls)) == 3


def test_at_one_rung_the_better_value_is_nearer_and_an_absent_one_is_last(tpe):
    trials = [stopped_at(3, value) for value in (5.0, 2.0, 1.0, None)]
    shortfalls = [merit(tpe, trial, trials) for trial in trials]
    assert shortfalls == sorted(shortfalls)
    assert len(set(shortfalls)) == 4


def test_every_stopped_trial_breaks_its_constraint_and_less_than_a_collapsed_one(tpe):
    trials = [stopped_at(rung, value) for rung in (1, 3, 9) for value in (1.0, 0.0, None)]
    trials.append(Trial(9, {}, {}, state=State.STOPPED))
    assert all(0 < merit(tpe, trial, trials) < COLLAPSED for trial in trials)


# -- in Optuna's words ---------------------------------------------------------------------------


def test_only_a_trial_of_full_length_is_complete_and_has_values(tpe):
    expected = {
        State.UNFINISHED: "RUNNING",
        State.COMPLETE: "COMPLETE",
        State.STOPPED: "PRUNED",
        State.COLLAPSED: "PRUNED",
        State.FAILED: "FAIL",
    }
    for state, name in expected.items():
        told = frozen_trial(tpe, make_trial(tpe, 0, 1.0, state, 0.5))
        assert told.state.name == name
        assert (told.values is not None) == (state is State.COMPLETE)
        assert told.intermediate_values == {}


def test_only_a_collapsed_trial_is_told_with_a_constraint(tpe):
    for state in State:
        told = constraints_of(make_trial(tpe, 0, 1.0, state, 0.5))
        assert told == ({"collapsed": COLLAPSED} if state is State.COLLAPSED else {})


@pytest.mark.parametrize(
    ("overrides", "is_inside"),
    [
        ({"objective/beta": 0.1}, True),
        ({"objective/beta": 5.0}, True),
        ({"objective/beta": 0.0}, False),
        ({"objective/beta": 5.1}, False),
        ({"prior/kind": "sparse", "prior/gamma": 0.95}, True),
        ({"prior/kind": "sparse", "prior/gamma": 0.2}, False),
        ({"prior/kind": "student_t"}, False),
    ],
)
def test_a_setting_is_inside_the_space_when_every_value_that_applies_is(tpe, overrides, is_inside):
    config = to_flat(with_overrides(tpe.base, overrides))
    assert (searched_params(tpe, config) is not None) is is_inside


def test_a_setting_between_two_steps_is_outside_the_space():
    space = {"model/latent_dim": IntDistribution(4, 12, step=4)}
    spec = make_spec(space=space, published={}, first=())
    for size, params in [(8, {"model/latent_dim": 8}), (6, None)]:
        config = to_flat(with_overrides(spec.base, {"model/latent_dim": size}))
        assert searched_params(spec, config) == params


def test_a_setting_outside_the_space_is_told_to_optuna_without_params(tpe):
    told = frozen_trial(tpe, Trial(0, {}, None, state=State.COMPLETE, values=(0.1, 0.2)))
    assert told.params == {}
    assert told.values == [0.1, 0.2]
