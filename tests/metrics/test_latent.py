import math

import pytest
import torch

from tune_ddvae.errors import AbsentMetric
from tune_ddvae.metrics.latent import active_units, components_used, kl_per_dimension
from tune_ddvae.models import ClusteredPrior, Posterior
from tune_ddvae.models.priors import NormalPrior, SparsePrior, StudentTPrior
from tune_ddvae.objectives import posterior_kl

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


def _posterior(num=5000):
    """Dimensions at the prior, far from it, and narrow."""
    mean, scale = torch.tensor([0.0, 3.0, 0.0]), torch.tensor([1.0, 1.0, 0.1])
    posterior = Posterior(mean.expand(num, 3), scale.expand(num, 3))
    return posterior, posterior.sample(1, torch.Generator().manual_seed(0))[0]


@pytest.mark.parametrize(
    "prior", [NormalPrior(3), SparsePrior(3, 0.8), StudentTPrior(3, 5.0)], ids=lambda p: type(p)
)
def test_the_dimensions_kl_add_up_to_the_whole(prior):
    posterior, codes = _posterior()
    whole = posterior_kl(posterior, prior, codes.unsqueeze(0)).mean().item()
    assert kl_per_dimension(posterior, prior, codes).sum().item() == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("prior", [NormalPrior(3), SparsePrior(3, 0.0), StudentTPrior(3, 1e9)])
def test_each_dimension_has_its_own_kl_by_closed_form_and_by_codes(prior):
    expected = [0.0, 4.5, 0.5 * 0.1**2 - 0.5 + math.log(10)]
    posterior, codes = _posterior()
    found = kl_per_dimension(posterior, prior, codes)
    assert found.tolist() == pytest.approx(expected, abs=0.1)


def test_the_kl_to_a_clustered_prior_has_no_parts():
    with pytest.raises(AbsentMetric, match="no product over dimensions"):
        kl_per_dimension(Posterior(CROSS, CROSS.abs() + 1), ClusteredPrior(), CROSS)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_codes_that_are_not_finite_are_absent(broken):
    means = torch.zeros(10, 2)
    means[3, 1] = broken
    for metric in (active_units, lambda m: components_used(m, CROSS)):
        with pytest.raises(AbsentMetric, match="1 of 10 points are not"):
            metric(means)
