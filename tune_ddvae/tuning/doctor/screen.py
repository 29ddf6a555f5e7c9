"""The doctor's findings as people read them: a row for each machine, and below it what to do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tune_ddvae.tuning.cluster.diagnosis import CHECKS, Row
from tune_ddvae.tuning.cluster.facts import Check, State
from tune_ddvae.tuning.doctor.doctoring import Examination, Finding
from tune_ddvae.tuning.wording import plural

SHORT = 24  # characters that a cell of the table has room for; what is longer is said below it
MARKS: Mapping[State, tuple[str, str]] = {
    State.GOOD: ("✓", "green"),
    State.DOUBTFUL: ("!", "yellow"),
    State.BAD: ("✗", "bold red"),
    State.ABSENT: ("–", "dim"),
}


@dataclass(frozen=True)
class Note:
    """One finding, with all the places that it is true of."""

    where: tuple[str, ...]
    what: str
    check: Check


def render(examination: Examination) -> RenderableType:
    """The examination as a screen."""
    notes = noted(examination.findings)
    parts: list[RenderableType] = [
        Text(f"Doctor: {examination.subject}", style="bold"),
        _pairs({"driver": examination.driver, "storage": examination.storage}),
        Text(),
        Fitting(
            _machines(examination.rows, notes, with_words=True),
            _machines(examination.rows, notes, with_words=False),
        ),
        Text(),
        _whole(examination.whole, notes),
        Text(),
    ]
    if notes:
        parts += [_findings(notes), Text()]
    return Group(*parts, _verdict(notes))


def noted(findings: Sequence[Finding]) -> tuple[Note, ...]:
    """The findings, each once, though it be true of many machines."""
    places: dict[tuple[str, Check], list[str]] = {}
    for finding in findings:
        places.setdefault((finding.what, finding.check), []).append(finding.where)
    return tuple(Note(tuple(where), what, check) for (what, check), where in places.items())


@dataclass(frozen=True)
class Fitting:
    """The first of two tables, or the second where there is no room for that."""

    wide: Table
    narrow: Table

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """What fits."""
        needed = console.measure(self.wide, options=options.update(max_width=1000)).maximum
        yield self.wide if needed <= options.max_width else self.narrow


def _machines(rows: Sequence[Row], notes: Sequence[Note], *, with_words: bool) -> Table:
    shown = [
        what
        for what in CHECKS
        if what != "answer" or any(_is_finding(row.checks.get(what)) for row in rows)
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("host", no_wrap=True)
    for heading in shown:
        table.add_column(heading, overflow="fold", min_width=len(heading))
    for row in rows:
        cells = (_cell(row.checks.get(what), what, notes, with_words) for what in shown)
        table.add_row(Text(row.host), *cells)
    return table


def _cell(check: Check | None, what: str, notes: Sequence[Note], with_words: bool) -> Text:
    """The mark, and words where they are few; of a finding also the number of the note that has all."""
    if check is None:
        return _mark(State.ABSENT)
    has_room = with_words and len(check.words) <= SHORT
    parts = [check.words if has_room else "", _reference(check, what, notes)]
    return Text.assemble(MARKS[check.state], *(f" {part}" for part in parts if part))


def _whole(checks: Mapping[str, Check], notes: Sequence[Note]) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for what, check in checks.items():
        words = _reference(check, what, notes) or check.words
        grid.add_row(_mark(check.state), Text(what), Text(words))
    return grid


def _findings(notes: Sequence[Note]) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, justify="right")
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for number, note in enumerate(notes, 1):
        said = Text(f"{', '.join(note.where)}, {note.what}: ", style="bold")
        said.append(note.check.words, style="not bold")
        if note.check.mend:
            said.append(f"\n→ {note.check.mend}", style="not bold")
        grid.add_row(Text(f"({number})"), _mark(note.check.state), said)
    return grid


def _verdict(notes: Sequence[Note]) -> Text:
    bad = [number for number, note in enumerate(notes, 1) if note.check.state is State.BAD]
    if bad:
        numbers = ", ".join(f"({number})" for number in bad)
        return Text(f"A study could not run: see to {numbers} first.", style="bold red")
    if notes:
        count = len(notes)
        return Text(
            f"A study could run; {count} {plural('thing', count)} to look at.", style="yellow"
        )
    return Text("All is well: a study could run.", style="green")


def _pairs(texts: Mapping[str, str]) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in texts.items():
        grid.add_row(Text(label), Text(text))
    return grid


def _reference(check: Check, what: str, notes: Sequence[Note]) -> str:
    """The number of the note that a finding has; empty for what is no finding."""
    numbers = (n for n, note in enumerate(notes, 1) if (note.what, note.check) == (what, check))
    return next((f"({number})" for number in numbers), "")


def _is_finding(check: Check | None) -> bool:
    return check is not None and check.state in (State.BAD, State.DOUBTFUL)


def _mark(state: State) -> Text:
    return Text.assemble(MARKS[state])
