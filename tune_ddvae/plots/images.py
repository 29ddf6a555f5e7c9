"""Grids of grey images: reconstructions, samples, traversals."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from tune_ddvae.plots.style import WIDTH, colour_map, new_figure, styled

_GAP = 1 / 16  # between two images, of an image's side
_GROUP_GAP = 5 / 16  # between two groups
_LABEL_WIDTH = 1.0  # inches that row labels take at most


@styled
def image_grid(
    images: Float[np.ndarray, "row column height width"],
    title: str,
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    row_groups: Sequence[int] = (),
    column_groups: Sequence[int] = (),
    caption: str = "",
) -> Figure:
    """Images side by side on one fixed grey scale: black is 0, white is 1, in every figure.

    Args:
        images: Expected pixels; what lies outside 0 and 1 is shown as the nearer one, and a cell of
            NaN stays empty.
        title: Of the figure.
        row_labels: One per row, left of it; none at all if there are none.
        column_labels: One per column, above it.
        row_groups: Numbers of rows between which a wider gap is left; none: all are one group.
        column_groups: The same for columns.
        caption: Below the grid: what rows and columns mean.
    """
    num_rows, num_columns, height, width = images.shape
    tops, canvas_height = _offsets(num_rows, height, row_groups)
    lefts, canvas_width = _offsets(num_columns, width, column_groups)
    canvas = np.full((canvas_height, canvas_width), np.nan)
    for row, top in enumerate(tops):
        for column, left in enumerate(lefts):
            canvas[top : top + height, left : left + width] = images[row, column]

    grid_width = WIDTH - (_LABEL_WIDTH if row_labels else 0.3)
    grid_height = grid_width * canvas_height / canvas_width
    figure = new_figure(grid_height + 0.3 + 0.4 * bool(column_labels), title)
    axes = figure.subplots()
    axes.imshow(canvas, cmap=colour_map("gray"), vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    middles = [top + height / 2 - 0.5 for top in tops] if row_labels else []
    axes.set_yticks(middles, row_labels)
    middles = [left + width / 2 - 0.5 for left in lefts] if column_labels else []
    axes.set_xticks(middles, column_labels)
    # Names that are wider than their image would run into each other.
    letters = max(map(len, column_labels), default=0)
    if letters > 13 * grid_width / num_columns:
        axes.set_xticks(middles, column_labels, rotation=40, ha="left", rotation_mode="anchor")
    axes.set_xlabel(caption)
    return figure


def _offsets(num: int, side: int, groups: Sequence[int]) -> tuple[list[int], int]:
    """Where each image starts on the canvas, in pixels, and how long the canvas is."""
    gap, group_gap = max(1, round(_GAP * side)), max(2, round(_GROUP_GAP * side))
    ends = set(np.cumsum(groups).tolist()) if len(groups) else set()
    offsets, place = [], 0
    for i in range(num):
        if i:
            place += group_gap if i in ends else gap
        offsets.append(place)
        place += side
    return offsets, place
