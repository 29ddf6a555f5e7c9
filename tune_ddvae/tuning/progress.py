"""What a study does while it runs: a table that keeps itself fresh on a terminal, else plain lines.

A thread of its own reads the study; all that it reads is copied first, since the tuning loop adds
trials and rows meanwhile.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tune_ddvae.config import Value
from tune_ddvae.spec import Choice, StudySpec, flat_space
from tune_ddvae.tuning import ranking
from tune_ddvae.tuning.live import LiveStudy
from tune_ddvae.tuning.plan import (
    duration,
    epochs_left,
    figure,
    number,
    params_text,
    searched,
    short_names,
)
from tune_ddvae.tuning.trials import Row, State, Trial

TICK_S = 0.25  # between two looks at the study
CLOCK_S = 1.0  # between two drawings while nothing happens
STATUS_S = 30.0  # between two status lines where there is no terminal
ACTIVE_UNITS = "latent/active_units"
GAP = 2  # between columns
JOINED = "params"  # heading of the column that all params share
STYLES = {State.COMPLETE: "green", State.FAILED: "red", State.COLLAPSED: "yellow"}  # beside words


class Progress:
    """Shows a study on a console from entry to exit.

    Args:
        study: The study, driven by another thread.
        console: Where to show it. A table if it is an interactive terminal, else a line for each
            trial's start and end and a status line now and then.
        slots: How many trials run at once.
        hours: Budget over all starts of the study, if there is one.
        clock: Seconds; for tests.
    """

    def __init__(
        self,
        study: LiveStudy,
        console: Console,
        *,
        slots: int,
        hours: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._study = study
        self._console = console
        self._slots = slots
        self._clock = clock
        self._start = clock()
        self._budget_s: float | None = None
        if hours is not None:
            self._budget_s = max((hours - study.record.used_hours()) * 3600, 0.0)
        self._best = Best(study.spec)
        self._news = News(study, self._best)
        self._pace = Pace(since=time.time())
        self._live: Live | None = None
        if console.is_interactive and not console.is_dumb_terminal:
            self._live = Live(console=console, auto_refresh=False, transient=True)
        # When the last drawing or status line was, and what the study looked like.
        self._drawn: tuple[float, tuple[object, ...]] = (-CLOCK_S, ())
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> "Progress":
        if self._live is not None:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join()
        if self._live is not None:
            self._live.stop()
        self._tell_news()

    def _run(self) -> None:
        while not self._ending.wait(TICK_S):
            self._tell_news()
            if self._live is None:
                self._tell_status()
            else:
                self._draw(self._live)

    def _tell_news(self) -> None:
        for line in self._news.lines(brief=self._live is not None):
            self._console.print(Text(line), soft_wrap=True)

    def _tell_status(self) -> None:
        looks = self._looks()
        when, before = self._drawn
        if looks != before and self._clock() - max(when, self._start) >= STATUS_S:
            self._drawn = (self._clock(), looks)
            for line in self._status(list(self._study.trials.values())):
                self._console.print(Text(line), soft_wrap=True)

    def _draw(self, live: Live) -> None:
        looks = self._looks()
        when, before = self._drawn
        if looks == before and self._clock() - when < CLOCK_S:
            return
        self._drawn = (self._clock(), looks)
        live.update(self.screen(), refresh=True)

    def screen(self) -> RenderableType:
        """The study as it stands, as high and wide as the console."""
        study, width = self._study, self._console.width
        trials = list(study.trials.values())
        best = self._best.take(trials)
        legend = legend_text(study.spec, len(trials))  # no shorter than it will be
        status = self._status(trials)
        taken = 4 + sum(_height(line, width) for line in (legend, *status))
        table = trial_table(
            study.spec,
            trials,
            study.in_flight,
            best,
            width=width,
            room=max(self._console.height - taken, 3),
        )
        legend = legend_text(study.spec, len(trials) - table.row_count)
        return Group(table, Text(), *(Text(line) for line in (legend, *status)))

    def _looks(self) -> tuple[object, ...]:
        """Cheap sign of whether anything has changed."""
        study = self._study
        in_flight = study.in_flight
        rows = sum(len(study.trials[n].rows) for n in in_flight)
        return (len(study.trials), in_flight, rows)

    def _status(self, trials: Sequence[Trial]) -> list[str]:
        wanted, in_flight = self._study.conditions.trials, self._study.in_flight
        elapsed = self._clock() - self._start
        self._pace.take(self._study.spec, trials)
        left = self._pace.time_left(self._study.spec, trials, wanted, self._slots)
        text = time_text(elapsed, left, self._budget_s, is_open_ended=wanted is None)
        return [
            counts_text(trials, in_flight, wanted, self._slots, self._study.carried_over),
            text,
        ]


# -- what is new --------------------------------------------------------------------------------


class News:
    """Tells each thing that happens to a study once."""

    def __init__(self, study: LiveStudy, best: "Best") -> None:
        self._study = study
        self._best = best
        self._num_notes = 0
        self._training: set[int] = set()
        self._ended = {n for n, t in study.trials.items() if t.state is not State.UNFINISHED}
        self._epochs_before = {n: t.last_epoch for n, t in study.trials.items()}

    def lines(self, *, brief: bool) -> Iterator[str]:
        """What has happened since the last call; brief: only what a table does not show."""
        trials = list(self._study.trials.values())
        in_flight = self._study.in_flight
        for trial in trials:
            if trial.number in self._ended:
                continue
            has_ended = trial.state is not State.UNFINISHED
            is_new = trial.number not in self._training
            if is_new and (has_ended or trial.number in in_flight):
                self._training.add(trial.number)
                if not brief:
                    yield self._started(trial)
            if has_ended:
                self._ended.add(trial.number)
                if not brief or trial.state is State.FAILED:
                    yield self._end(trial, self._best.take(trials))
        notes = self._study.notes[self._num_notes :]
        self._num_notes += len(notes)
        yield from (f"note: {note}" for note in notes)

    def _started(self, trial: Trial) -> str:
        name = f"{trial.setting}: " if trial.setting else ""
        epoch = self._epochs_before.get(trial.number, 0)
        how = f"goes on after epoch {epoch}" if epoch else "started"
        return f"trial {trial.number} {how}: {name}{params_text(self._study.spec, trial.config)}"

    def _end(self, trial: Trial, best: Sequence[Trial]) -> str:
        spec = self._study.spec
        text = f"trial {trial.number} {trial.state} after {_epochs(trial.last_epoch)}"
        values = measured_text(spec, latest_row(trial))
        if values:
            text += f": {values}"
        if trial.state in (State.FAILED, State.COLLAPSED):
            text += f"; {' '.join(trial.reason.split())}"
        if any(trial.number == other.number for other in best):
            text += " (best so far)" if len(spec.rank_by) == 1 else " (in the Pareto set so far)"
        return text


class Best:
    """The Pareto set so far; a trial is compared with it once, when it is complete."""

    def __init__(self, spec: StudySpec) -> None:
        self._rank_by = spec.rank_by
        self._seen: set[int] = set()
        self._front: list[Trial] = []

    def take(self, trials: Sequence[Trial]) -> list[Trial]:
        """The set after these trials, best in the first metric first."""
        new = [t for t in trials if t.state is State.COMPLETE and t.number not in self._seen]
        if new:
            self._seen.update(trial.number for trial in new)
            self._front = ranking.pareto_set([*self._front, *new], self._rank_by)
        return self._front


def measured_text(spec: StudySpec, row: Row | None) -> str:
    """The ranked metrics of an evaluation on one line, each with what belongs beside it."""
    if row is None:
        return ""
    return ", ".join(f"{metric} {_measured(row, metric)}" for metric in shown_metrics(spec))


def shown_metrics(spec: StudySpec) -> tuple[str, ...]:
    """What a study ranks by; sparsity never without the units that it was taken over."""
    shown: list[str] = []
    for metric in spec.rank_by:
        shown.append(metric)
        if metric.startswith("sparsity/") and ACTIVE_UNITS not in shown:
            shown.append(ACTIVE_UNITS)
    return tuple(dict.fromkeys(shown))


def latest_row(trial: Trial) -> Row | None:
    """The newest evaluation of a trial that may be training just now."""
    rows = list(trial.rows.values())
    return max(rows, key=lambda row: row.epoch, default=None)


# -- how long it will take ----------------------------------------------------------------------


@dataclass
class Pace:
    """How fast trials train and how many are let go on, from what has been recorded so far."""

    since: float  # seconds since 1970; earlier rows may come from another machine
    seconds: float = 0.0
    epochs: int = 0
    arrived: Counter[int] = field(default_factory=Counter)  # by rung
    passed: Counter[int] = field(default_factory=Counter)
    _taken: set[tuple[int, int]] = field(default_factory=set)
    _closed: set[int] = field(default_factory=set)

    def take(self, spec: StudySpec, trials: Sequence[Trial]) -> None:
        """Count the rows that are new."""
        for trial in trials:
            if trial.number in self._closed:
                continue
            has_ended = trial.state is not State.UNFINISHED
            for row in list(trial.rows.values()):
                if (trial.number, row.epoch) not in self._taken:
                    self._taken.add((trial.number, row.epoch))
                    self._count(spec, row)
            if has_ended:  # asked before its rows were read, so none was missed
                self._closed.add(trial.number)
                self._taken = {key for key in self._taken if key[0] != trial.number}

    def time_left(
        self,
        spec: StudySpec,
        trials: Sequence[Trial],
        wanted: int | None,
        slots: int,
    ) -> float | None:
        """Seconds until all trials have ended; None before there is anything to tell it from."""
        if not self.epochs or wanted is None:
            return None
        factor = spec.size.reduction_factor
        # One trial in `factor` passes, until enough have arrived to say it better.
        passing = {
            rung: (self.passed[rung] + 1) / (self.arrived[rung] + factor) for rung in spec.rungs
        }
        unfinished = [t for t in trials if t.state is State.UNFINISHED]
        left = [epochs_left(spec, max(list(t.rows), default=0), passing) for t in unfinished]
        left += [epochs_left(spec, 0, passing)] * max(wanted - len(trials), 0)
        if not left:
            return 0.0
        at_once = max(min(slots, len(left)), 1)
        return max(sum(left) / at_once, *left) * self.seconds / self.epochs

    def _count(self, spec: StudySpec, row: Row) -> None:
        if row.decision is not None:
            self.arrived[row.epoch] += 1
            self.passed[row.epoch] += row.decision.goes_on
        seconds = row.metrics.get("training/seconds")
        if seconds is not None and row.time >= self.since:
            self.seconds += seconds + row.metrics.get("training/evaluation_seconds", 0.0)
            self.epochs += spec.base.training.evaluate_every


def time_text(
    elapsed: float, left: float | None, budget: float | None, *, is_open_ended: bool
) -> str:
    """Elapsed and remaining time in one sentence, and what is left of the hours if there is a budget."""
    parts = [f"{duration(elapsed)} elapsed"]
    if not is_open_ended:
        parts.append("time left unknown yet" if left is None else f"about {duration(left)} left")
    if budget is not None:
        parts.append(f"hours are used up in {duration(max(budget - elapsed, 0.0))}")
    return ", ".join(parts)


def counts_text(
    trials: Sequence[Trial],
    in_flight: Collection[int],
    wanted: int | None,
    slots: int,
    carried_over: int,
) -> str:
    """How many trials stand how, in one sentence."""
    counts = Counter(trial.state for trial in trials)
    waiting = sum(t.state is State.UNFINISHED and t.number not in in_flight for t in trials)
    training = counts.pop(State.UNFINISHED, 0) - waiting
    of_all = "" if wanted is None else f" of {max(wanted, len(trials))}"
    text = f"{counts.total()}{of_all} trials ended"
    states = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    text += f" ({states})" if states else ""
    text += f"; {training} training in {slots} {'slot' if slots == 1 else 'slots'}"
    text += f", {waiting} waiting to go on" if waiting else ""
    return text + (f"; {carried_over} carried over" if carried_over else "")


# -- the table ----------------------------------------------------------------------------------


def trial_table(
    spec: StudySpec,
    trials: Sequence[Trial],
    in_flight: Collection[int],
    best: Sequence[Trial],
    *,
    width: int,
    room: int,
) -> Table:
    """One line for each of these trials, as wide as there is room for.

    Params get a column each where all of them fit; else they share the last one, cut to fit.
    """
    metrics = shown_metrics(spec)
    names = short_names((*metrics, *flat_space(spec.space)))
    shown = chosen(trials, in_flight, best, room)
    stars = {trial.number for trial in best}
    left = [["", "trial", "state", "epoch", *(names[metric] for metric in metrics)]]
    for trial in shown:
        row = latest_row(trial)
        left.append(
            [
                "*" if trial.number in stars else "",
                str(trial.number),
                _standing(trial, in_flight),
                f"{row.epoch if row else 0}/{spec.base.training.epochs}",
                *(_measured(row, metric) if row else "" for metric in metrics),
            ]
        )
    right = _param_cells(spec, names, shown, width - _needed(left) - GAP)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    words = {
        "state",
        "setting",
        *(names[k] for k, d in spec.space.items() if isinstance(d, Choice)),
    }
    for heading in (*left[0], *right[0]):
        is_word = heading in words or heading == JOINED
        table.add_column(
            Text(heading.replace("_", "\n", 1)),
            justify="left" if is_word else "right",
            no_wrap=True,
            vertical="bottom",
        )
    for trial, a, b in zip(shown, left[1:], right[1:], strict=True):
        cells = [Text(cell) for cell in (*a, *b)]
        cells[2].stylize(STYLES.get(trial.state, ""))
        table.add_row(*cells)
    return table


def legend_text(spec: StudySpec, num_hidden: int) -> str:
    """What the star means, and what the table leaves out."""
    ranked = ", ".join(f"{metric} {way}" for metric, way in spec.rank_by.items())
    text = f"* best so far by {ranked}"
    if len(spec.rank_by) > 1:
        text = f"* in the Pareto set so far of {ranked}"
    return text + (f"; {num_hidden} more trials are not shown" if num_hidden else "")


def chosen(
    trials: Sequence[Trial], in_flight: Collection[int], best: Sequence[Trial], room: int
) -> list[Trial]:
    """At most ``room`` trials: those training, the best, and the latest to end, in this order.

    None of the three crowds out the others: each has a third of the room before it takes more.
    """
    training = [t for t in trials if t.number in in_flight and t.state is State.UNFINISHED]
    numbers = {t.number for t in best}
    ended = [t for t in trials if t.state is not State.UNFINISHED and t.number not in numbers]
    ended.sort(key=lambda t: t.ended or 0.0, reverse=True)
    share = max(room // 3, 1)
    groups = (training, best, ended)
    by_need = [t for group in groups for t in group[:share]]
    by_need += [t for group in groups for t in group[share:]]
    picked = {t.number for t in by_need[: max(room, 1)]}
    return [t for group in groups for t in group if t.number in picked]


def _standing(trial: Trial, in_flight: Collection[int]) -> str:
    if trial.state is not State.UNFINISHED:
        return str(trial.state)
    return "training" if trial.number in in_flight else "waiting"


def _param_cells(
    spec: StudySpec, names: Mapping[str, str], trials: Sequence[Trial], width: int
) -> list[list[str]]:
    """Headings and one line a trial, not wider than ``width``."""
    has_settings = any(trial.setting for trial in trials)
    cells = [[*(["setting"] if has_settings else []), *(names[key] for key in spec.space)]]
    for trial in trials:
        setting = [trial.setting or ""] if has_settings else []
        cells.append([*setting, *_params(spec, names, trial.config)])
    if _needed(cells) <= width:
        return cells
    if width < len(JOINED):
        return [[] for _ in cells]
    joined = [trial.setting or params_text(spec, trial.config) for trial in trials]
    return [[JOINED], *([_cut(text, width)] for text in joined)]


def _params(
    spec: StudySpec, names: Mapping[str, str], config: Mapping[str, Value]
) -> Iterator[str]:
    """One cell for each top-level key; what a choice makes meaningful stands beside it."""
    values = searched(spec, config)
    for key, dist in spec.space.items():
        text = number(values[key])
        if isinstance(dist, Choice):
            inner = dist.options.get(str(values[key]), {})
            text = " ".join([text, *(f"{names[k]} {number(values[k])}" for k in inner)])
        yield text


def _measured(row: Row, metric: str) -> str:
    value = row.metrics.get(metric)
    if value is None:
        return "absent"
    return str(int(value)) if metric == ACTIVE_UNITS else figure(value)


def _needed(lines: Sequence[Sequence[str]]) -> int:
    """Width of a table whose first line is its headings."""
    heads = [max(name.split("_", 1), key=len) for name in lines[0]]
    widths = [max(map(len, column)) for column in zip(heads, *lines[1:], strict=True)]
    return sum(widths) + GAP * (len(widths) - 1)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _height(text: str, width: int) -> int:
    return -(-len(text) // max(width, 1))


def _epochs(count: int) -> str:
    return f"{count} epoch{'' if count == 1 else 's'}"
