"""One analysis from request to files: find the model, measure it, draw it."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from tune_ddvae import data
from tune_ddvae.analysis.figures import model_figures
from tune_ddvae.analysis.measure import (
    IWAE,
    KINDS,
    Measured,
    measure,
    measure_as_recorded,
    measure_likelihood,
)
from tune_ddvae.analysis.model import TrainedModel, find_checkpoints, open_checkpoint
from tune_ddvae.config import METRICS
from tune_ddvae.errors import AbsentMetric, CheckpointError, ConfigError
from tune_ddvae.plots.style import save_figure
from tune_ddvae.training.device import choose_device, set_threads
from tune_ddvae.tuning.analysing.files import NAME, checked_folder, comparison, facts_of, write
from tune_ddvae.tuning.analysing.screen import Analysis, working
from tune_ddvae.tuning.storage.bucket import Bucket, bucket_at, is_address
from tune_ddvae.tuning.storage.place import Place, absolute, kept_copies, place_at, tracking_folder
from tune_ddvae.tuning.tracking.check import default_tracking_uri
from tune_ddvae.tuning.tracking.tracked_run import TrackedRun, checkpoint_of, fetch_run

_LOOKS_LIKE_A_PATH = re.compile(r"[/\\~]|^\.")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be found out, of which model, and where it goes.

    Attributes:
        place: Id of a trial's run, or a folder.
        is_folder: Whether it can only be a folder.
        kinds: Of ``measure.KINDS``; none, and no figures: everything there is.
        with_figures: Whether figures were asked for.
        as_recorded: Measure as training did at that epoch, and compare.
        which: The checkpoint: last, best or an epoch.
        num_samples: K of the importance-weighted likelihood.
        num_points: Test points that it is averaged over.
        data_dir: Folder with the data set's files.
        tracking_uri: MLflow.
        storage: Where studies lie.
        out: Folder for results; None: beside the checkpoint.
        may_use_cuda: Whether to compute on a GPU where there is one.
    """

    place: str
    is_folder: bool = False
    kinds: tuple[str, ...] = ()
    with_figures: bool = False
    as_recorded: bool = False
    which: str | int = "last"
    num_samples: int = 1000
    num_points: int = 1000
    data_dir: Path | None = None
    tracking_uri: str | None = None
    storage: str | None = None
    out: Path | None = None
    may_use_cuda: bool = True

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is measured."""
        if self.kinds:
            return tuple(name for kind in self.kinds for name in KINDS[kind])
        return () if self.with_figures and not self.as_recorded else tuple(METRICS)

    @property
    def draws(self) -> bool:
        """Whether there are figures."""
        return self.with_figures or not (self.kinds or self.as_recorded)

    @property
    def file_name(self) -> str:
        """The same question is written to the same file again, another one to its own."""
        kinds = self.kinds if self.metrics else ("figures",)
        recorded = ("as-recorded",) if self.as_recorded else ()
        return "-".join((NAME, *recorded, *kinds)) + ".json"


@dataclass(frozen=True)
class Subject:
    """The checkpoint that was asked for, and whose it is."""

    folder: Path  # on this machine
    place: Place  # where it really lies
    run: TrackedRun | None = None
    problems: tuple[str, ...] = ()  # of checkpoints that were passed over


@dataclass(frozen=True)
class Analysed:
    """What an analysis found, the files that it wrote, and the run that they belong to."""

    facts: Analysis
    files: tuple[Path, ...]
    run: TrackedRun | None


def analyse(request: Request, console: Console) -> Analysed:
    """Find, open, measure, draw and write; whatever can be refused is refused before computing.

    Raises:
        DdvaeError: Something asked for is wrong or missing; names it and the mend.
    """
    subject = locate(request)
    for problem in subject.problems:
        console.print(f"passed over a checkpoint: {problem}", markup=False, soft_wrap=True)
    set_threads(torch.get_num_threads())  # TUNE_DDVAE_THREADS, where it is set
    device = choose_device() if request.may_use_cuda else torch.device("cpu")
    with console.status("opening the checkpoint and its data"):
        model = open_checkpoint(subject.folder, request.data_dir, device)
    data.check_dir(model.config.data, request.data_dir)
    folder = checked_folder(request.out, subject.place, model.epoch)
    if request.as_recorded and subject.run is not None:
        recorded = _recorded(request, subject.run, model.epoch)
        with working(console, "measuring as recorded") as advance:
            again = measure_as_recorded(model, recorded, on_batch=lambda: advance(1))
        facts = facts_of(model, again, subject.run, subject.place, folder)
        facts |= comparison(again, recorded)
    else:
        measured = _measured(request, model, console)
        facts = facts_of(model, measured, subject.run, subject.place, folder)
    drawn: list[Path] = []
    if request.draws:
        try:
            with working(console, "drawing", unit="figures") as advance:
                for name, figure in model_figures(model):
                    drawn += save_figure(figure, folder, name)
                    facts["figures"].append(name)
                    advance(1)
        except AbsentMetric as reason:
            facts["absent"]["figures"] = str(reason)
    write(folder / request.file_name, facts)
    return Analysed(facts, (folder / request.file_name, *drawn), subject.run)


def locate(request: Request) -> Subject:
    """The checkpoint in the folder, or of the run, that the request names.

    Raises:
        CheckpointError: There is none; says what there is.
        ConfigError: What only a run can answer is asked of a folder.
        StorageError: It is in a bucket that does not answer, or that no address can name.
        TrackingError: The run cannot be read.
    """
    if is_address(request.place):
        return _in_folder(bucket_at(request.place), request)
    place = Path(request.place).expanduser()
    if request.is_folder or place.exists() or _LOOKS_LIKE_A_PATH.search(request.place):
        return _in_folder(place, request)
    storage = None if request.storage is None else place_at(request.storage)
    uri = (
        request.tracking_uri
        or os.environ.get("MLFLOW_TRACKING_URI")
        or default_tracking_uri(tracking_folder(storage or Path("studies")))
    )
    run = fetch_run(request.place, uri, storage)
    folder = checkpoint_of(run, request.which)
    return Subject(folder, absolute(run.place_of(folder)), run, run.found.problems)


def _in_folder(place: Place, request: Request) -> Subject:
    asked = {
        "--checkpoint best": request.which == "best",
        "--as-recorded": request.as_recorded,
        "--tracking-uri": request.tracking_uri is not None,
        "--storage": request.storage is not None,
    }
    for option, is_asked in asked.items():
        if is_asked:
            raise ConfigError(
                f"{option} needs a trial's run in MLflow, got the folder {place}, which does not say "
                "what training recorded: name the run instead, or leave the option out"
            )
    here = kept_copies([place]) / place.name if isinstance(place, Bucket) else place
    if not here.is_dir():
        raise CheckpointError(
            f"no folder at {absolute(place)}: name a checkpoint's folder, one with checkpoints in it, "
            "or a trial's run in MLflow"
        )
    found = find_checkpoints(here)
    epoch = request.which if isinstance(request.which, int) else None
    folder = found.at(epoch, f"folder {absolute(place)}")
    if isinstance(place, Bucket):
        there = place if folder == here else place / folder.name
        return Subject(folder, there, problems=found.problems)
    return Subject(folder, folder, problems=found.problems)


def _recorded(request: Request, run: TrackedRun, epoch: int) -> dict[str, float]:
    """What the run recorded at that epoch, of what is asked for."""
    recorded = {
        name: run.history[name][epoch]
        for name in request.metrics
        if epoch in run.history.get(name, {})
    }
    if not recorded:
        raise ConfigError(
            f"--as-recorded must have something to compare with, but {run} recorded none of "
            f"{', '.join(request.metrics)} at epoch {epoch}: ask for other metrics or another epoch"
        )
    return recorded


def _measured(request: Request, model: TrainedModel, console: Console) -> Measured | None:
    """What is asked for on the test set; None where only figures are."""
    if not request.metrics:
        return None
    others = [name for name in request.metrics if name != IWAE]
    with working(console, "measuring") as advance:
        measured = measure(model, others, on_batch=lambda: advance(1))
    if IWAE not in request.metrics:
        return measured
    num_samples, num_points = request.num_samples, request.num_points
    total = num_samples * min(num_points, len(model.dataset.test))
    with working(console, "log-likelihood", total) as advance:
        return measured | measure_likelihood(model, num_samples, num_points, on_codes=advance)
