"""What ``analyse`` shows: how far it has come, and a table of what it found."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tune_ddvae.config import METRICS
from tune_ddvae.tuning.wording import duration, figure

LINE_S = 15.0  # between two lines where there is no terminal
_COUNTED = ("dimensions", "components")  # units of whole numbers
_FOR_THE_FILE = ("which", "per_dimension")  # one entry for each dimension: too long for a line
Analysis = Mapping[str, Any]  # as it is written to the JSON file


@contextmanager
def working(
    console: Console,
    what: str,
    total: int | None = None,
    unit: str = "steps",
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[int], None]]:
    """Show how far a piece of work has come: a bar on a terminal, else a line now and then.

    Args:
        console: Where to.
        what: Begins the bar and the lines.
        total: Parts of the work; None where nobody knows, and no time left is told.
        unit: What the parts are.
        clock: Seconds; for tests.

    Yields:
        Takes how many parts have been done since the last call.
    """
    if console.is_interactive and not console.is_dumb_terminal:
        left = () if total is None else (TextColumn("left"), TimeRemainingColumn())
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), *left)
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda num: bar.advance(task, num)
        return
    start = told = clock()
    done = 0

    def advance(num: int) -> None:
        nonlocal done, told
        done, now = done + num, clock()
        if now - told >= LINE_S:
            told = now
            console.print(Text(f"{what}: {_pace(done, total, unit, now - start)}"), soft_wrap=True)

    yield advance


def _pace(done: int, total: int | None, unit: str, elapsed: float) -> str:
    if total is None:
        return f"{done} {unit}, {duration(elapsed)} elapsed"
    left = duration(elapsed * (total - done) / done)
    return f"{100 * done // total} %, {duration(elapsed)} elapsed, about {left} left"


def show(analysis: Analysis, console: Console, *, is_in_run: bool) -> None:
    """Print what was found; paths stay on one line each, so that they can be copied.

    Args:
        analysis: The facts.
        console: Where to.
        is_in_run: Whether the run in MLflow has them too.
    """
    run = analysis["run"]
    name = "Analysis" if run is None else f"Analysis of run {run['id']} ({run['name']})"
    console.print(Text(f"{name}: epoch {analysis['epoch']}", style="bold"), soft_wrap=True)
    console.print(Text(f"{analysis['setting']}, on {analysis['device']}"))
    if analysis["measured_on"] is not None:
        split, num_points = (analysis["measured_on"][key] for key in ("split", "points"))
        console.print(Text(f"measured on the {split} set, {num_points:,} points"), soft_wrap=True)
        console.print()
        console.print(_values(analysis))
    absent = _absent(analysis)
    if absent:
        console.print()
    for reason, names in absent.items():
        console.print(Text(f"absent: {', '.join(names)}: {reason}"))
    if "recorded" in analysis:
        console.print(Text(_verdict(analysis)), soft_wrap=True)
    console.print()
    console.print(Text("Where it lies", style="bold"))
    for what in ("checkpoint", "folder"):
        console.print(Text(f"  {what:10}  {analysis[what]}"), soft_wrap=True)
    if analysis["figures"]:
        console.print(Text(f"  figures     {', '.join(analysis['figures'])}: PNG and PDF each"))
    if is_in_run:
        console.print(
            Text(f"  MLflow      {run['tracking']}, artifacts in {run['artifacts']}"),
            soft_wrap=True,
        )


def _values(analysis: Analysis) -> Table:
    recorded = analysis.get("recorded")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    if recorded is not None:
        table.add_column("recorded", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("measured with", overflow="fold")
    for name, facts in METRICS.items():
        shown = [analysis["values"], *([] if recorded is None else [recorded])]
        if not any(name in values for values in shown):
            continue
        cells = [_value(values.get(name), facts.unit) for values in shown]
        how = protocol_text(analysis["protocol"].get(name, {}))
        table.add_row(*map(Text, (name, *cells, facts.unit, how)))
    return table


def _absent(analysis: Analysis) -> dict[str, list[str]]:
    """What has no value, by the reason."""
    names: dict[str, list[str]] = {}
    for name, reason in analysis["absent"].items():
        names.setdefault(reason, []).append(name)
    return names


def protocol_text(protocol: Mapping[str, Any]) -> str:
    """What a value was measured with, on one line."""
    return ", ".join(
        f"{key.replace('_', ' ')} {value}"
        for key, value in protocol.items()
        if key not in _FOR_THE_FILE
    )


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "absent"
    return str(int(value)) if unit in _COUNTED else figure(value)


def _verdict(analysis: Analysis) -> str:
    differing = analysis["differing"]
    if not differing:
        return "all values are as recorded, to 1e-4"
    return f"not as recorded: {', '.join(differing)}"
