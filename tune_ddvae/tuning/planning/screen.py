"""What a dry run shows of a plan."""

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tune_ddvae.config import TrialConfig, to_flat
from tune_ddvae.spec import Space, StudySpec, flat_space
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.cluster.resources import Slots, memory_text
from tune_ddvae.tuning.planning.plan import Plan, space_rows
from tune_ddvae.tuning.wording import duration, file_size, first_line, measured_on, number, plural

ALWAYS_SHOWN = ("data/name", "prior/kind", "likelihood/kind")  # defaults too: they say what it is


def render(plan: Plan) -> RenderableType:
    """The plan as a screen: what is searched, how, with what, and where it will lie."""
    spec = plan.spec
    what = _grid()
    _add(what, "study file", plan.study_file)
    for metric, way in spec.rank_by.items():
        _add(what, "ranks by" if metric == next(iter(spec.rank_by)) else "", f"{metric} ({way})")
    size = spec.base.data.num_validation or spec.base.data.test_size
    _add(what, "measured on", f"the {measured_on(spec.base)} set, {size} points")
    for position, (part, text) in enumerate(_base_lines(spec).items()):
        _add(what, "" if position else "every trial", f"{part}: {text}")

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


def _space_table(space: Space) -> RenderableType:
    if not space:
        return Text("Nothing is searched: every trial is one of the published settings.")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("searched", "range", "drawn", "only under"):
        table.add_column(heading, no_wrap=heading != "range", overflow="fold")
    for row in space_rows(space):
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
    text = f"{slots.concurrent} {plural('trial', slots.concurrent)}, each with "
    text += f"{slots.num_cpus:g} {plural('CPU', slots.num_cpus)}"
    gpus = f"{slots.num_gpus:g} {plural('GPU', slots.num_gpus)}" if slots.num_gpus else "no GPU"
    if slots.memory_gb:
        return f"{text}, {gpus} and {memory_text(slots.memory_gb)}"
    return f"{text} and {gpus}"


def _disk_text(plan: Plan) -> str:
    free = (
        "a bucket has no end" if plan.free_bytes is None else f"{file_size(plan.free_bytes)} free"
    )
    if plan.disk_bytes is None:
        return f"{free}; needed: unknown without a number of trials"
    needed = f"at most {file_size(plan.disk_bytes)} needed for checkpoints, {free}"
    lacks = plan.free_bytes is not None and plan.disk_bytes > plan.free_bytes
    return f"{needed}: NOT ENOUGH" if lacks else needed


def _time_text(plan: Plan) -> str:
    if plan.expected_epochs is None:
        return "until the hours are used up"
    epochs = f"some {plan.expected_epochs:.0f} epochs in all"
    if plan.num_recorded:
        epochs = f"some {plan.expected_epochs:.0f} epochs of {plan.num_new} new trials"
    if plan.num_new == 0:
        return "that of unfinished trials, if there are any: no new one is to be begun"
    if plan.seconds is None:
        return f"unknown; {epochs}"
    return f"about {duration(plan.seconds)}: {epochs}, {number(plan.seconds_per_epoch)} s each"


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True, width=11)
    grid.add_column(overflow="fold")
    return grid


def _add(grid: Table, label: str, value: str) -> None:
    grid.add_row(Text(label), Text(value))
