import math

import pytest
import torch

from tests.metrics.grids import SMALL, factors, generator, normal
from tune_ddvae.errors import AbsentMetric
from tune_ddvae.metrics.factors import Axes, check_grid, grid_factors, unit_range


@pytest.mark.parametrize("sizes", [SMALL, (3, 1, 4), (5,), (1, 1)])
def test_the_grid_counts_like_an_odometer(sizes):
    found = grid_factors(sizes)
    assert found.shape == (math.prod(sizes), len(sizes))
    assert found.tolist() == factors(sizes).view(-1, len(sizes)).tolist()


def test_moved_points_share_the_donors_value_and_keep_all_others():
    sizes = (3, 1, 4, 5)
    axes = Axes.of(sizes, torch.device("cpu"))
    values = grid_factors(sizes)
    donors, points = torch.randint(math.prod(sizes), (2, 300, 7), generator=generator())
    held = torch.arange(300)[:, None] % len(axes)
    moved = axes.with_value_of(donors, points, held)
    for vote in range(300):
        factor = (0, 2, 3)[int(held[vote])]  # the one of a single value is no axis
        before, after = values[points[vote]], values[moved[vote]].clone()
        assert torch.equal(after[:, factor], values[donors[vote], factor])
        after[:, factor] = before[:, factor]
        assert torch.equal(after, before)


def test_a_grid_with_one_factor_that_varies_has_nothing_to_tell_apart():
    with pytest.raises(AbsentMetric, match="two factors of more than one value, got 1"):
        Axes.of((1, 8, 1), torch.device("cpu"))


def test_dimensions_that_vary_reach_from_zero_to_one_whatever_their_scale():
    codes = normal(100, 3)
    scaled = unit_range(codes)
    assert scaled.amin(0).tolist() == [0.0] * 3
    assert scaled.amax(0).tolist() == [1.0] * 3
    wild = torch.cat([codes * torch.tensor([1e-30, 7.0, 1e30]) + 1e-40, torch.ones(100, 2)], 1)
    torch.testing.assert_close(unit_range(wild), scaled)


def test_constant_codes_have_no_dimension_left():
    assert unit_range(torch.ones(10, 4)).shape == (10, 0)


def test_codes_must_cover_the_grid_and_be_finite():
    with pytest.raises(ValueError, match="grid, 12 points, got 11"):
        check_grid(torch.zeros(11, 2), (3, 4))
    with pytest.raises(AbsentMetric, match="12 of 12 points are not"):
        check_grid(torch.full((12, 2), math.nan), (3, 4))
