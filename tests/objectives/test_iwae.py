import pytest
import torch

from tests.objectives.linear_gaussian import linear_gaussian, log_evidence
from tune_ddvae.config import DataConfig, LikelihoodConfig, ModelConfig, TrialConfig
from tune_ddvae.models import make_vae
from tune_ddvae.objectives import importance_weighted_bound
from tune_ddvae.objectives.iwae import log_weights

INPUTS = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("num_samples", [1, 7])
def test_exact_posterior_gives_the_evidence_from_any_sample(num_samples):
    found = importance_weighted_bound(linear_gaussian(2), INPUTS, num_samples, _generator())
    torch.testing.assert_close(found, log_evidence(INPUTS), rtol=1e-4, atol=1e-4)


def test_bound_rises_with_the_number_of_samples_and_stays_below_the_evidence():
    vae = linear_gaussian(2, shift=0.5)
    bounds = [
        importance_weighted_bound(vae, INPUTS.repeat(100, 1), num, _generator()).mean().item()
        for num in (1, 5, 50)
    ]
    assert bounds == sorted(bounds)
    assert bounds[-1] < log_evidence(INPUTS).mean().item() + 0.01


@pytest.mark.parametrize(("num_samples", "chunk"), [(10, 40), (10, 60), (3, 20), (1, 1000)])
def test_running_sum_over_chunks_is_the_sum_over_all_codes(num_samples, chunk):
    vae = make_vae(
        TrialConfig(
            data=DataConfig(name="digits"),
            model=ModelConfig(latent_dim=3, width=4),
            likelihood=LikelihoodConfig(kind="laplace"),
        ),
        torch.Generator(),
    ).eval()
    images = torch.rand(20, 1, 16, 16, generator=_generator())
    found = importance_weighted_bound(vae, images, num_samples, _generator(), chunk)

    generator, posterior = _generator(), vae.encode(images)
    portions = [min(chunk // 20, num_samples - i) for i in range(0, num_samples, chunk // 20)]
    codes = torch.cat([posterior.sample(num, generator) for num in portions])
    weights = log_weights(vae, images, posterior, codes)
    expected = weights.logsumexp(0) - torch.tensor(float(num_samples)).log()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_points_are_split_too_where_a_chunk_holds_fewer_than_them():
    found = importance_weighted_bound(linear_gaussian(2), INPUTS, 3, _generator(), chunk=6)
    torch.testing.assert_close(found, log_evidence(INPUTS), rtol=1e-4, atol=1e-4)


def test_no_graph_is_kept():
    vae = linear_gaussian(2, shift=0.1)
    assert not importance_weighted_bound(vae, INPUTS, 2, _generator()).requires_grad
