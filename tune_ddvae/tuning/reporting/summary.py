"""What a study found, how its trials ended, where everything lies and how to go on."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_ddvae.config import Direction, Value
from tune_ddvae.spec import StudySpec
from tune_ddvae.tuning import provenance
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.running.live import LiveStudy
from tune_ddvae.tuning.search import ranking
from tune_ddvae.tuning.search.seeds import SettingScores, over_seeds
from tune_ddvae.tuning.storage.bucket import Bucket
from tune_ddvae.tuning.storage.place import Place, absolute
from tune_ddvae.tuning.trials import State, Trial
from tune_ddvae.tuning.wording import ACTIVE_UNITS, measured_on, searched


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
    replicate: int | None  # which of its seeds, where several are trained
    params: Mapping[str, Value]  # the searched part of ``config``
    config: Mapping[str, Value]  # all that its numbers follow from
    epoch: int  # the last one, that all values but ``best_epochs`` were measured at
    values: Mapping[str, float]  # of rank_by
    best_epochs: Mapping[str, BestEpoch]  # of rank_by
    test: Mapping[str, float]  # all that was measured on the test set at the end
    absent: Mapping[str, str]  # metric -> why it has no value at the last epoch
    active_units: int | None
    checkpoint: Place | None  # gives ``values``
    best_checkpoint: Place | None  # of the first metric's best epoch
    gone: tuple[Place, ...]  # which of these is not there any more; a bucket is not asked


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
    settings: tuple[SettingScores, ...]  # of a study of published settings, over their seeds
    groups: tuple[EndedAlike, ...]  # all that ended before the last epoch
    unfinished: Mapping[int, int]  # trial -> epochs recorded
    epochs: int  # of a whole trial
    num_rows: int  # evaluations recorded
    hours: float  # of this session
    earlier_hours: float
    folder: Place  # absolute
    record: str  # address
    tracking_uri: str
    open_command: str  # shows the study in MLflow
    continue_command: str | None  # None: no work is left
    report: Place | None = None  # folder of the figures

    def to_json(self) -> dict[str, Any]:
        """The summary as plain data."""
        facts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain: dict[str, Any] = _plain(facts)
        return plain


def summarise(
    study: LiveStudy,
    *,
    name: str,
    folder: Place,
    record: str,
    tracking_uri: str,
    outcome: str,
    command: str,
    hours: float,
    earlier_hours: float = 0.0,
    report: Place | None = None,
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
        report: Where its figures lie, if they were made.
    """
    spec = study.spec
    trials = sorted(study.trials.values(), key=lambda trial: trial.number)
    folder = absolute(folder)
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
        settings=tuple(
            over_seeds(trials, spec.replicated, (*spec.rank_by, ACTIVE_UNITS, "latent/kl"))
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
        continue_command=None if study.is_complete and not study.failed_in_vain else command,
        report=None if report is None else absolute(report),
    )


def open_command(tracking_uri: str) -> str:
    """What shows the runs at a tracking address: a command, or the address of a server."""
    if tracking_uri.startswith(("http://", "https://")):
        return tracking_uri
    words = ["ui", "--backend-store-uri", tracking_uri, "--host", "127.0.0.1"]
    return provenance.command("mlflow", words)


def _finding(spec: StudySpec, trial: Trial, folder: Place) -> Finding:
    last = trial.rows[spec.base.training.epochs]
    active = last.metrics.get(ACTIVE_UNITS)
    best = {
        metric: BestEpoch(epoch, trial.rows[epoch].metrics[metric])
        for metric, way in spec.rank_by.items()
        if (epoch := ranking.best_epoch(trial, metric, way)) is not None
    }
    first = best.get(next(iter(spec.rank_by)))
    checkpoint = _checkpoint(trial, last.epoch, folder)
    best_checkpoint = None if first is None else _checkpoint(trial, first.epoch, folder)
    return Finding(
        number=trial.number,
        setting=trial.setting,
        replicate=trial.replicate,
        params=searched(spec, trial.config),
        config=dict(trial.config),
        epoch=last.epoch,
        values={metric: last.metrics[metric] for metric in spec.rank_by},
        best_epochs=best,
        test={k: v for k, v in last.metrics.items() if k.startswith("test/")},
        absent=dict(last.absent),
        active_units=None if active is None else int(active),
        checkpoint=checkpoint,
        best_checkpoint=best_checkpoint,
        gone=tuple(
            place
            for place in dict.fromkeys((checkpoint, best_checkpoint))
            if isinstance(place, Path) and not place.is_dir()
        ),
    )


def _checkpoint(trial: Trial, epoch: int, folder: Place) -> Place | None:
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
    if isinstance(value, Path | Bucket | State):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return value
