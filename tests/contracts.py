"""What every implementation of an interface must keep: subclass, say which, inherit the tests."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from tune_ddvae.config import PriorConfig
from tune_ddvae.errors import ConfigError
from tune_ddvae.models import Prior, make_prior
from tune_ddvae.models.layers import LARGEST_SCALE, SMALLEST_SCALE


def _axis() -> tuple[Tensor, Tensor]:
    """Points of the line and their weights: dense around 0, and out to where heavy tails end."""
    step = torch.linspace(-15.0, 15.0, 801, dtype=torch.float64)
    return 0.02 * torch.sinh(step), 0.02 * torch.cosh(step) * (step[1] - step[0])


class PriorContract:
    """Tests of a prior, over the line and the plane and at the ends of its parameters.

    Attributes:
        usual: The prior's configuration.
        edges: Configurations at the ends of what is allowed; every number must still be finite.
        refused: Fields beyond the ends, each refused by its name.
        dims: Sizes of codes that the prior can have.
    """

    usual: PriorConfig
    edges: tuple[PriorConfig, ...] = ()
    refused: tuple[Mapping[str, Any], ...] = ()
    dims: tuple[int, ...] = (1, 2)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        for name, values in (("edge", self.edges), ("beyond", self.refused), ("dim", self.dims)):
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, values, ids=str)

    def make(self, config: PriorConfig, latent_dim: int) -> Prior:
        return make_prior(config, latent_dim)

    @pytest.fixture
    def prior(self) -> Prior:
        return self.make(self.usual, 2)

    @pytest.fixture
    def samples(self, prior):
        return prior.sample(20_000, torch.Generator().manual_seed(0)).detach()

    @pytest.fixture
    def grid(self, prior):
        """Points of a grid (x y 2) and the probability that each stands for (x y)."""
        points, weights = _axis()
        codes = torch.stack(torch.meshgrid(points, points, indexing="ij"), dim=-1)
        with torch.no_grad():
            density = prior.log_prob(codes.float()).double().exp()
        return codes, density * weights[:, None] * weights

    def test_log_prob_is_joint_with_one_value_per_point(self, prior, samples):
        assert prior.log_prob(samples[0]).shape == ()
        assert prior.log_prob(samples[:6].view(3, 2, 2)).shape == (3, 2)

    def test_density_integrates_to_one(self, grid):
        assert grid[1].sum().item() == pytest.approx(1.0, abs=1e-4)

    def test_density_over_the_line_integrates_to_one(self):
        if 1 not in self.dims:
            return
        points, weights = _axis()
        with torch.no_grad():
            density = self.make(self.usual, 1).log_prob(points.float()[:, None]).double().exp()
        assert (density @ weights).item() == pytest.approx(1.0, abs=1e-4)

    def test_samples_follow_the_density_along_each_axis(self, grid, samples):
        codes, probability = grid
        axis = codes[:, 0, 0].contiguous()
        for dim in (0, 1):
            expected = probability.sum(1 - dim).cumsum(0)
            # Half of a grid point's own probability lies above it.
            expected = expected - probability.sum(1 - dim) / 2
            found = torch.searchsorted(samples[:, dim].double().sort().values, axis) / len(samples)
            assert (found - expected).abs().max() < 0.014  # Kolmogorov, one in a thousand

    @torch.no_grad()
    def test_samples_follow_the_density_jointly(self, prior, grid, samples):
        log_prob = prior.log_prob(samples)
        codes, probability = grid
        expected = (probability * prior.log_prob(codes.float()).nan_to_num(neginf=0.0)).sum()
        error = log_prob.std().item() / math.sqrt(len(samples))
        assert log_prob.mean().item() == pytest.approx(expected.item(), abs=4 * error + 1e-3)

    def test_equal_generators_give_equal_samples(self, prior):
        first, second = (prior.sample(5, torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(first, second)

    def test_gradients_are_finite_from_the_centre_to_far_away(self, prior, samples):
        codes = torch.cat([samples[:100], torch.zeros(1, 2), torch.full((1, 2), 1e4)])
        codes.requires_grad_()
        prior.log_prob(codes).sum().backward()
        assert codes.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in prior.parameters())

    def test_kl_in_closed_form_agrees_with_monte_carlo(self, prior):
        mean, scale = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.3, 1.5]])
        in_closed_form = prior.kl(mean, scale)
        if in_closed_form is None:
            return
        noise = torch.randn(100_000, 1, 2, generator=torch.Generator().manual_seed(0))
        codes = mean + scale * noise
        log_ratio = torch.distributions.Normal(mean, scale).log_prob(codes).sum(-1)
        log_ratio = log_ratio - prior.log_prob(codes)
        assert in_closed_form.shape == (1, 2)
        error = log_ratio.std().item() / math.sqrt(len(noise))
        assert in_closed_form.sum().item() == pytest.approx(log_ratio.mean().item(), abs=4 * error)

    def test_a_stored_state_brings_the_density_back(self, prior, samples):
        other = self.make(self.usual, 2)
        other.load_state_dict(prior.state_dict())
        assert torch.equal(other.log_prob(samples), prior.log_prob(samples))

    def test_edges_are_finite(self, edge, dim):
        prior = self.make(edge, dim)
        samples = prior.sample(1000, torch.Generator().manual_seed(0)).detach().requires_grad_()
        log_prob = prior.log_prob(samples)
        log_prob.sum().backward()
        assert samples.isfinite().all()
        assert log_prob.isfinite().all()
        assert samples.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in prior.parameters())

    def test_kl_is_finite_for_every_posterior_that_an_encoder_can_put_out(self, edge, dim):
        ends = torch.tensor([SMALLEST_SCALE, 1.0, LARGEST_SCALE])
        mean, scale = torch.meshgrid(torch.tensor([-1e3, 0.0, 1e3]), ends, indexing="ij")
        mean, scale = (
            values.reshape(-1, 1).repeat(1, dim).requires_grad_() for values in (mean, scale)
        )
        kl = self.make(edge, dim).kl(mean, scale)
        if kl is None:
            return
        kl.sum().backward()
        assert kl.isfinite().all()
        assert mean.grad.isfinite().all()
        assert scale.grad.isfinite().all()

    def test_beyond_the_edges_is_refused_by_name(self, beyond):
        (name,) = beyond
        with pytest.raises(ConfigError, match=f"prior/{name} .*, got"):
            PriorConfig(kind=self.usual.kind, **beyond)
