"""The paper's opening picture: too little, the right and too much overlap against a sparse prior.

Three models of the pinwheel, trained like the clustering study's but under a cross-shaped prior on the
plane. With hardly any weight on the KL each point keeps a place of its own, wherever that is; with too
much all points share one place and nothing can be told apart; the divergence to the prior brings the
codes onto the cross and keeps the points apart.
"""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure

from tune_ddvae.analysis.figures import model_densities, plane_edges, reach_of
from tune_ddvae.analysis.model import TrainedModel
from tune_ddvae.analysis.point_figures import classes_of
from tune_ddvae.analysis.view import expected, look
from tune_ddvae.config import Value
from tune_ddvae.errors import ConfigError
from tune_ddvae.plots.plane import Row, plane_rows
from tune_ddvae.plots.points import Points

_SHARED: Mapping[str, Value] = {
    "prior/kind": "sparse",
    "prior/gamma": 0.8,
    "prior/spike_scale": 0.1,
    "objective/divergence": "inclusive_kl",
    "training/epochs": 500,
}
# By the title of its row: what each model changes of the clustering study's base configuration.
OPENING: Mapping[str, Mapping[str, Value]] = {
    "too little overlap": {**_SHARED, "objective/beta": 0.01, "objective/alpha": 0.0},
    "right": {**_SHARED, "objective/beta": 0.01, "objective/alpha": 1.5},
    "too much overlap": {**_SHARED, "objective/beta": 5.0, "objective/alpha": 0.0},
}


def opening_picture(models: Sequence[TrainedModel], titles: Sequence[str]) -> Figure:
    """A row for each model: prior, aggregate posterior, reconstructions by class.

    Densities of all rows share axes and colours, reconstructions of all rows share axes.

    Args:
        models: Of the same two-dimensional data, with two latent dimensions.
        titles: One per model, left of its row; beta and alpha are added.

    Raises:
        ConfigError: If a model has other data or another number of dimensions; names it.
    """
    for model in models:
        _check(model, models[0])
    views = [look(model) for model in models]
    codes = torch.cat([view.posterior.mean for view in views])
    edges = plane_edges(codes, torch.cat([reach_of(model) for model in models]))
    rows = []
    for model, view, title in zip(models, views, titles, strict=True):
        prior, aggregate = model_densities(model, view, edges)
        outputs = expected(model, view.posterior.mean).numpy()
        objective = model.config.objective
        name = f"{title}\nβ = {objective.beta:g}, α = {objective.alpha:g}"
        rows.append(
            Row(name, prior, aggregate, Points("reconstructions", outputs, classes_of(view)))
        )
    first = models[0]
    return plane_rows(rows, edges, views[0].inputs.numpy(), first.dataset.class_names, "t")


def _check(model: TrainedModel, first: TrainedModel) -> None:
    """Refuse a model whose panels would not be comparable with the first one's."""
    if model.config.model.latent_dim != 2:
        raise ConfigError(
            f"model/latent_dim must be 2 for the opening picture, got "
            f"{model.config.model.latent_dim}: train with the settings of OPENING"
        )
    if model.dataset.checksum != first.dataset.checksum:
        raise ConfigError(
            f"all models of the opening picture must have the same data, got {model.dataset.name} "
            f"beside {first.dataset.name}, or other points of it"
        )
