"""Mutual information of single dimensions and factors, and the two scores that are made of it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from tune_ddvae.errors import AbsentMetric
from tune_ddvae.metrics.factors import unit_range

_ROUNDING = 1e-12  # nats that a dimension may seem to know by rounding alone


@dataclass(frozen=True)
class Information:
    """What each dimension that varies tells of each factor that varies, in nats."""

    mutual: Float64[Tensor, "varying factor"]
    entropy: Float64[Tensor, " factor"]


def information(
    codes: Float[Tensor, "points latent"],
    factors: Int64[Tensor, "points factor"],
    num_bins: int = 20,
) -> Information:
    """Mutual information of codes and factors, each dimension cut into bins of equal width.

    The estimate of the counts as they are: with few points it is above zero for independent codes.

    Args:
        codes: One per row.
        factors: An index from 0 for each factor; a factor of one value is left out.
        num_bins: Between a dimension's least and greatest code.

    Raises:
        AbsentMetric: If a code is not finite, there is but one, or no factor varies.
    """
    # A dimension or factor to a row: each is read many times.
    bins = (unit_range(codes).T.contiguous() * num_bins).long().clamp(max=num_bins - 1)
    varying = [factor for factor in factors.T.contiguous() if factor.amax() > factor.amin()]
    if not varying:
        raise AbsentMetric("needs a factor of more than one value, got none")
    entropy = torch.stack([_entropy(torch.bincount(factor)) for factor in varying])
    mutual = torch.zeros(len(bins), len(varying), dtype=torch.float64, device=codes.device)
    for column, factor in enumerate(varying):
        num_values = int(factor.amax()) + 1
        for row, places in enumerate(bins):
            joint = torch.bincount(places * num_values + factor, minlength=num_bins * num_values)
            joint = joint.view(num_bins, num_values)
            mutual[row, column] = _entropy(joint.sum(1)) + entropy[column] - _entropy(joint)
    # Rounding may leave some 1e-16 below zero.
    return Information(mutual.clamp(min=0.0), entropy)


def mig(known: Information) -> float:
    """Mutual information gap, Chen et al. (2018): what the best dimension knows more than the second.

    Relative to the factor's entropy, mean over factors. Where there is no second dimension it knows
    nothing; where no dimension varies the gap is 0.
    """
    unknowing = known.mutual.new_zeros(2, known.mutual.shape[1])
    best, second = torch.cat([known.mutual, unknowing]).topk(2, dim=0).values
    return float(((best - second) / known.entropy).mean())


def modularity(known: Information) -> float:
    """Modularity, Ridgeway & Mozer (2018): how far each dimension depends on one factor alone.

    Of a dimension, 1 less its squared information about all other factors, relative to that about its
    own; mean over the dimensions that know of any.

    Raises:
        AbsentMetric: If fewer than two factors vary, or no dimension knows of any.
    """
    num_factors = known.mutual.shape[1]
    if num_factors < 2:
        raise AbsentMetric("needs at least two factors of more than one value, got 1")
    squares = known.mutual[known.mutual.amax(1) > _ROUNDING].square()
    if len(squares) == 0:
        raise AbsentMetric("needs a dimension that varies with a factor, none of the codes' does")
    own = squares.amax(1)
    return float((1 - (squares.sum(1) - own) / (own * (num_factors - 1))).mean())


def _entropy(counts: Int64[Tensor, "*cells"]) -> Float64[Tensor, ""]:
    """Entropy of the frequencies, in nats."""
    frequencies = counts.double() / counts.sum()
    return -torch.xlogy(frequencies, frequencies).sum()
