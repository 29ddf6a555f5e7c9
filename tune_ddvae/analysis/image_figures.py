"""Figures of a model of images: grids of expected pixels."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from matplotlib.figure import Figure
from torch import Tensor

from tune_ddvae.analysis.model import TrainedModel
from tune_ddvae.analysis.view import (
    TRAVERSED_SHARE,
    View,
    by_class,
    expected,
    moved,
    of_many_classes,
    points_of,
    prior_samples,
    signed,
    title,
    traversed_dimensions,
    traversed_values,
)
from tune_ddvae.plots.images import image_grid
from tune_ddvae.plots.style import subscript

# t of z_d + t sign(z_d): as far as the paper goes, then wider.
NEAR_STEPS, WIDE_STEPS = (0.0, 0.25, 0.5, 0.75, 1.0), (1.5, 2.0, 3.0)
_INTERPOLATED_IMAGES, _INTERPOLATED_DIMENSIONS = 4, 3  # dimensions of each image
_TRAVERSED_DIMENSIONS, _TRAVERSAL_STEPS = 10, 9  # dimensions at most
_COLUMNS, _RECONSTRUCTION_ROWS, _SAMPLE_ROWS = 10, 3, 6


def reconstructions(model: TrainedModel, view: View) -> Figure:
    """Some images of every class, each above its reconstruction from the posterior mean."""
    names = model.dataset.class_names if view.classes is not None else ()
    num_each = max(1, _COLUMNS // max(len(names), 1))  # columns of a class
    chosen = by_class(view, max(len(names), 1), _RECONSTRUCTION_ROWS * num_each)
    # The columns of one class lie side by side.
    chosen = chosen.reshape(_RECONSTRUCTION_ROWS, num_each, -1).transpose(0, 2, 1)
    chosen = chosen.reshape(_RECONSTRUCTION_ROWS, -1)
    rows = []
    for points in chosen:
        rows.append(_cells(view.inputs[points], points))
        rows.append(_cells(expected(model, view.posterior.mean[points]), points))
    return image_grid(
        np.stack(rows),
        title(
            model,
            "Inputs and their reconstructions from posterior means",
            points_of(model, view, int((chosen >= 0).sum())),
        ),
        row_labels=("input", "output") * len(chosen),
        column_labels=[name if i == 0 else "" for name in names for i in range(num_each)],
        row_groups=(2,) * len(chosen),
        column_groups=(num_each,) * len(names) if num_each > 1 else (),
    )


def samples(model: TrainedModel, _view: View) -> Figure:
    """Expected images of samples from the prior."""
    num = _SAMPLE_ROWS * _COLUMNS
    images = expected(model, prior_samples(model, num))[:, 0].numpy()
    return image_grid(
        images.reshape(_SAMPLE_ROWS, _COLUMNS, *images.shape[1:]),
        title(model, "Expected images under samples from the prior", f"{num} samples"),
    )


def interpolations(model: TrainedModel, view: View) -> Figure:
    """Images of different classes, each moved along the dimensions that its own code uses most."""
    steps = torch.tensor(NEAR_STEPS + WIDE_STEPS)
    chosen = of_many_classes(view, len(model.dataset.class_names), _INTERPOLATED_IMAGES)
    rows: list[Tensor] = []
    labels: list[str] = []
    groups: list[int] = []
    for point in chosen:
        code = view.posterior.mean[point]
        dimensions = _most_used(code, view)
        groups.append(len(dimensions))
        for place, dimension in enumerate(dimensions):
            value = code[dimension]
            decoded = _decoded(model, code, dimension, value + steps * value.sign())
            # The input stands once, before the first of its rows.
            before = view.inputs[point] if place == 0 else torch.full_like(decoded[:1], torch.nan)
            rows.append(torch.cat((before, decoded)))
            name = f"{_class_name(model, view, point)}\n" if place == 0 else ""
            labels.append(f"{name}{subscript('z', dimension)} = {signed(float(value), 2)}")
    return image_grid(
        torch.stack(rows).numpy(),
        title(
            model,
            "Interpolation along the most active dimensions of an image's code",
            points_of(model, view, len(chosen)),
        ),
        row_labels=labels,
        column_labels=("input", *(f"{step:g}" for step in steps.tolist())),
        row_groups=groups,
        column_groups=(1, len(NEAR_STEPS), len(WIDE_STEPS)),
        caption="z$_d$ + t sign(z$_d$), t above each column",
    )


def traversals(model: TrainedModel, view: View) -> Figure:
    """One image's code moved along each active dimension, over the range that the data use."""
    point = of_many_classes(view, len(model.dataset.class_names), 1)[0]
    rows: list[Tensor] = []
    labels: list[str] = []
    for dimension in traversed_dimensions(view, _TRAVERSED_DIMENSIONS):
        values = traversed_values(view, dimension, _TRAVERSAL_STEPS)
        rows.append(_decoded(model, view.posterior.mean[point], dimension, values))
        ends = (signed(float(end), 1) for end in (values[0], values[-1]))
        labels.append(f"{subscript('z', dimension)}\n{' … '.join(ends)}")
    name = _class_name(model, view, point)
    low, high = (f"{100 * share:g} %" for share in TRAVERSED_SHARE)
    return image_grid(
        torch.stack(rows).numpy(),
        title(
            model,
            f"Traversals of {len(rows)} of {int(view.is_active.sum())} active dimensions"
            f"{name and f' (an image of class {name})'}",
            points_of(model, view),
        ),
        row_labels=labels,
        caption=f"z$_d$ from the {low} to the {high} quantile of the posterior means",
    )


def _decoded(
    model: TrainedModel,
    code: Float[Tensor, " latent"],
    dimension: int,
    values: Float[Tensor, " step"],
) -> Float[Tensor, "step height width"]:
    codes = moved(code.unsqueeze(0), dimension, values.unsqueeze(0))
    return expected(model, codes[0])[:, 0]


def _most_used(code: Float[Tensor, " latent"], view: View) -> list[int]:
    """The dimensions in which one code is farthest from 0, active ones before any other."""
    rank = code.abs() + torch.where(view.is_active, code.abs().max() + 1.0, 0.0)
    dimensions: list[int] = rank.argsort(descending=True, stable=True).tolist()
    return dimensions[:_INTERPOLATED_DIMENSIONS]


def _class_name(model: TrainedModel, view: View, point: int) -> str:
    return "" if view.classes is None else model.dataset.class_names[int(view.classes[point])]


def _cells(
    images: Float[Tensor, "column 1 height width"], points: Int64[np.ndarray, " column"]
) -> Float[np.ndarray, "column height width"]:
    """A row of the grid; a cell without a point stays empty."""
    return np.where(points[:, None, None] >= 0, images[:, 0].numpy(), np.nan)
