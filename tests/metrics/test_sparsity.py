import math
import pathlib

import numpy as np
import pytest
import torch

from tune_ddvae.errors import AbsentMetric
from tune_ddvae.metrics.sparsity import hoyer, hoyer_all


def _dense(points=4000, dims=50, seed=0):
    return torch.randn(points, dims, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("dims", "floor"), [(50, 0.231), (10, 0.266), (2, 0.34)])
def test_dense_normal_codes_score_the_known_floor(dims, floor):
    assert hoyer_all(_dense(dims=dims)) == pytest.approx(floor, abs=0.01)
    assert hoyer(_dense(dims=dims)) == hoyer_all(_dense(dims=dims))


def test_one_hot_codes_score_one():
    assert hoyer_all(torch.eye(8)) == pytest.approx(1.0)


def test_equally_large_codes_score_zero():
    signs = _dense(dims=6).sign()
    codes = signs - signs.mean(0)
    codes = signs / codes.std(0)  # scaling to unit deviation gives them back as +-1
    assert hoyer_all(codes) == pytest.approx(0.0, abs=1e-3)


def test_rescaling_a_dimension_changes_nothing():
    codes = _dense(dims=5)
    assert hoyer_all(codes * torch.tensor([1e-3, 1, 1, 7, 1e6])) == pytest.approx(hoyer_all(codes))


def test_one_dead_dimension_lifts_the_papers_number_but_not_ours():
    dead = 0.05 + 0.001 * _dense(dims=1, seed=1)
    codes = torch.cat([_dense(), dead], 1)
    assert hoyer_all(codes) > 0.8
    assert hoyer(codes) == hoyer(_dense())


def test_a_dimension_without_variation_makes_the_papers_number_absent():
    codes = torch.cat([_dense(dims=4), torch.full((4000, 1), 0.3)], 1)
    with pytest.raises(AbsentMetric, match="1 of 5 dimensions do not vary"):
        hoyer_all(codes)
    assert hoyer(codes) == hoyer(_dense(dims=4))


@pytest.mark.parametrize(
    ("codes", "reason"),
    [
        (torch.full((10, 4), math.nan), "10 of 10 points are not"),
        (torch.tensor([[1.0, 2.0], [math.inf, 0.0]]), "1 of 2 points are not"),
        (torch.ones(10, 4), "vary"),
        (torch.arange(10.0)[:, None], "two"),
        (torch.cat([torch.arange(10.0)[:, None], torch.ones(10, 3)], 1), "vary"),
        (torch.ones(1, 4), "two points"),
        (torch.ones(0, 4), "two points"),
    ],
)
def test_degenerate_codes_are_absent_with_the_reason(codes, reason):
    for metric in (hoyer, hoyer_all):
        with pytest.raises(AbsentMetric, match=reason):
            metric(codes)


def test_any_finite_codes_score_between_zero_and_one():
    huge, tiny = _dense(64, 3) * 1e30, _dense(64, 3) * 1e-30
    origin = torch.cat([torch.zeros(1, 3), _dense(64, 3)])
    assert all(0 <= hoyer_all(codes) <= 1 for codes in (huge, tiny, origin))
    assert hoyer_all(huge) == pytest.approx(hoyer_all(tiny))


def test_fewer_than_two_active_dimensions_are_counted_in_the_reason():
    codes = torch.cat([_dense(dims=1), 0.01 * _dense(dims=3, seed=1)], 1)
    with pytest.raises(AbsentMetric, match=r"1 of 4 vary by more than 0\.01"):
        hoyer(codes)


def test_it_agrees_with_an_independent_implementation():
    golden = np.load(pathlib.Path(__file__).parents[1] / "golden" / "numerics.npz")
    codes = torch.from_numpy(golden["hoyer_codes"])
    assert hoyer_all(codes) == pytest.approx(float(golden["hoyer_normalised"]), rel=1e-5)
