"""Densities over a plane of codes: the aggregate posterior and its prior on one scale."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from scipy.special import ndtr

from tune_ddvae.plots.points import Points, fit, limits_of, outside, scatter
from tune_ddvae.plots.style import (
    DENSITY_MAP,
    REFERENCE,
    WIDTH,
    colour_map,
    new_figure,
    styled,
)

MASSES = (0.5, 0.9, 0.99)  # of the prior, inside its contours
_DECADES = 3.5  # of density that the colours span
_CHUNK = 4096  # posteriors at a time


@dataclass(frozen=True)
class Row:
    """One model's panels.

    Attributes:
        name: Left of the row.
        prior: Density of the prior in each cell, first axis along the second dimension of z.
        aggregate: The same of the aggregate posterior.
        points: In the data's plane: reconstructions.
    """

    name: str
    prior: Float[np.ndarray, "cell cell"]
    aggregate: Float[np.ndarray, "cell cell"]
    points: Points


def aggregate_density(
    mean: Float[np.ndarray, "batch 2"],
    scale: Float[np.ndarray, "batch 2"],
    edges: Float[np.ndarray, " edge"],
) -> Float64[np.ndarray, "cell cell"]:
    """Density of q(z), the mean of the posteriors, averaged over each square cell of a grid.

    A posterior is a product of normals, so its mass in a cell is a product of differences of the
    normal distribution function: exact however narrow it is, where the density at the cells'
    middles would miss it.

    Args:
        mean: Of each point's posterior.
        scale: Standard deviations of each point's posterior.
        edges: Of the cells, the same for both dimensions, evenly spaced.

    Returns:
        First axis along the second dimension of z (upwards), second axis along the first.
    """
    area = float(edges[1] - edges[0]) ** 2
    total = np.zeros((len(edges) - 1, len(edges) - 1))
    for start in range(0, len(mean), _CHUNK):
        rows = slice(start, start + _CHUNK)
        centred = edges.astype(np.float64)[:, None, None] - mean[rows]
        mass = np.diff(ndtr(centred / scale[rows]), axis=0)
        total += mass[:, :, 1] @ mass[:, :, 0].T
    return total / (len(mean) * area)


def mass_levels(
    density: Float[np.ndarray, "cell cell"],
    cell_area: float,
    masses: Sequence[float] = MASSES,
) -> list[float]:
    """Densities whose contours hold these shares of the mass, the lowest first.

    Shares that the cells together do not hold are left out.
    """
    falling = np.sort(density, axis=None)[::-1]
    held = np.cumsum(falling) * cell_area
    reached = [np.searchsorted(held, mass) for mass in masses if mass <= held[-1]]
    return sorted({float(falling[place]) for place in reached})


@styled
def latent_plane(
    prior: Float[np.ndarray, "cell cell"],
    aggregate: Float[np.ndarray, "cell cell"],
    edges: Float[np.ndarray, " edge"],
    codes: Points,
    class_names: Sequence[str],
    title: str,
) -> Figure:
    """Prior and aggregate posterior side by side, and the posterior means over the prior's contours.

    All panels have the same axes, both densities the same logarithmic colours.

    Args:
        prior: Density of each cell, first axis along the second dimension.
        aggregate: The same of the aggregate posterior.
        edges: Of the cells, for both dimensions.
        codes: Points of the plane, posterior means for instance.
        class_names: One per class.
        title: Of the figure.
    """
    figure = new_figure(WIDTH - 0.3, title, layout="compressed")
    panels = figure.subplots(2, 2)
    norm = _norm(prior, aggregate)
    for axes, density, name in zip(
        panels[0], (prior, aggregate), ("prior p(z)", "aggregate posterior q(z)"), strict=True
    ):
        image = _show_density(axes, density, edges, norm)
        _show_contours(axes, prior, edges, "white", 0.6)
        axes.set_title(name)
    figure.colorbar(image, ax=list(panels[0]), label="density, 1 / unit²", extend="min")
    scattered, beside = panels[1]
    _show_contours(scattered, prior, edges, REFERENCE, 0.8)
    scatter(scattered, codes.values, codes.classes, class_names)
    scattered.set_title(codes.name + outside(codes.values, (edges[0], edges[-1])))
    for axes in (*panels[0], scattered):
        fit(axes, (edges[0], edges[-1]), "z")
    beside.axis("off")
    handles, labels = scattered.get_legend_handles_labels()
    held = float(prior.sum()) * float(edges[1] - edges[0]) ** 2
    reached = [mass for mass in MASSES if mass <= held]
    legend_title = f"contours: {_listed(reached)}\nof the prior's mass" if reached else None
    beside.legend(
        handles,
        labels,
        loc="center",
        title=legend_title,
        markerscale=2.0,
        ncols=1 + len(labels) // 8,
    )
    return figure


@styled
def plane_rows(
    rows: Sequence[Row],
    edges: Float[np.ndarray, " edge"],
    inputs: Float[np.ndarray, "num 2"],
    class_names: Sequence[str],
    title: str,
) -> Figure:
    """A row for each model: prior, aggregate posterior, reconstructions.

    Args:
        rows: One or more, on the same grid.
        edges: Of the cells.
        inputs: The data, which the last column's axes are fitted to.
        class_names: One per class.
        title: Of the figure.
    """
    figure = new_figure(0.9 + 1.6 * len(rows), title, layout="compressed")
    panels = figure.subplots(len(rows), 3, squeeze=False)
    norm = _norm(*(density for row in rows for density in (row.prior, row.aggregate)))
    limits = limits_of(inputs)
    for line, row in zip(panels, rows, strict=True):
        _show_density(line[0], row.prior, edges, norm)
        image = _show_density(line[1], row.aggregate, edges, norm)
        for axes in line[:2]:
            fit(axes, (edges[0], edges[-1]), "z")
        scatter(line[2], row.points.values, row.points.classes, class_names, size=3.0)
        fit(line[2], limits, "x")
        # As small as the ticks' numbers: a name is hardly longer than its row is high.
        line[0].set_ylabel(f"{row.name}\n{line[0].get_ylabel()}", fontsize=8.5)
    for axes, name in zip(panels[0], ("prior p(z)", "aggregate\nposterior q(z)"), strict=False):
        axes.set_title(name)
    panels[0, 2].set_title(rows[0].points.name)
    for axes in panels[:-1].flat:
        axes.tick_params(labelbottom=False)
        axes.set_xlabel("")
    for axes in panels[:, 1]:
        axes.tick_params(labelleft=False)
        axes.set_ylabel("")
    bar = figure.colorbar(
        image, ax=panels, location="bottom", shrink=0.5, anchor=(0.1, 1.0), aspect=30, extend="min"
    )
    bar.set_label("density, 1 / unit²")
    if rows[-1].points.classes is not None:
        legend = panels[-1, 2].legend(
            loc="upper center",
            bbox_to_anchor=(0.4, -0.4),
            ncols=2,
            markerscale=3.0,
            columnspacing=0.8,
        )
        legend.set_in_layout(False)  # beside the colour bar, where there is room
    return figure


def _norm(*densities: Float[np.ndarray, "cell cell"]) -> LogNorm:
    highest = max(float(density.max()) for density in densities)
    return LogNorm(highest * 10.0**-_DECADES, highest)


def _show_density(
    axes: Axes,
    density: Float[np.ndarray, "cell cell"],
    edges: Float[np.ndarray, " edge"],
    norm: LogNorm,
) -> AxesImage:
    # Zero has no logarithm: it takes the lowest colour, as all that lies below the scale.
    return axes.imshow(
        np.maximum(density, norm.vmin or 0.0),
        cmap=colour_map(DENSITY_MAP),
        norm=norm,
        origin="lower",
        extent=(edges[0], edges[-1], edges[0], edges[-1]),
        interpolation="nearest",
    )


def _show_contours(
    axes: Axes,
    density: Float[np.ndarray, "cell cell"],
    edges: Float[np.ndarray, " edge"],
    colour: str,
    width: float,
) -> None:
    middles = 0.5 * (edges[1:] + edges[:-1])
    levels = mass_levels(density, float(edges[1] - edges[0]) ** 2)
    if levels:
        axes.contour(middles, middles, density, levels=levels, colors=colour, linewidths=width)


def _listed(masses: Sequence[float]) -> str:
    return ", ".join(f"{100 * mass:g}" for mass in masses) + " %"
