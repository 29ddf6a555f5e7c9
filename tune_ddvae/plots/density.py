"""Aggregate posteriors of several models over one plane, on one scale: what beta and alpha do to them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from tune_ddvae.plots.plane import mass_levels
from tune_ddvae.plots.style import DENSITY_MAP, WIDTH, new_figure, styled

PRIOR_MASS = (0.5, 0.95)  # of the prior, inside its contours
_PANEL_INCHES = 1.55
_ENDS_AT = 0.995  # quantile of the cells that hold anything: where the colours end
_EMPTY = 1e-3  # of a panel's highest density


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One model's aggregate posterior, with its prior as contours.

    Attributes:
        title: Its setting.
        density: Of q(z) in each cell, first axis along the second dimension of z.
        prior: The same of p(z).
        note: A line below the title, e.g. how many seeds keep all clusters.
    """

    title: str
    density: Float64[np.ndarray, "cell cell"]
    prior: Float64[np.ndarray, "cell cell"]
    note: str = ""


@styled
def density_panels(
    rows: Sequence[Sequence[Panel]], edges: Float64[np.ndarray, " edge"], title: str
) -> Figure:
    """Rows of panels on the same axes and colours.

    Args:
        rows: At least one panel in all; rows without any are left out.
        edges: Of the cells of all panels, for both dimensions.
        title: Of the whole.
    """
    rows = [row for row in rows if row]
    panels = [panel for row in rows for panel in row]
    columns = max(map(len, rows))
    above = 0.3 + 0.17 * any(panel.note for panel in panels)
    figure = new_figure((_PANEL_INCHES + above) * len(rows) + 0.4, title, "compressed")
    figure.set_figwidth(max(columns * _PANEL_INCHES + 1.2, WIDTH))
    norm = PowerNorm(0.5, vmin=0.0, vmax=_brightest(panels))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    images = []
    for row, line in zip(rows, grid, strict=True):
        for panel, axes in zip(row, line, strict=False):
            images.append(_draw(axes, panel, edges, norm))
            axes.set(xlabel="z0", ylabel="z1")
            axes.label_outer()
        for axes in line[len(row) :]:
            axes.set_axis_off()
    bar = figure.colorbar(images[0], ax=grid, extend="max", aspect=30, pad=0.01)
    bar.set_label("density of q(z), 1 / unit²")
    return figure


def _draw(
    axes: Axes, panel: Panel, edges: Float64[np.ndarray, " edge"], norm: PowerNorm
) -> AxesImage:
    low, high = float(edges[0]), float(edges[-1])
    image = axes.imshow(
        panel.density,
        origin="lower",
        extent=(low, high, low, high),
        cmap=DENSITY_MAP,
        norm=norm,
        interpolation="nearest",
    )
    levels = mass_levels(panel.prior, float(edges[1] - edges[0]) ** 2, PRIOR_MASS)
    if levels:
        at = 0.5 * (edges[1:] + edges[:-1])
        axes.contour(at, at, panel.prior, levels=levels, colors="white", linewidths=0.6)
    axes.set_title("\n".join(filter(None, (panel.title, panel.note))))
    return image


def _brightest(panels: Sequence[Panel]) -> float:
    """Where the colours end: few cells lie above, so that no spike darkens all the others."""
    held = [p.density[p.density > _EMPTY * p.density.max()] for p in panels]
    values = np.concatenate(held)
    return float(np.quantile(values, _ENDS_AT)) if len(values) else 1.0
