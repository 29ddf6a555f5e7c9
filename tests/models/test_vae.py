import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.numerics import golden
from tune_ddvae.config import (
    DATASETS,
    DataConfig,
    LikelihoodConfig,
    ModelConfig,
    PriorConfig,
    TrialConfig,
)
from tune_ddvae.models import VAE, make_vae
from tune_ddvae.models.layers import LARGEST_SCALE, doubled_to_pixels
from tune_ddvae.models.networks import fold_batch_norm
from tune_ddvae.objectives import posterior_kl
from tune_ddvae.objectives.iwae import log_weights

GOLDEN = {
    "fashion_mnist": (
        0.05,
        "fashion_mnist_images",
        TrialConfig(
            data=DataConfig(name="fashion_mnist"),
            model=ModelConfig(latent_dim=50),
            prior=PriorConfig(kind="sparse", gamma=0.8),
            likelihood=LikelihoodConfig(kind="laplace", scale=0.1),
        ),
    ),
    "dsprites": (
        0.05,
        "dsprites_images",
        TrialConfig(
            data=DataConfig(name="dsprites"),
            model=ModelConfig(latent_dim=10),
            prior=PriorConfig(kind="normal"),
            likelihood=LikelihoodConfig(kind="bernoulli"),
        ),
    ),
    "pinwheel": (
        0.3,
        "pinwheel_points",
        TrialConfig(
            data=DataConfig(name="pinwheel"),
            model=ModelConfig(latent_dim=2),
            prior=PriorConfig(kind="clustered"),
            likelihood=LikelihoodConfig(kind="normal"),
        ),
    ),
}


def _set_weights(vae: VAE, amplitude: float) -> None:
    """Element k of every tensor is amplitude * sin(k), save those of batch norms."""
    norms = {
        parameter
        for module in vae.modules()
        if isinstance(module, nn.BatchNorm2d)
        for parameter in module.parameters()
    }
    for parameter in vae.parameters():
        if parameter not in norms:
            k = torch.arange(1, parameter.numel() + 1, dtype=torch.float64)
            parameter.data.copy_((amplitude * k.sin()).float().view(parameter.shape))


@pytest.mark.parametrize("name", GOLDEN)
def test_forward_pass_matches_the_golden_one_in_both_modes(name):
    amplitude, inputs_name, config = GOLDEN[name]
    inputs, noise = golden(inputs_name).float(), golden(f"{name}_noise")
    vae = make_vae(config, torch.Generator())
    _set_weights(vae, amplitude)
    for mode in ("train", "eval"):  # in this order: one training pass sets the running statistics
        vae.train(mode == "train")
        with torch.no_grad():
            posterior = vae.encode(inputs)
            codes = posterior.mean + posterior.scale * noise
            parameters = vae.decode(codes)
            log_likelihood = vae.likelihood.log_prob(inputs, parameters)
            log_prior, log_posterior = vae.prior.log_prob(codes), posterior.log_prob(codes)
            weights = log_likelihood + log_prior - log_posterior
        found = {
            "posterior_mean": posterior.mean,
            "posterior_scale": posterior.scale,
            "log_likelihood": log_likelihood,
            "log_prior": log_prior,
            "log_posterior": log_posterior,
            "iwae": weights.logsumexp(0) - torch.tensor(3.0).log(),
            "kl": posterior_kl(posterior, vae.prior, codes),
        } | {f"decoder_out_{i}": values for i, values in enumerate(parameters)}
        if name == "dsprites":  # of whose images every 37th pixel is kept
            found["decoder_out_0"] = found["decoder_out_0"].flatten(2)[..., ::37]
        for key, values in found.items():
            expected = golden(f"{name}_{mode}_{key}")
            # Values that cancel to nearly nothing are held to the scale of their neighbours: both
            # sides' means of Fashion-MNIST are off by 1e-5 of the largest, by the order of their sums.
            atol = 3e-5 * expected.abs().max().item()
            torch.testing.assert_close(
                values, expected, rtol=1e-4, atol=atol, msg=lambda m, key=key: f"{key}: {m}"
            )
    with torch.no_grad():
        assert torch.allclose(log_weights(vae, inputs, posterior, codes), weights)


def _config(name="digits", width=4, latent_dim=3, **likelihood) -> TrialConfig:
    return TrialConfig(
        data=DataConfig(name=name),
        model=ModelConfig(latent_dim=latent_dim, width=width),
        likelihood=LikelihoodConfig(**(likelihood or {"kind": "normal", "scale": 1.0})),
    )


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("kind", ["laplace", "normal", "bernoulli"])
def test_every_likelihood_trains_on_every_data_set_that_allows_it(name, kind):
    if kind not in DATASETS[name].likelihoods:
        return
    vae = make_vae(_config(name, kind=kind), torch.Generator())
    inputs = torch.rand(5, *DATASETS[name].shape)
    posterior = vae.encode(inputs)
    codes = posterior.sample(2, torch.Generator())
    parameters = vae.decode(codes)
    vae.log_likelihood(inputs, codes).mean().backward()
    assert posterior.mean.shape == posterior.scale.shape == (5, 3)
    assert [values.shape for values in parameters] == [(2, 5, *inputs.shape[1:])] * len(parameters)
    assert len(parameters) == (2 if kind == "normal" else 1)  # the scale is learned
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())


def test_equal_generators_give_equal_weights_and_others_do_not():
    first, second, other = (
        make_vae(_config(), torch.Generator().manual_seed(seed)).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["encoder.mean.weight"], other["encoder.mean.weight"])


def test_initialisation_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    make_vae(_config(), torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.get_rng_state())


def test_initialisation_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    weight = make_vae(_config("fashion_mnist", width=32), generator).encoder.mean.weight
    bound = 1 / (128 * 16) ** 0.5
    assert weight.abs().max().item() == pytest.approx(bound, rel=1e-3)


def _num_parameters(config: TrialConfig) -> int:
    return sum(p.numel() for p in make_vae(config, torch.Generator()).parameters())


@pytest.mark.parametrize("name", ["fashion_mnist", "dsprites"])
def test_width_scales_every_layer(name):
    assert _num_parameters(_config(name, width=32)) > 8 * _num_parameters(_config(name, width=8))


def test_each_further_hidden_layer_is_one_in_the_encoder_and_one_in_the_decoder():
    published, three = (
        TrialConfig(
            data=DataConfig(name="pinwheel"),
            model=ModelConfig(latent_dim=2, num_hidden_layers=num),
            likelihood=LikelihoodConfig(kind="normal"),
        )
        for num in (1, 3)
    )
    a_layer = 100 * 100 + 100
    assert _num_parameters(three) == _num_parameters(published) + 2 * 2 * a_layer
    vae = make_vae(three, torch.Generator())
    for network in (vae.encoder, vae.decoder):
        assert sum(isinstance(layer, nn.ReLU) for layer in network.hidden) == 3


@pytest.mark.parametrize("name", ["pinwheel", "fashion_mnist", "dsprites"])
def test_scales_stay_within_bounds_whatever_the_network_puts_out(name):
    vae = make_vae(_config(name, latent_dim=2), torch.Generator())
    head = vae.encoder.log_variance if name == "dsprites" else vae.encoder.scale
    with torch.no_grad():
        head.bias.copy_(torch.tensor([-1e30, 1e30]))
    scale = vae.encode(torch.zeros(1, *DATASETS[name].shape)).scale
    assert scale.min() > 0
    assert scale.max() <= LARGEST_SCALE + 1
    kl = vae.prior.kl(scale, scale)
    kl.sum().backward()
    assert kl.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in vae.parameters())


@pytest.mark.parametrize("channels", [1, 3])
def test_the_faster_last_layer_is_the_transposed_convolution(channels):
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*shape, generator=generator)
        for shape in ((2, 5, 6, 8), (5, channels, 4, 4), (channels,))
    )
    expected = functional.conv_transpose2d(hidden, weight, bias, stride=2, padding=1)
    torch.testing.assert_close(
        doubled_to_pixels(hidden, weight, bias), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("learns", [False, True])
def test_an_anisotropic_model_takes_the_variances_and_gives_them_back_from_its_state(learns):
    config = TrialConfig(
        data=DataConfig(name="dsprites"),
        model=ModelConfig(latent_dim=3, width=2),
        prior=PriorConfig(kind="anisotropic", learns_variance=learns),
        likelihood=LikelihoodConfig(kind="bernoulli"),
    )
    variances = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    vae = make_vae(config, torch.Generator(), variances)
    torch.testing.assert_close((vae.prior.scale**2).double(), variances / 2)
    assert ("prior.log_shares" in dict(vae.named_parameters())) == learns
    other = make_vae(config, torch.Generator(), torch.ones(3, dtype=torch.float64))
    other.load_state_dict(vae.state_dict())
    assert torch.equal(other.prior.scale, vae.prior.scale)


@pytest.mark.parametrize("name", ["fashion_mnist", "dsprites", "pinwheel"])
def test_folding_batch_norm_changes_nothing_but_the_speed(name):
    vae = make_vae(_config(name), torch.Generator())
    for _ in range(3):
        vae.decode(torch.randn(1, 50, 3))  # running statistics other than 0 and 1
    vae.eval()
    codes = torch.randn(7, 3)
    (expected,), (found,) = vae.decoder(codes), fold_batch_norm(vae.decoder)(codes)
    assert any("BatchNorm" in str(layer) for layer in vae.decoder.modules()) == (
        name == "fashion_mnist"
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_folding_leaves_the_network_itself_as_it_is():
    vae = make_vae(_config(), torch.Generator()).train()
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    fold_batch_norm(vae.decoder)
    assert vae.decoder.training
    assert all(torch.equal(before[key], value) for key, value in vae.state_dict().items())
