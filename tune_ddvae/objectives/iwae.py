"""The importance-weighted bound on log p(x) of Burda et al. (2016)."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from tune_ddvae.models import VAE, Posterior, Prior
from tune_ddvae.models.networks import fold_batch_norm

# Values of decoded data at a time: those that stay in cache, or fill the card.
_VALUES_AT_A_TIME = {"cpu": 2**17, "cuda": 2**24}


@torch.no_grad()
def importance_weighted_bound(
    vae: VAE,
    inputs: Float[Tensor, " batch *shape"],
    num_samples: int,
    generator: torch.Generator,
    chunk: int | None = None,
    on_codes: Callable[[int], None] = lambda _: None,
) -> Float[Tensor, " batch"]:
    """Log of the mean importance weight of each point, in nats; without gradient.

    Args:
        vae: In evaluation mode, which is for the caller to set: under batch statistics the bound
            would depend on which points and codes came together.
        inputs: One data point per row.
        num_samples: K, codes per point; the bound rises with it in expectation.
        generator: Draws the codes, chunk by chunk.
        chunk: Codes decoded at a time; it bounds the memory. None: as many as are fastest.
        on_codes: Called with how many codes have been weighed since the last call; with large K one
            point takes a while.
    """
    chunk = chunk or max(1, _VALUES_AT_A_TIME[inputs.device.type] // inputs[0].numel())
    folded = VAE(vae.encoder, fold_batch_norm(vae.decoder), vae.prior, vae.likelihood)
    bounds = []
    for points in torch.split(inputs, chunk):
        posterior = folded.encode(points)
        total = points.new_full((len(points),), -math.inf)
        left = num_samples
        while left > 0:
            num = min(left, max(1, chunk // len(points)))
            codes = posterior.sample(num, generator)
            weights = log_weights(folded, points, posterior, codes)
            total = torch.logaddexp(total, weights.logsumexp(0))
            left -= num
            on_codes(num * len(points))
        bounds.append(total - math.log(num_samples))
    return torch.cat(bounds)


def log_weights(
    vae: VAE,
    inputs: Float[Tensor, " batch *shape"],
    posterior: Posterior,
    codes: Float[Tensor, "sample batch latent"],
) -> Float[Tensor, "sample batch"]:
    """Terms log p(x|z) + log p(z) - log q(z|x) of each code, in nats."""
    return weighed(vae.log_likelihood(inputs, codes), vae.prior, posterior, codes)


def weighed(
    log_likelihood: Float[Tensor, "sample batch"],
    prior: Prior,
    posterior: Posterior,
    codes: Float[Tensor, "sample batch latent"],
) -> Float[Tensor, "sample batch"]:
    """``log_weights`` of codes that have been decoded already, in nats; with gradient."""
    return log_likelihood + prior.log_prob(codes) - posterior.log_prob(codes)
