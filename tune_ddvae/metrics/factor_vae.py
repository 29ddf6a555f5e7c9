"""The FactorVAE score of codes laid out on the grid of their generative factors."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tune_ddvae.metrics.factors import Axes, check_grid

PRUNING_THRESHOLD = 0.05
_POINTS_AT_ONCE = 2**17  # some 5 MB of ten-dimensional codes: they stay in the cache


@dataclass(frozen=True)
class FactorVaeScore:
    """A FactorVAE score and what it rests on."""

    score: float  # accuracy on the test votes, 0 to 1
    train_score: float  # accuracy on the votes that the classifier was fitted to
    num_active: int  # dimensions that could vote
    num_pruned: int  # dimensions that vary too little to


def factor_vae(
    codes: Float[Tensor, "points latent"],
    factor_sizes: tuple[int, ...],
    *,
    group: int,
    train_votes: int,
    test_votes: int,
    generator: torch.Generator,
    threshold: float = PRUNING_THRESHOLD,
) -> FactorVaeScore:
    """FactorVAE score, Kim & Mnih (2018): can a majority vote tell which factor was held fixed?

    One vote: hold a random factor at a random value, draw a group of points that share it; the
    dimension of least variance, relative to its variance over all points, votes for that factor.
    With no dimension left to vote the score is that of guessing, one in the number of factors. Ten
    random dimensions score .21 to .23 with five factors.

    Args:
        codes: One code per point of the whole factor grid, the last factor changing fastest.
        factor_sizes: Number of values of each factor; one of a single value is never held fixed.
        group: Points that share the fixed value, L of the paper.
        train_votes: Votes that the majority classifier is fitted to.
        test_votes: Further votes that it is scored on.
        generator: Of the votes, on the codes' device.
        threshold: Standard deviation below which a dimension is pruned: it would win every vote.

    Raises:
        AbsentMetric: If a code is not finite, there is but one, or fewer than two factors vary.
        ValueError: If the codes are not one per point of the grid.
    """
    check_grid(codes, factor_sizes)
    axes = Axes.of(factor_sizes, codes.device)

    deviations = codes.std(0)
    active = (deviations >= threshold) & (codes.amax(0) > codes.amin(0))
    num_active = int(active.sum())
    if num_active == 0:
        chance = 1 / len(axes)
        return FactorVaeScore(chance, chance, num_active=0, num_pruned=codes.shape[1])

    # Scaled first: then the least variance is the least normalised variance.
    scaled = codes[:, active] / deviations[active]
    train, test = (
        _vote_counts(scaled, axes, group, num_votes, generator)
        for num_votes in (train_votes, test_votes)
    )
    winners = train.argmax(1, keepdim=True)  # the factor that each dimension stands for
    return FactorVaeScore(
        score=int(test.gather(1, winners).sum()) / test_votes,
        train_score=int(train.gather(1, winners).sum()) / train_votes,
        num_active=num_active,
        num_pruned=codes.shape[1] - num_active,
    )


def _vote_counts(
    scaled: Float[Tensor, "points active"],
    axes: Axes,
    group: int,
    num_votes: int,
    generator: torch.Generator,
) -> Int64[Tensor, "active factor"]:
    """How often each dimension voted while each factor was held fixed."""
    device = scaled.device
    counts = torch.zeros(scaled.shape[1] * len(axes), dtype=torch.int64, device=device)
    at_once = max(1, _POINTS_AT_ONCE // group)
    for start in range(0, num_votes, at_once):
        votes = min(at_once, num_votes - start)
        fixed = torch.randint(len(axes), (votes, 1), generator=generator, device=device)
        anywhere = torch.randint(len(scaled), (votes, group), generator=generator, device=device)
        # The first point of a group lends its value of the fixed factor to all others.
        points = axes.with_value_of(anywhere[:, :1], anywhere, fixed)
        codes = scaled.index_select(0, points.flatten()).view(votes, group, -1)
        # About its first point rather than its mean: a dimension that is constant in the group then
        # has a variance of exactly zero.
        codes = codes - codes[:, :1]
        variances = codes.square().mean(1) - codes.mean(1).square()
        ballots = variances.argmin(1) * len(axes) + fixed.flatten()
        counts += torch.bincount(ballots, minlength=len(counts))
    return counts.view(-1, len(axes))
