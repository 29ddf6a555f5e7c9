"""The paper's opening picture: too little, the right and too much overlap against a sparse prior.

Three models of the pinwheel, trained like the clustering study's but under a cross-shaped prior on the
plane. With hardly any weight on the KL each point keeps a place of its own, wherever that is; with too
much all points share one place and nothing can be told apart; the divergence to the prior brings the
codes onto the cross and keeps the arms apart.

The middle row's setting was taken among gamma .6 to .8, spikes of .1 and .15 and alpha .6 to 1.2 for what
it does in all of the seeds 0 to 4: KL(p(z) || q(z)) of .37 to .72 nats at a squared error of .06 to .17 a
coordinate (.5 and more where all codes are one). From alpha 1.2 on some seeds lose the arms, earlier
under narrower spikes; below, the codes leave the cross. The picture shows the base configuration's
seed, 0.
"""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure

from tune_ddvae.analysis.figures import model_densities, plane_edges, reach_of
from tune_ddvae.analysis.model import TrainedModel
from tune_ddvae.analysis.point_figures import classes_of
from tune_ddvae.analysis.view import expected, look, points_of, prior_words
from tune_ddvae.config import DATASETS, Value
from tune_ddvae.errors import ConfigError
from tune_ddvae.plots.plane import Row, plane_rows
from tune_ddvae.plots.points import Points

_SHARED: Mapping[str, Value] = {
    "prior/kind": "sparse",
    "prior/gamma": 0.7,
    "prior/spike_scale": 0.15,
    "objective/divergence": "inclusive_kl",
    "training/epochs": 500,
}
# By the title of its row: what each model changes of the clustering study's base configuration.
OPENING: Mapping[str, Mapping[str, Value]] = {
    "too little overlap": {**_SHARED, "objective/beta": 0.01, "objective/alpha": 0.0},
    "right": {**_SHARED, "objective/beta": 0.01, "objective/alpha": 1.0},
    "too much overlap": {**_SHARED, "objective/beta": 5.0, "objective/alpha": 0.0},
}


def opening_picture(models: Sequence[TrainedModel], titles: Sequence[str]) -> Figure:
    """A row for each model: prior, aggregate posterior, reconstructions by class.

    Densities of all rows share axes and colours, reconstructions of all rows share axes.

    Args:
        models: Of the same two-dimensional data, with two latent dimensions.
        titles: One per model, left of its row; beta and alpha are added.

    Raises:
        ConfigError: If data or number of latent dimensions are not such, or data differ.
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
    first, epochs = models[0], sorted({model.epoch for model in models})
    priors = dict.fromkeys(prior_words(model.config.prior) for model in models)
    lines = (
        "Codes that overlap too little, rightly and too much",
        f"{first.dataset.name}, {'; '.join(priors)}",
        f"{points_of(first, views[0])}, epoch {', '.join(map(str, epochs))}",
    )
    return plane_rows(
        rows, edges, views[0].inputs.numpy(), first.dataset.class_names, "\n".join(lines)
    )


def _check(model: TrainedModel, first: TrainedModel) -> None:
    """Refuse a model whose panels would not be comparable with the first one's."""
    if model.config.model.latent_dim != 2:
        raise ConfigError(
            f"model/latent_dim must be 2 for the opening picture, got "
            f"{model.config.model.latent_dim}: train with the settings of OPENING"
        )
    if DATASETS[model.dataset.name].shape != (2,):
        raise ConfigError(
            f"data/name must have points on a plane for the opening picture, got "
            f"{model.dataset.name}: train with the settings of OPENING"
        )
    if model.dataset.checksum != first.dataset.checksum:
        raise ConfigError(
            f"all models of the opening picture must have the same data, got {model.dataset.name} "
            f"beside {first.dataset.name}, or other points of it"
        )
