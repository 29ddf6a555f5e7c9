"""Which figures a study's trials allow, decided by their metrics and settings, never by its name."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure

from tune_ddvae.analysis.figures import model_densities, plane_edges, reach_of
from tune_ddvae.analysis.measure import components_kept
from tune_ddvae.analysis.model import TrainedModel, open_checkpoint
from tune_ddvae.analysis.published import PUBLISHED_EPOCHS
from tune_ddvae.analysis.view import look, points_of
from tune_ddvae.errors import CheckpointError
from tune_ddvae.models.priors import CLUSTER_MEANS
from tune_ddvae.plots.density import PRIOR_MASS, Panel, density_panels
from tune_ddvae.plots.study import SYMBOLS, sweep, tradeoff
from tune_ddvae.plots.trials import histories, pareto
from tune_ddvae.spec import StudySpec
from tune_ddvae.tuning.reporting.data import (
    ALPHA,
    BETA,
    WholeTrials,
    courses,
    disentanglement_metrics,
    swept_lines,
    swept_series,
    whole_trials,
)
from tune_ddvae.tuning.storage.place import Place, fetched
from tune_ddvae.tuning.trials import State, Trial
from tune_ddvae.tuning.wording import ACTIVE_UNITS, measured_on

RECONSTRUCTION = "log_likelihood/reconstruction"
COMPONENTS = "latent/components_used"
_SPARSITY = ("sparsity/hoyer_all", "sparsity/hoyer")  # the paper's first
_MOST_PANELS = 6  # in a row
_CELLS = 100  # of a panel, on a side: small panels

Make = Callable[[], Figure]


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a study's figures are made from.

    Attributes:
        name: The study's.
        spec: The study.
        trials: All of them, in order of number.
        folder: The study's, or a stand-in for it on this machine.
        checkpoints_in: What the trials' checkpoints are relative to; None: the folder.
        data_dir: Where the data set's files are; None: wherever found.
    """

    name: str
    spec: StudySpec
    trials: Sequence[Trial]
    folder: Path
    checkpoints_in: Place | None = None
    data_dir: Path | None = None


def study_figures(of: Material) -> Iterator[tuple[str, Make]]:
    """Every figure that applies to the study, by name; nothing is drawn before it is asked for."""
    whole = whole_trials(of.trials)
    if scores := disentanglement_metrics(whole):
        yield "disentanglement", partial(_tradeoff, of, whole, scores[:1])
        if len(scores) > 1:
            yield "disentanglement-all", partial(_tradeoff, of, whole, scores)
    swept = _betas_with_lines(whole)
    for beta in swept:
        name = "alpha" if len(swept) == 1 else f"alpha-beta-{beta:g}"
        yield name, partial(_alpha_sweep, of, whole, beta)
    if rows := density_rows(whole):
        yield "densities", partial(_densities, of, rows)
    if any(trial.rows for trial in of.trials):
        if len(of.spec.rank_by) > 1:
            yield "pareto", partial(_pareto, of)
        yield "histories", partial(_histories, of)


# -- values over beta and alpha -----------------------------------------------------------------------


def _tradeoff(of: Material, whole: WholeTrials, scores: Sequence[str]) -> Figure:
    title = (
        f"{of.name}: disentanglement against reconstruction\n{_last_epoch(of)}, {whole.measured_on}"
    )
    series = swept_series(whole, BETA, [RECONSTRUCTION, *scores])
    return tradeoff(series, x=RECONSTRUCTION, ys=scores, swept=BETA, title=title)


def _betas_with_lines(whole: WholeTrials) -> list[float]:
    """The values of beta at which some setting was trained with several alphas."""
    betas = sorted({float(trial.config[BETA] or 0.0) for trial in whole.trials})
    return [beta for beta in betas if swept_lines(_at_beta(whole, beta), ALPHA, ())]


def _at_beta(whole: WholeTrials, beta: float) -> WholeTrials:
    return WholeTrials(tuple(t for t in whole.trials if t.config[BETA] == beta), whole.prefix)


def _alpha_sweep(of: Material, whole: WholeTrials, beta: float) -> Figure:
    here = _at_beta(whole, beta)
    divergence = f"divergence/{of.spec.base.objective.divergence}"
    wanted = (_SPARSITY, (ACTIVE_UNITS,), (COMPONENTS,), (RECONSTRUCTION,), (divergence,))
    panels = [kept for metrics in wanted if (kept := [m for m in metrics if here.has(m)])]
    lines = swept_lines(here, ALPHA, [metric for metrics in panels for metric in metrics])
    return sweep(
        lines,
        panels=panels,
        swept=ALPHA,
        published=f"published, {PUBLISHED_EPOCHS} epochs",
        title=f"{of.name}: against alpha at β {beta:g}\n{_last_epoch(of)}, {here.measured_on}",
    )


def _last_epoch(of: Material) -> str:
    return f"epoch {of.spec.base.training.epochs}"


# -- densities over the plane -------------------------------------------------------------------------


def density_rows(whole: WholeTrials) -> list[list[list[Trial]]]:
    """The trials behind each panel: a row of alpha 0 along beta, and one of beta 0 along alpha.

    A panel holds all seeds of one setting. Published settings alone where there are any, since a
    search varies other things too; of more than fit in a row, some evenly chosen.
    """
    flat = [t for t in whole.trials if t.config["model/latent_dim"] == 2]
    flat = [t for t in flat if t.setting] or flat
    rows = []
    for fixed, varied in ((ALPHA, BETA), (BETA, ALPHA)):
        panels: dict[float, list[Trial]] = {}
        for trial in flat:
            if trial.config[fixed] == 0.0:
                panels.setdefault(float(trial.config[varied] or 0.0), []).append(trial)
        values = _evenly(sorted(panels), _MOST_PANELS)
        rows.append([panels[value] for value in values])
    return [row for row in rows if row]


def _evenly(values: Sequence[float], most: int) -> list[float]:
    """All values, or so many with both ends among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def _densities(of: Material, rows: Sequence[Sequence[Sequence[Trial]]]) -> Figure:
    """Panels of the first trial of each setting: named beforehand, never picked by its looks.

    Of the training points, as the paper's: those that the clusters kept are counted on.
    """
    shown = [[(group, open_trial(of, group[0])) for group in row] for row in rows]
    views = [[look(model, split="train") for _, model in row] for row in shown]
    edges = max(
        (
            plane_edges(view.posterior.mean, reach_of(model), _CELLS)
            for row, row_views in zip(shown, views, strict=True)
            for (_, model), view in zip(row, row_views, strict=True)
        ),
        key=lambda of_one: float(of_one[-1]),
    )
    panels: list[list[Panel]] = []
    for row, row_views in zip(shown, views, strict=True):
        panels.append([])
        for (group, model), view in zip(row, row_views, strict=True):
            prior, density = model_densities(model, view, edges)
            title = _setting_title(group[0])
            note = _clusters_note(of, group)
            panels[-1].append(Panel(title=title, density=density, prior=prior, note=note))
    contours = " and ".join(f"{100 * mass:g} %" for mass in PRIOR_MASS)
    words = [f"contours: {contours} of the prior"]
    if any(len(group) > 1 for row in rows for group in row):
        words.append("first seed of each")
    points = points_of(shown[0][0][1], views[0][0])
    title = f"{of.name}: aggregate posteriors of {points}\n{_last_epoch(of)}, {', '.join(words)}"
    return density_panels(panels, edges, title)


def _setting_title(trial: Trial) -> str:
    return ", ".join(f"{SYMBOLS[key]} {trial.config[key]:g}" for key in (BETA, ALPHA))


def _clusters_note(of: Material, group: Sequence[Trial]) -> str:
    """How many seeds keep all clusters of the prior; nothing under another prior."""
    kept = [components_kept(open_trial(of, trial)) for trial in group]
    known = [number for number in kept if number is not None]
    if not known:
        return ""
    return f"keeps four: {sum(number == len(CLUSTER_MEANS) for number in known)} of {len(known)}"


def open_trial(of: Material, trial: Trial) -> TrainedModel:
    """The model at the trial's last epoch, on the CPU.

    Raises:
        CheckpointError: There is no such checkpoint, or it is damaged.
        StorageAwayError: It lies in a bucket that does not answer.
        DataError: The data are missing or damaged.
    """
    paths = [mark.path for mark in trial.checkpoints if mark.epoch == trial.last_epoch]
    if not paths:
        raise CheckpointError(
            f"trial {trial.number} has no checkpoint of its last epoch {trial.last_epoch}; "
            "its figures need one"
        )
    with fetched((of.checkpoints_in or of.folder) / paths[-1]) as folder:
        return open_checkpoint(folder, of.data_dir, torch.device("cpu"))


# -- all trials ---------------------------------------------------------------------------------------


def _pareto(of: Material) -> Figure:
    x, y = [*of.spec.rank_by][:2]
    is_sparsity = any(metric.startswith("sparsity/") for metric in (x, y))
    shown = courses(
        [t for t in of.trials if t.state is not State.UNFINISHED], of.spec.rank_by, (x, y)
    )
    title = (
        f"{of.name}: {len(shown)} trials, each at its last epoch\n{measured_on(of.spec.base)} set"
    )
    notes = "active units" if is_sparsity else ""
    return pareto(shown, x=x, y=y, title=title, notes=notes)


def _histories(of: Material) -> Figure:
    first = next(iter(of.spec.rank_by))
    # Sparsity also rises as dimensions die: never without the units that it was taken over.
    metrics = [first, *([ACTIVE_UNITS] if first.startswith("sparsity/") else [])]
    title = f"{of.name}: {first} over the epochs\n{measured_on(of.spec.base)} set"
    return histories(courses(of.trials, of.spec.rank_by, metrics), metrics=metrics, title=title)
