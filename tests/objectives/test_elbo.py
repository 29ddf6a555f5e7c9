import pytest
import torch

from tests.objectives.linear_gaussian import linear_gaussian, log_evidence
from tune_ddvae.config import (
    DataConfig,
    LikelihoodConfig,
    ModelConfig,
    ObjectiveConfig,
    PriorConfig,
    TrialConfig,
)
from tune_ddvae.models import Posterior, make_prior, make_vae
from tune_ddvae.objectives import elbo, importance_weighted_bound, inclusive_kl, mmd, posterior_kl

INPUTS = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _pinwheel_vae(kind="clustered", **prior):
    return make_vae(
        TrialConfig(
            data=DataConfig(name="pinwheel"),
            model=ModelConfig(latent_dim=2, width=10),
            prior=PriorConfig(kind=kind, **prior),
            likelihood=LikelihoodConfig(kind="normal"),
        ),
        torch.Generator().manual_seed(0),
    )


def test_plain_weights_give_the_elbo():
    terms = elbo(_pinwheel_vae(), INPUTS, ObjectiveConfig(beta=1.0, alpha=0.0), _generator())
    assert terms.total == terms.log_likelihood - terms.kl
    assert terms.divergence == 0


def test_elbo_of_the_exact_posterior_is_the_evidence():
    config = ObjectiveConfig(num_samples=2000)
    terms = elbo(linear_gaussian(2), INPUTS, config, _generator())
    assert terms.total.item() == pytest.approx(log_evidence(INPUTS).mean().item(), abs=0.02)


def test_elbo_never_exceeds_the_tighter_bound():
    vae = linear_gaussian(2, shift=0.5)
    loose = elbo(vae, INPUTS, ObjectiveConfig(num_samples=2000), _generator()).total.item()
    tight = importance_weighted_bound(vae, INPUTS, 2000, _generator()).mean().item()
    assert loose < tight - 0.1
    assert tight == pytest.approx(log_evidence(INPUTS).mean().item(), abs=0.05)


@pytest.mark.parametrize("divergence", ["mmd", "inclusive_kl"])
def test_weights_multiply_their_terms(divergence):
    config = ObjectiveConfig(beta=0.3, alpha=7.0, divergence=divergence)
    terms = elbo(_pinwheel_vae(), INPUTS, config, _generator())
    expected = terms.log_likelihood - 0.3 * terms.kl - 7.0 * terms.divergence
    assert terms.total.item() == pytest.approx(expected.item())
    assert terms.divergence != 0


def test_divergence_is_taken_on_one_prior_sample_per_point():
    vae = _pinwheel_vae()
    generator = _generator()
    posterior = vae.encode(INPUTS)
    codes = posterior.sample(3, generator)
    prior_sample = vae.prior.sample(len(INPUTS), generator)
    expected = {
        "mmd": sum(mmd(sample, prior_sample) for sample in codes) / 3,
        "inclusive_kl": inclusive_kl(posterior, prior_sample, vae.prior),
    }
    for divergence, value in expected.items():
        config = ObjectiveConfig(alpha=1.0, divergence=divergence, num_samples=3)
        found = elbo(vae, INPUTS, config, _generator()).divergence
        assert found.item() == pytest.approx(value.item(), rel=1e-5)


def test_no_prior_sample_is_drawn_for_a_divergence_without_weight():
    generator, same = _generator(), _generator()
    elbo(_pinwheel_vae(), INPUTS, ObjectiveConfig(alpha=0.0), generator)
    _pinwheel_vae().encode(INPUTS).sample(1, same)
    assert torch.equal(generator.get_state(), same.get_state())


def test_kl_without_a_closed_form_is_averaged_over_the_codes():
    mean, scale = torch.zeros(4, 2), torch.full((4, 2), 0.5)
    posterior = Posterior(mean, scale)
    codes = posterior.sample(20_000, _generator())
    in_closed_form = posterior_kl(posterior, make_prior(PriorConfig(kind="normal"), 2), codes)
    on_codes = posterior_kl(posterior, make_prior(PriorConfig(kind="sparse", gamma=0.0), 2), codes)
    torch.testing.assert_close(on_codes, in_closed_form, rtol=0, atol=0.02)


@pytest.mark.parametrize("prior", ["normal", "student_t", "sparse", "clustered"])
@pytest.mark.parametrize("divergence", ["mmd", "inclusive_kl"])
def test_huge_weights_leave_every_gradient_finite(prior, divergence):
    vae = _pinwheel_vae(prior)
    config = ObjectiveConfig(beta=1e6, alpha=1e6, divergence=divergence, num_samples=2)
    terms = elbo(vae, INPUTS, config, _generator())
    terms.total.backward()
    assert terms.total.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in vae.parameters())


def test_terms_are_means_over_the_batch():
    vae = linear_gaussian(2)
    config = ObjectiveConfig(num_samples=500)
    once = elbo(vae, INPUTS, config, _generator())
    twice = elbo(vae, torch.cat([INPUTS, INPUTS]), config, _generator())
    assert twice.kl.item() == pytest.approx(once.kl.item(), rel=1e-5)
    assert twice.log_likelihood.item() == pytest.approx(once.log_likelihood.item(), abs=0.05)


def _iwae(num_samples: int) -> ObjectiveConfig:
    return ObjectiveConfig(kind="iwae", num_samples=num_samples)


def test_the_importance_weighted_objective_of_one_code_is_the_elbo_in_expectation():
    vae, points = _pinwheel_vae("normal"), INPUTS.repeat(2_000, 1)
    found = elbo(vae, points, _iwae(1), _generator()).total.item()
    expected = elbo(vae, points, ObjectiveConfig(), _generator()).total.item()
    assert found == pytest.approx(expected, abs=0.02)


def test_where_the_kl_is_taken_on_the_codes_one_code_gives_the_elbo_itself():
    vae = _pinwheel_vae("sparse")
    found = elbo(vae, INPUTS, _iwae(1), _generator())
    plain = elbo(vae, INPUTS, ObjectiveConfig(), _generator())
    torch.testing.assert_close(found.total, plain.total)
    torch.testing.assert_close(found.kl, plain.kl)


def test_the_importance_weighted_objective_rises_with_the_codes_up_to_the_evidence():
    vae, points = linear_gaussian(2, shift=0.5), INPUTS.repeat(100, 1)
    totals = [elbo(vae, points, _iwae(num), _generator()).total.item() for num in (1, 5, 50)]
    assert totals == sorted(totals)
    assert totals[1] > totals[0] + 0.05
    assert totals[-1] < log_evidence(INPUTS).mean().item() + 0.01


def test_it_is_the_bound_that_evaluation_reports():
    vae = _pinwheel_vae()
    found = elbo(vae, INPUTS, _iwae(64), _generator()).total
    expected = importance_weighted_bound(vae, INPUTS, 64, _generator()).mean()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_its_terms_are_still_those_of_the_elbo():
    vae = _pinwheel_vae()
    found = elbo(vae, INPUTS, _iwae(5), _generator())
    plain = elbo(vae, INPUTS, ObjectiveConfig(num_samples=5), _generator())
    assert (found.log_likelihood, found.kl) == (plain.log_likelihood, plain.kl)
    assert found.divergence == 0
    assert found.total > plain.total


@pytest.mark.parametrize("prior", ["normal", "student_t", "sparse", "clustered"])
def test_every_gradient_of_the_importance_weighted_objective_is_finite(prior):
    vae = _pinwheel_vae(prior)
    elbo(vae, 100 * INPUTS, _iwae(5), _generator()).total.backward()
    assert all(parameter.grad.isfinite().all() for parameter in vae.parameters())
    assert any(parameter.grad.abs().sum() > 0 for parameter in vae.encoder.parameters())
