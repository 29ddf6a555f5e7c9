"""What a person sees while one configuration trains: a live table on a terminal, else lines."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tune_ddvae.config import METRICS, PRIORS, TrialConfig, Value, to_flat, unmet_need
from tune_ddvae.training.folder import TrainedRow
from tune_ddvae.tuning.wording import ACTIVE_UNITS, duration, figure, measured_on, number, plural

REFRESH_S = 0.25  # between two drawings
STEPS_OF_PACE = 5  # the latest, that the time left is foretold from
GAP = 2
_NUM_OTHER_LINES = 6  # of the screen: headings, bar and status
# What is looked at first, from left to right; the rest where there is room.
_FIRST = (
    "training/objective",
    "sparsity/hoyer",
    ACTIVE_UNITS,
    "disentanglement/factor_vae",
    "latent/components_used",
    "log_likelihood/iwae",
    "log_likelihood/reconstruction",
    "latent/kl",
)
_MOST_IN_A_LINE = 6
_COUNTED = ("dimensions", "components")  # units of whole numbers
_WITHOUT_EVALUATION = ("training/log_likelihood", "training/kl", "training/divergence")


class TrainingScreen:
    """Shows one training from entry to exit, as its watcher.

    Args:
        console: Where to show it: a table that keeps itself fresh if it is an interactive terminal,
            else a line for each evaluation.
        until: Epoch that is trained to.
        every: Epochs between two evaluations.
        rows: What is known of it, by epoch; others fill it.
        clock: Seconds; for tests.
    """

    def __init__(
        self,
        console: Console,
        rows: Mapping[int, TrainedRow],
        *,
        until: int,
        every: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._rows = rows
        self._until = until
        self._every = every
        self._clock = clock
        self._start = self._step_start = self._drawn = clock()
        self._epoch = 0
        self._batches, self._batches_before = 0, 0  # of this step, and of the one before
        self._live: Live | None = None
        if console.is_interactive and not console.is_dumb_terminal:
            self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "TrainingScreen":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def on_start(self, epoch: int) -> None:
        """Training begins, or goes on, behind that epoch."""
        self._epoch, self._step_start = epoch, self._clock()
        if 0 < epoch < self._until:
            self.on_note(f"goes on from the checkpoint of epoch {epoch}")
        self._draw()

    def on_batch(self) -> None:
        """A batch of training or evaluation, or a metric, is done."""
        self._batches += 1
        if self._clock() - self._drawn >= REFRESH_S:
            self._draw()

    def on_row(self, row: TrainedRow) -> None:
        """A step is done, its row on disk."""
        self._epoch, self._step_start = row.epoch, self._clock()
        self._batches, self._batches_before = 0, self._batches
        if self._live is None:
            self._print(self._line(row))
        self._draw()

    def on_note(self, note: str) -> None:
        """Something happened that a person should know."""
        self._print(note)

    def screen(self) -> RenderableType:
        """The training as it stands, as high and wide as the console."""
        room = max(self._console.height - _NUM_OTHER_LINES, 1)
        shown = [self._rows[epoch] for epoch in sorted(self._rows) if epoch <= self._epoch][-room:]
        done = self._epoch + self._share * self._every
        bar = Table.grid()  # alone it would not end its line
        bar.add_row(
            ProgressBar(total=self._until, completed=done, width=min(self._console.width, 80))
        )
        return Group(rows_table(shown, self._console.width), Text(), bar, Text(self._status()))

    def _draw(self) -> None:
        self._drawn = self._clock()
        if self._live is not None:
            self._live.update(self.screen(), refresh=True)

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

    def _line(self, row: TrainedRow) -> str:
        parts = [
            f"{metric} {cell(row, metric)}" for metric in shown_metrics([row])[:_MOST_IN_A_LINE]
        ]
        return f"epoch {row.epoch}/{self._until}: {', '.join(parts)}; {self._time_text()}"

    def _status(self) -> str:
        return (
            f"epoch {self._epoch} of {self._until}; {duration(self._clock() - self._start)} elapsed, "
            f"{self._time_text()}"
        )

    def _time_text(self) -> str:
        latest = [self._rows[epoch].seconds for epoch in sorted(self._rows)][-STEPS_OF_PACE:]
        if not latest:
            return "time left unknown yet"
        a_step = sum(latest) / len(latest)
        left = (self._until - self._epoch) / self._every * a_step
        left -= min(self._clock() - self._step_start, a_step if left else 0.0)
        pace = figure(a_step / self._every)
        return f"{pace} s an epoch, about {duration(max(left, 0.0))} left"

    @property
    def _share(self) -> float:
        """How much of the step under way is done, as far as the one before can tell."""
        return min(self._batches / self._batches_before, 1.0) if self._batches_before else 0.0


def header_lines(config: TrialConfig, facts: Mapping[str, Value]) -> list[str]:
    """What is really trained, in a few lines: prior, likelihood, objective and weights as used."""
    flat, objective, training = to_flat(config), config.objective, config.training
    own = {name: flat[f"prior/{name}"] for name in PRIORS[config.prior.kind]}
    prior = ", ".join([config.prior.kind, *(f"{name} {number(v)}" for name, v in own.items())])
    scale = (
        "a learned scale"
        if config.likelihood.scale is None
        else f"scale {config.likelihood.scale:g}"
    )
    likelihood = config.likelihood.kind
    likelihood += "" if likelihood == "bernoulli" else f", {scale}"
    weights = f"decomp, beta {objective.beta:g}, alpha {objective.alpha:g} ({objective.divergence})"
    if objective.kind == "iwae":
        weights = "iwae, the importance-weighted bound"
    data, images = config.data, training.images_per_epoch
    per_epoch = "" if images is None else f", {images} of them an epoch"
    measured = data.num_validation or data.test_size
    threads = facts["threads"]
    about = {
        "data": f"{data.name}, {data.train_size} points to train on{per_epoch}",
        "found": str(facts["data_origin"]),
        "measured on": f"{measured} {measured_on(config)} points",
        "model": f"{config.model.latent_dim} latent dimensions, width {config.width}",
        "prior": prior,
        "likelihood": likelihood,
        "objective": f"{weights}, K {objective.num_samples}",
        "training": f"{training.epochs} epochs, batches of {training.batch_size}, learning rate "
        f"{config.optimiser.learning_rate:g}, seed {training.seed}",
        "computed on": f"{facts['device']} ({facts['device_name']}), {threads} "
        f"{plural('thread', int(str(threads)))}",
    }
    return [f"{label:11}  {text}" for label, text in about.items()]


def rows_table(rows: Sequence[TrainedRow], width: int) -> Table:
    """One line for each evaluation, with as many metrics as there is room for."""
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    table.add_column("epoch", justify="right", vertical="bottom")
    left = width - len("epoch") - GAP
    columns: list[str] = []
    for metric in shown_metrics(rows):
        cells = [cell(row, metric) for row in rows]
        needed = max(map(len, (*metric.split("/"), *cells))) + GAP
        if needed > left:
            break
        left -= needed
        columns.append(metric)
        heading = Text(metric.replace("/", "\n", 1))
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    for row in rows:
        table.add_row(str(row.epoch), *(cell(row, metric) for metric in columns))
    return table


def shown_metrics(rows: Iterable[TrainedRow]) -> list[str]:
    """The metrics that these rows have, the most wanted first."""
    rows = list(rows)
    has = {metric for row in rows for metric in row.metrics}
    is_evaluated = any(metric in METRICS for metric in has)
    wanted = [*_FIRST, *METRICS] if is_evaluated else [*_FIRST, *_WITHOUT_EVALUATION]
    return [metric for metric in dict.fromkeys(wanted) if metric in has]


def cell(row: TrainedRow, metric: str) -> str:
    """A metric of a row; nothing where it was not measured."""
    value = row.metrics.get(metric)
    if value is None:
        return "absent" if metric in row.absent else ""
    facts = METRICS.get(metric.removeprefix("test/"))
    return str(int(value)) if facts is not None and facts.unit in _COUNTED else figure(value)


def final_table(row: TrainedRow, config: TrialConfig) -> Table:
    """All that the last evaluation yielded or could have, with units and what the metrics mean."""
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for heading in ("metric", "value", "unit", "better", "meaning"):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    for name in [*METRICS, *(f"test/{metric}" for metric in METRICS)]:
        metric = name.removeprefix("test/")
        facts = METRICS[metric]
        if name in row.absent and not unmet_need(metric, config):
            table.add_row(Text(name), "absent", "", "", Text(row.absent[name]))
        if name in row.metrics:
            better = {"max": "up", "min": "down", None: ""}[facts.direction]
            table.add_row(
                Text(name), cell(row, name), Text(facts.unit), better, Text(facts.meaning)
            )
    for name in ("training/objective", *_WITHOUT_EVALUATION):
        if name in row.metrics:
            table.add_row(Text(name), cell(row, name), "", "", Text("mean over the last step"))
    return table
