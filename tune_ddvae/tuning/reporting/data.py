"""What the figures of a study are drawn from: trials as arrays. Pure.

Values are those of the last epoch of trials that were trained to it, on the test set where it was
measured; what a study ranks by is shown on the data that it ranks on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tune_ddvae.analysis.published import published_value
from tune_ddvae.config import METRICS, PRIORS, Direction, Value
from tune_ddvae.plots.seeds import Series
from tune_ddvae.plots.study import SYMBOLS
from tune_ddvae.plots.trials import Course
from tune_ddvae.spec import SEED
from tune_ddvae.tuning.search import ranking
from tune_ddvae.tuning.trials import Row, Trial
from tune_ddvae.tuning.wording import ACTIVE_UNITS, number

ALPHA, BETA, KIND = "objective/alpha", "objective/beta", "prior/kind"
TEST = "test/"
_ALWAYS_NAMED = ("prior/learns_variance", "prior/df", "prior/gamma")  # where the kind reads them
_WORDS: Mapping[tuple[str, Value], str] = {
    ("prior/learns_variance", True): "learned",
    ("prior/learns_variance", False): "fixed",
}


@dataclass(frozen=True)
class WholeTrials:
    """The trials of a study that were trained to the last epoch, and which values to take of them.

    Attributes:
        trials: In order of number.
        prefix: Of the metrics' names.
    """

    trials: tuple[Trial, ...]
    prefix: str

    @property
    def measured_on(self) -> str:
        """Which data the values come from, in words."""
        if self.prefix:
            return "test set"
        kinds = {str(trial.facts.get("measured_on", "evaluation")) for trial in self.trials}
        return f"{' and '.join(sorted(kinds))} set"

    def value(self, trial: Trial, metric: str) -> float:
        """The metric at the trial's last epoch; nan where it has none."""
        row = trial.rows[trial.last_epoch]
        return row.metrics.get(f"{self.prefix}{metric}", float("nan"))

    def has(self, metric: str) -> bool:
        """Whether any of the trials has a value."""
        return any(np.isfinite(self.value(trial, metric)) for trial in self.trials)


def whole_trials(trials: Iterable[Trial]) -> WholeTrials:
    """The whole trials, collapsed ones too; values on the test set where one of them has any there."""
    whole = sorted((t for t in trials if t.is_whole), key=lambda t: t.number)
    last = [trial.rows[trial.last_epoch].metrics for trial in whole]
    has_test = any(key.startswith(TEST) for metrics in last for key in metrics)
    return WholeTrials(tuple(whole), TEST if has_test else "")


# -- lines over beta and alpha ------------------------------------------------------------------------


def swept_lines(of: WholeTrials, swept: str, metrics: Iterable[str]) -> list[Series]:
    """The whole trials that differ in ``swept`` and the seed alone, as one series each.

    Of them those with at least two swept values, in the order of their first trials.
    """
    lines = [g for g in _alike(of.trials, swept) if len({t.config[swept] for t in g}) > 1]
    return _named(of, lines, swept, list(metrics))


def swept_series(of: WholeTrials, swept: str, metrics: Iterable[str]) -> list[Series]:
    """Lines over ``swept``, and the trials of a search as single networks by their prior.

    Published settings of one swept value are points of their own where there is no line at all.
    """
    metrics = list(metrics)
    lines, points, single = [], [], dict[str, list[Trial]]()
    for group in _alike(of.trials, swept):
        if len({t.config[swept] for t in group}) > 1:
            lines.append(group)
        elif any(t.setting for t in group):
            points.append(group)
        else:
            single.setdefault(str(group[0].config[KIND]), []).extend(group)
    clouds = [
        _series(of, group, swept, metrics, f"{kind}, searched", is_line=False)
        for kind, group in sorted(single.items())
    ]
    return [*_named(of, lines or points, swept, metrics), *clouds]


def _alike(trials: Iterable[Trial], swept: str) -> list[list[Trial]]:
    """Trials in groups that have all settings but ``swept`` and the seed in common."""
    groups: dict[frozenset[tuple[str, Value]], list[Trial]] = {}
    for trial in trials:
        shared = {key: v for key, v in trial.config.items() if key not in (swept, SEED)}
        groups.setdefault(frozenset(shared.items()), []).append(trial)
    return list(groups.values())


def _named(
    of: WholeTrials, groups: Sequence[Sequence[Trial]], swept: str, metrics: Sequence[str]
) -> list[Series]:
    """Series named by their prior and by whatever else they differ in."""
    firsts = [group[0].config for group in groups]
    differing = [
        key
        for key in (firsts[0] if firsts else ())
        if not key.startswith("prior/")
        and key not in (swept, SEED)
        and len({config[key] for config in firsts}) > 1
    ]
    has_sparse = any(config[KIND] == "sparse" for config in firsts)
    found = []
    for group, config in zip(groups, firsts, strict=True):
        others = [_setting_text(key, config[key]) for key in differing]
        # The paper calls the normal prior gamma 0 where it compares it with sparse ones.
        zero = ["γ 0"] if has_sparse and config[KIND] == "normal" else []
        name = ", ".join([prior_text(config), *zero, *others])
        found.append(_series(of, group, swept, metrics, name))
    return found


def _series(
    of: WholeTrials,
    group: Sequence[Trial],
    swept: str,
    metrics: Sequence[str],
    name: str,
    *,
    is_line: bool = True,
) -> Series:
    return Series(
        name=name,
        swept=np.array([trial.config[swept] for trial in group], dtype=np.float64),
        metrics={
            metric: np.array([of.value(trial, metric) for trial in group], dtype=np.float64)
            for metric in metrics
        },
        is_line=is_line,
        published={
            metric: np.array(stated, dtype=np.float64)
            for metric in metrics
            if any(map(np.isfinite, stated := [_published(trial, metric) for trial in group]))
        },
    )


def _published(trial: Trial, metric: str) -> float:
    value = published_value(trial.config, metric)
    return np.nan if value is None else value


def prior_text(config: Mapping[str, Value]) -> str:
    """The prior in a few words: its kind, and what of it is not as by default."""
    kind = str(config[KIND])
    words = [kind]
    for name, default in PRIORS[kind].items():
        key = f"prior/{name}"
        if key in _ALWAYS_NAMED or config[key] != default:
            words.append(_setting_text(key, config[key]))
    return ", ".join(words)


def _setting_text(key: str, value: Value) -> str:
    short = SYMBOLS.get(key, key.partition("/")[2].replace("_", " "))
    return _WORDS.get((key, value), f"{short} {number(value)}")


# -- all trials ---------------------------------------------------------------------------------------


def courses(
    trials: Iterable[Trial], rank_by: Mapping[str, Direction], metrics: Iterable[str]
) -> list[Course]:
    """Every trial that was evaluated at least once, with its history."""
    trials, metrics = [trial for trial in trials if trial.rows], list(metrics)
    best = {trial.number for trial in ranking.pareto_set(trials, rank_by)}
    return [_course(trial, metrics, is_best=trial.number in best) for trial in trials]


def _course(trial: Trial, metrics: Sequence[str], *, is_best: bool) -> Course:
    rows = [trial.rows[epoch] for epoch in sorted(trial.rows)]
    active = rows[-1].metrics.get(ACTIVE_UNITS)
    return Course(
        number=trial.number,
        group=str(trial.config[KIND]),
        is_whole=trial.is_whole,
        is_best=is_best,
        note="" if active is None else f"{active:g}",
        epochs=np.array([row.epoch for row in rows], dtype=np.int64),
        metrics={metric: _history(rows, metric) for metric in metrics},
    )


def _history(rows: Sequence[Row], metric: str) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return np.array([row.metrics.get(metric, np.nan) for row in rows], dtype=np.float64)


def disentanglement_metrics(of: WholeTrials) -> list[str]:
    """The disentanglement metrics that any whole trial has."""
    return [m for m in METRICS if m.startswith("disentanglement/") and of.has(m)]
