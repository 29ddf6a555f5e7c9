"""Maximum mean discrepancy of two samples, summed over latent dimensions, with its gradient.

One batch of 500 codes in 50 dimensions has 37 million pairs, and an eager sum over them takes ten
times as long as the rest of a training step. But in one dimension the kernel is smooth: a code acts
on all others as its eight Lagrange weights on a fine grid do, so that

    sum over pairs of k(a, b) = w_a K w_b,

w being the summed weights of a sample and K the kernel between grid points, a convolution. At this
spacing the two sides agree to the rounding of float32, and the right one costs next to nothing.
The pairs themselves are summed, a few dimensions at a time, where codes lie too far apart for a
grid (heavy tails, training that runs away) and on a GPU, whose scattered sums come in no fixed
order.
"""

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

_NUM_NODES = 8  # grid points around a code
_SPACING = 1.0 / 32.0  # the narrowest kernel's half-width is 14 of these
_LARGEST_GRID = 2**14
_CODES_AT_A_TIME = 2**18
_PAIRS_AT_A_TIME = {"cpu": 2**18, "cuda": 2**24}  # stays in cache; fills the card


def mmd(
    codes: Float[Tensor, "num latent"], prior_sample: Float[Tensor, "num latent"]
) -> Float[Tensor, ""]:
    """Squared MMD, summed over dimensions and kernel scales, as arXiv:1812.02833 penalises.

    The kernel is C / (C + (a - b)^2) with C = 2 s, for each s in ``SCALES``. The estimate is
    unbiased, hence slightly negative at times.

    Args:
        codes: One posterior sample, of at least two points. The gradient flows to it, once.
        prior_sample: As many prior samples; the gradient flows to them too where the prior is learned.
    """
    value: Tensor = _Mmd.apply(codes, prior_sample)
    return value


class _Mmd(torch.autograd.Function):
    """Value and gradient in one pass."""

    @staticmethod
    def forward(ctx: Any, codes: Tensor, prior_sample: Tensor) -> Tensor:
        """The value; the gradients are kept for ``backward``."""
        both = torch.stack([codes, prior_sample]).transpose(1, 2)
        value, gradient = _over_blocks(both)
        gradients = [gradient]
        if ctx.needs_input_grad[1]:  # the MMD is symmetric
            gradients.append(_over_blocks(both.flip(0))[1])
        ctx.save_for_backward(*(gradient.to(codes.dtype) for gradient in gradients))
        return value.to(codes.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_value: Tensor) -> tuple[Tensor, Tensor | None]:
        """The kept gradients, scaled."""
        gradient, *prior_gradient = (grad_value * kept for kept in ctx.saved_tensors)
        return gradient, prior_gradient[0] if prior_gradient else None


def _over_blocks(
    both: Float[Tensor, "2 latent num"],
) -> tuple[Float[Tensor, ""], Float[Tensor, "num latent"]]:
    """MMD of the two samples and its gradient by the first, a few dimensions at a time."""
    at_a_time = max(1, _CODES_AT_A_TIME // both.shape[-1])
    blocks = [_value_and_gradient(block) for block in torch.split(both, at_a_time, dim=1)]
    value = torch.stack([value for value, _ in blocks]).sum()
    return value, torch.cat([gradient for _, gradient in blocks]).T


def _value_and_gradient(
    both: Float[Tensor, "2 latent num"],
) -> tuple[Float[Tensor, ""], Float[Tensor, "latent num"]]:
    """MMD of the two samples and its gradient with respect to the first, in float64."""
    if both.device.type != "cpu":
        return _over_pairs(both)
    # NaN fails this comparison too, and comes out of the sum over pairs as what it is.
    span = both.amax((0, 2)) - both.amin((0, 2))
    fits = bool((span < (_LARGEST_GRID - _NUM_NODES) * _SPACING).all())
    return _on_grid(both) if fits else _over_pairs(both)


def _on_grid(
    both: Float[Tensor, "2 latent num"],
) -> tuple[Float[Tensor, ""], Float[Tensor, "latent num"]]:
    num_dims, num = both.shape[1:]
    both = both.double()
    position = (both - both.amin((0, 2), keepdim=True)) / _SPACING
    cell = position.floor()
    offset = position - cell - 0.5  # from the middle of the eight grid points
    powers = torch.empty(*both.shape, _NUM_NODES, dtype=torch.float64)
    powers[..., 0] = 1.0
    for i in range(1, _NUM_NODES):
        torch.mul(powers[..., i - 1], offset, out=powers[..., i])
    weights, slopes = _lagrange()
    nodes = (cell.long().unsqueeze(-1) + torch.arange(_NUM_NODES)).flatten(2)

    size = int(cell.max()) + _NUM_NODES
    on_grid = torch.zeros(2, num_dims, size, dtype=torch.float64)
    on_grid.scatter_add_(2, nodes, (powers @ weights).flatten(2))
    field = _convolve_with_kernel(on_grid)  # of each sample, at each grid point

    within, across = _pair_weights(num)
    itself = 2 * num * num_dims * len(SCALES)  # each code with itself, where the kernel is 1
    value = within * ((on_grid * field).sum() - itself) - across * (on_grid[0] * field[1]).sum()
    force = (2.0 * within * field[0] - across * field[1]).gather(1, nodes[0])
    derivative = (powers[0] @ slopes).mul_(force.view(num_dims, num, _NUM_NODES)).sum(-1)
    return value, derivative / _SPACING


def _convolve_with_kernel(
    on_grid: Float[Tensor, "2 latent size"],
) -> Float[Tensor, "2 latent size"]:
    size = on_grid.shape[-1]
    period = 1 << (2 * size - 1).bit_length()  # no grid point reaches another's image
    steps = torch.arange(period, dtype=torch.float64)
    square = (torch.minimum(steps, period - steps) * _SPACING) ** 2
    kernel = torch.stack([2.0 * s / (2.0 * s + square) for s in SCALES]).sum(0)
    spectrum = torch.fft.rfft(on_grid, n=period) * torch.fft.rfft(kernel)
    field: Tensor = torch.fft.irfft(spectrum, n=period)
    return field[..., :size]


@functools.cache
def _lagrange() -> tuple[Float[Tensor, "power node"], Float[Tensor, "power node"]]:
    """Matrices from powers of an offset to the nodes' weights, and to their derivatives."""
    nodes = torch.arange(_NUM_NODES, dtype=torch.float64) - 0.5 * (_NUM_NODES - 1)
    weights = torch.linalg.inv(torch.linalg.vander(nodes))
    slopes = torch.zeros_like(weights)
    slopes[:-1] = weights[1:] * torch.arange(1, _NUM_NODES).unsqueeze(1)
    return weights, slopes


def _over_pairs(
    both: Float[Tensor, "2 latent num"],
) -> tuple[Float[Tensor, ""], Float[Tensor, "latent num"]]:
    num = both.shape[-1]
    within, across = _pair_weights(num)
    value = torch.zeros((), dtype=torch.float64, device=both.device)
    gradients = []
    at_a_time = max(1, _PAIRS_AT_A_TIME[both.device.type] // num**2)
    for codes, prior_sample in torch.split(both, at_a_time, dim=1):
        own, own_slope = _sum_of_kernel(codes, codes)
        prior, _ = _sum_of_kernel(prior_sample, prior_sample)
        cross, cross_slope = _sum_of_kernel(codes, prior_sample)
        itself = 2 * codes.numel() * len(SCALES)
        value += within * (own + prior - itself) - across * cross
        gradients.append(2.0 * within * own_slope - across * cross_slope)
    return value, torch.cat(gradients)


def _sum_of_kernel(
    a: Float[Tensor, "latent num"], b: Float[Tensor, "latent num"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "latent num"]]:
    """Sum of the kernel over all pairs, and its derivative by each ``a`` (held fixed in ``b``)."""
    difference = a.unsqueeze(2) - b.unsqueeze(1)
    square, slope = difference**2, torch.zeros_like(difference)
    value = torch.zeros((), dtype=torch.float64, device=a.device)
    inverse = torch.empty_like(difference)
    for c in (2.0 * s for s in SCALES):
        torch.add(square, c, out=inverse).reciprocal_()
        value += c * inverse.sum(dtype=torch.float64)
        slope.addcmul_(inverse, inverse, value=-2.0 * c)
    return value, slope.mul_(difference).sum(2, dtype=torch.float64)


def _pair_weights(num: int) -> tuple[float, float]:
    """Weight of a pair within one sample, and of a pair across the two."""
    return 1.0 / (num * (num - 1)), 2.0 / num**2
