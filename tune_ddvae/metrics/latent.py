"""How much of the latent space is used: active dimensions, nats of each, components of a prior."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from tune_ddvae.errors import AbsentMetric
from tune_ddvae.models import ClusteredPrior, Posterior, Prior
from tune_ddvae.models.densities import normal_log_density


@dataclass(frozen=True)
class ActiveUnits:
    """The latent dimensions whose posterior mean varies over the data."""

    mask: Bool[Tensor, " latent"]

    @property
    def count(self) -> int:
        """Number of active dimensions."""
        return int(self.mask.sum())

    @property
    def which(self) -> tuple[int, ...]:
        """Indices of the active dimensions, from 0."""
        return tuple(self.mask.nonzero().flatten().tolist())


def active_units(means: Float[Tensor, "batch latent"], threshold: float = 0.01) -> ActiveUnits:
    """Dimensions whose posterior mean has a variance above the threshold, Burda et al. (2016).

    Args:
        means: One posterior mean per row.
        threshold: Variance (n - 1) that must be exceeded.

    Raises:
        AbsentMetric: If there are fewer than two points or a mean is not finite.
    """
    check_codes(means)
    # A constant column can have a variance of some 1e-17 by rounding, above a threshold of 0.
    varies = means.amax(0) > means.amin(0)
    return ActiveUnits(varies & (means.double().var(0) > threshold))


def kl_per_dimension(
    posterior: Posterior, prior: Prior, codes: Float[Tensor, "batch latent"]
) -> Float64[Tensor, " latent"]:
    """KL(q(z|x) || p(z)) of each dimension in nats, mean over points; they sum up to the whole.

    Args:
        posterior: Of each point.
        prior: p(z).
        codes: A sample of each point's posterior, for priors without a closed form.

    Raises:
        AbsentMetric: If the prior is not a product over dimensions.
    """
    closed = prior.kl(posterior.mean, posterior.scale)
    if closed is not None:
        return closed.double().mean(0)
    if isinstance(prior, ClusteredPrior):
        raise AbsentMetric("a clustered prior is no product over dimensions: its KL has no parts")
    # All others have one and the same density in every dimension: that of codes of one dimension.
    log_prior = prior.log_prob(codes.unsqueeze(-1))
    log_posterior = normal_log_density(codes, posterior.mean, posterior.scale)
    return (log_posterior.double() - log_prior.double()).mean(0)


def components_used(
    means: Float[Tensor, "batch latent"],
    locations: Float[Tensor, "component latent"],
    share: float = 0.02,
) -> int:
    """Number of prior components that are the nearest to at least a share of the posterior means.

    Args:
        means: One posterior mean per row.
        locations: The mean of each component of the prior.
        share: Of the points, the least that makes a component count as used.

    Raises:
        AbsentMetric: If there are fewer than two points or a mean is not finite.
    """
    check_codes(means)
    nearest = torch.cdist(means.double(), locations.double()).argmin(1)
    counts = torch.bincount(nearest, minlength=len(locations))
    # Divided, since 7 / 350 is the double next to .02, and .02 * 350 may come out above 7.
    return int((counts.double() / len(means) >= share).sum())


def check_codes(codes: Float[Tensor, "batch latent"]) -> None:
    """Refuse codes that no metric has a value for.

    Raises:
        AbsentMetric: If there are fewer than two points, or one that is not finite.
    """
    if len(codes) < 2:
        raise AbsentMetric(f"needs at least two points, got {len(codes)}")
    num_broken = int((~codes.isfinite()).any(1).sum())
    if num_broken:
        raise AbsentMetric(f"codes must be finite, {num_broken} of {len(codes)} points are not")
