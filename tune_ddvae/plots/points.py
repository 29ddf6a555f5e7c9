"""Data of two dimensions: points by class, and curves through their plane."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tune_ddvae.plots.style import (
    COLOURS,
    INACTIVE,
    REFERENCE,
    WIDTH,
    class_legend,
    class_style,
    new_figure,
    styled,
    subscript,
)

_MARGIN = 0.15  # around the points that set the scale, of their range


@dataclass(frozen=True)
class Points:
    """One panel's points, coloured by class where they have any."""

    name: str
    values: Float[np.ndarray, "num 2"]
    classes: Int[np.ndarray, " num"] | None = None


@dataclass(frozen=True)
class Curves:
    """One panel's curves.

    Attributes:
        name: Of the panel.
        values: Points along each curve.
        marks: A point of each curve that is marked.
        num_near: How many of them are drawn as a full line; the rest is dotted.
        classes: Of each curve's point.
    """

    name: str
    values: Float[np.ndarray, "curve step 2"]
    marks: Float[np.ndarray, "curve 2"]
    num_near: int
    classes: Int[np.ndarray, " curve"] | None = None


@styled
def point_panels(
    panels: Sequence[Points],
    class_names: Sequence[str],
    reference: Float[np.ndarray, "num 2"],
    title: str,
) -> Figure:
    """Panels of points on the same axes.

    Args:
        panels: One or more.
        class_names: One per class.
        reference: Data that the axes are fitted to; how many points lie outside is said.
        title: Of the figure.
    """
    figure, all_axes = _panels(len(panels), title)
    limits = limits_of(reference)
    for axes, points in zip(all_axes, panels, strict=True):
        scatter(axes, points.values, points.classes, class_names)
        axes.set_title(points.name + outside(points.values, limits))
        fit(axes, limits, "x")
        axes.label_outer()
    class_legend(figure, all_axes[0])
    return figure


@styled
def curve_panels(
    panels: Sequence[Curves],
    class_names: Sequence[str],
    reference: Float[np.ndarray, "num 2"],
    title: str,
) -> Figure:
    """Panels of curves over the data, which are grey; the axes hold data and full lines.

    Args:
        panels: One or more.
        class_names: One per class.
        reference: The data.
        title: Of the figure.
    """
    figure, all_axes = _panels(len(panels), title)
    near = [curves.values[:, : curves.num_near].reshape(-1, 2) for curves in panels]
    limits = limits_of(np.concatenate((reference, *near)))
    for axes, curves in zip(all_axes, panels, strict=True):
        axes.scatter(
            reference[:, 0], reference[:, 1], s=4, color=INACTIVE, linewidths=0, label="data"
        )
        for i, (curve, mark) in enumerate(zip(curves.values, curves.marks, strict=True)):
            number = 0 if curves.classes is None else int(curves.classes[i])
            colour, marker = class_style(number)
            near_part, far_part = curve[: curves.num_near], curve[curves.num_near - 1 :]
            axes.plot(near_part[:, 0], near_part[:, 1], color=colour, linewidth=1.8)
            axes.plot(far_part[:, 0], far_part[:, 1], color=colour, linestyle=":")
            axes.scatter(
                mark[:1], mark[1:], s=22, color=colour, marker=marker, edgecolors=REFERENCE
            ).set_zorder(3)
        for number in () if curves.classes is None else np.unique(curves.classes):
            colour, marker = class_style(int(number))
            axes.scatter((), (), s=6, label=class_names[number], color=colour, marker=marker)
        axes.set_title(curves.name)
        fit(axes, limits, "x")
        axes.label_outer()
    class_legend(figure, all_axes[0])
    return figure


def scatter(
    axes: Axes,
    points: Float[np.ndarray, "num 2"],
    classes: Int[np.ndarray, " num"] | None,
    class_names: Sequence[str],
    size: float = 6.0,
) -> None:
    """Points in the colours and markers of their classes; all alike where they have none."""
    if classes is None:
        axes.scatter(points[:, 0], points[:, 1], s=size, color=COLOURS[0], linewidths=0)
        return
    for number, name in enumerate(class_names):
        own = points[classes == number]
        colour, marker = class_style(number)
        axes.scatter(
            own[:, 0],
            own[:, 1],
            s=size,
            color=colour,
            marker=marker,
            linewidths=0,
            alpha=0.8,
            label=name,
        )


def limits_of(points: Float[np.ndarray, "num 2"]) -> tuple[float, float]:
    """One range for both axes that holds all points, with a margin."""
    low, high = float(points.min()), float(points.max())
    margin = _MARGIN * (high - low) or 1.0
    return low - margin, high + margin


def outside(points: Float[np.ndarray, "num 2"], limits: tuple[float, float]) -> str:
    """How many points the axes do not show, as a line of its own; empty where they show all."""
    is_seen = ((points >= limits[0]) & (points <= limits[1])).all(axis=1)
    num = len(points) - int(is_seen.sum())
    return f"\n({num} outside)" if num else ""


def _panels(num: int, title: str) -> tuple[Figure, list[Axes]]:
    num_columns = min(num, 2)
    num_rows = -(-num // num_columns)
    figure = new_figure(0.7 + num_rows * (WIDTH / 2 - 0.1), title, layout="compressed")
    all_axes = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
    for axes in all_axes.flat[num:]:
        axes.remove()
    return figure, list(all_axes.flat[:num])


def fit(axes: Axes, limits: tuple[float, float], letter: str) -> None:
    """The same range for both axes, named by the letter of the plane's coordinates."""
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set_xlabel(subscript(letter, 0))
    axes.set_ylabel(subscript(letter, 1))
