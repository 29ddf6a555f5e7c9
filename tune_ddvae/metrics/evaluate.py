"""One evaluation: a split encoded once, every metric measured on the same codes.

Whatever cannot be measured is absent with a reason; no value is ever anything but finite.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tune_ddvae.config import METRICS, MetricsConfig, TrialConfig
from tune_ddvae.data import Dataset, Split
from tune_ddvae.errors import AbsentMetric
from tune_ddvae.metrics import disentanglement
from tune_ddvae.metrics.encoding import Encodings, encode
from tune_ddvae.metrics.latent import active_units, components_used, kl_per_dimension
from tune_ddvae.metrics.sparsity import hoyer, hoyer_all
from tune_ddvae.metrics.streams import stream
from tune_ddvae.metrics.subject import Subject
from tune_ddvae.models import VAE, ClusteredPrior, Posterior
from tune_ddvae.objectives import importance_weighted_bound, inclusive_kl, mmd

__all__ = ["Encodings", "Evaluation", "encode", "evaluate", "importance_bounds"]

_IWAE_BATCH = 256


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation yields.

    Attributes:
        metrics: Finite values by name, see ``config.METRICS``.
        absent: The reason by name for each metric that has no value.
        facts: What the metrics rest on, by the metric's name: points, votes, bins, which dimensions
            are active.
    """

    metrics: dict[str, float]
    absent: dict[str, str]
    facts: dict[str, Any]


def evaluate(
    vae: VAE,
    dataset: Dataset,
    split: Split,
    config: TrialConfig,
    device: torch.device,
    on_batch: Callable[[], None] = lambda: None,
    *,
    with_expensive: bool = True,
    at_end: bool = False,
    names: Collection[str] = tuple(METRICS),
) -> Evaluation:
    """Every metric of ``config.METRICS`` that applies, measured on the split in eval mode.

    The same model and split give the same values at any time, whatever was drawn before.

    Args:
        vae: The model, on the device; left in the mode it was in.
        dataset: Whose split it is.
        split: What to measure on; its inputs may lie anywhere.
        config: Of the trial.
        device: Where to compute.
        on_batch: Called after each batch and each metric.
        with_expensive: Whether the metrics that are expensive are due; else they are left out.
        at_end: Whether the factor grid is encoded as finely as for a trial's last measurement.
        names: Those of ``config.METRICS`` that are wanted.

    Raises:
        DivergedError: If an encoding is not finite; names what, its value and how many points.
    """
    was_training = vae.training
    vae.eval()
    try:
        with torch.no_grad():
            noise = stream(config.metrics.seed, "codes", device)
            encodings = encode(vae, dataset, split, device, noise, on_batch)
            subject = Subject(
                vae, dataset, split, config, device, on_batch, at_end=at_end, encodings=encodings
            )
            due = [
                name
                for name in _MEASURES
                if name in names and (with_expensive or not METRICS[name].is_expensive)
            ]
            return _measure(subject, due)
    finally:
        vae.train(was_training)


def importance_bounds(
    vae: VAE,
    dataset: Dataset,
    split: Split,
    config: MetricsConfig,
    device: torch.device,
    on_codes: Callable[[int], None] = lambda _: None,
) -> Float[Tensor, " batch"]:
    """Importance-weighted bound on log p(x) of the split's first points, in nats.

    Args:
        vae: On the device, in evaluation mode.
        dataset: Whose split it is.
        split: Its first iwae_num_points are taken.
        config: How many samples and points.
        device: Where to compute.
        on_codes: Called with how many codes have been weighed since the last call.
    """
    noise = stream(config.seed, "iwae", device)
    parts = torch.split(split.head(config.iwae_num_points), _IWAE_BATCH)
    return torch.cat(
        [
            importance_weighted_bound(
                vae,
                dataset.to_float(part.to(device)),
                config.iwae_num_samples,
                noise,
                on_codes=on_codes,
            )
            for part in parts
        ]
    )


def _measure(subject: Subject, names: Collection[str]) -> Evaluation:
    metrics: dict[str, float] = {}
    absent: dict[str, str] = {}
    subject.facts["num_points"] = len(subject.means)
    for name in names:
        try:
            value = _MEASURES[name](subject)
        except AbsentMetric as reason:
            absent[name] = str(reason)
        else:
            if math.isfinite(value):
                metrics[name] = value
            else:
                absent[name] = f"is {value} for these codes"
        subject.on_batch()
    return Evaluation(metrics, absent, subject.facts)


def _hoyer(subject: Subject) -> float:
    return hoyer(subject.means, subject.config.metrics.active_threshold)


def _hoyer_all(subject: Subject) -> float:
    return hoyer_all(subject.means)


def _active_units(subject: Subject) -> float:
    active = active_units(subject.means, subject.config.metrics.active_threshold)
    subject.facts["latent/active_units"] = {"which": list(active.which)}
    return float(active.count)


def _components_used(subject: Subject) -> float:
    prior = subject.vae.prior
    if not isinstance(prior, ClusteredPrior):
        raise AbsentMetric(f"needs a clustered prior, this one is {subject.config.prior.kind}")
    return float(components_used(subject.means, prior.means))


def _reconstruction(subject: Subject) -> float:
    return float(subject.encodings.log_likelihood.double().mean())


def _kl(subject: Subject) -> float:
    encodings = subject.encodings
    try:
        parts = kl_per_dimension(encodings.posterior, subject.vae.prior, encodings.codes).tolist()
    except AbsentMetric as reason:
        subject.facts["latent/kl"] = {"per_dimension": f"none: {reason}"}
    else:
        subject.facts["latent/kl"] = {"per_dimension": [float(f"{part:.4g}") for part in parts]}
    return float(subject.encodings.kl.double().mean())


def _iwae(subject: Subject) -> float:
    bounds = importance_bounds(
        subject.vae,
        subject.dataset,
        subject.split,
        subject.config.metrics,
        subject.device,
        on_codes=lambda _: subject.on_batch(),
    )
    subject.facts["log_likelihood/iwae"] = {
        "samples": subject.config.metrics.iwae_num_samples,
        "points": len(bounds),
    }
    return float(bounds.double().mean())


def _mmd(subject: Subject) -> float:
    return _mean([mmd(codes, prior) for _, codes, prior in _batches(subject)])


def _inclusive_kl(subject: Subject) -> float:
    prior = subject.vae.prior
    return _mean([inclusive_kl(posterior, z, prior) for posterior, _, z in _batches(subject)])


def _batches(subject: Subject) -> Iterator[tuple[Posterior, Tensor, Tensor]]:
    """Posterior, codes and as many prior samples, in whole batches of the training's size.

    A divergence of batches depends on their size: what training presses down is what is measured.
    """
    num_points = len(subject.means)
    size = min(subject.config.training.batch_size, num_points)
    if size < 2:
        raise AbsentMetric(f"needs at least two points, got {num_points}")
    posterior, codes = subject.encodings.posterior, subject.encodings.codes
    prior_sample = subject.vae.prior.sample(num_points, subject.stream("prior"))
    for start in range(0, num_points - size + 1, size):
        batch = slice(start, start + size)
        yield (
            Posterior(posterior.mean[batch], posterior.scale[batch]),
            codes[batch],
            prior_sample[batch],
        )
        subject.on_batch()


def _mean(values: list[Float[Tensor, ""]]) -> float:
    return float(torch.stack(values).double().mean())


_MEASURES: Mapping[str, Callable[[Subject], float]] = {
    "sparsity/hoyer": _hoyer,
    "sparsity/hoyer_all": _hoyer_all,
    "log_likelihood/iwae": _iwae,
    "log_likelihood/reconstruction": _reconstruction,
    "latent/kl": _kl,
    "latent/active_units": _active_units,
    "latent/components_used": _components_used,
    "divergence/mmd": _mmd,
    "divergence/inclusive_kl": _inclusive_kl,
    **disentanglement.MEASURES,
}
