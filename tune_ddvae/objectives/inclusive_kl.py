"""KL(p(z) || q(z)), by Monte Carlo; q(z), the aggregate posterior, is the mixture over the batch."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from tune_ddvae.models import Posterior, Prior

# Stays in cache; fills the card.
_PAIRS_AT_A_TIME = {"cpu": 2**16, "cuda": 2**24}


def inclusive_kl(
    posterior: Posterior, prior_sample: Float[Tensor, "num latent"], prior: Prior
) -> Float[Tensor, ""]:
    """Mean of log p(z) - log q(z) over a prior sample, in nats; an estimate, so below 0 at times.

    Args:
        posterior: Of a batch of points, which q(z) averages over. The gradient flows to it, once.
        prior_sample: The gradient flows to it too where the prior is learned.
        prior: p(z).
    """
    # The exponents of all pairs are one matrix product: no array of num x batch x latent exists. It
    # cancels where a scale is far below its mean, hence float64.
    z, mean, scale = prior_sample.double(), posterior.mean.double(), posterior.scale.double()
    precision = scale**-2
    constant = -(0.5 * mean**2 * precision + scale.log()).sum(1, keepdim=True)
    features = torch.cat([z, z**2, torch.ones_like(z[:, :1])], dim=1)
    weights = torch.cat([mean * precision, -0.5 * precision, constant], dim=1)
    exponent: Tensor = _MeanLogSumExp.apply(features, weights)
    log_normaliser = 0.5 * mean.shape[1] * math.log(2.0 * math.pi) + math.log(len(mean))
    return prior.log_prob(prior_sample).mean() - (exponent - log_normaliser).to(prior_sample.dtype)


class _MeanLogSumExp(torch.autograd.Function):
    """Mean over rows of the logsumexp of ``features @ weights.T``, a few rows at a time."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weights: Tensor) -> Tensor:
        """The value; the gradients are kept for ``backward``."""
        value = features.new_zeros(())
        gradient = torch.zeros_like(weights)
        by_rows = []
        at_a_time = max(1, _PAIRS_AT_A_TIME[features.device.type] // len(weights))
        for rows in torch.split(features, at_a_time):
            terms = rows @ weights.T
            largest = terms.amax(1, keepdim=True)
            terms.sub_(largest).exp_()
            sums = terms.sum(1, keepdim=True)
            value += (sums.log() + largest).sum()
            gradient.addmm_(terms.T, rows / sums)
            if ctx.needs_input_grad[0]:
                by_rows.append(terms @ weights / sums)
        gradients = [gradient, torch.cat(by_rows)] if by_rows else [gradient]
        ctx.save_for_backward(*(gradient / len(features) for gradient in gradients))
        return value / len(features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_value: Tensor) -> tuple[Tensor | None, Tensor]:
        """The kept gradients, scaled."""
        gradient, *by_rows = (grad_value * kept for kept in ctx.saved_tensors)
        return by_rows[0] if by_rows else None, gradient
