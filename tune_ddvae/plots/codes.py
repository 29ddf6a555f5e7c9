"""How much each latent dimension is used, class by class."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tune_ddvae.plots.style import ACTIVE, INACTIVE, new_figure, styled, thinned

_MOST_TICKS = 20


@styled
def code_magnitudes(
    magnitudes: Float[np.ndarray, "class latent"],
    class_names: Sequence[str],
    is_active: Bool[np.ndarray, " latent"],
    title: str,
) -> Figure:
    """Bars of average code magnitude, a row for each class and one for their mean.

    All rows share one order of the dimensions, by the mean over classes, and one scale.

    Args:
        magnitudes: Mean absolute code of each class, in the units of z; NaN for a class without
            points, which is said in its row.
        class_names: One per class.
        is_active: Dimensions that count as active; the others are grey.
        title: Of the figure.
    """
    is_seen = ~np.isnan(magnitudes).any(axis=1)
    overall = magnitudes[is_seen].mean(axis=0) if is_seen.any() else np.zeros(len(is_active))
    order = np.argsort(-overall, kind="stable")
    rows = [("all classes", overall), *zip(class_names, magnitudes, strict=True)]
    figure = new_figure(0.5 + 0.4 * len(rows), title)
    panels = figure.subplots(len(rows), sharex=True, sharey=True, squeeze=False)[:, 0]
    colours = [ACTIVE if is_active[dimension] else INACTIVE for dimension in order]
    for axes, (name, values) in zip(panels, rows, strict=True):
        axes.bar(range(len(order)), np.nan_to_num(values[order]), color=colours, width=0.8)
        # Well apart: a digit's name beside a tick's number would read as one more number.
        axes.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=12.0)
        if np.isnan(values).any():
            axes.text(0.5, 0.5, "no points", transform=axes.transAxes, ha="center", va="center")
    top = float(np.nanmax(np.vstack([overall, magnitudes]), initial=0.0)) or 1.0
    bottom = panels[-1]
    bottom.set_ylim(0.0, 1.05 * top)
    bottom.set_yticks([0.0, _round_down(top)])
    bottom.set_xlim(-0.6, len(order) - 0.4)
    labels = thinned([str(dimension) for dimension in order], _MOST_TICKS)
    kept = [(place, label) for place, label in enumerate(labels) if label]
    bottom.set_xticks([place for place, _ in kept], [label for _, label in kept])
    bottom.set_xlabel("latent dimension, the most used first")
    figure.supylabel("mean |code|, units of z", fontsize="medium")
    if not is_active.all():
        patches = [Patch(color=ACTIVE, label="active"), Patch(color=INACTIVE, label="not active")]
        figure.legend(handles=patches, loc="outside lower right", ncols=2)
    return figure


def _round_down(value: float) -> float:
    """The largest number with one digit that does not exceed a positive value."""
    digit = 10.0 ** np.floor(np.log10(value))
    return float(np.floor(value / digit) * digit)
