"""Separated attribute predictability, Kumar et al. (2018)."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor

from tune_ddvae.errors import AbsentMetric
from tune_ddvae.metrics.factors import unit_range

ORDERED_RULE = "squared correlation"
UNORDERED_RULE = "balanced accuracy of a decision tree on one dimension with a leaf per value"
_MAX_POINTS = 15_000  # that the trees are fitted to and scored on


@dataclass(frozen=True)
class SapScore:
    """A SAP score and what it rests on."""

    score: float  # 0 to 1
    num_points: int
    num_train: int  # points that the trees were fitted to; 0 where all factors are ordered
    num_test: int  # other points that they were scored on


def sap(
    codes: Float[Tensor, "points latent"],
    factors: Int64[Tensor, "points factor"],
    is_unordered: tuple[bool, ...],
    generator: torch.Generator,
) -> SapScore:
    """How much better the best dimension alone predicts a factor than the second; mean over factors.

    As in the paper a factor with an order is scored by its squared correlation with the dimension,
    and one without by thresholds on the dimension that lessen the balanced error: here those of a
    decision tree, one less than the factor has values, fitted to two thirds of the points and scored
    on the others. Where there is no second dimension it predicts as well as guessing.

    Args:
        codes: One per row.
        factors: An index from 0 for each factor; a factor of one value is left out.
        is_unordered: For each factor whether its values have no order.
        generator: Of the points that the trees see, 15,000 at most.

    Raises:
        AbsentMetric: If a code is not finite, there is but one, or no factor varies.
    """
    scaled = unit_range(codes)
    varying = [
        (factor, unordered)
        for factor, unordered in zip(factors.T, is_unordered, strict=True)
        if factor.amax() > factor.amin()
    ]
    if not varying:
        raise AbsentMetric("needs a factor of more than one value, got none")
    drawn = torch.randperm(len(codes), generator=generator, device=generator.device)[:_MAX_POINTS]
    drawn = drawn.to(codes.device)
    num_train = max(1, 2 * len(drawn) // 3)
    gaps = [
        _gap(*_tree_accuracies(scaled[drawn], factor[drawn], num_train))
        if unordered
        else _gap(_squared_correlations(scaled, factor), 0.0)
        for factor, unordered in varying
    ]
    has_trees = any(unordered for _, unordered in varying)
    return SapScore(
        score=sum(gaps) / len(gaps),
        num_points=len(codes),
        num_train=num_train if has_trees else 0,
        num_test=len(drawn) - num_train if has_trees else 0,
    )


def _gap(scores: Float64[Tensor, " varying"], chance: float) -> float:
    """Between the two best, where two more dimensions score as well as guessing."""
    guesses = scores.new_full((2,), chance)
    best, second = torch.cat([scores, guesses]).topk(2).values.tolist()
    return float(best - second)


def _squared_correlations(
    scaled: Float64[Tensor, "points varying"], factor: Int64[Tensor, " points"]
) -> Float64[Tensor, " varying"]:
    codes = scaled - scaled.mean(0)
    values = factor.double() - factor.double().mean()
    return (values @ codes).square() / (codes.square().sum(0) * values.square().sum())


def _tree_accuracies(
    scaled: Float64[Tensor, "points varying"], factor: Int64[Tensor, " points"], num_train: int
) -> tuple[Float64[Tensor, " varying"], float]:
    """Balanced accuracy of each dimension's thresholds, and that of guessing."""
    codes = scaled.cpu().numpy()
    present, values = np.unique(factor.cpu().numpy(), return_inverse=True)
    test_values = values[num_train:]
    counts = np.bincount(test_values, minlength=len(present))
    tree = DecisionTreeClassifier(
        max_leaf_nodes=max(2, len(present)), class_weight="balanced", random_state=0
    )
    accuracies = []
    for column in codes.T[:, :, None]:
        tree.fit(column[:num_train], values[:num_train])
        is_right = tree.predict(column[num_train:]) == test_values
        right = np.bincount(test_values[is_right], minlength=len(present))
        accuracies.append((right[counts > 0] / counts[counts > 0]).mean())
    return torch.tensor(np.array(accuracies, dtype=np.float64)), 1 / len(present)
