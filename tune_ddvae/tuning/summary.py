"""What a study found, how its trials ended, where everything lies and how to go on."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tune_ddvae.config import Direction, Value
from tune_ddvae.spec import StudySpec
from tune_ddvae.tuning import provenance, ranking
from tune_ddvae.tuning.live import LiveStudy
from tune_ddvae.tuning.plan import duration, figure, measured_on, number, searched, short_names
from tune_ddvae.tuning.tracking import without_password
from tune_ddvae.tuning.trials import State, Trial

ACTIVE_UNITS = "latent/active_units"
ORDER = (*(state for state in State if state is not State.UNFINISHED), State.UNFINISHED)
NUMBERS_SHOWN = 8  # of the trials in one group


@dataclass(frozen=True)
class BestEpoch:
    """The best recorded value of one metric in one trial."""

    epoch: int
    value: float


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One of the best trials; every value unrounded."""

    number: int
    setting: str | None  # name of the published setting, if it is one
    params: Mapping[str, Value]  # the searched part of ``config``
    config: Mapping[str, Value]  # all that its numbers follow from
    epoch: int  # the last one, that all values but ``best_epochs`` were measured at
    values: Mapping[str, float]  # of rank_by
    best_epochs: Mapping[str, BestEpoch]  # of rank_by
    test: Mapping[str, float]  # all that was measured on the test set at the end
    absent: Mapping[str, str]  # metric -> why it has no value at the last epoch
    active_units: int | None
    checkpoint: Path | None  # gives ``values``
    best_checkpoint: Path | None  # of the first metric's best epoch


@dataclass(frozen=True)
class EndedAlike:
    """Trials that ended alike; the reason is the first one's."""

    state: State
    reason: str
    numbers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a study stands at the end of a session."""

    name: str
    outcome: str
    is_complete: bool
    rank_by: Mapping[str, Direction]
    measured_on: str  # "validation" or "test"
    trials_wanted: int | None
    counts: Mapping[State, int]
    carried_over: int
    findings: tuple[Finding, ...]  # the Pareto set; one trial (or equals) for one metric
    groups: tuple[EndedAlike, ...]  # all that ended before the last epoch
    unfinished: Mapping[int, int]  # trial -> epochs recorded
    epochs: int  # of a whole trial
    num_rows: int  # evaluations recorded
    hours: float  # of this session
    earlier_hours: float
    folder: Path  # absolute
    record: str  # address
    tracking_uri: str
    open_command: str  # shows the study in MLflow
    continue_command: str | None  # None: no work is left

    def to_json(self) -> dict[str, Any]:
        """The summary as plain data."""
        facts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain: dict[str, Any] = _plain(facts)
        return plain


def summarise(
    study: LiveStudy,
    *,
    name: str,
    folder: Path,
    record: str,
    tracking_uri: str,
    outcome: str,
    command: str,
    hours: float,
    earlier_hours: float = 0.0,
) -> Summary:
    """The study as it stands.

    Args:
        study: The study, with nobody training it any more.
        name: Its name.
        folder: Its folder.
        record: Address of its record.
        tracking_uri: Address of its tracking.
        outcome: How the session ended, in a word or two.
        command: What continues the study.
        hours: How long the session took.
        earlier_hours: How long those before it took.
    """
    spec = study.spec
    trials = sorted(study.trials.values(), key=lambda trial: trial.number)
    folder = folder.absolute()
    return Summary(
        name=name,
        outcome=outcome,
        is_complete=study.is_complete,
        rank_by=dict(spec.rank_by),
        measured_on=measured_on(spec.base),
        trials_wanted=study.conditions.trials,
        counts=Counter(trial.state for trial in trials),
        carried_over=study.carried_over,
        findings=tuple(
            _finding(spec, trial, folder) for trial in ranking.pareto_set(trials, spec.rank_by)
        ),
        groups=tuple(_groups(trials)),
        unfinished={t.number: t.last_epoch for t in trials if t.state is State.UNFINISHED},
        epochs=spec.base.training.epochs,
        num_rows=sum(len(trial.rows) for trial in trials),
        hours=hours,
        earlier_hours=earlier_hours,
        folder=folder,
        record=without_password(record),
        tracking_uri=without_password(tracking_uri),
        open_command=open_command(without_password(tracking_uri)),
        continue_command=None if study.is_complete else command,
    )


def open_command(tracking_uri: str) -> str:
    """What shows the runs at a tracking address: a command, or the address of a server."""
    if tracking_uri.startswith(("http://", "https://")):
        return tracking_uri
    words = ["ui", "--backend-store-uri", tracking_uri, "--host", "127.0.0.1"]
    return provenance.command("mlflow", words)


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
    if summary.findings:
        yield Text("  checkpoints of the last epoch")
    for finding in summary.findings:
        yield _place(f"  trial {finding.number}", finding.checkpoint or "none is left")
    yield Text()
    yield Text("Look at it", style="bold")
    yield Text(f"  {summary.open_command}")
    if summary.continue_command is not None:
        yield Text("Go on with it", style="bold")
        yield Text(f"  {summary.continue_command}")


# -- gathering ----------------------------------------------------------------------------------


def _finding(spec: StudySpec, trial: Trial, folder: Path) -> Finding:
    last = trial.rows[spec.base.training.epochs]
    active = last.metrics.get(ACTIVE_UNITS)
    best = {
        metric: BestEpoch(epoch, trial.rows[epoch].metrics[metric])
        for metric, way in spec.rank_by.items()
        if (epoch := ranking.best_epoch(trial, metric, way)) is not None
    }
    first = best.get(next(iter(spec.rank_by)))
    return Finding(
        number=trial.number,
        setting=trial.setting,
        params=searched(spec, trial.config),
        config=dict(trial.config),
        epoch=last.epoch,
        values={metric: last.metrics[metric] for metric in spec.rank_by},
        best_epochs=best,
        test={k: v for k, v in last.metrics.items() if k.startswith("test/")},
        absent=dict(last.absent),
        active_units=None if active is None else int(active),
        checkpoint=_checkpoint(trial, last.epoch, folder),
        best_checkpoint=None if first is None else _checkpoint(trial, first.epoch, folder),
    )


def _checkpoint(trial: Trial, epoch: int, folder: Path) -> Path | None:
    """Folder of the newest checkpoint of that epoch."""
    paths = [folder / mark.path for mark in trial.checkpoints if mark.epoch == epoch]
    return paths[-1] if paths else None


def _groups(trials: Sequence[Trial]) -> Iterator[EndedAlike]:
    """Failed, collapsed and stopped trials by reason, largest group first."""
    for state in (State.FAILED, State.COLLAPSED, State.STOPPED):
        alike: dict[str, list[Trial]] = {}
        for trial in trials:
            if trial.state is state:
                reason = " ".join(trial.reason.split())
                # The same fault at another epoch or with another value is the same fault.
                key = reason if state is State.STOPPED else re.sub(r"[-+]?\d[\d.e+-]*", "#", reason)
                alike.setdefault(key, []).append(trial)
        groups = sorted(alike.values(), key=len, reverse=True)
        if state is State.STOPPED:
            groups.sort(key=lambda group: group[0].last_epoch)
        for group in groups:
            reason = " ".join(group[0].reason.split())
            yield EndedAlike(state, reason, tuple(trial.number for trial in group))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path | State) else value


# -- parts of the screen ------------------------------------------------------------------------


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
    if len(summary.rank_by) == 1:
        yield Text(f"Best trial by {ranked}", style="bold")
    else:
        yield Text(f"Pareto set of {ranked}", style="bold")
        yield Text("Trials trained to the last epoch that no other one beats in every metric.")
    yield _values_table(summary)
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
    yield _params_table(summary.findings)
    yield Text()


def _nothing_text(summary: Summary) -> str:
    if not summary.num_rows:
        return "No trial finished its first evaluation, so nothing was found."
    furthest = max(summary.unfinished.values(), default=0)
    text = f"No trial is complete (a whole one has {summary.epochs} epochs), so none is best. "
    are = "evaluation is" if summary.num_rows == 1 else "evaluations are"
    text += f"{summary.num_rows} {are} recorded and kept"
    return text + (f"; unfinished trials stand at epoch {furthest} at most." if furthest else ".")


def _values_table(summary: Summary) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("trial", justify="right")
    has_test = any(finding.test for finding in summary.findings)
    sparse = next((m for m in summary.rank_by if m.startswith("sparsity/")), None)
    beside = sparse or list(summary.rank_by)[-1]
    for metric, name in short_names(summary.rank_by).items():
        heads = ["last", "best @ epoch", *(["test"] if has_test else [])]
        for head in heads:
            table.add_column(Text(f"{name}\n{head}"), justify="right")
        if metric == beside:
            table.add_column(Text("active\nunits"), justify="right")
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
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _params_table(findings: Sequence[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("trial", justify="right")
    keys = list(dict.fromkeys(key for finding in findings for key in finding.params))
    names = short_names(keys)
    has_settings = any(finding.setting for finding in findings)
    if has_settings:
        table.add_column("setting", overflow="fold")
    for key in keys:
        table.add_column(Text(names[key].replace("_", "\n", 1)), justify="right", overflow="fold")
    for finding in findings:
        cells = [str(finding.number), *([finding.setting or ""] if has_settings else [])]
        cells += [number(finding.params[key]) if key in finding.params else "" for key in keys]
        table.add_row(*(Text(cell) for cell in cells))
    return table


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


def _place(label: str, place: str | Path) -> Text:
    return Text(f"  {label:<12}{place}")
