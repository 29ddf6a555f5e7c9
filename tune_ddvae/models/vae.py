"""The VAE: encoder, decoder, prior and likelihood put together."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from tune_ddvae.config import DATASETS, TrialConfig
from tune_ddvae.models.densities import normal_log_density
from tune_ddvae.models.layers import Sizes
from tune_ddvae.models.likelihoods import Likelihood, Parameters, make_likelihood
from tune_ddvae.models.networks import NETWORKS
from tune_ddvae.models.priors import Prior, make_prior


@dataclass(frozen=True)
class Posterior:
    """q(z|x) of a batch of points: independent normals."""

    mean: Float[Tensor, "batch latent"]
    scale: Float[Tensor, "batch latent"]  # standard deviation

    def sample(
        self, num_samples: int, generator: torch.Generator
    ) -> Float[Tensor, "sample batch latent"]:
        """Codes of each point, through which gradients flow to mean and scale."""
        noise = torch.randn(
            (num_samples, *self.mean.shape), generator=generator, device=generator.device
        )
        return self.mean + self.scale * noise

    def log_prob(
        self, codes: Float[Tensor, "sample batch latent"]
    ) -> Float[Tensor, "sample batch"]:
        """Log density of each code under its own point's posterior, in nats."""
        return normal_log_density(codes, self.mean, self.scale).sum(-1)


class VAE(nn.Module):
    """p(x|z) p(z) with q(z|x). Batch norm follows ``train()`` and ``eval()``: the caller's choice."""

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, prior: Prior, likelihood: Likelihood
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.prior = prior
        self.likelihood = likelihood

    def encode(self, inputs: Float[Tensor, " batch *shape"]) -> Posterior:
        """Posterior of each point."""
        return Posterior(*self.encoder(inputs))

    def decode(self, codes: Float[Tensor, "sample batch latent"]) -> Parameters:
        """The likelihood's parameters, each (sample batch *shape).

        In training mode batch norm sees all samples of all points as one batch.
        """
        parameters: Parameters = self.decoder(codes.flatten(0, 1))
        return tuple(values.view(*codes.shape[:2], *values.shape[1:]) for values in parameters)

    def log_likelihood(
        self, inputs: Float[Tensor, " batch *shape"], codes: Float[Tensor, "sample batch latent"]
    ) -> Float[Tensor, "sample batch"]:
        """Log-likelihood log p(x|z) of each code, in nats per data point."""
        return self.likelihood.log_prob(inputs, self.decode(codes))


def make_vae(
    config: TrialConfig,
    generator: torch.Generator,
    variances: Float64[Tensor, " latent"] | None = None,
) -> VAE:
    """A VAE with PyTorch's default initialisation, drawn from the generator alone, on the CPU.

    Args:
        config: All that its shape follows from.
        generator: Of the initial weights.
        variances: The data's principal variances, largest first; the anisotropic prior needs them.
    """
    networks = NETWORKS[config.data.name]
    sizes = Sizes(
        shape=DATASETS[config.data.name].shape,
        latent_dim=config.model.latent_dim,
        width=config.width,
        num_hidden_layers=config.model.num_hidden_layers,
    )
    likelihood = make_likelihood(config.likelihood)
    # Layers initialise themselves from the global generator: lend it this one's state for a moment.
    seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))
        encoder = networks.encoder(sizes)
        decoder = networks.decoder(sizes, learns_scale=likelihood.has_learned_scale)
    prior = make_prior(config.prior, config.model.latent_dim, variances)
    vae = VAE(encoder, decoder, prior, likelihood)
    # The faster layout for convolutions; matrices are left as they are.
    return vae.to(memory_format=torch.channels_last)
