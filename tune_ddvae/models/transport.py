"""The map that takes Student's t to a normal: in one dimension the optimal transport between them.

Disentanglement is measured on codes that vary alike under every prior; under Student's t a few far
codes would make all of a dimension's variance (arXiv:1812.02833).
"""

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy import special
from torch import Tensor

from tune_ddvae.models.densities import student_t_log_density

# Outside these no float32 code can tell the density from the one at the nearer end.
DF_ENDS = (1e-30, 1e12)
# From here on eight terms of the series below are exact to rounding, whatever the degrees of freedom.
_TAIL_STARTS = 30.0
_NUM_TERMS = 8


def to_normal(codes: Float[Tensor, "*points"], df: float) -> Float64[Tensor, "*points"]:
    """Standard normal values at the quantiles of the codes under Student's t, N^-1(T(z)).

    Each side goes by the probability of its own tail, of which the logarithm is taken: T(z) has lost
    the upper tail to rounding at 8 standard deviations, and underflows at 38.

    Args:
        codes: Values under t(df), each by itself.
        df: Degrees of freedom.
    """
    df = min(max(df, DF_ENDS[0]), DF_ENDS[1])
    distance = codes.detach().cpu().double().abs()
    log_tail = torch.as_tensor(np.log(special.stdtr(df, -distance.clamp(max=_TAIL_STARTS).numpy())))
    log_tail = torch.where(distance > _TAIL_STARTS, _far_log_tail(distance, df), log_tail)
    magnitude = torch.as_tensor(-special.ndtri_exp(log_tail.numpy())).to(codes.device)
    return torch.copysign(magnitude, codes.double())


def _far_log_tail(distance: Float64[Tensor, "*points"], df: float) -> Float64[Tensor, "*points"]:
    """Log of P(T > distance), for distances from ``_TAIL_STARTS`` on.

    The tail is f(t) / t (1 + t^2 / df) F(1/2, 1; df/2 + 1; -df / t^2), f the density and F Gauss's
    hypergeometric function: the incomplete beta function (DLMF 8.17.7) by Pfaff's transformation.
    """
    far = distance.clamp(min=_TAIL_STARTS)
    ratio = -df / far**2
    series = torch.zeros_like(far)
    for n in reversed(range(_NUM_TERMS)):
        series = 1.0 + (n + 0.5) / (0.5 * df + 1.0 + n) * ratio * series
    # log(1 + t^2 / df) / t, in an order that overflows for no float32.
    growth = torch.log1p(far**2 / df) - far.log()
    return student_t_log_density(far, df) + growth + series.log()
