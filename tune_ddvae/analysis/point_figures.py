"""Figures of a model of points on a plane."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int64
from matplotlib.figure import Figure
from torch import Tensor

from tune_ddvae.analysis.image_figures import NEAR_STEPS, WIDE_STEPS
from tune_ddvae.analysis.model import TrainedModel
from tune_ddvae.analysis.view import (
    TRAVERSED_SHARE,
    View,
    expected,
    moved,
    of_many_classes,
    points_of,
    prior_samples,
    title,
    traversed_dimensions,
    traversed_values,
)
from tune_ddvae.plots.points import Curves, Points, curve_panels, point_panels
from tune_ddvae.plots.style import subscript

_CURVES, _CURVE_STEPS = 8, 61
_PANELS = 4  # dimensions at most


def classes_of(view: View) -> Int64[np.ndarray, " batch"] | None:
    """The classes as plots take them."""
    return None if view.classes is None else view.classes.numpy()


def reconstructions(model: TrainedModel, view: View) -> Figure:
    """The points beside their reconstructions from the posterior mean, coloured by class."""
    inputs, classes = view.inputs.numpy(), classes_of(view)
    outputs = expected(model, view.posterior.mean).numpy()
    return point_panels(
        (Points("inputs", inputs, classes), Points("reconstructions", outputs, classes)),
        model.dataset.class_names,
        inputs,
        title(
            model, "Points and their reconstructions from posterior means", points_of(model, view)
        ),
    )


def samples(model: TrainedModel, view: View) -> Figure:
    """The points beside the expected points of as many samples from the prior."""
    inputs = view.inputs.numpy()
    drawn = expected(model, prior_samples(model, len(inputs))).numpy()
    return point_panels(
        (Points("inputs", inputs), Points("samples", drawn)),
        (),
        inputs,
        title(
            model,
            "Points, and expected points under samples from the prior",
            f"{points_of(model, view)} and {len(drawn)} samples",
        ),
    )


def interpolations(model: TrainedModel, view: View) -> Figure:
    """Curves that some points' reconstructions follow as each dimension moves away from 0."""
    near, wide = NEAR_STEPS[-1], WIDE_STEPS[-1]
    steps = torch.linspace(0.0, wide, _CURVE_STEPS)

    def values(_dimension: int, codes: Float[Tensor, " curve"]) -> Float[Tensor, "curve step"]:
        return codes.unsqueeze(1) + steps * codes.sign().unsqueeze(1)

    what = f"From codes z$_d$ to z$_d$ + sign(z$_d$), dotted to z$_d$ + {wide:g} sign(z$_d$)"
    return _curve_figure(model, view, values, int((steps <= near).sum()), what)


def traversals(model: TrainedModel, view: View) -> Figure:
    """Curves that some points' reconstructions follow over the range that the data use."""

    def values(dimension: int, codes: Float[Tensor, " curve"]) -> Float[Tensor, "curve step"]:
        return traversed_values(view, dimension, _CURVE_STEPS).expand(len(codes), -1)

    low, high = (f"{100 * share:g} %" for share in TRAVERSED_SHARE)
    what = f"Traversals from the {low} to the {high} quantile of the posterior means"
    return _curve_figure(model, view, values, _CURVE_STEPS, what)


def _curve_figure(
    model: TrainedModel,
    view: View,
    values: Callable[[int, Tensor], Tensor],
    num_near: int,
    what: str,
) -> Figure:
    """A panel for each dimension; ``values`` gives z_d along each curve."""
    chosen = of_many_classes(view, len(model.dataset.class_names), _CURVES)
    codes = view.posterior.mean[chosen]
    classes = classes_of(view)
    marks = expected(model, codes).numpy()
    panels = []
    for dimension in traversed_dimensions(view, _PANELS):
        along = moved(codes, dimension, values(dimension, codes[:, dimension]))
        curves = expected(model, along.flatten(0, 1)).view(*along.shape[:2], 2).numpy()
        own_classes = None if classes is None else classes[chosen]
        panels.append(
            Curves(f"along {subscript('z', dimension)}", curves, marks, num_near, own_classes)
        )
    basis = points_of(model, view, len(chosen))
    what = title(model, what, basis)
    return curve_panels(panels, model.dataset.class_names, view.inputs.numpy(), what)
