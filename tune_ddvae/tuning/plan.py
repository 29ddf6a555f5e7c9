"""What a study would do and what it would take, before anything is created.

Also how names, numbers, times and sizes are written on every screen of a study.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tune_ddvae.config import TrialConfig, Value, to_flat
from tune_ddvae.spec import Choice, Space, StudySpec, flat_space
from tune_ddvae.tuning.resources import Slots
from tune_ddvae.tuning.tracking import without_password

CHECKPOINTS_KEPT = 3  # of each trial: the two newest and the best epoch's
BYTES_PER_FLOAT = 4
ALWAYS_SHOWN = ("data/name", "prior/kind", "likelihood/kind")  # defaults too: they say what it is
EULER_GAMMA = 0.5772156649


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One start of a study, decided in every detail."""

    name: str
    study_file: str
    doc: str  # of the study file; its first line is shown
    spec: StudySpec  # at its size, with its pins
    trials: int | None  # in all; None: as many as the hours allow
    hours: float | None = None  # budget, over all starts
    seed: int = 0  # of the study
    num_recorded: int = 0  # trials that the record already holds
    slots: Slots
    data_place: str  # where the data was found, or will come from
    folder: Path  # of the study, absolute
    record: str  # address
    tracking: str  # address
    free_bytes: int  # where the folder lies
    num_parameters: int  # of the largest model in the search space
    seconds_per_epoch: float | None = None  # of one trial, evaluation included; None: unknown

    @property
    def epochs(self) -> int:
        """Epochs of a trial that nobody stops."""
        return self.spec.base.training.epochs

    @property
    def disk_bytes(self) -> int | None:
        """Most that the checkpoints take; None without a number of trials.

        A parameter is kept as a weight and as Adam's two moments, three with AMSGrad.
        """
        if self.trials is None:
            return None
        floats = 4 if self.spec.base.optimiser.amsgrad else 3
        checkpoint = floats * BYTES_PER_FLOAT * self.num_parameters
        return self.trials * CHECKPOINTS_KEPT * checkpoint

    @property
    def expected_epochs(self) -> float | None:
        """Epochs that all trials train together; None without a number of trials."""
        return None if self.trials is None else expected_epochs(self.spec, self.trials)

    @property
    def seconds(self) -> float | None:
        """Rough time from the first trial's start to the last one's end; None where unknown."""
        if self.trials is None or self.seconds_per_epoch is None:
            return None
        at_once = min(self.slots.concurrent, self.trials)
        one_trial = self.epochs * self.seconds_per_epoch  # nothing is quicker than its longest
        return max(
            expected_epochs(self.spec, self.trials) * self.seconds_per_epoch / at_once, one_trial
        )

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data; every value unrounded."""
        return {
            "name": self.name,
            "study_file": self.study_file,
            "doc": first_line(self.doc),
            "rank_by": dict(self.spec.rank_by),
            "measured_on": measured_on(self.spec.base),
            "base": to_flat(self.spec.base),
            "space": {
                row.key: {**json.loads(distribution_to_json(row.dist)), "under": dict(row.under)}
                for row in _space_rows(self.spec.space)
            },
            "first": {name: dict(self.spec.published[name]) for name in self.spec.first},
            "trials": self.trials,
            "hours": self.hours,
            "num_recorded": self.num_recorded,
            "epochs": self.epochs,
            "rungs": list(self.spec.rungs),
            "reduction_factor": self.spec.size.reduction_factor,
            "sampler": self.spec.sampler,
            "startup_trials": self.spec.size.startup_trials,
            "seed": self.seed,
            "slots": dataclasses.asdict(self.slots),
            "data": self.data_place,
            "folder": str(self.folder),
            "record": without_password(self.record),
            "tracking": without_password(self.tracking),
            "free_bytes": self.free_bytes,
            "disk_bytes": self.disk_bytes,
            "num_parameters": self.num_parameters,
            "expected_epochs": self.expected_epochs,
            "seconds_per_epoch": self.seconds_per_epoch,
            "seconds": self.seconds,
        }


def render(plan: Plan) -> RenderableType:
    """The plan as a screen: what is searched, how, with what, and where it will lie."""
    spec = plan.spec
    what = _grid()
    _add(what, "study file", plan.study_file)
    for metric, way in spec.rank_by.items():
        _add(what, "ranks by" if metric == next(iter(spec.rank_by)) else "", f"{metric} ({way})")
    size = spec.base.data.num_validation or spec.base.data.test_size
    _add(what, "measured on", f"the {measured_on(spec.base)} set, {size} points")
    for number, (part, text) in enumerate(_base_lines(spec).items()):
        _add(what, "" if number else "every trial", f"{part}: {text}")

    how = _grid()
    _add(how, "trials", _trials_text(plan))
    _add(how, "first", ", ".join(spec.first) or "none: the sampler proposes from the start")
    _add(how, "epochs", _rungs_text(spec))
    _add(how, "sampler", _sampler_text(spec, plan.seed))
    _add(how, "at once", _slots_text(plan.slots))
    _add(how, "data", plan.data_place)
    _add(how, "folder", str(plan.folder))
    _add(how, "record", without_password(plan.record))
    _add(how, "tracking", without_password(plan.tracking))
    _add(how, "disk", _disk_text(plan))
    _add(how, "time", _time_text(plan))
    return Group(
        Text(f"Study {plan.name}", style="bold"),
        Text(first_line(plan.doc)),
        Text(),
        what,
        Text(),
        _space_table(spec.space),
        Text(),
        how,
    )


# -- what a study takes -------------------------------------------------------------------------


def expected_epochs(spec: StudySpec, trials: int) -> float:
    """Epochs that so many trials train together, those that halving saves left out."""
    total, arrivals, before = 0.0, float(trials), 0
    for rung in spec.rungs:
        total += arrivals * (rung - before)
        arrivals = expected_to_go_on(arrivals, spec.size.reduction_factor)
        before = rung
    return total + arrivals * (spec.base.training.epochs - before)


def expected_to_go_on(arrivals: float, reduction_factor: int) -> float:
    """How many of the trials that reach a rung pass it, if good and bad ones come in any order.

    More than one in ``reduction_factor``, since a rung starts empty: the first to arrive passes, and
    after i others one does with probability (1 + (i - 1) / factor) / (i + 1), the share of places
    above the interpolated quantile that ``halving.goes_on`` asks for. In a study of a dozen trials
    that makes a third more epochs.
    """
    if arrivals <= 1:
        return arrivals
    harmonic = math.log(arrivals) + EULER_GAMMA + 1 / (2 * arrivals)
    share = 1 / reduction_factor
    return min(arrivals, arrivals * share + (1 - 2 * share) * harmonic + share)


def epochs_left(spec: StudySpec, epoch: int, passing: Mapping[int, float]) -> float:
    """Epochs that a trial at ``epoch`` still trains on average.

    Args:
        spec: The study.
        epoch: Where the trial stands.
        passing: Share of the trials that pass, for every rung.
    """
    left, chance, at = 0.0, 1.0, epoch
    for rung in (*spec.rungs, spec.base.training.epochs):
        if rung > epoch:
            left += chance * (rung - at)
            at = rung
            chance *= passing.get(rung, 1.0)
    return left


# -- how things are written ---------------------------------------------------------------------


def number(value: Value) -> str:
    """Four significant digits, whole numbers and words as they are."""
    if not isinstance(value, float):
        return "none" if value is None else str(value)
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def figure(value: float) -> str:
    """A metric in four significant digits, zeros kept, so that a column of them lines up."""
    return number(value) if abs(value) >= 1e4 else f"{value:#.4g}".rstrip(".")


def duration(seconds: float) -> str:
    """Seconds in the two largest units that they fill."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole < 600 and whole % 60 else "")
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours < 24:
        return f"{hours} h" + (f" {minutes} min" if minutes else "")
    return f"{hours // 24} d" + (f" {hours % 24} h" if hours % 24 else "")


def file_size(num_bytes: int) -> str:
    """Bytes in the unit that reads best."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def first_line(doc: str) -> str:
    """The first line of a docstring that says something."""
    return next((line.strip() for line in doc.splitlines() if line.strip()), "")


def measured_on(config: TrialConfig) -> str:
    """Which data the unprefixed metrics come from."""
    return "validation" if config.has_validation else "test"


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Each key's last part, or its first for ``part/kind``; the whole key where that is not unique."""
    keys = list(keys)
    short = {
        key: key.partition("/")[0] if key.endswith("/kind") else key.rpartition("/")[2]
        for key in keys
    }
    names = list(short.values())
    return {key: name if names.count(name) == 1 else key for key, name in short.items()}


def searched(spec: StudySpec, config: Mapping[str, Value]) -> dict[str, Value]:
    """The searched keys of a configuration that have a meaning in it, inside the space or not."""
    found: dict[str, Value] = {}
    for key, dist in spec.space.items():
        found[key] = config[key]
        if isinstance(dist, Choice):
            inner = dist.options.get(str(config[key]), {})
            found.update({conditional: config[conditional] for conditional in inner})
    return found


def params_text(spec: StudySpec, config: Mapping[str, Value]) -> str:
    """The searched keys of a configuration on one line, in short names."""
    names = short_names(flat_space(spec.space))
    return ", ".join(
        f"{names[key]} {number(value)}" for key, value in searched(spec, config).items()
    )


# -- parts of the screen ------------------------------------------------------------------------


@dataclass(frozen=True)
class _SpaceRow:
    key: str
    dist: BaseDistribution
    under: Mapping[str, tuple[str, ...]]  # choice -> options that the key has a meaning under


def _space_rows(space: Space) -> list[_SpaceRow]:
    rows: dict[str, _SpaceRow] = {}
    for key, dist in space.items():
        if not isinstance(dist, Choice):
            rows[key] = _SpaceRow(key, dist, {})
            continue
        rows[key] = _SpaceRow(key, CategoricalDistribution(tuple(dist.options)), {})
        for option, ranges in dist.options.items():
            for inner, inner_dist in ranges.items():
                before = rows[inner].under.get(key, ()) if inner in rows else ()
                rows[inner] = _SpaceRow(inner, inner_dist, {key: (*before, option)})
    return list(rows.values())


def _space_table(space: Space) -> RenderableType:
    if not space:
        return Text("Nothing is searched: every trial is one of the published settings.")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("searched", "range", "drawn", "only under"):
        table.add_column(heading, no_wrap=heading != "range", overflow="fold")
    for row in _space_rows(space):
        under = "; ".join(f"{key} {' or '.join(names)}" for key, names in row.under.items())
        values, drawn = _range_text(row.dist)
        table.add_row(*(Text(cell) for cell in (row.key, values, drawn, under)))
    return table


def _range_text(dist: BaseDistribution) -> tuple[str, str]:
    if isinstance(dist, FloatDistribution | IntDistribution):
        step = f", steps of {dist.step}" if dist.step and not _is_plain_int(dist) else ""
        whole = "whole, " if isinstance(dist, IntDistribution) else ""
        return f"{dist.low} to {dist.high}", f"{whole}{'log' if dist.log else 'even'}{step}"
    if isinstance(dist, CategoricalDistribution):
        only = "fixed" if len(dist.choices) == 1 else "one of these"
        return ", ".join(str(choice) for choice in dist.choices), only
    return repr(dist), ""


def _is_plain_int(dist: BaseDistribution) -> bool:
    return isinstance(dist, IntDistribution) and dist.step == 1


def _base_lines(spec: StudySpec) -> dict[str, str]:
    """What differs from the defaults, part by part, without what is searched."""
    plain, hidden = to_flat(TrialConfig()), flat_space(spec.space)
    lines: dict[str, list[str]] = {}
    for key, value in to_flat(spec.base).items():
        if key in hidden or (value == plain[key] and key not in ALWAYS_SHOWN):
            continue
        part, _, name = key.partition("/")
        if value is None and part in ("prior", "likelihood") and plain[key] is not None:
            continue  # a field of another kind
        lines.setdefault(part, []).append(f"{name} {'none' if value is None else value}")
    return {part: ", ".join(parts) for part, parts in lines.items()}


def _trials_text(plan: Plan) -> str:
    text = "as many as the hours allow" if plan.trials is None else str(plan.trials)
    if plan.num_recorded:
        text += f", {plan.num_recorded} of them recorded already"
    return text if plan.hours is None else f"{text}; at most {plan.hours:g} h over all starts"


def _rungs_text(spec: StudySpec) -> str:
    epochs = spec.base.training.epochs
    if not spec.rungs:
        return f"{epochs}; no trial is stopped early"
    rungs = ", ".join(str(rung) for rung in spec.rungs)
    return (
        f"{epochs}, compared by {next(iter(spec.rank_by))} after {rungs}; "
        f"about 1 in {spec.size.reduction_factor} goes on"
    )


def _sampler_text(spec: StudySpec, seed: int) -> str:
    text = f"{spec.sampler}, seed {seed}"
    return (
        text
        if spec.sampler == "random"
        else (f"{text}; the first {spec.size.startup_trials} proposals at random")
    )


def _slots_text(slots: Slots) -> str:
    text = f"{slots.concurrent} {_plural('trial', slots.concurrent)}, each with "
    text += f"{slots.num_cpus:g} {_plural('CPU', slots.num_cpus)}"
    gpus = f"{slots.num_gpus:g} {_plural('GPU', slots.num_gpus)}" if slots.num_gpus else "no GPU"
    return f"{text} and {gpus}"


def _disk_text(plan: Plan) -> str:
    free = f"{file_size(plan.free_bytes)} free"
    if plan.disk_bytes is None:
        return f"{free}; needed: unknown without a number of trials"
    needed = f"at most {file_size(plan.disk_bytes)} needed for checkpoints, {free}"
    return f"{needed}: NOT ENOUGH" if plan.disk_bytes > plan.free_bytes else needed


def _time_text(plan: Plan) -> str:
    if plan.expected_epochs is None:
        return "until the hours are used up"
    epochs = f"some {plan.expected_epochs:.0f} epochs in all"
    if plan.seconds is None:
        return f"unknown; {epochs}"
    return f"about {duration(plan.seconds)}: {epochs}, {number(plan.seconds_per_epoch)} s each"


def _plural(noun: str, count: int | float) -> str:
    return noun if count == 1 else f"{noun}s"


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True, width=11)
    grid.add_column(overflow="fold")
    return grid


def _add(grid: Table, label: str, value: str) -> None:
    grid.add_row(Text(label), Text(value))
