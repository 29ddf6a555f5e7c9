import random

from tune_ddvae.tuning.search.ranking import best_epoch, larger_is_better, pareto_set
from tune_ddvae.tuning.trials import Row, State, Trial

UP_DOWN = {"sparsity/hoyer": "max", "divergence/inclusive_kl": "min"}


def trials(*values, state: State = State.COMPLETE) -> list[Trial]:
    return [Trial(n, {}, {}, state=state, values=value) for n, value in enumerate(values)]


def numbers(front: list[Trial]) -> list[int]:
    return [trial.number for trial in front]


def test_the_set_holds_whom_nobody_beats_in_every_metric():
    found = pareto_set(trials((3.0, 9.0), (2.0, 4.0), (1.0, 5.0), (2.5, 4.5), (2.0, 5.0)), UP_DOWN)
    assert numbers(found) == [0, 3, 1]


def test_the_set_equals_the_non_dominated_by_definition():
    game = random.Random(0)
    some = trials(*((float(game.randrange(9)), float(game.randrange(9))) for _ in range(60)))

    def beats(a, b):
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    expected = {t.number for t in some if not any(beats(o.values, t.values) for o in some)}
    assert set(numbers(pareto_set(some, UP_DOWN))) == expected


def test_equals_stand_side_by_side():
    assert numbers(pareto_set(trials((1.0, 1.0), (1.0, 1.0), (0.5, 1.0)), UP_DOWN)) == [0, 1]


def test_one_metric_has_one_best_or_equals():
    assert numbers(pareto_set(trials((1.0,), (3.0,), (2.0,)), {"m": "max"})) == [1]
    assert numbers(pareto_set(trials((1.0,), (3.0,), (1.0,)), {"m": "min"})) == [0, 2]


def test_only_complete_trials_can_be_best():
    for state in State:
        found = pareto_set(trials((1.0, 1.0), state=state), UP_DOWN)
        assert len(found) == (state is State.COMPLETE)
    assert pareto_set(trials(None), UP_DOWN) == []
    assert pareto_set([], UP_DOWN) == []


def recorded(values: dict[int, float | None]) -> Trial:
    rows = {
        epoch: Row(epoch, 0.0, {} if value is None else {"m": value})
        for epoch, value in values.items()
    }
    return Trial(0, {}, {}, rows=rows)


def test_the_best_epoch_follows_the_direction():
    trial = recorded({1: 0.5, 2: 0.9, 3: 0.1})
    assert best_epoch(trial, "m", "max") == 2
    assert best_epoch(trial, "m", "min") == 3


def test_the_earliest_of_equal_epochs_is_best():
    trial = recorded({3: 1.0, 1: 1.0, 2: 0.0})
    assert best_epoch(trial, "m", "max") == 1


def test_epochs_without_the_metric_are_never_best():
    assert best_epoch(recorded({1: None, 2: -5.0}), "m", "max") == 2
    assert best_epoch(recorded({1: None}), "m", "max") is None
    assert best_epoch(recorded({}), "m", "min") is None


def test_turning_the_sign_leaves_the_better_value_larger():
    assert larger_is_better(2.0, "max") > larger_is_better(1.0, "max")
    assert larger_is_better(1.0, "min") > larger_is_better(2.0, "min")
