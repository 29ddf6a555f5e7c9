"""The paper's plots of a study: what beta and alpha do, as means and bands over seeds."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.container import Container
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from tune_ddvae.config import METRICS
from tune_ddvae.plots.seeds import Series, Spread, spread
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
_PANEL_LETTERS = 48  # of a small line above a panel


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
    The axes hold all points, and bars as far as they fit: those of two seeds are wider than all else.
    A label says of how many seeds a point is where some lack a metric or settings differ in number.

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
        _limit_to_points(axes, series, x, y)
        _tell_absent(axes, series, symbol, (x, y))
    _legend(figure, grid)
    return figure


def _tradeoff_line(axes: Axes, one: Series, x: str, y: str, index: int, symbol: str) -> None:
    both = one.has((x, y))
    if not both.any():
        return
    xs, ys = (np.where(both, one.metrics[metric], np.nan) for metric in (x, y))
    across, up = spread(one.swept, xs), spread(one.swept, ys)
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
        label=one.line_name,
    )
    for point, value in enumerate(up.swept):
        text = ", ".join(filter(None, (f"{symbol} {value:g}".strip(), up.seeds(point))))
        _label(axes, across.mean[point], up.mean[point], text, colour)


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


def _label(
    axes: Axes, at: float, up: float, text: str, colour: str, *, is_left: bool = False
) -> None:
    darker = tuple(_DARKER * part for part in to_rgb(colour))  # thin letters need it
    axes.annotate(
        text,
        (at, up),
        xytext=(-4 if is_left else 4, 4),
        textcoords="offset points",
        ha="right" if is_left else "left",
        fontsize=7,
        color=darker,
    )


def _limit_to_points(axes: Axes, series: Sequence[Series], x: str, y: str) -> None:
    """Limits by the networks, which the means lie among, and not by bars."""
    points = [np.stack([one.metrics[x], one.metrics[y]], axis=1)[one.has((x, y))] for one in series]
    axes.ignore_existing_data_limits = True
    axes.update_datalim(np.concatenate(points))
    axes.margins(0.12)


def _tell_absent(axes: Axes, series: Sequence[Series], symbol: str, metrics: Sequence[str]) -> None:
    """Name above a panel what it has no point of."""
    told = [text for one in series for text in one.absent(metrics, symbol)]
    if told:
        lines = textwrap.wrap(f"no value: {'; '.join(told)}", _PANEL_LETTERS)
        axes.set_title("\n".join(lines), fontsize=7)


@styled
def sweep(
    series: Sequence[Series],
    *,
    panels: Sequence[Sequence[str]],
    swept: str,
    title: str,
    published: str = "published",
) -> Figure:
    """Metrics against the number that was varied: means with bands of two standard errors.

    The axis is logarithmic from the smallest value above 0 on, and straight from there down to 0.
    Faint dots are single networks, stars what the paper states. One seed has no band; a point that
    some seeds lack the metric of, or settings that differ in number, say of how many seeds they are.

    Args:
        series: One line each.
        panels: Metrics of each panel; the first one is the line, others are dotted beside it.
        swept: Key of the number that was varied.
        title: Of the whole.
        published: What the stars are called.
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
                    published,
                )
        _tell_absent(axes, series, SYMBOLS.get(swept, ""), metrics[:1])
        count_axis(axes, metrics[0])
        _swept_axis(axes, np.unique(np.concatenate([one.swept for one in series])))
        axes.set_ylabel(metric_label(metrics[0]))
        axes.set_xlabel(" ".join(filter(None, (SYMBOLS.get(swept), f"({swept})"))))
    _legend(figure, grid)
    return figure


def _sweep_line(axes: Axes, one: Series, metrics: Sequence[str], index: int) -> None:
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    main = spread(one.swept, one.metrics[metrics[0]])
    axes.plot(main.swept, main.mean, color=colour, marker=marker, markersize=4, label=one.line_name)
    low, high = main.mean - main.error, main.mean + main.error  # nan, so no band, at one seed
    axes.fill_between(main.swept, low, high, color=colour, alpha=0.2, linewidth=0)
    has_band = np.pad(np.isfinite(main.error), 1)
    alone = has_band[1:-1] & ~has_band[:-2] & ~has_band[2:]  # a band of no width: a bar instead
    axes.vlines(main.swept[alone], low[alone], high[alone], color=colour, linewidth=0.8)
    _label_seeds(axes, main, colour)
    if (main.num > 1).any():
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
        if not np.array_equal(beside.num, main.num):
            _label_seeds(axes, beside, colour)


def _label_seeds(axes: Axes, of: Spread, colour: str) -> None:
    for point in range(len(of.swept)):
        if text := of.seeds(point):
            is_last = point == len(of.swept) - 1
            _label(axes, of.swept[point], of.mean[point], text, colour, is_left=is_last)


def _stars(axes: Axes, stated: Spread, colour: str, name: str) -> None:
    look: dict[str, Any] = {"marker": "*", "linestyle": "", "markersize": 9, "zorder": 3}
    if len(stated.swept):
        axes.plot(
            stated.swept, stated.mean, markerfacecolor="white", markeredgecolor=colour, **look
        )
        axes.plot([], [], markerfacecolor="white", color=REFERENCE, label=name, **look)


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
