"""The figures of one trained model, from at most 2,000 points of its evaluation split.

Codes are posterior means and pictures are expected data points, so that the same model gives the same
figures at any time; samples of the prior follow from ``metrics/seed``.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from jaxtyping import Float, Float64, Int64
from matplotlib.figure import Figure
from torch import Tensor

from tune_ddvae.analysis import image_figures, point_figures
from tune_ddvae.analysis.model import TrainedModel
from tune_ddvae.analysis.view import View, look, points_of, prior_density, prior_samples, title
from tune_ddvae.plots.codes import code_magnitudes
from tune_ddvae.plots.plane import aggregate_density, latent_plane
from tune_ddvae.plots.points import Points

_NUM_CELLS = 160  # of the plane, on a side
_NUM_PRIOR_SAMPLES = 2_000  # that show how far the prior reaches
# Shares of codes and of prior samples, in each dimension, that the plane holds with some room.
_CODES_SHARE, _PRIOR_SHARE, _ROOM = 0.995, 0.975, 1.2

_Figures = Mapping[str, Callable[[TrainedModel, View], Figure]]


def model_figures(model: TrainedModel) -> Iterator[tuple[str, Figure]]:
    """Every figure that applies to the model, each with its name, made one at a time.

    Raises:
        AbsentMetric: If there are fewer than two points, or a posterior mean is not finite.
    """
    view = look(model)
    classes = point_figures.classes_of(view)
    if classes is not None:
        yield "code_magnitudes", _magnitudes(model, view, classes)
    for name, make in (_OF_IMAGES if view.inputs.ndim == 4 else _OF_POINTS).items():
        yield name, make(model, view)
    if model.config.model.latent_dim == 2:
        yield "latent_plane", _latent_plane(model, view)


def plane_edges(
    codes: Float[Tensor, "num 2"],
    prior_samples: Float[Tensor, "samples 2"],
    num_cells: int = _NUM_CELLS,
) -> Float64[np.ndarray, " edge"]:
    """Edges of square cells over where codes and prior lie, the same for both dimensions.

    Symmetric about 0. The farthest may lie outside: a heavy tail would squeeze the rest.
    """
    reach = _ROOM * max(
        float(np.quantile(values.abs().double().numpy(), share))
        for values, share in ((codes, _CODES_SHARE), (prior_samples, _PRIOR_SHARE))
    )
    return np.linspace(-reach, reach, num_cells + 1)


def model_densities(
    model: TrainedModel, view: View, edges: Float64[np.ndarray, " edge"]
) -> tuple[Float64[np.ndarray, "cell cell"], Float64[np.ndarray, "cell cell"]]:
    """Densities of the prior and of the aggregate posterior in each cell of the plane."""
    mean, scale = view.posterior.mean.numpy(), view.posterior.scale.numpy()
    prior = prior_density(model.vae.prior, edges, model.device)
    return prior, aggregate_density(mean, scale, edges)


def reach_of(model: TrainedModel) -> Float[Tensor, "num latent"]:
    """Prior samples that show how far the prior reaches."""
    return prior_samples(model, _NUM_PRIOR_SAMPLES)


def _magnitudes(model: TrainedModel, view: View, classes: Int64[np.ndarray, " batch"]) -> Figure:
    sizes = view.posterior.mean.double().abs().numpy()
    names = model.dataset.class_names
    rows = np.full((len(names), sizes.shape[1]), np.nan)
    for number in range(len(names)):
        own = sizes[classes == number]
        if len(own):
            rows[number] = own.mean(axis=0)
    what = title(model, "Average magnitude of the posterior mean by class", points_of(model, view))
    return code_magnitudes(rows, names, view.is_active.numpy(), what)


def _latent_plane(model: TrainedModel, view: View) -> Figure:
    means = view.posterior.mean
    edges = plane_edges(means, reach_of(model))
    prior, aggregate = model_densities(model, view, edges)
    return latent_plane(
        prior,
        aggregate,
        edges,
        Points("posterior means", means.numpy(), point_figures.classes_of(view)),
        model.dataset.class_names,
        title(
            model, "Aggregate posterior and prior over the plane of codes", points_of(model, view)
        ),
    )


_OF_IMAGES: _Figures = {
    "interpolations": image_figures.interpolations,
    "reconstructions": image_figures.reconstructions,
    "samples": image_figures.samples,
    "traversals": image_figures.traversals,
}
_OF_POINTS: _Figures = {
    "interpolations": point_figures.interpolations,
    "reconstructions": point_figures.reconstructions,
    "samples": point_figures.samples,
    "traversals": point_figures.traversals,
}
