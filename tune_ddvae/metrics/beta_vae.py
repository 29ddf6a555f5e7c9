"""The beta-VAE score of codes laid out on the grid of their generative factors."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from tune_ddvae.metrics.factors import Axes, check_grid, unit_range

CLASSIFIER = "logistic regression, C 1, on standardised features"
_POINTS_AT_ONCE = 2**16
_MAX_STEPS = 1000  # some 20 are enough on standardised features


@dataclass(frozen=True)
class BetaVaeScore:
    """A beta-VAE score and what it rests on."""

    score: float  # accuracy on the test votes, 0 to 1
    train_score: float  # accuracy on the votes that the classifier was fitted to
    num_used: int  # dimensions that vary at all


def beta_vae(
    codes: Float[Tensor, "points latent"],
    factor_sizes: tuple[int, ...],
    *,
    group: int,
    train_votes: int,
    test_votes: int,
    generator: torch.Generator,
) -> BetaVaeScore:
    """beta-VAE score, Higgins et al. (2017): can a linear classifier tell which factor two points share?

    One vote: hold a factor, draw pairs of points that agree in it and are independent in all others;
    the mean absolute difference of their codes is what the classifier sees. Each factor is held
    equally often. Where no dimension varies the score is that of guessing, one in the number of
    factors.

    Args:
        codes: One code per point of the whole factor grid, the last factor changing fastest.
        factor_sizes: Number of values of each factor; one of a single value is never held fixed.
        group: Pairs to a vote, L of the paper.
        train_votes: Votes that the classifier is fitted to.
        test_votes: Further votes that it is scored on.
        generator: Of the pairs, on the codes' device.

    Raises:
        AbsentMetric: If a code is not finite, there is but one, or fewer than two factors vary.
        ValueError: If the codes are not one per point of the grid.
    """
    check_grid(codes, factor_sizes)
    axes = Axes.of(factor_sizes, codes.device)
    scaled = unit_range(codes)
    if scaled.shape[1] == 0:
        chance = 1 / len(axes)
        return BetaVaeScore(chance, chance, num_used=0)

    train, test = (
        _differences(scaled, axes, group, _held(axes, num_votes), generator).cpu().numpy()
        for num_votes in (train_votes, test_votes)
    )
    # Standardised, so that the penalty on the weights is the same whatever a dimension's scale.
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_MAX_STEPS))
    train_held, test_held = (
        _held(axes, num_votes).flatten().cpu().numpy() for num_votes in (train_votes, test_votes)
    )
    classifier.fit(train, train_held)
    return BetaVaeScore(
        score=float(classifier.score(test, test_held)),
        train_score=float(classifier.score(train, train_held)),
        num_used=scaled.shape[1],
    )


def _held(axes: Axes, num_votes: int) -> Int64[Tensor, "vote 1"]:
    """Which factor each vote holds: all of them in turn."""
    return torch.arange(num_votes, device=axes.sizes.device)[:, None] % len(axes)


def _differences(
    scaled: Float64[Tensor, "points varying"],
    axes: Axes,
    group: int,
    held: Int64[Tensor, "vote 1"],
    generator: torch.Generator,
) -> Float64[Tensor, "vote varying"]:
    """Mean absolute difference over the pairs of each vote."""
    parts = []
    for factor in torch.split(held, max(1, _POINTS_AT_ONCE // group)):
        first, second = torch.randint(
            len(scaled), (2, len(factor), group), generator=generator, device=scaled.device
        )
        second = axes.with_value_of(first, second, factor)
        codes = scaled.index_select(0, first.flatten())
        codes -= scaled.index_select(0, second.flatten())
        parts.append(codes.abs_().view(len(factor), group, -1).mean(1))
    return torch.cat(parts)
