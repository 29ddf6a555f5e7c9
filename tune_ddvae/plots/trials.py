"""Every trial of a study in one picture: what they trade for each other, and over the epochs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tune_ddvae.plots.study import count_axis, metric_label
from tune_ddvae.plots.style import COLOURS, REFERENCE, new_figure, styled

_FAINT = 0.45
_MOST_NAMED = 12  # of the best trials
_MARGIN = 0.08  # of the shown range, at either end


@dataclass(frozen=True, kw_only=True)
class Course:
    """One trial over its epochs.

    Attributes:
        number: The trial's.
        group: What it is coloured by, as a rule the kind of prior.
        is_whole: Whether it was trained to the last epoch.
        is_best: Whether no other one beats it in every metric that the study ranks by.
        note: In brackets beside its number where it is one of the best.
        epochs: At which it was evaluated, ascending; at least one.
        metrics: Values at these epochs, by metric; nan where it has none.
    """

    number: int
    group: str
    is_whole: bool
    is_best: bool
    epochs: Int64[np.ndarray, " epoch"]
    metrics: Mapping[str, Float64[np.ndarray, " epoch"]]
    note: str = ""

    def last(self, metric: str) -> float:
        """The metric at the last epoch and at no other one; nan where it has none there."""
        return float(self.metrics[metric][-1])


@styled
def pareto(courses: Sequence[Course], *, x: str, y: str, title: str, notes: str = "") -> Figure:
    """All trials by two metrics, each at its own last epoch.

    Whole trials are discs, the best of them ringed and named. The others are drawn faintly, as the
    number of the epoch at which they ended: values of different epochs are not to be compared.

    Args:
        courses: Those that lack a metric at their last epoch are left out, and counted.
        x: Metric along the x axis.
        y: Metric along the y axis.
        title: Of the whole.
        notes: What the courses' notes are.
    """
    shown = [c for c in courses if np.isfinite([c.last(x), c.last(y)]).all()]
    colours = _colours(courses)
    figure = new_figure(4.0, title)
    axes = figure.subplots()
    for course in sorted(shown, key=lambda c: c.is_whole):
        epoch = int(course.epochs[-1])
        axes.plot(
            course.last(x),
            course.last(y),
            marker="o" if course.is_whole else f"${epoch}$",
            markersize=5.0 if course.is_whole else 3.5 + 2.0 * len(str(epoch)),
            markeredgewidth=0,
            color=colours[course.group],
            alpha=0.85 if course.is_whole else _FAINT,
        )
    best = sorted((c for c in shown if c.is_best), key=lambda c: c.last(x))
    axes.plot(
        [c.last(x) for c in best],
        [c.last(y) for c in best],
        "o",
        color=REFERENCE,
        markerfacecolor="none",
        markersize=9,
    )
    for course in best[:_MOST_NAMED]:
        text = f"{course.number} ({course.note})" if notes and course.note else str(course.number)
        place = (course.last(x), course.last(y))
        axes.annotate(text, place, xytext=(6, 6), textcoords="offset points", fontsize=7)
    whole = [c for c in shown if c.is_whole] or shown
    across, up = (
        _limits([c.last(metric) for c in shown], [c.last(metric) for c in whole])
        for metric in (x, y)
    )
    axes.set(xlim=across, ylim=up, xlabel=metric_label(x), ylabel=metric_label(y))
    _tell_left_out(
        axes,
        num_absent=len(courses) - len(shown),
        num_outside=sum(
            not (across[0] <= c.last(x) <= across[1] and up[0] <= c.last(y) <= up[1]) for c in shown
        ),
    )
    handles = _group_handles(colours, marker="o")
    name = f"Pareto set: trial ({notes})" if notes else "Pareto set: trial"
    handles.append(_handle(name, marker="o", markerfacecolor="none"))
    if any(not c.is_whole for c in shown):
        handles.append(_handle("ended early, at this epoch", marker="$5$", alpha=_FAINT))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


@styled
def histories(courses: Sequence[Course], *, metrics: Sequence[str], title: str) -> Figure:
    """Metrics over the epochs, a line per trial: the best boldly, those that ended early faintly.

    A trial that has a metric at one epoch alone is a dot there: a line of one point shows nothing.

    Args:
        courses: All trials with at least one evaluation.
        metrics: One panel each, below each other.
        title: Of the whole.
    """
    colours = _colours(courses)
    figure = new_figure(2.3 * len(metrics) + 1.0, title)
    grid = list(figure.subplots(len(metrics), squeeze=False, sharex=True).flat)
    for axes, metric in zip(grid, metrics, strict=True):
        for course in sorted(courses, key=lambda c: (c.is_best, c.is_whole)):
            values = course.metrics[metric]
            known = np.isfinite(values)
            is_dot = known.sum() == 1
            axes.plot(
                course.epochs[known],
                values[known],
                color=colours[course.group],
                alpha=1.0 if course.is_whole else _FAINT,
                linewidth=2.0 if course.is_best else 0.8,
                marker="o" if is_dot else "" if course.is_whole else ".",
                markevery=[-1] if known.any() else None,
                markersize=7 if is_dot and course.is_best else 4,
            )
        every = [v for c in courses for v in c.metrics[metric].tolist() if math.isfinite(v)]
        late = [c.last(metric) for c in courses if c.is_whole and math.isfinite(c.last(metric))]
        axes.set(ylim=_limits(every, late or every), ylabel=metric_label(metric))
        count_axis(axes, metric)
    grid[-1].set_xlabel("epoch")
    grid[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    handles = _group_handles(colours, linestyle="-")
    if any(c.is_best for c in courses):
        handles.append(_handle("bold: the best", linewidth=2.0, linestyle="-"))
    if any(not c.is_whole for c in courses):
        handles.append(_handle("faint: ended early", marker=".", linestyle="-", alpha=_FAINT))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _colours(courses: Sequence[Course]) -> dict[str, str]:
    groups = sorted({course.group for course in courses})
    return {group: COLOURS[index % len(COLOURS)] for index, group in enumerate(groups)}


def _group_handles(colours: Mapping[str, str], **look: Any) -> list[Line2D]:
    return [_handle(group, color=colour, **look) for group, colour in colours.items()]


def _handle(label: str, **look: Any) -> Line2D:
    """An entry of the legend; nothing but what is named is drawn."""
    return Line2D([], [], label=label, **{"color": REFERENCE, "linestyle": "", **look})


def _limits(values: Iterable[float], whole: Iterable[float]) -> tuple[float, float]:
    """A range that holds the whole trials and all that is not far from them.

    One that is about to diverge would otherwise press all others into a corner.
    """
    known, core = np.array([*values], dtype=np.float64), np.array([*whole], dtype=np.float64)
    if not len(known):
        return 0.0, 1.0
    quarters = np.quantile(known, (0.25, 0.75))
    reach = max(float(np.ptp(core)), 3.0 * float(np.ptp(quarters)))
    near = known[(known >= core.min() - reach) & (known <= core.max() + reach)]
    low, high = float(near.min()), float(near.max())
    margin = _MARGIN * ((high - low) or abs(high) or 1.0)
    return low - margin, high + margin


def _tell_left_out(axes: Axes, *, num_absent: int, num_outside: int) -> None:
    counts = {"lack a metric here": num_absent, "lie far outside": num_outside}
    told = [f"{num} {what}" for what, num in counts.items() if num]
    if told:
        text = f"not shown: {', '.join(told)}"
        axes.text(0.99, 0.01, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=7)
