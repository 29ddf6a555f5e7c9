"""The objective of arXiv:1812.02833, eq. 7: the ELBO with weights for overlap and for structure.

In its place the importance-weighted bound, where ``objective/kind`` says so.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tune_ddvae.config import ObjectiveConfig
from tune_ddvae.models import VAE, Posterior, Prior
from tune_ddvae.objectives.inclusive_kl import inclusive_kl
from tune_ddvae.objectives.iwae import weighed
from tune_ddvae.objectives.mmd import mmd


@dataclass(frozen=True)
class ElboTerms:
    """The objective's terms, in nats per data point (the MMD has no unit); means over the batch."""

    log_likelihood: Float[Tensor, ""]
    kl: Float[Tensor, ""]
    divergence: Float[Tensor, ""]  # D(q(z), p(z)) of the batch, unweighted; 0 where alpha is 0
    beta: float
    alpha: float
    bound: Float[Tensor, ""] | None = None  # importance-weighted, maximised instead of their sum

    @property
    def total(self) -> Float[Tensor, ""]:
        """What gradient ascent maximises."""
        if self.bound is not None:
            return self.bound
        total = self.log_likelihood - self.beta * self.kl
        return total - self.alpha * self.divergence if self.alpha > 0 else total


def elbo(
    vae: VAE,
    inputs: Float[Tensor, " batch *shape"],
    config: ObjectiveConfig,
    generator: torch.Generator,
) -> ElboTerms:
    """E_q log p(x|z) - beta KL(q(z|x) || p(z)) - alpha D(q(z), p(z)), averaged over a batch.

    Under ``config.kind`` iwae the total is the mean of log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x), Burda
    et al. (2016), K the number of codes; the terms above are then only looked at.

    Args:
        vae: In training mode when its gradient is wanted.
        inputs: One data point per row; two or more when D is an MMD.
        config: beta, alpha, D and the number of codes per point that expectations average over.
        generator: Draws the codes, then for D one prior sample per data point.
    """
    posterior = vae.encode(inputs)
    codes = posterior.sample(config.num_samples, generator)
    log_likelihood = vae.log_likelihood(inputs, codes)
    return ElboTerms(
        log_likelihood=log_likelihood.mean(),
        kl=posterior_kl(posterior, vae.prior, codes).mean(),
        divergence=(
            _divergence(config.divergence, posterior, codes, vae.prior, generator)
            if config.alpha > 0
            else inputs.new_zeros(())
        ),
        beta=config.beta,
        alpha=config.alpha,
        bound=(
            _bound(weighed(log_likelihood, vae.prior, posterior, codes))
            if config.kind == "iwae"
            else None
        ),
    )


def posterior_kl(
    posterior: Posterior, prior: Prior, codes: Float[Tensor, "sample batch latent"]
) -> Float[Tensor, " batch"]:
    """KL(q(z|x) || p(z)) of each point in nats: in closed form, or where there is none on the codes."""
    per_dimension = prior.kl(posterior.mean, posterior.scale)
    if per_dimension is not None:
        return per_dimension.sum(-1)
    return (posterior.log_prob(codes) - prior.log_prob(codes)).mean(0)


def _bound(weights: Float[Tensor, "sample batch"]) -> Float[Tensor, ""]:
    return (weights.logsumexp(0) - math.log(len(weights))).mean()


def _divergence(
    name: str,
    posterior: Posterior,
    codes: Float[Tensor, "sample batch latent"],
    prior: Prior,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    prior_sample = prior.sample(codes.shape[1], generator)
    if name == "inclusive_kl":
        return inclusive_kl(posterior, prior_sample, prior)
    return torch.stack([mmd(sample, prior_sample) for sample in codes]).mean()
