"""The paper's plots of a study: what beta and alpha do, as means and bands over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.container import Container
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from tune_ddvae.config import METRICS
from tune_ddvae.plots.style import COLOURS, MARKERS, REFERENCE, WIDTH, new_figure, styled

WIDE = 1.5 * WIDTH  # of two columns
SYMBOLS: Mapping[str, str] = {"objective/beta": "β", "objective/alpha": "α", "prior/gamma": "γ"}
_MOST_LABELS = 40  # of single points; more would cover each other
_PANEL_HEIGHT = 2.5  # inches
_MOST_TICKS = 9
_COUNTED = ("dimensions", "components")  # units
_LONG_COLUMN = 3  # names in a legend
_FAINT = 0.45
_DARKER = 0.7


@dataclass(frozen=True, kw_only=True)
class Series:
    """Trained networks that are shown as one: in one colour, under one name.

    Attributes:
        name: For the legend.
        swept: The number that was varied, of each network.
        metrics: Values of each network, by metric; nan where it has none.
        is_line: Whether the networks differ in the swept number and in their seeds alone, so that
            means over seeds have a meaning; else they are shown one by one.
        published: What the paper states for each network's setting, by metric; nan for nothing.
    """

    name: str
    swept: Float64[np.ndarray, " network"]
    metrics: Mapping[str, Float64[np.ndarray, " network"]]
    is_line: bool = True
    published: Mapping[str, Float64[np.ndarray, " network"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """A metric over seeds, at each value of the swept number.

    Attributes:
        swept: The values, ascending.
        mean: Over the seeds.
        error: Two standard errors of that mean; nan where there is one seed.
        num: How many seeds.
    """

    swept: Float64[np.ndarray, " point"]
    mean: Float64[np.ndarray, " point"]
    error: Float64[np.ndarray, " point"]
    num: Int64[np.ndarray, " point"]


def spread(
    swept: Float64[np.ndarray, " network"], values: Float64[np.ndarray, " network"]
) -> Spread:
    """Mean and two standard errors (n - 1) over the networks of each swept value; nan is left out."""
    known = np.isfinite(values)
    points, which = np.unique(swept[known], return_inverse=True)
    groups = [values[known][which == index] for index in range(len(points))]
    num = np.array([len(group) for group in groups], dtype=np.int64)
    mean = np.array([group.mean() for group in groups], dtype=np.float64)
    error = np.array(
        [
            2.0 * group.std(ddof=1) / np.sqrt(len(group)) if len(group) > 1 else np.nan
            for group in groups
        ],
        dtype=np.float64,
    )
    return Spread(points, mean, error, num)


def metric_label(metric: str) -> str:
    """A metric's name with its unit, and which way is better."""
    facts = METRICS.get(metric)
    if facts is None:
        return metric
    unit = "" if facts.unit == "1" else facts.unit
    better = {"max": "higher is better", "min": "lower is better", None: ""}[facts.direction]
    inside = ", ".join(filter(None, (unit, better)))
    return f"{metric}\n({inside})" if inside else metric


def count_axis(axes: Axes, metric: str) -> None:
    """Whole numbers along the y axis of a metric that counts something."""
    facts = METRICS.get(metric)
    if facts is not None and facts.unit in _COUNTED:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


@styled
def tradeoff(
    series: Sequence[Series], *, x: str, ys: Sequence[str], swept: str, title: str
) -> Figure:
    """Metrics against another one, one line per series, each point labelled with what was varied.

    Points are means over seeds with two standard errors both ways; faint dots are single networks.

    Args:
        series: Of the study.
        x: Metric along the x axis, as a rule log_likelihood/reconstruction.
        ys: Metrics along the y axes, a panel each, as a rule of disentanglement.
        swept: Key of the number that was varied.
        title: Of the whole.
    """
    figure, grid = _panels(len(ys), len(series), title)
    symbol = SYMBOLS.get(swept, "")
    num_single = sum(len(one.swept) for one in series if not one.is_line)
    for axes, y in zip(grid, ys, strict=True):
        for index, one in enumerate(series):
            if one.is_line:
                _tradeoff_line(axes, one, x, y, index, symbol)
            else:
                _tradeoff_cloud(
                    axes, one, x, y, index, symbol if num_single <= _MOST_LABELS else None
                )
        axes.set_ylabel(metric_label(y))
        axes.set_xlabel(metric_label(x))
        axes.margins(0.12)
    _legend(figure, grid)
    return figure


def _tradeoff_line(axes: Axes, one: Series, x: str, y: str, index: int, symbol: str) -> None:
    both = np.isfinite(one.metrics[x]) & np.isfinite(one.metrics[y])
    swept, xs, ys = one.swept[both], one.metrics[x][both], one.metrics[y][both]
    if not len(swept):
        return
    across, up = spread(swept, xs), spread(swept, ys)
    colour = COLOURS[index % len(COLOURS)]
    if up.num.max() > 1:
        axes.plot(xs, ys, ".", color=colour, alpha=_FAINT, markersize=4, markeredgewidth=0)
    axes.errorbar(
        across.mean,
        up.mean,
        xerr=across.error,
        yerr=up.error,
        color=colour,
        marker=MARKERS[index % len(MARKERS)],
        markersize=4,
        elinewidth=0.8,
        label=f"{one.name} ({seeds_text(up.num)})",
    )
    for point, value in enumerate(up.swept):
        _label(axes, across.mean[point], up.mean[point], f"{symbol} {value:g}".strip(), colour)


def _tradeoff_cloud(
    axes: Axes, one: Series, x: str, y: str, index: int, symbol: str | None
) -> None:
    """Single networks, labelled where a symbol is given."""
    xs, ys = one.metrics[x], one.metrics[y]
    colour = COLOURS[index % len(COLOURS)]
    axes.plot(
        xs,
        ys,
        MARKERS[index % len(MARKERS)],
        color=colour,
        markersize=4,
        alpha=0.6,
        markeredgewidth=0,
        label=f"{one.name} ({len(xs)} single {'network' if len(xs) == 1 else 'networks'})",
    )
    for at, up, value in zip(xs, ys, one.swept, strict=True):
        if symbol is not None and np.isfinite(at) and np.isfinite(up):
            _label(axes, at, up, f"{symbol} {value:.2g}".strip(), colour)


def _label(axes: Axes, at: float, up: float, text: str, colour: str) -> None:
    darker = tuple(_DARKER * part for part in to_rgb(colour))  # thin letters need it
    axes.annotate(
        text, (at, up), xytext=(4, 4), textcoords="offset points", fontsize=7, color=darker
    )


@styled
def sweep(
    series: Sequence[Series],
    *,
    panels: Sequence[Sequence[str]],
    swept: str,
    title: str,
) -> Figure:
    """Metrics against the number that was varied: means with bands of two standard errors.

    The axis is logarithmic from the smallest value above 0 on, and straight from there down to 0.
    Faint dots are single networks, stars what the paper states.

    Args:
        series: One line each.
        panels: Metrics of each panel; the first one is the line, others are dotted beside it.
        swept: Key of the number that was varied.
        title: Of the whole.
    """
    figure, grid = _panels(len(panels), len(series) + 2, title)
    for axes, metrics in zip(grid, panels, strict=True):
        for index, one in enumerate(series):
            _sweep_line(axes, one, metrics, index)
        for metric in metrics[1:]:
            axes.plot([], [], ":", color=REFERENCE, label=f"dotted: {metric}")
        for index, one in enumerate(series):
            if metrics[0] in one.published:
                _stars(
                    axes,
                    spread(one.swept, one.published[metrics[0]]),
                    COLOURS[index % len(COLOURS)],
                )
        count_axis(axes, metrics[0])
        _swept_axis(axes, np.unique(np.concatenate([one.swept for one in series])))
        axes.set_ylabel(metric_label(metrics[0]))
        axes.set_xlabel(" ".join(filter(None, (SYMBOLS.get(swept), f"({swept})"))))
    _legend(figure, grid)
    return figure


def _sweep_line(axes: Axes, one: Series, metrics: Sequence[str], index: int) -> None:
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    main = spread(one.swept, one.metrics[metrics[0]])
    num = spread(one.swept, np.zeros_like(one.swept)).num
    name = f"{one.name} ({seeds_text(num)})"
    axes.plot(main.swept, main.mean, color=colour, marker=marker, markersize=4, label=name)
    band = np.nan_to_num(main.error)
    axes.fill_between(
        main.swept, main.mean - band, main.mean + band, color=colour, alpha=0.2, linewidth=0
    )
    if num.max() > 1:
        axes.plot(
            one.swept,
            one.metrics[metrics[0]],
            ".",
            color=colour,
            alpha=_FAINT,
            markersize=4,
            markeredgewidth=0,
        )
    for metric in metrics[1:]:
        beside = spread(one.swept, one.metrics[metric])
        axes.plot(beside.swept, beside.mean, ":", color=colour)


def _stars(axes: Axes, stated: Spread, colour: str) -> None:
    look: dict[str, Any] = {"marker": "*", "linestyle": "", "markersize": 9, "zorder": 3}
    if len(stated.swept):
        axes.plot(
            stated.swept, stated.mean, markerfacecolor="white", markeredgecolor=colour, **look
        )
        axes.plot([], [], markerfacecolor="white", color=REFERENCE, label="published", **look)


def _swept_axis(axes: Axes, values: Float64[np.ndarray, " value"]) -> None:
    """Logarithmic above the smallest positive value, straight below it down to 0."""
    above = values[values > 0]
    if not len(above):
        return
    if len(above) < len(values):
        axes.set_xscale("symlog", linthresh=float(above.min()), linscale=0.6)
    elif above.max() >= 5.0 * above.min():
        axes.set_xscale("log")
    if len(values) <= _MOST_TICKS:
        axes.xaxis.set_major_locator(FixedLocator(values.tolist()))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())


def seeds_text(num: Int64[np.ndarray, " point"]) -> str:
    """How many seeds a line's points rest on."""
    low, high = int(num.min()), int(num.max())
    return f"{low} to {high} seeds" if low < high else f"{high} seed{'s' * (high > 1)}"


def _panels(num: int, num_names: int, title: str) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, two to a row, and room for a legend of so many names."""
    columns = min(num, 2)
    rows = -(-num // columns)
    figure = new_figure(_PANEL_HEIGHT * rows + 0.1 * num_names + 0.6, title)
    figure.set_figwidth(WIDTH if columns == 1 else WIDE)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[num:]:
        axes.set_axis_off()
    return figure, grid[:num]


def _legend(figure: Figure, grid: Sequence[Axes]) -> None:
    """One legend of all panels below them, each name once, lines before single networks."""
    lines: dict[str, Artist] = {}
    singles: dict[str, Artist] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            named = lines if isinstance(handle, Container) else singles
            named[label] = handle
    labels, handles = [*lines, *singles], [*lines.values(), *singles.values()]
    if labels:
        columns = 1 if len(grid) == 1 and len(labels) <= _LONG_COLUMN else 2
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)
