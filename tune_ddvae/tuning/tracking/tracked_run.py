"""A trial read back from MLflow: its configuration, its numbers, and where its checkpoints lie."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tune_ddvae.analysis.model import Found
from tune_ddvae.config import FIELDS, TrialConfig, from_flat, parse_value
from tune_ddvae.errors import CheckpointError, ConfigError, TrackingError
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.storage.bucket import Bucket
from tune_ddvae.tuning.storage.folders import TRIALS_FOLDER
from tune_ddvae.tuning.storage.place import Place
from tune_ddvae.tuning.tracking.check import absolute_uri, check_address
from tune_ddvae.tuning.tracking.client import (
    is_gone,
    is_refusal,
    open_client,
    plain_message,
    sqlite_path,
)
from tune_ddvae.tuning.tracking.names import TAG_LIMIT, plain_key, shortened
from tune_ddvae.tuning.tracking.tracked_place import folder_of, found_in, last_epoch_of
from tune_ddvae.tuning.tracking.view import (
    CONFIG_ARTIFACT,
    PARENT_TAG,
    ROLE_TAG,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_SAME = 1e-6  # relative: another machine's rounding makes no other value


@dataclass(frozen=True)
class TrackedRun:
    """A trial as MLflow shows it.

    Attributes:
        uri: Tracking address, absolute.
        run_id: MLflow's.
        name: Of the run.
        config: Of the trial, unshortened.
        history: Value by epoch for each metric.
        tags: All of the run's.
        folder: Where its study, or its own training, keeps checkpoints; None where no tag says so. It
            need not exist on this machine.
    """

    uri: str
    run_id: str
    name: str
    config: TrialConfig
    history: Mapping[str, Mapping[int, float]]
    tags: Mapping[str, str]
    folder: Place | None = None

    @cached_property
    def found(self) -> Found:
        """The checkpoints in the folder, as far as their epochs are recorded.

        Raises:
            StorageAwayError: It is in a bucket that does not answer.
        """
        return found_in(self.folder, self.tags, self.last_epoch)

    def place_of(self, checkpoint: Path) -> Place:
        """Where one of the checkpoints found really lies: those in a bucket are found as copies."""
        if not isinstance(self.folder, Bucket):
            return checkpoint
        return self.folder / TRIALS_FOLDER / checkpoint.parent.name / checkpoint.name

    @property
    def last_epoch(self) -> int:
        """Newest recorded epoch; 0 if there is none."""
        return last_epoch_of(self.history)

    @property
    def best_epoch(self) -> int | None:
        """Best epoch by the first metric that its study ranks by; None before the trial's end."""
        text = self.tags.get("best_epoch", "")
        return int(text) if text.isdecimal() else None

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """Folders that are there: the best epoch's first, then the last one's, then earlier ones."""
        epochs = sorted(self.found.by_epoch, reverse=True)
        epochs.sort(key=lambda epoch: epoch != self.best_epoch)  # stable: the others stay in order
        return tuple(self.found.by_epoch[epoch] for epoch in epochs)

    def __str__(self) -> str:
        """The run in a sentence."""
        return f"run {self.run_id} ({self.name})"


def fetch_run(run_id: str, uri: str, storage: Place | None = None) -> TrackedRun:
    """The trial behind an MLflow run.

    Args:
        run_id: Of a trial's run; not of its study's.
        uri: Tracking address.
        storage: Where the study's storage lies now; None: where its tags say, or beside the SQLite
            database that tracks it.

    Raises:
        TrackingError: Nothing answers at the address, or the run is not there, or is no trial's.
    """
    if not check_address(uri):
        raise TrackingError(
            f"no tracking database at {sqlite_path(uri)}: name the one that holds the run with "
            "--tracking-uri, or the study's storage with --storage"
        )
    uri = absolute_uri(uri)
    address = without_password(uri)
    try:
        client = open_client(uri)
        run = _run(client, run_id, address)
        parent = _parent_tags(client, run)
        config = _config(client, run, address)
        history = _history(client, run)
    except (TrackingError, ConfigError):
        raise
    except Exception as error:
        raise TrackingError(
            f"MLflow at {address} cannot be read ({plain_message(error)}): name another address with "
            "--tracking-uri, or give the checkpoint's folder instead of the run"
        ) from error
    folder = folder_of(uri, {**parent, **run.data.tags}, storage)
    return TrackedRun(
        uri=uri,
        run_id=str(run.info.run_id),
        name=str(run.info.run_name),
        config=config,
        history=history,
        tags=dict(run.data.tags),
        folder=folder,
    )


def checkpoint_of(run: TrackedRun, which: str | int = "last") -> Path:
    """The folder of the run's checkpoint.

    Args:
        run: Whose.
        which: ``last``, ``best`` (the epoch that its study calls so) or an epoch.

    Raises:
        CheckpointError: It is not there; says why, and what there is.
        StorageAwayError: It is in a bucket that does not answer.
    """
    if not run.found.by_epoch:
        raise CheckpointError(_why_none(run))
    if which == "best" and run.best_epoch is None:
        raise CheckpointError(
            f"{run} names no best epoch: its state is {run.tags.get('state', 'unknown')!r}; ask for the "
            f"last one, or for one of epochs {', '.join(map(str, run.found.by_epoch))}"
        )
    epoch = {"last": None, "best": run.best_epoch}[which] if isinstance(which, str) else which
    return run.found.at(epoch, str(run))


def log_files(run: TrackedRun, files: Sequence[Path], folder: str) -> None:
    """Keep files as artifacts of the run, in a folder of its artifacts; those of before are replaced.

    Raises:
        TrackingError: The server, or the place of its artifacts, does not take them.
    """
    try:
        client = open_client(run.uri)
        for file in files:
            client.log_artifact(run.run_id, str(file), folder)
    except Exception as error:
        raise _refused(run, "files", error) from error


def log_values(
    run: TrackedRun, values: Mapping[str, float], epoch: int, tags: Mapping[str, str]
) -> None:
    """Add values that were measured later to the run, each one once however often it is measured.

    Args:
        run: Whose.
        values: By name, with a prefix of their own; a value that the run shows already is left out,
            another one for the same epoch becomes its latest.
        epoch: That they belong to.
        tags: How they were measured; replaced by the latest.

    Raises:
        TrackingError: The server does not take them.
    """
    try:
        client = open_client(run.uri)
        for name, value in values.items():
            known = _by_epoch(client, run.run_id, plain_key(name)).get(epoch)
            if known is None or abs(value - known) > _SAME * max(abs(value), abs(known)):
                client.log_metric(
                    run.run_id, plain_key(name), value, time.time_ns() // 10**6, epoch
                )
        for name, text in tags.items():
            client.set_tag(run.run_id, plain_key(name), shortened(text, TAG_LIMIT))
    except Exception as error:
        raise _refused(run, "values", error) from error


def _run(client: "MlflowClient", run_id: str, address: str) -> "Run":
    try:
        run = client.get_run(run_id)
    except Exception as error:
        if not is_gone(error) and not is_refusal(error):
            raise
        raise TrackingError(
            f"MLflow at {address} has no run {run_id!r}: name another address with --tracking-uri, a "
            "run's id as MLflow shows it (32 hexadecimal digits), or a folder that is there"
        ) from error
    role = run.data.tags.get(ROLE_TAG)
    if role == "study":
        raise TrackingError(
            f"run {run_id} is the study {run.info.run_name!r} itself, name a trial of it: "
            f"{_best_trials(run.data.tags)}"
        )
    if role is None:
        raise TrackingError(
            f"run {run_id} ({run.info.run_name}) must be a trial of tune_ddvae, but it has no tag "
            f"{ROLE_TAG}: name another run"
        )
    return run


def _best_trials(tags: Mapping[str, str]) -> str:
    ids = tags.get("pareto_run_ids") or tags.get("best_run_id", "")
    numbers = tags.get("pareto_trials") or tags.get("best_trial", "")
    pairs = zip(numbers.split(", "), ids.split(", "), strict=False)
    best = [f"trial {number} is run {run_id}" for number, run_id in pairs if run_id]
    return "its best: " + ", ".join(best) if best else "none of them is complete yet"


def _parent_tags(client: "MlflowClient", run: "Run") -> dict[str, str]:
    parent_id = run.data.tags.get(PARENT_TAG)
    try:
        return dict(client.get_run(parent_id).data.tags) if parent_id else {}
    except Exception as error:
        if not is_gone(error):
            raise
        return {}


def _config(client: "MlflowClient", run: "Run", address: str) -> TrialConfig:
    """From the artifact that holds it whole; where that cannot be had, from params of full length."""
    run_id, flat = run.info.run_id, dict[str, object]()
    try:
        with TemporaryDirectory() as folder:
            path = client.download_artifacts(run_id, CONFIG_ARTIFACT, folder)
            flat = json.loads(Path(path).read_text(encoding="utf-8"))
    except Exception as error:  # a bucket has errors of any kind, and params may do
        missing = [key for key in ("data/name", "training/seed") if key not in run.data.params]
        if missing:
            raise TrackingError(
                f"run {run_id} at {address} has neither its {CONFIG_ARTIFACT} "
                f"({plain_message(error)}) nor a param {missing[0]}: give its checkpoint's folder instead"
            ) from error
        flat = {
            key: parse_value(key, text) for key, text in run.data.params.items() if key in FIELDS
        }
    try:
        return from_flat(flat)  # type: ignore[arg-type]  # checked there, value by value
    except ConfigError as error:
        raise ConfigError(
            f"run {run_id} has a configuration that this version does not know: {error}; use the one "
            f"that it was trained with ({run.data.tags.get('version', 'unknown')})"
        ) from error


def _history(client: "MlflowClient", run: "Run") -> dict[str, dict[int, float]]:
    return {key: _by_epoch(client, run.info.run_id, key) for key in run.data.metrics}


def _by_epoch(client: "MlflowClient", run_id: str, key: str) -> dict[int, float]:
    """The latest value of each epoch."""
    points = sorted(client.get_metric_history(run_id, key), key=lambda p: (p.step, p.timestamp))
    return {point.step: point.value for point in points}


def _why_none(run: TrackedRun) -> str:
    state = run.tags.get("state", "unknown")
    why = f", {run.tags['reason']}" if run.tags.get("reason") else ""
    if run.last_epoch == 0:
        return f"{run} has no checkpoint: no epoch of it is recorded (state: {state}{why}); name another"
    if run.folder is None:
        return (
            f"{run} does not say where its checkpoints lie: name its study's storage with --storage, "
            "or give the checkpoint's folder itself"
        )
    if isinstance(run.folder, Path) and not run.folder.is_dir():
        host = f" on {run.tags['host']}" if "host" in run.tags else ""
        return (
            f"{run} has its checkpoints in {run.folder}, which is not on this machine (it was "
            f"trained{host}): name the place of its storage here with --storage, or give the "
            "checkpoint's folder itself"
        )
    problems = "".join(f"; {problem}" for problem in run.found.problems)
    return f"{run} has no checkpoint left in {run.folder} (state: {state}{why}){problems}; name another"


def _refused(run: TrackedRun, what: str, error: Exception) -> TrackingError:
    return TrackingError(
        f"MLflow at {without_password(run.uri)} takes no {what} for {run}: {plain_message(error)}"
    )
