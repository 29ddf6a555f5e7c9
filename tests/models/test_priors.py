import dataclasses
import math

import pytest
import torch

from tests.contracts import PriorContract
from tests.numerics import golden
from tune_ddvae.config import DataConfig, PriorConfig
from tune_ddvae.data import Split, load, principal_variances
from tune_ddvae.errors import ConfigError
from tune_ddvae.models import make_prior
from tune_ddvae.models.densities import (
    normal_log_density,
    spike_and_slab_log_density,
    student_t_log_density,
)

VARIANCES = torch.tensor([6.0, 1.5, 0.5], dtype=torch.float64)


class TestNormalPrior(PriorContract):
    usual = PriorConfig(kind="normal", scale=1.5)
    edges = tuple(PriorConfig(kind="normal", scale=scale) for scale in (1e-6, 1e6))
    refused = ({"scale": 0.0}, {"scale": -1.0}, {"scale": 1e-30}, {"scale": 1e30})


class TestAnisotropicPrior(PriorContract):
    usual = PriorConfig(kind="anisotropic", variance_scale=1.5)
    edges = tuple(
        PriorConfig(kind="anisotropic", variance_scale=scale, learns_variance=learns)
        for scale in (1e-12, 1e12)
        for learns in (False, True)
    )
    refused = ({"variance_scale": 0.0}, {"variance_scale": 1e-30}, {"variance_scale": 1e30})

    def make(self, config, latent_dim):
        return make_prior(config, latent_dim, VARIANCES[:latent_dim])


class TestLearnedAnisotropicPrior(TestAnisotropicPrior):
    usual = PriorConfig(kind="anisotropic", learns_variance=True)


class TestStudentTPrior(PriorContract):
    usual = PriorConfig(kind="student_t", df=2.0)
    edges = tuple(PriorConfig(kind="student_t", df=df) for df in (1e-300, 0.1, 1e300))
    refused = ({"df": 0.0}, {"df": -1.0}, {"df": math.inf})


class TestSparsePrior(PriorContract):
    usual = PriorConfig(kind="sparse", gamma=0.8)
    edges = (
        PriorConfig(kind="sparse", gamma=0.0),
        PriorConfig(kind="sparse", gamma=1.0),
        PriorConfig(kind="sparse", spike_scale=1e-6),
        PriorConfig(kind="sparse", gamma=1.0, spike_scale=1e6),
    )
    refused = ({"gamma": -0.1}, {"gamma": 1.1}, {"spike_scale": 0.0}, {"spike_scale": 1e-30})


class TestClusteredPrior(PriorContract):
    usual = PriorConfig(kind="clustered")
    edges = (usual,)
    refused = ({"gamma": 0.5},)
    dims = (2,)


def _anisotropic(variances, **fields):
    variances = torch.as_tensor(variances, dtype=torch.float64)
    return make_prior(PriorConfig(kind="anisotropic", **fields), len(variances), variances)


def test_variances_follow_the_data_and_sum_to_the_scale_times_the_dimensions():
    variance = _anisotropic(VARIANCES, variance_scale=4.0).scale ** 2
    torch.testing.assert_close(variance.double(), 4.0 * 3 * VARIANCES / VARIANCES.sum())


def test_equal_variances_are_the_isotropic_normal():
    codes = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    isotropic = make_prior(PriorConfig(kind="normal", scale=2.0), 3)
    found = _anisotropic([7.0, 7.0, 7.0], variance_scale=4.0)
    torch.testing.assert_close(found.log_prob(codes), isotropic.log_prob(codes))
    torch.testing.assert_close(found.kl(codes, codes.exp()), isotropic.kl(codes, codes.exp()))


def test_a_learned_variance_moves_to_where_the_codes_vary_and_the_sum_stays():
    prior = _anisotropic(VARIANCES, learns_variance=True)
    optimiser = torch.optim.Adam(prior.parameters(), lr=0.05)
    mean, scale = torch.zeros(1, 3), torch.tensor([[0.5, 0.5, 1.5]])
    for _ in range(300):
        optimiser.zero_grad()
        prior.kl(mean, scale).sum().backward()
        optimiser.step()
    variance = (prior.scale**2).detach()
    assert variance.sum().item() == pytest.approx(3.0)
    # Shares s_d of a sum S minimise sum of v_d / (S s_d) + log s_d: the widest gets most.
    assert variance[2] > variance[0]
    assert variance[0].item() == pytest.approx(variance[1].item(), rel=1e-3)


def test_only_a_learned_variance_is_a_parameter_and_both_are_in_the_state():
    fixed, learned = (_anisotropic(VARIANCES, learns_variance=learns) for learns in (False, True))
    assert list(fixed.parameters()) == []
    assert [name for name, _ in learned.named_parameters()] == ["log_shares"]
    assert fixed.state_dict().keys() == learned.state_dict().keys() == {"log_shares"}


def test_gradients_of_density_samples_and_kl_reach_a_learned_variance():
    prior = _anisotropic(VARIANCES, learns_variance=True)
    codes = torch.ones(4, 3)
    for value in (
        prior.log_prob(codes).sum(),
        prior.sample(4, torch.Generator().manual_seed(0)).square().sum(),
        prior.kl(codes, codes).sum(),
    ):
        (gradient,) = torch.autograd.grad(value, prior.log_shares)
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0.1


def test_any_variances_will_do_where_a_state_is_loaded():
    stored = _anisotropic(VARIANCES).state_dict()
    opened = _anisotropic([1.0, 1.0, 1.0])
    opened.load_state_dict(stored)
    assert torch.equal(opened.scale, _anisotropic(VARIANCES).scale)


@pytest.mark.parametrize("nothing", [0.0, -1e-17, 1e-12, math.nan, -math.inf])
def test_a_principal_variance_of_nothing_is_refused_with_the_size_that_would_do(nothing):
    message = (
        r"latent_dim up to the number of directions .*, 2; got 4: .* number 3 is .* largest, 6"
    )
    with pytest.raises(ConfigError, match=message):
        _anisotropic([6.0, 1.5, nothing, 0.0])


@pytest.mark.parametrize(("variances", "got"), [(None, "none"), (VARIANCES, "3")])
def test_too_few_principal_variances_are_refused(variances, got):
    with pytest.raises(ConfigError, match=f"needs the data's 4 largest .*, got {got}"):
        make_prior(PriorConfig(kind="anisotropic"), 4, variances)


@pytest.mark.parametrize(
    ("points", "num", "message"),
    [(6, 5, None), (6, 6, "vary, 5; got 6"), (1, 1, "vary, 0; got 1"), (300, 257, "can be 256 at")],
)
def test_a_latent_space_has_no_more_dimensions_than_the_data_vary_in(points, num, message):
    digits = load(DataConfig(name="digits", num_train=300))
    some = dataclasses.replace(digits, train=Split(digits.train.head(points), None))
    config, variances = PriorConfig(kind="anisotropic"), principal_variances(some, num)
    if message is None:
        assert make_prior(config, num, variances).scale.isfinite().all()
    else:
        with pytest.raises(ConfigError, match=message):
            make_prior(config, num, variances)


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
