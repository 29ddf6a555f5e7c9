import pytest
import torch
from torch import distributions

from tune_ddvae.config import LikelihoodConfig
from tune_ddvae.models.likelihoods import make_likelihood

INPUTS = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
LOCATION = torch.randn(2, 4, 1, 3, 3, generator=torch.Generator().manual_seed(1))
SCALE = LOCATION.exp()
BITS = INPUTS.round()

CASES = {
    "laplace": (
        LikelihoodConfig(kind="laplace", scale=0.3),
        INPUTS,
        distributions.Laplace(LOCATION, 0.3),
    ),
    "normal": (
        LikelihoodConfig(kind="normal", scale=0.3),
        INPUTS,
        distributions.Normal(LOCATION, 0.3),
    ),
    "learned": (LikelihoodConfig(kind="normal"), INPUTS, distributions.Normal(LOCATION, SCALE)),
    "bernoulli": (
        LikelihoodConfig(kind="bernoulli"),
        BITS,
        distributions.Bernoulli(logits=LOCATION),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_log_prob_is_the_density_summed_over_pixels(case):
    config, inputs, reference = CASES[case]
    found = make_likelihood(config).log_prob(inputs, (LOCATION, SCALE))
    torch.testing.assert_close(
        found, reference.log_prob(inputs).flatten(2).sum(-1), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("case", CASES)
def test_mean_is_the_expected_data_point(case):
    config, _, reference = CASES[case]
    found = make_likelihood(config).mean((LOCATION, SCALE))
    torch.testing.assert_close(found, reference.mean)


def test_only_a_normal_without_a_scale_learns_one():
    learned = [case for case in CASES if make_likelihood(CASES[case][0]).has_learned_scale]
    assert learned == ["learned"]


def test_bernoulli_is_finite_for_extreme_logits():
    found = make_likelihood(LikelihoodConfig(kind="bernoulli")).log_prob(
        torch.tensor([[0.0, 1.0, 0.5]]), (torch.tensor([[[1e4, -1e4, 1e4]]]),)
    )
    assert found.item() == pytest.approx(-2.5e4)
