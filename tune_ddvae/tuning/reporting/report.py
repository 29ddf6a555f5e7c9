"""The report at a study's end: its figures and those of its best trials, in the study's folder.

A figure that fails is named and costs nothing but itself. The same command makes the report again only
where trials were added, or where it lacks something.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from tune_ddvae.analysis.figures import model_figures
from tune_ddvae.errors import DdvaeError
from tune_ddvae.plots.style import save_figure
from tune_ddvae.training.device import set_threads
from tune_ddvae.tuning.reporting.figures import Make, Material, open_trial, study_figures
from tune_ddvae.tuning.reporting.files import FOLDER, Report, read_report, write_report
from tune_ddvae.tuning.reporting.tracking import log_once
from tune_ddvae.tuning.running.live import LiveStudy
from tune_ddvae.tuning.search import ranking
from tune_ddvae.tuning.storage.place import Place, working_copy
from tune_ddvae.tuning.trials import Trial

TIME_LIMIT_S = 120.0  # after which no further figure is begun
MOST_TRIALS = 3  # whose own figures are made


def report_on(
    study: LiveStudy,
    *,
    name: str,
    experiment: str,
    tracking_uri: str,
    is_tracked: bool,
    tell: Callable[[str], None],
) -> Place | None:
    """Make the report of a complete study, unless it is there, and log it; where it lies.

    Whatever goes wrong is told, a line each, and changes nothing else.

    Args:
        study: Complete.
        name: Its name.
        experiment: MLflow's.
        tracking_uri: Tracking address.
        is_tracked: Whether MLflow shows the whole study; else nothing is sent there now.
        tell: Takes lines for the person watching.
    """
    conditions, storage = study.conditions, study.conditions.storage
    try:
        with working_copy(storage, FOLDER) as folder:
            of = Material(
                name=name,
                spec=study.spec,
                trials=[trial for _, trial in sorted(study.trials.items())],
                folder=folder,
                checkpoints_in=storage,
                data_dir=None if conditions.data_dir is None else Path(conditions.data_dir),
            )
            report = read_report(folder)
            if report is None or not is_current(report, of):
                report = make_report(of, num_cpus=conditions.num_cpus)
                for problem in report.problems:
                    tell(f"the report lacks something: {problem}")
    except Exception as error:  # noqa: BLE001 - the study is complete whatever becomes of its report
        tell(f"there is no report: {described(error)}")
        return None
    if is_tracked:
        log_once(storage, study.record, tracking_uri, experiment, tell)
    return storage / FOLDER


def make_report(
    of: Material, *, num_cpus: float = 1.0, time_limit_s: float = TIME_LIMIT_S
) -> Report:
    """Draw everything that applies; files of an earlier report that are not drawn again are removed.

    Args:
        of: The study and its trials.
        num_cpus: That may be computed on.
        time_limit_s: After which no further figure is begun.

    Raises:
        StorageError: The folder cannot be written to.
    """
    until = time.monotonic() + time_limit_s
    folder = of.folder / FOLDER
    earlier = read_report(of.folder)
    problems: list[str] = []
    threads = torch.get_num_threads()
    try:
        set_threads(num_cpus)
        study = _drawn(study_figures(of), folder, "", until, problems)
        trials = {
            trial.number: _drawn(
                _of_trial(of, trial),
                folder / f"trial-{trial.number:05d}",
                f"trial {trial.number}: ",
                until,
                problems,
            )
            for trial in chosen(ranking.pareto_set(of.trials, of.spec.rank_by))
        }
    finally:
        torch.set_num_threads(threads)
    report = Report(
        folder=folder, made_from=digest(of), study=study, trials=trials, problems=problems
    )
    for file in set(earlier.files if earlier else ()) - set(report.files):
        file.unlink(missing_ok=True)
    write_report(report)
    return report


def chosen(best: Sequence[Trial]) -> list[Trial]:
    """The trials whose own figures are made: of a Pareto set its two ends and its middle."""
    if len(best) <= MOST_TRIALS:
        return list(best)
    return [best[0], best[len(best) // 2], best[-1]]


def digest(of: Material) -> str:
    """What a report of these trials is made from, as hex."""
    facts = [
        (t.number, t.setting, t.state, t.last_epoch, t.values)
        for t in sorted(of.trials, key=lambda trial: trial.number)
    ]
    return hashlib.sha256(json.dumps([of.name, facts]).encode()).hexdigest()


def is_current(report: Report, of: Material) -> bool:
    """Whether nothing would come out otherwise now; one with problems is tried again."""
    return (
        report.made_from == digest(of)
        and not report.problems
        and all(file.exists() for file in report.files)
    )


def _of_trial(of: Material, trial: Trial) -> Iterator[tuple[str, Figure]]:
    yield from model_figures(open_trial(of, trial))  # opened only once the first one is asked for


def _drawn(
    figures: Iterator[tuple[str, Figure | Make]],
    folder: Path,
    of_whom: str,
    until: float,
    problems: list[str],
) -> list[Path]:
    """Files of the figures that came about; what did not is added to the problems."""
    files: list[Path] = []
    latest = ""
    while time.monotonic() < until:
        try:
            latest, figure = next(figures)
        except StopIteration:
            return files
        except Exception as error:  # noqa: BLE001 - told as a problem; a generator ends with it
            after = f"after {latest}" if latest else "at once"
            problems.append(f"{of_whom}figures ended {after}: {described(error)}")
            return files
        try:
            drawn = figure if isinstance(figure, Figure) else figure()
            files += save_figure(drawn, folder, latest)
        except Exception as error:  # noqa: BLE001 - told as a problem
            problems.append(f"{of_whom}figure {latest}: {described(error)}")
    problems.append(f"{of_whom}figures left out: the time for the report was over")
    return files


def described(error: Exception) -> str:
    """What went wrong, on one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, DdvaeError) else f"{type(error).__name__}: {text}"
