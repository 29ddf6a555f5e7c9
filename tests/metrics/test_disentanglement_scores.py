"""What holds for every disentanglement score: perfect, random and degenerate codes, invariances."""

import math
from functools import partial

import pytest
import torch

from tests.metrics.grids import SMALL, generator, normal, spread
from tune_ddvae.errors import AbsentMetric
from tune_ddvae.metrics.beta_vae import beta_vae
from tune_ddvae.metrics.dci import dci
from tune_ddvae.metrics.factor_vae import factor_vae
from tune_ddvae.metrics.factors import grid_factors
from tune_ddvae.metrics.mutual_information import information, mig, modularity
from tune_ddvae.metrics.sap import sap


def _by_votes(score, codes, sizes):
    return score(
        codes, sizes, group=32, train_votes=2000, test_votes=1000, generator=generator()
    ).score


def _by_information(score, codes, sizes):
    return score(information(codes, grid_factors(sizes)))


def _is_unordered(sizes):
    return tuple(size == 3 for size in sizes)


def _sap(codes, sizes):
    return sap(codes, grid_factors(sizes), _is_unordered(sizes), generator()).score


def _dci(codes, sizes):
    score = dci(
        codes,
        grid_factors(sizes),
        _is_unordered(sizes),
        num_train=1000,
        num_test=500,
        generator=generator(),
    )
    return score.disentanglement


SCORES = {
    "factor_vae": partial(_by_votes, factor_vae),
    "beta_vae": partial(_by_votes, beta_vae),
    "mig": partial(_by_information, mig),
    "modularity": partial(_by_information, modularity),
    "sap": _sap,
    "dci": _dci,
}
every_score = pytest.mark.parametrize("name", SCORES)


def _entangled():
    """Six dimensions: each factor mixed with the next, and a dimension of noise."""
    u = spread(SMALL)
    mixed = u + 0.6 * u.roll(1, dims=1) + 0.1 * normal(len(u), 5)
    return torch.cat([mixed, 0.4 * normal(len(u), 1, seed=1)], 1)


@every_score
@pytest.mark.parametrize("more", [0, 5])
def test_perfect_codes_score_highest_with_any_number_of_further_dimensions(name, more):
    codes = torch.cat([spread(SMALL), 0.3 * normal(math.prod(SMALL), more)], 1)
    # The gap of the unordered factor is above guessing, one in three.
    lowest = {"sap": (4 + 2 / 3) / 5 - 0.02, "mig": 0.9, "modularity": 0.75 if more else 0.99}
    assert SCORES[name](codes, SMALL) > lowest.get(name, 0.98)


@every_score
def test_random_codes_of_ten_dimensions_score_like_guessing(name):
    highest = {"factor_vae": 0.25, "beta_vae": 0.25, "modularity": 0.7}.get(name, 0.03)
    lowest = {"factor_vae": 0.19, "beta_vae": 0.15}.get(name, 0.0)
    assert lowest <= SCORES[name](normal(math.prod(SMALL), 10), SMALL) < highest


@every_score
def test_entangled_codes_score_below_perfect_ones(name):
    entangled = SCORES[name](_entangled(), SMALL)
    perfect = torch.cat([spread(SMALL), normal(math.prod(SMALL), 1)], 1)
    assert 0 <= entangled <= SCORES[name](perfect, SMALL) <= 1
    if name not in ("factor_vae", "beta_vae"):  # those tell mixtures apart
        assert entangled < 0.95


@every_score
def test_permuted_and_rescaled_codes_score_the_same(name):
    codes = _entangled()
    changed = codes[:, [3, 0, 5, 1, 4, 2]] * torch.tensor([0.5, 2.0, -4.0, 1.0, 64.0, -1.0]) + 8.0
    # Forests look at dimensions in an order of their own, and solvers stop where they stop.
    tolerance = {"dci": 0.03, "beta_vae": 0.005}.get(name, 0.002)
    expected = SCORES[name](codes, SMALL)
    assert SCORES[name](changed, SMALL) == pytest.approx(expected, abs=tolerance)


@every_score
@pytest.mark.parametrize("place", [0, 3, 6])
def test_one_constant_dimension_changes_nothing(name, place):
    codes = _entangled()
    constant = torch.full((len(codes), 1), 0.7, dtype=torch.float64)
    with_constant = torch.cat([codes[:, :place], constant, codes[:, place:]], 1)
    assert SCORES[name](with_constant, SMALL) == SCORES[name](codes, SMALL)


@every_score
def test_constant_codes_have_a_defined_score_or_a_reason(name):
    codes = torch.full((math.prod(SMALL), 10), 0.3)
    if name == "modularity":
        with pytest.raises(AbsentMetric, match="needs a dimension that varies"):
            SCORES[name](codes, SMALL)
    else:
        floor = 1 / 5 if name in ("factor_vae", "beta_vae") else 0.0
        assert SCORES[name](codes, SMALL) == floor


@every_score
@pytest.mark.parametrize("dims", [1, 2, 4, 6, 10, 25])
def test_any_number_of_dimensions_has_a_score(name, dims):
    codes = normal(math.prod(SMALL), dims)
    codes[:, : min(dims, 5)] += 5 * spread(SMALL)[:, :dims]
    assert 0 <= SCORES[name](codes, SMALL) <= 1


@every_score
def test_one_dimension_that_copies_a_factor_is_worth_one_factor(name):
    score = SCORES[name](spread(SMALL)[:, 1:2], SMALL)
    if name == "modularity":  # judges dimensions, not factors
        assert score > 0.99
    elif name == "dci":  # a forest must find it important for all other factors too
        assert score < 0.01
    elif name in ("mig", "sap"):
        assert score == pytest.approx(1 / 5, abs=0.01)
    else:
        assert 1 / 5 < score < 0.75


@every_score
def test_a_factor_of_one_value_changes_nothing(name):
    codes = _entangled()
    assert SCORES[name](codes, (3, 6, 1, 10, 8, 1, 8)) == SCORES[name](codes, SMALL)


@every_score
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_codes_of_any_size_have_a_finite_score(name, scale):
    assert 0 <= SCORES[name](scale * _entangled().float(), SMALL) <= 1


@every_score
def test_codes_that_are_not_finite_are_absent(name):
    codes = _entangled()
    codes[7] = math.nan
    with pytest.raises(AbsentMetric, match="1 of 11520 points are not"):
        SCORES[name](codes, SMALL)


@every_score
def test_a_grid_of_one_point_is_absent(name):
    with pytest.raises(AbsentMetric, match="two points"):
        SCORES[name](torch.zeros(1, 4), (1, 1))


@every_score
@pytest.mark.parametrize("seed", range(3))
def test_a_grid_of_four_points_has_a_score(name, seed):
    assert 0 <= SCORES[name](normal(4, 3, seed), (2, 2)) <= 1
