import math

import numpy as np
import pytest
import torch

from tests.metrics.grids import (
    ENCODERS,
    GOLDEN,
    SIZES,
    SMALL,
    generator,
    golden_codes,
    normal,
    spread,
)
from tune_ddvae.errors import AbsentMetric
from tune_ddvae.metrics.factor_vae import factor_vae


def _score(codes, sizes=SMALL, seed=0, train_votes=2000, test_votes=1000, group=64):
    return factor_vae(
        codes.float(),
        sizes,
        group=group,
        train_votes=train_votes,
        test_votes=test_votes,
        generator=generator(seed),
    )


@pytest.mark.parametrize("more", [0, 5])
def test_perfect_codes_score_one(more):
    noise = 0.3 * normal(math.prod(SMALL), more)
    result = _score(torch.cat([spread(SMALL), noise], 1))
    assert result.score > 0.99
    assert result.num_active == 5 + more


def test_fewer_dimensions_than_factors_can_win_only_for_as_many():
    assert 0.3 < _score(spread(SMALL)[:, :2]).score < 0.8


def test_random_codes_score_chance():
    scores = [
        _score(normal(math.prod(SIZES), 10, seed), SIZES, seed, 10_000, 5_000).score
        for seed in range(3)
    ]
    assert all(0.19 < score < 0.25 for score in scores)


def test_one_constant_dimension_changes_nothing():
    codes = normal(math.prod(SMALL), 6) + torch.cat([spread(SMALL), spread(SMALL)[:, :1]], 1)
    result = _score(codes)
    for place in (0, 3, 6):
        with_constant = torch.cat(
            [codes[:, :place], torch.full((len(codes), 1), 0.7), codes[:, place:]], 1
        )
        assert _score(with_constant).score == result.score
        assert _score(with_constant).num_pruned == 1


def test_constant_codes_score_a_guess():
    result = _score(torch.ones(math.prod(SMALL), 10))
    assert result.score == 1 / 5
    assert (result.num_active, result.num_pruned) == (0, 10)


def test_a_factor_of_one_value_is_never_held_fixed():
    codes = torch.cat([spread(SMALL)] * 2, 1)
    assert _score(codes, (1, *SMALL)).score == _score(codes).score


def test_the_same_generator_gives_the_same_score():
    codes = normal(math.prod(SMALL), 4)
    assert _score(codes, seed=3) == _score(codes, seed=3)
    assert _score(codes, seed=3) != _score(codes, seed=4)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_codes_of_any_size_have_a_finite_score(scale):
    assert 0 <= _score(scale * normal(math.prod(SMALL), 4)).score <= 1


def test_codes_that_are_not_finite_are_absent():
    codes = normal(math.prod(SMALL), 4)
    codes[7] = math.nan
    with pytest.raises(AbsentMetric, match="1 of 11520 points are not"):
        _score(codes)


def test_a_grid_of_one_point_is_absent():
    with pytest.raises(AbsentMetric, match="two points"):
        _score(torch.zeros(1, 4), (1, 1))


def test_codes_of_another_grid_are_refused():
    with pytest.raises(ValueError, match="grid, 11520 points, got 100"):
        _score(normal(100, 4))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_it_agrees_with_the_fields_standard_implementation(encoder):
    codes = golden_codes(encoder)
    rows = GOLDEN["factors"].astype(np.int64) @ np.array([245_760, 40_960, 1_024, 32, 1])
    assert np.allclose(codes[rows].numpy(), GOLDEN[f"{encoder}_codes"], atol=1e-5)
    result = _score(codes, SIZES, train_votes=10_000, test_votes=5_000)
    train, test = GOLDEN[f"{encoder}_factor_vae_train_eval"].mean(0)
    assert result.train_score == pytest.approx(train, abs=0.02)
    assert result.score == pytest.approx(test, abs=0.02)
