"""What a figure needs of a trained model: some points, their posteriors, pictures, densities, words."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from tune_ddvae.analysis.model import TrainedModel
from tune_ddvae.config import PriorConfig, TrialConfig
from tune_ddvae.metrics.latent import active_units
from tune_ddvae.metrics.streams import stream
from tune_ddvae.models import Posterior, Prior

NUM_POINTS = 2_000  # of a split, at most
TRAVERSED_SHARE = (0.01, 0.99)
LookedAt = Literal["evaluation", "train"]  # what metrics are measured on, or the training points
_BATCH = 250  # points at a time
_CELL_POINTS = 4  # of a cell, on a side, that the prior's density is averaged over


@dataclass(frozen=True)
class View:
    """Points of one of a model's splits and what its encoder makes of them, on the CPU.

    Attributes:
        inputs: As the model sees them.
        classes: One index per point, or None where there are none.
        posterior: Of each point.
        is_active: Dimensions whose posterior mean varies, as latent/active_units counts them.
        order: All dimensions, the one whose posterior mean varies most first.
        split: Whose points they are.
    """

    inputs: Float[Tensor, " batch *shape"]
    classes: Int64[Tensor, " batch"] | None
    posterior: Posterior
    is_active: Bool[Tensor, " latent"]
    order: Int64[Tensor, " latent"]
    split: LookedAt = "evaluation"


@torch.no_grad()
def look(
    model: TrainedModel,
    num_points: int = NUM_POINTS,
    split: LookedAt = "evaluation",
) -> View:
    """The first points of a split, encoded.

    Args:
        model: Whose points and encoder.
        num_points: At most.
        split: Whose points.

    Raises:
        AbsentMetric: If there are fewer than two points, or a posterior mean is not finite.
    """
    dataset = model.dataset
    points = dataset.train if split == "train" else dataset.evaluation
    raw = points.head(num_points)
    inputs, means, scales = [], [], []
    for part in torch.split(raw, _BATCH):
        batch = dataset.to_float(part.to(model.device))
        posterior = model.vae.encode(batch)
        inputs.append(batch.cpu())
        means.append(posterior.mean.cpu())
        scales.append(posterior.scale.cpu())
    mean = torch.cat(means)
    active = active_units(mean, model.config.metrics.active_threshold)
    return View(
        inputs=torch.cat(inputs),
        classes=None if points.classes is None else points.classes[: len(raw)].cpu(),
        posterior=Posterior(mean, torch.cat(scales)),
        is_active=active.mask,
        order=mean.double().var(0).argsort(descending=True, stable=True),
        split=split,
    )


@torch.no_grad()
def expected(
    model: TrainedModel, codes: Float[Tensor, "batch latent"]
) -> Float[Tensor, " batch *shape"]:
    """Expected data point of each code, on the CPU: probabilities under a Bernoulli likelihood."""
    parts = []
    for part in torch.split(codes, _BATCH):
        parameters = model.vae.decode(part.to(model.device).unsqueeze(0))
        parts.append(model.vae.likelihood.mean(parameters)[0].cpu())
    return torch.cat(parts)


def prior_samples(model: TrainedModel, num: int) -> Float[Tensor, "num latent"]:
    """Samples from the prior, on the CPU; they follow from metrics/seed."""
    generator = stream(model.config.metrics.seed, "figures: samples from the prior", model.device)
    with torch.no_grad():
        return model.vae.prior.sample(num, generator).cpu()


@torch.no_grad()
def prior_density(
    prior: Prior, edges: Float64[np.ndarray, " edge"], device: torch.device
) -> Float64[np.ndarray, "cell cell"]:
    """Density of a prior over two dimensions, averaged over each square cell of a grid.

    Args:
        prior: On the device.
        edges: Of the cells, the same for both dimensions, evenly spaced.
        device: Where to compute.

    Returns:
        First axis along the second dimension of z, second axis along the first.
    """
    num_cells = len(edges) - 1
    per_side = num_cells * _CELL_POINTS
    places = (np.arange(per_side) + 0.5) / per_side
    middles = torch.from_numpy(edges[0] + (edges[-1] - edges[0]) * places).float()
    grid = torch.stack(torch.meshgrid(middles, middles, indexing="xy"), dim=-1)
    density = prior.log_prob(grid.to(device)).cpu().double().exp().numpy()
    blocks = density.reshape(num_cells, _CELL_POINTS, num_cells, _CELL_POINTS)
    averaged: Float64[np.ndarray, "cell cell"] = blocks.mean(axis=(1, 3))
    return averaged


def by_class(
    view: View, num_classes: int, num_each: int
) -> Int64[np.ndarray, "num_each num_classes"]:
    """The first points of each class, a column for each class; -1 where a class has fewer.

    Data without classes are dealt out in order.
    """
    if view.classes is None:
        points = np.arange(num_each * num_classes)
        return np.where(points < len(view.inputs), points, -1).reshape(num_each, num_classes)
    chosen = np.full((num_each, num_classes), -1)
    for number in range(num_classes):
        own = np.flatnonzero(view.classes.numpy() == number)[:num_each]
        chosen[: len(own), number] = own
    return chosen


def of_many_classes(view: View, num_classes: int, num: int) -> list[int]:
    """At most ``num`` points, of as many classes as there are: the first of each class, then on."""
    chosen = by_class(view, max(num_classes, 1), num).flatten()
    kept: list[int] = chosen[chosen >= 0][:num].tolist()
    return kept


def moved(
    codes: Float[Tensor, "batch latent"], dimension: int, values: Float[Tensor, "batch step"]
) -> Float[Tensor, "batch step latent"]:
    """Each code with one dimension set to each of its values, the others as they are."""
    steps = codes.unsqueeze(1).repeat(1, values.shape[1], 1)
    steps[:, :, dimension] = values
    return steps


def traversed_values(view: View, dimension: int, num_steps: int) -> Float[Tensor, " step"]:
    """Values of z_d, evenly spaced between the quantiles TRAVERSED_SHARE of its posterior means."""
    low, high = np.quantile(view.posterior.mean[:, dimension].numpy(), TRAVERSED_SHARE)
    return torch.linspace(float(low), float(high), num_steps)


def traversed_dimensions(view: View, most: int) -> list[int]:
    """The active dimensions, most active first; the first of all where none is active."""
    num_active = max(int(view.is_active.sum()), 1)
    dimensions: list[int] = view.order[: min(num_active, most)].tolist()
    return dimensions


def title(model: TrainedModel, what: str, basis: str) -> str:
    """What is shown, the setting, and what it rests on: a line each."""
    return f"{what}\n{setting(model.config)}\n{basis}, epoch {model.epoch}"


def points_of(model: TrainedModel, view: View, num: int | None = None) -> str:
    """How many points of which split, in words; ``num`` of them where not all are shown."""
    of_evaluation = "test" if model.dataset.validation is None else "validation"
    split = "training" if view.split == "train" else of_evaluation
    some = "" if num is None else f"{num} of "
    return f"{some}{len(view.inputs):,} {split} points"


def signed(value: float, digits: int) -> str:
    """A number with a minus sign, not a hyphen."""
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def setting(config: TrialConfig) -> str:
    """Data, prior and objective in a few words."""
    objective = config.objective
    divergence = {"mmd": "MMD", "inclusive_kl": "inclusive KL"}[objective.divergence]
    alpha = f"α = {objective.alpha:g}" + (f" ({divergence})" if objective.alpha else "")
    return f"{config.data.name}, {prior_words(config.prior)}, β = {objective.beta:g}, {alpha}"


def prior_words(config: PriorConfig) -> str:
    """The prior in a few words."""
    return _PRIOR_WORDS[config.kind](config)


_PRIOR_WORDS: Mapping[str, Callable[[PriorConfig], str]] = {
    "normal": lambda c: "normal prior" + ("" if c.scale == 1.0 else f" of scale {c.scale:g}"),
    "anisotropic": lambda c: f"{'learned' if c.learns_variance else 'fixed'} anisotropic prior",
    "student_t": lambda c: f"Student-t prior, df = {c.df:g}",
    "sparse": lambda c: f"sparse prior, γ = {c.gamma:g}, spike {c.spike_scale:g}",
    "clustered": lambda _c: "clustered prior",
}
