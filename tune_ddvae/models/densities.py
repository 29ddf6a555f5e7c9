"""Elementwise log densities, written out.

The argument checks of torch.distributions cost a third of a training step.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


def normal_log_density(
    value: Float[Tensor, "..."], mean: Tensor | float, scale: Tensor | float
) -> Float[Tensor, "..."]:
    """Log density of N(mean, scale) at each value; ``scale`` is a standard deviation."""
    return -0.5 * ((value - mean) / scale) ** 2 - _log(scale) - _HALF_LOG_TWO_PI


def normal_kl(
    mean: Float[Tensor, "batch latent"],
    scale: Float[Tensor, "batch latent"],
    prior_scale: Float[Tensor, " latent"] | float,
) -> Float[Tensor, "batch latent"]:
    """KL(N(mean, scale) || N(0, prior_scale)) of each dimension, in nats."""
    ratio = scale / prior_scale
    return 0.5 * (ratio**2 + (mean / prior_scale) ** 2 - 1.0) - ratio.log()


def spike_and_slab_log_density(
    value: Float[Tensor, "..."],
    gamma: float,
    spike_scale: float,
    slab_mean: float = 0.0,
    slab_scale: float = 1.0,
) -> Float[Tensor, "..."]:
    """Log density of gamma N(0, spike_scale) + (1 - gamma) N(slab_mean, slab_scale) at each value."""
    spike = normal_log_density(value, 0.0, spike_scale)
    slab = normal_log_density(value, slab_mean, slab_scale)
    # At the ends the absent part's weight has no logarithm.
    if gamma == 0.0:
        return slab
    if gamma == 1.0:
        return spike
    return torch.logaddexp(spike + math.log(gamma), slab + math.log1p(-gamma))


def student_t_log_density(value: Float[Tensor, "..."], df: float) -> Float[Tensor, "..."]:
    """Log density of Student's t at each value.

    Computed in float64: value^2 / df overflows float32 for a small df, and vanishes for a large one.
    """
    log_peak = _log_gamma_step(0.5 * df) - 0.5 * math.log(math.pi * df)
    tail = torch.log1p(value.double() ** 2 / df)
    return (log_peak - 0.5 * (df + 1.0) * tail).to(value.dtype)


def _log_gamma_step(a: float) -> float:
    """Natural log of Gamma(a + 1/2) / Gamma(a), by its series where the two are large."""
    if a < 1e3:
        return math.lgamma(a + 0.5) - math.lgamma(a)
    return 0.5 * math.log(a) - 1.0 / (8.0 * a) + 1.0 / (192.0 * a**3)


def _log(scale: Tensor | float) -> Tensor | float:
    return scale.log() if isinstance(scale, Tensor) else math.log(scale)
