"""Disentanglement, completeness and informativeness, Eastwood & Williams (2018)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from torch import Tensor

from tune_ddvae.errors import AbsentMetric
from tune_ddvae.metrics.factors import unit_range

REGRESSOR = "random forest of 10 trees, 5 points a leaf; classifying unordered factors"
_FOREST = {"n_estimators": 10, "min_samples_leaf": 5, "max_features": 1.0}


@dataclass(frozen=True)
class DciScore:
    """The three scores and what they rest on."""

    disentanglement: float  # 0 to 1
    completeness: float  # 0 to 1
    informativeness: float  # 1 less the error relative to guessing: at most 1, below 0 if worse
    num_train: int  # points that the forests were fitted to
    num_test: int  # other points that informativeness was measured on


def dci(
    codes: Float[Tensor, "points latent"],
    factors: Int64[Tensor, "points factor"],
    is_unordered: tuple[bool, ...],
    *,
    num_train: int,
    num_test: int,
    generator: torch.Generator,
) -> DciScore:
    """How far the importance of dimensions for predicting factors is one to one.

    Each factor is predicted from all dimensions by a random forest: the index of one with an order by
    regression, one without by classification; what a dimension lessens the impurity by is its
    importance. These add up to 1 for each factor, as is usual, for one that no dimension tells of
    too: read informativeness beside the other two. Where no dimension varies all three are 0.

    Args:
        codes: One per row.
        factors: An index from 0 for each factor; a factor of one value is left out.
        is_unordered: For each factor whether its values have no order.
        num_train: Points to fit to.
        num_test: Points to predict; with fewer points than both, they are shared out in proportion.
        generator: Of the points and the forests.

    Raises:
        AbsentMetric: If a code is not finite, there is but one, or fewer than two factors vary.
    """
    scaled = unit_range(codes)
    varying = [
        (factor, unordered)
        for factor, unordered in zip(factors.T, is_unordered, strict=True)
        if factor.amax() > factor.amin()
    ]
    if len(varying) < 2:
        raise AbsentMetric(f"needs at least two factors of more than one value, got {len(varying)}")
    if len(codes) < num_train + num_test:
        num_train = max(1, len(codes) * num_train // (num_train + num_test))
        num_test = len(codes) - num_train
    if scaled.shape[1] == 0:
        return DciScore(0.0, 0.0, 0.0, num_train, num_test)

    device = generator.device
    drawn = torch.randperm(len(codes), generator=generator, device=device)[: num_train + num_test]
    seed = int(torch.randint(2**31, (), generator=generator, device=device))
    drawn = drawn.to(codes.device)
    inputs = scaled[drawn].cpu().numpy()
    importances, skills = [], []
    for factor, unordered in varying:
        values = factor[drawn].cpu().numpy()
        kind = RandomForestClassifier if unordered else RandomForestRegressor
        forest = kind(**_FOREST, random_state=seed).fit(inputs[:num_train], values[:num_train])
        importances.append(torch.from_numpy(forest.feature_importances_))
        errors = forest.predict(inputs[num_train:]) - values[num_train:]
        skills.append(1 - _error(errors, unordered) / _guessing(factor, unordered))
    importance = torch.stack(importances, 1).double()
    return DciScore(
        disentanglement=dci_disentanglement(importance),
        completeness=dci_completeness(importance),
        informativeness=float(np.mean(skills)),
        num_train=num_train,
        num_test=num_test,
    )


def dci_disentanglement(importance: Float64[Tensor, "latent factor"]) -> float:
    """1 where each dimension is important for one factor alone, 0 where for all alike.

    Dimensions weigh as much as they are important; with no importance at all it is 0.
    """
    return _concentration(importance)


def dci_completeness(importance: Float64[Tensor, "latent factor"]) -> float:
    """1 where one dimension alone is important for each factor, 0 where all are alike.

    Factors weigh as much as dimensions are important for them; with no importance at all it is 0. Of
    a single dimension it is 1.
    """
    return _concentration(importance.T)


def _concentration(shares: Float64[Tensor, "of over"]) -> float:
    """1 less the entropy of each row in units of the greatest, weighted by the rows' sums."""
    total = shares.sum()
    if total == 0:
        return 0.0
    if shares.shape[1] == 1:
        return 1.0
    rows = shares[shares.sum(1) > 0]
    weights = rows.sum(1) / total
    rows = rows / rows.sum(1, keepdim=True)
    entropies = -torch.xlogy(rows, rows).sum(1) / np.log(shares.shape[1])
    # Rounding may leave some 1e-16 outside.
    return float((weights * (1 - entropies)).sum().clamp(0, 1))


def _error(errors: NDArray[Any], unordered: bool) -> float:
    """Share of wrong ones, or mean square."""
    return float(np.mean(errors != 0 if unordered else errors**2))


def _guessing(factor: Int64[Tensor, " points"], unordered: bool) -> float:
    """Error of the one best guess for all points."""
    if unordered:
        return 1 - float(torch.bincount(factor).amax()) / len(factor)
    return float(factor.double().var(correction=0))
