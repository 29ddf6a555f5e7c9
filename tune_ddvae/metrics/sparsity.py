"""Hoyer (2004) sparsity of posterior means, as in arXiv:1812.02833 section 6.3.

Dense N(0, I) codes score .231 at 50 dimensions and .266 at 10.
"""

import math

from jaxtyping import Float
from torch import Tensor

from tune_ddvae.errors import AbsentMetric
from tune_ddvae.metrics.latent import active_units, check_codes


def hoyer_all(means: Float[Tensor, "batch latent"]) -> float:
    """Mean sparsity over all dimensions, each scaled to unit deviation: the paper's own number.

    For comparison with the paper, never to rank by: one dead dimension that still varies a little
    lifts it from .23 to .87.

    Returns:
        0 where every dimension is equally large, 1 where only one differs from zero.

    Raises:
        AbsentMetric: If a dimension does not vary at all, there is but one, or a mean is not finite.
    """
    check_codes(means)
    if means.shape[1] < 2:
        raise AbsentMetric("needs at least two dimensions, got 1")
    num_constant = int((means.amax(0) == means.amin(0)).sum())
    if num_constant:
        raise AbsentMetric(
            f"{num_constant} of {means.shape[1]} dimensions do not vary: no unit deviation to scale to"
        )
    return _hoyer(means)


def hoyer(means: Float[Tensor, "batch latent"], active_threshold: float = 0.01) -> float:
    """Mean sparsity over the active dimensions alone, each scaled to unit deviation.

    It still rises as dimensions die, .34 for two dense ones: show the number of active units beside.

    Args:
        means: One posterior mean per row.
        active_threshold: Variance above which a dimension is active.

    Returns:
        0 where every active dimension is equally large, 1 where only one differs from zero.

    Raises:
        AbsentMetric: If fewer than two dimensions are active; names how many.
    """
    active = active_units(means, active_threshold)
    if active.count < 2:
        raise AbsentMetric(
            f"needs at least two active dimensions, {active.count} of {means.shape[1]} vary by "
            f"more than {active_threshold}"
        )
    return _hoyer(means[:, active.mask])


def _hoyer(codes: Float[Tensor, "batch latent"]) -> float:
    scaled = codes.double()
    scaled = scaled / scaled.std(0)  # not centred: the paper's codes are sparse about zero
    l1, l2 = scaled.norm(p=1, dim=1), scaled.norm(p=2, dim=1)
    # A point at the very origin is neither sparse nor dense. Some point is elsewhere, since all vary.
    somewhere = l2 > 0
    root = math.sqrt(codes.shape[1])
    sparsity = (root - l1[somewhere] / l2[somewhere]) / (root - 1)
    return float(sparsity.mean())
