import math

import pytest

from tune_ddvae.tuning.search.seeds import over_seeds, spread
from tune_ddvae.tuning.trials import Row, State, Trial


def trained(number, setting, value, state=State.COMPLETE, epochs=3):
    metrics = {"latent/kl": value, **({"latent/mmd": 1.0} if number else {})}
    rows = {1: Row(1, 0.0, {"latent/kl": -99.0}), 3: Row(3, 1.0, metrics)}
    return Trial(number, {"training/epochs": epochs}, {}, setting, number, state=state, rows=rows)


def test_two_standard_errors_of_the_mean():
    found = spread([1.0, 2.0, 3.0, 6.0])
    assert found.mean == 3.0
    # deviations -2, -1, 0, 3: variance 14 / 3 with n - 1
    assert found.two_standard_errors == pytest.approx(2 * math.sqrt(14 / 3 / 4))


def test_one_seed_says_nothing_of_others():
    assert spread([5.0]).two_standard_errors is None


def test_whole_trials_count_at_their_last_epoch_collapsed_ones_too():
    trials = [
        trained(0, "a", 1.0),
        trained(1, "a", 3.0, State.COLLAPSED),
        trained(2, "a", 100.0, State.FAILED, epochs=4),
        trained(3, "b", 7.0, State.FAILED, epochs=4),
    ]
    (scores,) = over_seeds(trials, ["a", "b"], ["latent/kl", "latent/mmd"])
    assert (scores.name, scores.num_seeds) == ("a", 2)
    assert scores.spreads["latent/kl"].mean == 2.0
    assert "latent/mmd" not in scores.spreads  # the first one lacks it: no mean over some of them
