import math

import pytest
import torch

from tune_ddvae.errors import AbsentMetric
from tune_ddvae.metrics.latent import active_units, components_used

CROSS = torch.tensor([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0], [-1.0, 0.0]])


def test_collapsed_dimension_is_named():
    means = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    means[:, 2] *= 0.05  # variance .0025
    active = active_units(means)
    assert active.count == 3
    assert active.which == (0, 1, 3)


def test_a_constant_dimension_is_inactive_even_at_threshold_zero():
    means = torch.full((1000, 2), 0.1)
    means[0, 1] = 0.2
    assert active_units(means, threshold=0.0).which == (1,)


def test_no_dimension_active_is_a_count_of_zero():
    assert active_units(torch.ones(10, 3)).count == 0


def test_components_near_two_percent_of_the_points_count_as_used():
    means = CROSS[torch.tensor([0] * 300 + [1] * 43 + [2] * 7)]
    assert components_used(means, CROSS) == 3  # 7 of 350 are 2 % exactly
    assert components_used(torch.cat([means, CROSS[:1]]), CROSS) == 2


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_codes_that_are_not_finite_are_absent(broken):
    means = torch.zeros(10, 2)
    means[3, 1] = broken
    for metric in (active_units, lambda m: components_used(m, CROSS)):
        with pytest.raises(AbsentMetric, match="1 of 10 points are not"):
            metric(means)
