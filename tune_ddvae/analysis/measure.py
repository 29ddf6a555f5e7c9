"""A trained model measured again, with more points and samples than training had time for."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tune_ddvae.analysis.model import TrainedModel
from tune_ddvae.config import METRICS, TrialConfig, with_overrides
from tune_ddvae.metrics.evaluate import evaluate, importance_bounds
from tune_ddvae.metrics.latent import components_used
from tune_ddvae.models import ClusteredPrior

IWAE = "log_likelihood/iwae"
# What each kind of question is answered with; sparsity is never shown without its active units.
KINDS: Mapping[str, tuple[str, ...]] = {
    "disentanglement": tuple(name for name in METRICS if name.startswith("disentanglement/")),
    "sparsity": ("sparsity/hoyer", "sparsity/hoyer_all", "latent/active_units"),
    "logp": (IWAE, "log_likelihood/reconstruction", "latent/kl"),
}


@dataclass(frozen=True)
class Measured:
    """What a model scored.

    Attributes:
        split: ``test`` or ``validation``: whose points were measured.
        num_points: How many the split has.
        values: Finite values by metric of ``config.METRICS``.
        absent: The reason for each metric that has no value.
        protocol: What each value was measured with, e.g. samples and points.
    """

    split: str
    num_points: int
    values: Mapping[str, float]
    absent: Mapping[str, str]
    protocol: Mapping[str, Mapping[str, Any]]

    def __or__(self, other: "Measured") -> "Measured":
        """Both, of one model on one split."""
        return Measured(
            self.split,
            self.num_points,
            {**self.values, **other.values},
            {**self.absent, **other.absent},
            {**self.protocol, **other.protocol},
        )


@torch.no_grad()
def components_kept(model: TrainedModel) -> int | None:
    """Prior components that the training points' posterior means use; None where there are none.

    The paper's clustering is counted on the training points; ``latent/components_used`` of an
    evaluation is of its split.
    """
    prior = model.vae.prior
    if not isinstance(prior, ClusteredPrior):
        return None
    train = model.dataset.train
    inputs = model.dataset.to_float(train.head(len(train)).to(model.device))
    return components_used(model.vae.encode(inputs).mean, prior.means)


def measure(
    model: TrainedModel,
    names: Collection[str] = tuple(METRICS),
    on_batch: Callable[[], None] = lambda: None,
) -> Measured:
    """The named metrics on the test set; disentanglement on the whole factor grid, where there is one.

    The same call gives the same values: evaluation draws from ``metrics/seed`` alone.

    Args:
        model: What to measure.
        names: Of ``config.METRICS``.
        on_batch: Called after each batch and each metric.

    Raises:
        DivergedError: An encoding is not finite.
    """
    whole_grid = with_overrides(model.config, {"metrics/grid_stride_at_end": 1})
    return _evaluated(model, "test", whole_grid, names, on_batch, at_end=True)


def measure_likelihood(
    model: TrainedModel,
    num_samples: int,
    num_points: int,
    on_codes: Callable[[int], None] = lambda _: None,
) -> Measured:
    """The importance-weighted likelihood on the test set, with the standard error over its points.

    Args:
        model: What to measure.
        num_samples: K, codes weighed for each point.
        num_points: First points of the test set, all where there are fewer.
        on_codes: Called with how many codes have been weighed since the last call.

    Raises:
        ConfigError: A number is out of bounds.
    """
    changed = {"metrics/iwae_num_samples": num_samples, "metrics/iwae_num_points": num_points}
    config = with_overrides(model.config, changed).metrics
    test = model.dataset.test
    bounds = importance_bounds(model.vae, model.dataset, test, config, model.device, on_codes)
    bounds = bounds.double()
    mean = float(bounds.mean())
    if not math.isfinite(mean):
        return Measured("test", len(test), {}, {IWAE: f"is {mean} for these codes"}, {})
    facts: dict[str, Any] = {"samples": num_samples, "points": len(bounds)}
    if len(bounds) > 1:
        facts["standard_error"] = float(f"{float(bounds.std()) / math.sqrt(len(bounds)):.3g}")
    return Measured("test", len(test), {IWAE: mean}, {}, {IWAE: facts})


def measure_as_recorded(
    model: TrainedModel,
    names: Collection[str] = tuple(METRICS),
    on_batch: Callable[[], None] = lambda: None,
) -> Measured:
    """The named metrics as training measured them after the same epoch: same split, same protocol.

    Raises:
        DivergedError: An encoding is not finite.
    """
    has_validation = model.dataset.validation is not None
    is_done = model.epoch >= model.config.training.epochs
    return _evaluated(
        model,
        "validation" if has_validation else "test",
        model.config,
        names,
        on_batch,
        at_end=is_done and not has_validation,
    )


def _evaluated(
    model: TrainedModel,
    split: str,
    config: TrialConfig,
    names: Collection[str],
    on_batch: Callable[[], None],
    *,
    at_end: bool,
) -> Measured:
    points = model.dataset.test if split == "test" else model.dataset.evaluation
    found = evaluate(
        model.vae, model.dataset, points, config, model.device, on_batch, at_end=at_end, names=names
    )
    return Measured(
        split,
        len(points),
        found.metrics,
        found.absent,
        {name: {"points": len(points), **found.facts.get(name, {})} for name in found.metrics},
    )
