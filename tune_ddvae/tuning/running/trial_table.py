"""The table of trials that a terminal shows while a study runs."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from tune_ddvae.config import Value
from tune_ddvae.spec import Choice, StudySpec, flat_space
from tune_ddvae.tuning.trials import State, Trial
from tune_ddvae.tuning.wording import (
    measured,
    number,
    params_text,
    searched,
    short_names,
    shown_metrics,
)

GAP = 2  # between columns
JOINED = "params"  # heading of the column that all params share
STYLES = {State.COMPLETE: "green", State.FAILED: "red", State.COLLAPSED: "yellow"}  # beside words


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
        row = trial.latest_row
        left.append(
            [
                "*" if trial.number in stars else "",
                str(trial.number),
                _standing(trial, in_flight),
                f"{row.epoch if row else 0}/{spec.base.training.epochs}",
                *(measured(row, metric) if row else "" for metric in metrics),
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
        setting = [trial.label] if has_settings else []
        cells.append([*setting, *_params(spec, names, trial.config)])
    if _needed(cells) <= width:
        return cells
    if width < len(JOINED):
        return [[] for _ in cells]
    joined = [trial.label or params_text(spec, trial.config) for trial in trials]
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


def _needed(lines: Sequence[Sequence[str]]) -> int:
    """Width of a table whose first line is its headings."""
    heads = [max(name.split("_", 1), key=len) for name in lines[0]]
    widths = [max(map(len, column)) for column in zip(heads, *lines[1:], strict=True)]
    return sum(widths) + GAP * (len(widths) - 1)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
