import math

import pytest
import torch

from tests.contracts import PriorContract
from tests.numerics import golden
from tune_ddvae.config import PriorConfig
from tune_ddvae.models import make_prior
from tune_ddvae.models.densities import (
    normal_log_density,
    spike_and_slab_log_density,
    student_t_log_density,
)


class TestNormalPrior(PriorContract):
    @pytest.fixture
    def prior(self):
        return make_prior(PriorConfig(kind="normal", scale=1.5), 2)


class TestStudentTPrior(PriorContract):
    @pytest.fixture
    def prior(self):
        return make_prior(PriorConfig(kind="student_t", df=2.0), 2)


class TestSparsePrior(PriorContract):
    @pytest.fixture
    def prior(self):
        return make_prior(PriorConfig(kind="sparse", gamma=0.8), 2)


class TestClusteredPrior(PriorContract):
    @pytest.fixture
    def prior(self):
        return make_prior(PriorConfig(kind="clustered"), 2)


EDGES = [
    PriorConfig(kind="sparse", gamma=0.0),
    PriorConfig(kind="sparse", gamma=1.0),
    PriorConfig(kind="sparse", spike_scale=1e-6),
    PriorConfig(kind="student_t", df=1e-300),
    PriorConfig(kind="student_t", df=0.1),
    PriorConfig(kind="student_t", df=1e300),
    PriorConfig(kind="normal", scale=1e-3),
]


@pytest.mark.parametrize("config", EDGES, ids=str)
def test_edges_are_finite_in_one_dimension(config):
    prior = make_prior(config, 1)
    samples = prior.sample(1000, torch.Generator().manual_seed(0)).requires_grad_()
    log_prob = prior.log_prob(samples)
    log_prob.sum().backward()
    assert samples.isfinite().all()
    assert log_prob.isfinite().all()
    assert samples.grad.isfinite().all()


@pytest.mark.parametrize(
    "config",
    [PriorConfig(kind="sparse", gamma=0.0), PriorConfig(kind="student_t", df=1e9)],
    ids=str,
)
def test_ends_of_the_range_are_the_standard_normal(config):
    codes = torch.linspace(-5.0, 5.0, 101).view(-1, 1)
    expected = make_prior(PriorConfig(kind="normal"), 1).log_prob(codes)
    assert torch.allclose(make_prior(config, 1).log_prob(codes), expected, atol=1e-5)


def test_all_spike_is_a_narrow_normal():
    codes = torch.linspace(-0.3, 0.3, 101).view(-1, 1)
    expected = make_prior(PriorConfig(kind="normal", scale=0.05), 1).log_prob(codes)
    assert torch.allclose(
        make_prior(PriorConfig(kind="sparse", gamma=1.0), 1).log_prob(codes), expected
    )


def test_student_t_joins_its_series_without_a_step():
    values = torch.linspace(-6.0, 6.0, 50, dtype=torch.float64)
    below, above = (student_t_log_density(values, df) for df in (2000.0 - 1e-9, 2000.0))
    assert torch.allclose(below, above, rtol=0, atol=1e-10)


def test_clusters_count_once_and_not_per_dimension():
    prior = make_prior(PriorConfig(kind="clustered"), 2)
    peak = -math.log(4) - math.log(2 * math.pi * 0.03)
    assert prior.log_prob(prior.means).tolist() == pytest.approx([peak] * 4, rel=1e-5)


@pytest.mark.parametrize("case", [0, 1])
def test_spike_and_slab_matches_the_golden_density(case):
    gamma, mean, scale = golden(f"sparse_{case}_gamma_loc_scale").tolist()
    found = spike_and_slab_log_density(golden(f"sparse_{case}_value"), gamma, 0.05, mean, scale)
    torch.testing.assert_close(found, golden(f"sparse_{case}_log_prob"), rtol=1e-5, atol=1e-6)


def test_student_t_matches_the_golden_density():
    df, mean, scale = golden("student_t_df_loc_scale").tolist()
    value = (golden("student_t_value") - mean) / scale
    found = student_t_log_density(value, df) - math.log(scale)
    torch.testing.assert_close(found, golden("student_t_log_prob"), rtol=1e-5, atol=1e-6)


def test_clustered_prior_matches_the_golden_mixture():
    prior = make_prior(PriorConfig(kind="clustered"), 2)
    assert torch.allclose(golden("mixture_scales"), torch.tensor(prior.scale))
    found = prior.log_prob(golden("mixture_value"))
    torch.testing.assert_close(found, golden("mixture_log_prob"), rtol=1e-5, atol=1e-6)
    assert {tuple(m) for m in golden("mixture_locs").tolist()} == {
        tuple(m) for m in prior.means.tolist()
    }


def test_normal_log_density_takes_numbers_and_tensors_alike():
    value = torch.linspace(-2.0, 2.0, 5)
    with_tensor = normal_log_density(value, torch.zeros(5), torch.full((5,), 0.5))
    assert torch.allclose(normal_log_density(value, 0.0, 0.5), with_tensor)
