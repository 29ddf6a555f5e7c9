"""What the end of a session shows of its summary."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tune_ddvae.tuning.reporting.summary import Finding, Summary
from tune_ddvae.tuning.storage.place import Place
from tune_ddvae.tuning.tracking.tracking import Outcome
from tune_ddvae.tuning.trials import State
from tune_ddvae.tuning.wording import duration, figure, number, short_names

ORDER = (*(state for state in State if state is not State.UNFINISHED), State.UNFINISHED)
NUMBERS_SHOWN = 8  # of the trials in one group
GAP = 2  # between columns
SETTING = "setting"  # heading of the one column that may be folded
SETTING_WIDTH = 12  # at least


def show(summary: Summary, console: Console) -> None:
    """Print the summary; paths and commands stay on one line each, so that they can be copied."""
    for part in _parts(summary):
        console.print(part, soft_wrap=isinstance(part, Text))


def render(summary: Summary) -> RenderableType:
    """The summary as a screen; lines too long for it are folded, which ``show`` does not do."""
    return Group(*_parts(summary))


def _parts(summary: Summary) -> Iterator[RenderableType]:
    yield Text(f"Study {summary.name}: {summary.outcome}", style="bold")
    yield Text(_counts_text(summary))
    yield Text(_hours_text(summary))
    yield Text()
    yield from _found(summary)
    yield from _ends(summary)
    yield Text("Where it lies", style="bold")
    yield _place("folder", summary.folder)
    yield _place("record", summary.record)
    yield _place("tracking", summary.tracking_uri)
    if summary.report is not None:
        yield _place("report", summary.report)
    shown = () if summary.settings else summary.findings
    if shown:
        yield Text("  checkpoints of the last epoch")
    for finding in shown:
        place = finding.checkpoint or "none is left"
        gone = "gone: " if place in finding.gone else ""
        yield _place(f"  trial {finding.number}", f"{gone}{place}")
    yield Text()
    yield Text("Look at it", style="bold")
    yield Text(f"  {summary.open_command}")
    if summary.continue_command is not None:
        yield Text(_go_on_text(summary), style="bold")
        yield Text(f"  {summary.continue_command}")


def _go_on_text(summary: Summary) -> str:
    if summary.outcome == Outcome.OUT_OF_TIME:
        return "Go on with it, with larger --hours: they count over all starts"
    if summary.is_complete:  # and every trial has failed
        return "Go on with it once the cause is mended: they are trained again"
    return "Go on with it"


def _counts_text(summary: Summary) -> str:
    total = sum(summary.counts.values())
    wanted = summary.trials_wanted
    text = f"{total} trials" if wanted is None else f"{total} of {max(wanted, total)} trials"
    states = ", ".join(f"{summary.counts[s]} {s}" for s in ORDER if summary.counts.get(s))
    text += f": {states}" if states else " were started"
    if summary.carried_over:
        text += f"; {summary.carried_over} of them were carried over from earlier sessions"
    return text


def _hours_text(summary: Summary) -> str:
    text = f"{duration(summary.hours * 3600)} in this session"
    if summary.earlier_hours:
        text += f", {duration(summary.earlier_hours * 3600)} in earlier ones"
    return text


def _found(summary: Summary) -> Iterator[RenderableType]:
    ranked = " and ".join(f"{metric} ({way})" for metric, way in summary.rank_by.items())
    if not summary.findings:
        yield Text("Nothing to rank", style="bold")
        yield Text(_nothing_text(summary))
        yield Text()
        return
    if summary.settings:
        yield Text(f"Settings over their seeds, ranked by {ranked}", style="bold")
        yield Text(
            f"Means at epoch {summary.epochs} on the {summary.measured_on} set, with two standard "
            "errors of the mean; none where there is but one seed."
        )
        yield _over_seeds(summary)
        yield Text()
        return
    if len(summary.rank_by) == 1:
        yield Text(f"Best trial by {ranked}", style="bold")
    else:
        yield Text(f"Pareto set of {ranked}", style="bold")
        yield Text("Trials trained to the last epoch that no other one beats in every metric.")
    yield _values(summary)
    yield Text(
        f"last: at epoch {summary.epochs}, on the {summary.measured_on} set, what trials are "
        "ranked by; best: at the epoch behind @"
        + (
            "; test: the last epoch on the test set"
            if any(finding.test for finding in summary.findings)
            else ""
        )
    )
    yield Text()
    yield _params(summary.findings)
    yield Text()


def _nothing_text(summary: Summary) -> str:
    if not summary.num_rows:
        return "No trial finished its first evaluation, so nothing was found."
    furthest = max(summary.unfinished.values(), default=0)
    text = f"No trial is complete (a whole one has {summary.epochs} epochs), so none is best. "
    are = "evaluation is" if summary.num_rows == 1 else "evaluations are"
    text += f"{summary.num_rows} {are} recorded and kept"
    return text + (f"; unfinished trials stand at epoch {furthest} at most." if furthest else ".")


@dataclass(frozen=True)
class _Findings:
    """One line for each finding, or one for each of its values where that is too wide."""

    headings: Sequence[str]  # of two lines where that is narrower
    rows: Sequence[Sequence[str]]

    def __rich_console__(
        self, _console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        if self._needed() <= options.max_width:
            yield self._table()
        else:
            yield from self._lines()

    def _needed(self) -> int:
        """Width of a table in which nothing is cut but the names of settings, which are folded."""
        columns = zip(self.headings, *self.rows, strict=True)
        widths = [
            min(max(cell_len(line) for cell in column for line in cell.splitlines() or [""]), most)
            for column in columns
            for most in [SETTING_WIDTH if column[0] == SETTING else 10**6]
        ]
        return sum(widths) + GAP * len(widths)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
        for heading in self.headings:
            is_name = heading == SETTING
            table.add_column(
                Text(heading),
                justify="left" if is_name else "right",
                no_wrap=not is_name,
                overflow="fold",
            )
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table

    def _lines(self) -> Iterator[RenderableType]:
        for row in self.rows:
            yield Text(f"{self.headings[0]} {row[0]}")
            grid = Table.grid(padding=(0, GAP, 0, 0))
            grid.add_column(overflow="fold")
            grid.add_column(overflow="fold")
            for heading, cell in zip(self.headings[1:], row[1:], strict=True):
                if cell:
                    grid.add_row(Text(f"  {heading.replace(chr(10), ' ')}"), Text(cell))
            yield grid


def _values(summary: Summary) -> _Findings:
    headings = ["trial"]
    has_test = any(finding.test for finding in summary.findings)
    sparse = next((m for m in summary.rank_by if m.startswith("sparsity/")), None)
    beside = sparse or list(summary.rank_by)[-1]
    for metric, name in short_names(summary.rank_by).items():
        headings += [f"{name}\n{head}" for head in ("last", "best @ epoch")]
        headings += [f"{name}\ntest"] * has_test + ["active\nunits"] * (metric == beside)
    rows = []
    for finding in summary.findings:
        cells = [str(finding.number)]
        for metric in summary.rank_by:
            cells.append(figure(finding.values[metric]))
            best = finding.best_epochs[metric]
            cells.append(f"{figure(best.value)} @ {best.epoch}")
            if has_test:
                test = finding.test.get(f"test/{metric}")
                cells.append("absent" if test is None else figure(test))
            if metric == beside:
                active = finding.active_units
                cells.append("absent" if active is None else str(active))
        rows.append(cells)
    return _Findings(headings, rows)


def _over_seeds(summary: Summary) -> _Findings:
    metrics = list(dict.fromkeys(key for scores in summary.settings for key in scores.spreads))
    names = short_names(metrics)
    headings = [SETTING, "seeds", *(names[key].replace("_", "\n", 1) for key in metrics)]
    rows = []
    for scores in summary.settings:
        cells = [scores.name, str(scores.num_seeds)]
        for key in metrics:
            found = scores.spreads.get(key)
            cells.append("absent" if found is None else figure(found.mean))
            if found is not None and found.two_standard_errors is not None:
                cells[-1] += f" ± {figure(found.two_standard_errors)}"
        rows.append(cells)
    return _Findings(headings, rows)


def _params(findings: Sequence[Finding]) -> _Findings:
    keys = list(dict.fromkeys(key for finding in findings for key in finding.params))
    names = short_names(keys)
    has_settings = any(finding.setting for finding in findings)
    headings = ["trial", *([SETTING] * has_settings)]
    headings += [names[key].replace("_", "\n", 1) for key in keys]
    rows = []
    for finding in findings:
        cells = [str(finding.number), *([finding.setting or ""] * has_settings)]
        cells += [number(finding.params[key]) if key in finding.params else "" for key in keys]
        rows.append(cells)
    return _Findings(headings, rows)


def _ends(summary: Summary) -> Iterator[Text]:
    if not summary.groups and not summary.unfinished:
        return
    others = "others" if summary.findings else "trials"
    yield Text(f"What became of the {others}", style="bold")
    for group in summary.groups:
        count = len(group.numbers)
        noun = "trial" if count == 1 else "trials"
        reason = group.reason.removeprefix(f"{group.state}: ").removeprefix("stopped ")
        like = "" if count == 1 or group.state is State.STOPPED else ", the first:"
        yield Text(
            f"  {count} {group.state} ({noun} {_listed(group.numbers)}){like or ':'} {reason}"
        )
    if summary.unfinished:
        epochs = ", ".join(
            f"{trial} at {epoch}/{summary.epochs}"
            for trial, epoch in list(summary.unfinished.items())[:NUMBERS_SHOWN]
        )
        they = "it" if len(summary.unfinished) == 1 else "they"
        more = ", …" if len(summary.unfinished) > NUMBERS_SHOWN else ""
        yield Text(
            f"  {len(summary.unfinished)} unfinished (trial {epochs}{more}): {summary.outcome}; "
            f"what {they} recorded is kept"
        )
    yield Text()


def _listed(numbers: Sequence[int]) -> str:
    text = ", ".join(map(str, numbers[:NUMBERS_SHOWN]))
    return f"{text}, …" if len(numbers) > NUMBERS_SHOWN else text


def _place(label: str, place: str | Place) -> Text:
    return Text(f"  {label:<12}{place}")
