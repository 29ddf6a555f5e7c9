"""What a study does while it runs: a table that keeps itself fresh on a terminal, else plain lines.

A thread of its own reads the study; all that it reads is copied first, since the tuning loop adds
trials and rows meanwhile.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from tune_ddvae.tuning.cluster.resources import Slots
from tune_ddvae.tuning.cluster.slots import ClusterSlots, Waiting
from tune_ddvae.tuning.planning.forecast import Pace
from tune_ddvae.tuning.running.live import LiveStudy
from tune_ddvae.tuning.running.news import Best, News
from tune_ddvae.tuning.running.trial_table import legend_text, trial_table
from tune_ddvae.tuning.trials import State, Trial
from tune_ddvae.tuning.wording import duration, plural

TICK_S = 0.25  # between two looks at the study
CLOCK_S = 1.0  # between two drawings while nothing happens
STATUS_S = 30.0  # between two status lines where there is no terminal


class Progress:
    """Shows a study on a console from entry to exit, or for as long as there is one.

    Once nothing can be written any more, as when a terminal is gone, the rest is said to nobody, by
    this console's other users too: the study goes on and ends as it would have.

    Args:
        study: The study, driven by another thread.
        console: Where to show it. A table if it is an interactive terminal, else a line for each
            trial's start and end and a status line now and then.
        slots: How many trials run at once; it may change.
        hours: Budget over all starts of the study, if there is one.
        waiting: Says what is waited for while no trial has a place, on a cluster.
        clock: Seconds; for tests.
    """

    def __init__(
        self,
        study: LiveStudy,
        console: Console,
        *,
        slots: Slots | ClusterSlots,
        hours: float | None = None,
        waiting: Waiting | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._study = study
        self._console = console
        self._slots = slots
        self._waiting = waiting
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
        with self._console_may_go():
            if self._live is not None:
                self._console.show_cursor(False)  # fails before half of a start has to be undone
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
        with self._console_may_go():
            if self._live is not None:
                self._live.stop()
            self._tell_news()

    def _run(self) -> None:
        with self._console_may_go():
            while not self._ending.wait(TICK_S):
                self._tell_news()
                if self._live is None:
                    self._tell_status()
                else:
                    self._draw(self._live)

    @contextmanager
    def _console_may_go(self) -> Iterator[None]:
        """Leave the block, and show nothing more, where the console cannot be written to."""
        try:
            yield
        except OSError:
            self._give_up()
        except SystemExit as error:  # how Rich takes a broken pipe; a signal's is another
            if not isinstance(error.__context__, BrokenPipeError):
                raise
            self._give_up()

    def _give_up(self) -> None:
        self._console.quiet = True
        with suppress(OSError):  # not every file is a device
            # What is still buffered would fail once more when the process ends, and change its code.
            gone = self._console.file.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, gone)
            os.close(nowhere)
        if self._live is not None:
            self._live.stop()  # gives back stdout and stderr, which it had redirected

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
        return (len(study.trials), in_flight, rows, self._slots.latest, self._wait())

    def _status(self, trials: Sequence[Trial]) -> list[str]:
        wanted, in_flight = self._study.conditions.trials, self._study.in_flight
        elapsed = self._clock() - self._start
        self._pace.take(self._study.spec, trials)
        slots = self._slots.latest
        left = self._pace.time_left(self._study.spec, trials, wanted, slots)
        text = time_text(elapsed, left, self._budget_s, is_open_ended=wanted is None)
        counts = counts_text(
            trials,
            in_flight,
            wanted,
            slots,
            self._study.carried_over,
            0 if self._waiting is None else self._waiting.num_unplaced,
        )
        return [line for line in (counts, text, self._wait()) if line]

    def _wait(self) -> str:
        return "" if self._waiting is None else self._waiting.text


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
    num_unplaced: int = 0,
) -> str:
    """How many trials stand how, in one sentence; unplaced ones are in flight and wait for a node."""
    counts = Counter(trial.state for trial in trials)
    waiting = sum(t.state is State.UNFINISHED and t.number not in in_flight for t in trials)
    unplaced = min(num_unplaced, counts[State.UNFINISHED] - waiting)
    training = counts.pop(State.UNFINISHED, 0) - waiting - unplaced
    of_all = "" if wanted is None else f" of {max(wanted, len(trials))}"
    text = f"{counts.total()}{of_all} trials ended"
    states = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    text += f" ({states})" if states else ""
    text += f"; {training} training in {slots} {plural('slot', slots)}"
    text += f", {unplaced} waiting for a place" if unplaced else ""
    text += f", {waiting} waiting to go on" if waiting else ""
    return text + (f"; {carried_over} carried over" if carried_over else "")


def _height(text: str, width: int) -> int:
    return -(-len(text) // max(width, 1))
