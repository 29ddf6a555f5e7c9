import pytest
import torch
from torch import distributions

from tests.benchmarks.bench_inclusive_kl import inclusive_kl_plain
from tests.numerics import golden
from tune_ddvae.config import PriorConfig
from tune_ddvae.models import Posterior, make_prior
from tune_ddvae.objectives import inclusive_kl


def _posterior(num: int, num_dims: int, log_scale: float = 0.0) -> Posterior:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(num, num_dims, generator=generator)
    scale = (log_scale + torch.randn(num, num_dims, generator=generator)).exp()
    return Posterior(mean.requires_grad_(), scale.requires_grad_())


def test_value_matches_the_golden_one():
    posterior = Posterior(
        golden("inclusive_kl_posterior_mean"), golden("inclusive_kl_posterior_scale")
    )
    found = inclusive_kl(
        posterior, golden("inclusive_kl_prior_sample"), make_prior(PriorConfig(kind="normal"), 3)
    )
    assert found.item() == pytest.approx(golden("inclusive_kl").item(), rel=1e-5)


@pytest.mark.parametrize("log_scale", [0.0, -4.0])
def test_value_and_gradients_are_those_of_the_plain_sum(log_scale):
    prior = make_prior(PriorConfig(kind="clustered"), 2)
    prior_sample = prior.sample(300, torch.Generator().manual_seed(1))  # more than fit at a time
    posterior = _posterior(400, 2, log_scale)
    precise = Posterior(posterior.mean.double(), posterior.scale.double())
    expected = inclusive_kl_plain(precise, prior_sample.double(), prior)
    found = inclusive_kl(posterior, prior_sample, prior)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    leaves = (posterior.mean, posterior.scale)
    gradients = torch.autograd.grad(found, leaves)
    for gradient, reference in zip(gradients, torch.autograd.grad(expected, leaves), strict=True):
        assert (gradient - reference).norm() < 1e-5 * reference.norm()


def test_gradient_is_the_values_own():
    prior = make_prior(PriorConfig(kind="normal"), 2)
    prior_sample = prior.sample(6, torch.Generator().manual_seed(1)).double()
    mean, scale = (values.detach().double() for values in vars(_posterior(5, 2)).values())
    leaves = (mean.requires_grad_(), scale.requires_grad_(), prior_sample.requires_grad_())
    torch.autograd.gradcheck(lambda m, s, z: inclusive_kl(Posterior(m, s), z, prior), leaves)


def test_gradient_by_a_learned_variance_is_that_of_the_closed_form():
    variances = torch.tensor([2.0, 0.5], dtype=torch.float64)
    prior = make_prior(PriorConfig(kind="anisotropic", learns_variance=True), 2, variances)
    mean, scale = torch.tensor([[0.5, -0.2]]), torch.tensor([[2.0, 1.0]])
    prior_sample = prior.sample(100_000, torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad(
        inclusive_kl(Posterior(mean, scale), prior_sample, prior), prior.log_shares
    )
    expected = distributions.kl_divergence(
        distributions.Normal(0.0, prior.scale), distributions.Normal(mean, scale)
    ).sum()
    (reference,) = torch.autograd.grad(expected, prior.log_shares)
    torch.testing.assert_close(found, reference, rtol=0, atol=0.01)
    assert reference.abs().min() > 0.05


def test_one_point_is_its_own_aggregate():
    prior = make_prior(PriorConfig(kind="normal"), 1)
    prior_sample = prior.sample(100_000, torch.Generator().manual_seed(1))
    posterior = Posterior(torch.tensor([[0.5]]), torch.tensor([[2.0]]))
    expected = distributions.kl_divergence(
        distributions.Normal(0.0, 1.0), distributions.Normal(0.5, 2.0)
    )
    assert inclusive_kl(posterior, prior_sample, prior).item() == pytest.approx(
        expected.item(), abs=0.01
    )


def test_collapsed_scales_give_finite_numbers():
    prior = make_prior(PriorConfig(kind="normal"), 2)
    scale = torch.full((5, 2), 1e-6)
    posterior = Posterior(torch.randn(5, 2, generator=torch.Generator()).requires_grad_(), scale)
    value = inclusive_kl(posterior, prior.sample(5, torch.Generator()), prior)
    value.backward()
    assert value.isfinite()
    assert posterior.mean.grad.isfinite().all()
