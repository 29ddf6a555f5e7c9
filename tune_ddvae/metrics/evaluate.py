"""One evaluation: a split encoded once, every metric measured on the same codes.

Whatever cannot be measured is absent with a reason; no value is ever anything but finite.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tune_ddvae.config import MetricsConfig, TrialConfig
from tune_ddvae.data import Dataset, Split
from tune_ddvae.errors import AbsentMetric, DivergedError
from tune_ddvae.metrics.disentanglement import factor_vae
from tune_ddvae.metrics.latent import active_units, components_used
from tune_ddvae.metrics.sparsity import hoyer, hoyer_all
from tune_ddvae.metrics.streams import stream
from tune_ddvae.models import VAE, ClusteredPrior, Posterior
from tune_ddvae.objectives import importance_weighted_bound, inclusive_kl, mmd, posterior_kl

_ENCODE_BATCH = 250
_IWAE_BATCH = 256


@dataclass(frozen=True)
class Encodings:
    """A split as the model sees it.

    Attributes:
        posterior: Mean and scale for each point.
        codes: One sample of the posterior for each point.
        log_likelihood: log p(x|z) of that sample, nats.
        kl: KL(q(z|x) || p(z)), analytic where there is a closed form, else at that sample, nats.
    """

    posterior: Posterior
    codes: Float[Tensor, "batch latent"]
    log_likelihood: Float[Tensor, " batch"]
    kl: Float[Tensor, " batch"]


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation yields.

    Attributes:
        metrics: Finite values by name, see ``config.METRICS``.
        absent: The reason by name for each metric that has no value.
        facts: What the metrics rest on: points, votes, which dimensions are active.
    """

    metrics: dict[str, float]
    absent: dict[str, str]
    facts: dict[str, Any]


@dataclass(frozen=True)
class _Subject:
    """What a metric may look at, and the facts that it adds."""

    vae: VAE
    dataset: Dataset
    split: Split
    config: TrialConfig
    device: torch.device
    on_batch: Callable[[], None]
    encodings: Encodings
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def means(self) -> Float[Tensor, "batch latent"]:
        return self.encodings.posterior.mean

    def stream(self, purpose: str) -> torch.Generator:
        """A generator anew at each evaluation: the noise is the same at every epoch."""
        return stream(self.config.metrics.seed, purpose, self.device)


def evaluate(
    vae: VAE,
    dataset: Dataset,
    split: Split,
    config: TrialConfig,
    device: torch.device,
    on_batch: Callable[[], None] = lambda: None,
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

    Raises:
        DivergedError: If an encoding is not finite; names what, its value and how many points.
    """
    was_training = vae.training
    vae.eval()
    try:
        with torch.no_grad():
            noise = stream(config.metrics.seed, "codes", device)
            encodings = encode(vae, dataset, split, device, noise, on_batch)
            return _measure_all(_Subject(vae, dataset, split, config, device, on_batch, encodings))
    finally:
        vae.train(was_training)


def encode(
    vae: VAE,
    dataset: Dataset,
    split: Split,
    device: torch.device,
    generator: torch.Generator,
    on_batch: Callable[[], None] = lambda: None,
) -> Encodings:
    """The whole split through encoder and decoder once, in batches.

    Raises:
        DivergedError: If a posterior mean or scale is not finite.
    """
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
    for raw in torch.split(split.inputs, _ENCODE_BATCH):
        inputs = dataset.to_float(raw.to(device))
        posterior = vae.encode(inputs)
        codes = posterior.sample(1, generator)
        log_likelihood = vae.log_likelihood(inputs, codes)[0]
        kl = posterior_kl(posterior, vae.prior, codes)
        parts.append((posterior.mean, posterior.scale, codes[0], log_likelihood, kl))
        on_batch()
    mean, scale, codes, log_likelihood, kl = (torch.cat(part) for part in zip(*parts, strict=True))
    for name, values in (("posterior mean", mean), ("posterior scale", scale)):
        is_broken = ~values.isfinite()
        if is_broken.any():
            raise DivergedError(
                f"{name} is {values[is_broken][0].item()} for {int(is_broken.any(1).sum())} of the "
                f"{len(values)} points of the evaluation"
            )
    return Encodings(Posterior(mean, scale), codes, log_likelihood, kl)


def _measure_all(subject: _Subject) -> Evaluation:
    metrics: dict[str, float] = {}
    absent: dict[str, str] = {}
    subject.facts["num_points"] = len(subject.means)
    for name, measure in _MEASURES.items():
        try:
            value = measure(subject)
        except AbsentMetric as reason:
            absent[name] = str(reason)
        else:
            if math.isfinite(value):
                metrics[name] = value
            else:
                absent[name] = f"is {value} for these codes"
        subject.on_batch()
    return Evaluation(metrics, absent, subject.facts)


def _hoyer(subject: _Subject) -> float:
    return hoyer(subject.means, subject.config.metrics.active_threshold)


def _hoyer_all(subject: _Subject) -> float:
    return hoyer_all(subject.means)


def _active_units(subject: _Subject) -> float:
    active = active_units(subject.means, subject.config.metrics.active_threshold)
    subject.facts["active_dimensions"] = list(active.which)
    return float(active.count)


def _components_used(subject: _Subject) -> float:
    prior = subject.vae.prior
    if not isinstance(prior, ClusteredPrior):
        raise AbsentMetric(f"needs a clustered prior, this one is {subject.config.prior.kind}")
    return float(components_used(subject.means, prior.means))


def _reconstruction(subject: _Subject) -> float:
    return float(subject.encodings.log_likelihood.double().mean())


def _kl(subject: _Subject) -> float:
    return float(subject.encodings.kl.double().mean())


def _iwae(subject: _Subject) -> float:
    config = subject.config.metrics
    raw = subject.split.inputs[: config.iwae_num_points]
    noise = subject.stream("iwae")
    bounds = []
    for part in torch.split(raw, _IWAE_BATCH):
        inputs = subject.dataset.to_float(part.to(subject.device))
        bounds.append(
            importance_weighted_bound(subject.vae, inputs, config.iwae_num_samples, noise)
        )
        subject.on_batch()
    subject.facts["iwae_num_points"] = len(raw)
    return float(torch.cat(bounds).double().mean())


def _mmd(subject: _Subject) -> float:
    return _mean([mmd(codes, prior) for _, codes, prior in _batches(subject)])


def _inclusive_kl(subject: _Subject) -> float:
    prior = subject.vae.prior
    return _mean([inclusive_kl(posterior, z, prior) for posterior, _, z in _batches(subject)])


def _batches(subject: _Subject) -> Iterator[tuple[Posterior, Tensor, Tensor]]:
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


def _factor_vae(subject: _Subject) -> float:
    sizes = subject.dataset.factor_sizes
    if not sizes:
        raise AbsentMetric(f"needs known factors, {subject.dataset.name} has none")
    if math.prod(sizes) != len(subject.means):
        raise AbsentMetric(
            f"needs the whole factor grid of {math.prod(sizes)} points, "
            f"this split has {len(subject.means)}"
        )
    config: MetricsConfig = subject.config.metrics
    result = factor_vae(
        subject.means,
        sizes,
        group=config.factor_vae_group,
        train_votes=config.factor_vae_train_votes,
        test_votes=config.factor_vae_test_votes,
        generator=subject.stream("factor_vae"),
    )
    subject.facts["factor_vae"] = {
        "group": config.factor_vae_group,
        "train_votes": config.factor_vae_train_votes,
        "test_votes": config.factor_vae_test_votes,
        "num_pruned": result.num_pruned,
        "is_scaled": True,
    }
    return result.score


_MEASURES: Mapping[str, Callable[[_Subject], float]] = {
    "sparsity/hoyer": _hoyer,
    "sparsity/hoyer_all": _hoyer_all,
    "log_likelihood/iwae": _iwae,
    "log_likelihood/reconstruction": _reconstruction,
    "latent/kl": _kl,
    "latent/active_units": _active_units,
    "latent/components_used": _components_used,
    "divergence/mmd": _mmd,
    "divergence/inclusive_kl": _inclusive_kl,
    "disentanglement/factor_vae": _factor_vae,
}
