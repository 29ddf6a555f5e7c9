"""A VAE whose posterior and evidence are known: x = w z + noise in each of its dimensions."""

import torch
from torch import Tensor, nn

from tune_ddvae.models import VAE
from tune_ddvae.models.likelihoods import NormalLikelihood
from tune_ddvae.models.priors import NormalPrior

SLOPE = 1.5
NOISE = 0.7


class _Encoder(nn.Module):
    """The exact posterior, or one that is ``shift`` off."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        precision = 1.0 + (SLOPE / NOISE) ** 2
        mean = inputs * SLOPE / NOISE**2 / precision + self.shift
        return mean, torch.full_like(inputs, precision**-0.5)


class _Decoder(nn.Module):
    def forward(self, codes: Tensor) -> tuple[Tensor, ...]:
        return (SLOPE * codes,)


def linear_gaussian(latent_dim: int, shift: float = 0.0) -> VAE:
    return VAE(_Encoder(shift), _Decoder(), NormalPrior(latent_dim), NormalLikelihood(NOISE)).eval()


def log_evidence(inputs: Tensor) -> Tensor:
    """log p(x) of each point."""
    deviation = (SLOPE**2 + NOISE**2) ** 0.5
    return torch.distributions.Normal(0.0, deviation).log_prob(inputs).sum(-1)
