"""What an analysis leaves behind: a folder that was checked beforehand, a JSON file, and its run."""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tune_ddvae.analysis.measure import Measured
from tune_ddvae.analysis.model import TrainedModel
from tune_ddvae.analysis.view import setting
from tune_ddvae.config import to_flat
from tune_ddvae.errors import StorageError
from tune_ddvae.training.device import describe_device
from tune_ddvae.tuning import provenance
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.analysing.screen import Analysis, protocol_text
from tune_ddvae.tuning.storage.bucket import Bucket
from tune_ddvae.tuning.storage.folders import existing_parent
from tune_ddvae.tuning.storage.place import Place
from tune_ddvae.tuning.tracking.tracked_run import TrackedRun, log_files, log_values

NAME = "analysis"  # of the folder beside checkpoints and in a run's artifacts; begins values' names
TOLERANCE = 1e-4  # absolute up to 1, relative beyond


def checked_folder(asked: Path | None, checkpoint: Place, epoch: int) -> Path:
    """Where results go, absolute; nothing is made yet.

    Args:
        asked: As the user names it; None: beside the checkpoint, or for one in a bucket below the
            current folder.
        checkpoint: Its folder.
        epoch: Of the checkpoint; results of two epochs never mix.

    Raises:
        StorageError: It cannot be written to.
    """
    if isinstance(checkpoint, Bucket):
        beside = Path(NAME) / checkpoint.parent.name
    else:
        beside = checkpoint.parent / NAME
    folder = (asked or beside / f"epoch_{epoch}").expanduser().absolute()
    place = existing_parent(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".probe-"):
            pass
    except OSError as error:
        raise StorageError(
            f"results would go to {folder}, but {place} cannot be written to ({error.strerror}): name "
            "another folder with --out"
        ) from error
    return folder


def facts_of(
    model: TrainedModel,
    measured: Measured | None,
    run: TrackedRun | None,
    checkpoint: Place,
    folder: Path,
) -> dict[str, Any]:
    """What was found, with all that it follows from, as plain data."""
    facts: dict[str, Any] = {
        "run": None,
        "checkpoint": str(checkpoint),
        "folder": str(folder),
        "epoch": model.epoch,
        "setting": setting(model.config),
        "device": describe_device(model.device),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "measured_on": None,
        "values": {},
        "protocol": {},
        "absent": {},
        "figures": [],
        "versions": provenance.versions(),
        "data_checksum": model.dataset.checksum,
        "config": to_flat(model.config),
    }
    if run is not None:
        facts["run"] = {
            "id": run.run_id,
            "name": run.name,
            "tracking": without_password(run.uri),
            "artifacts": _artifacts(model.epoch),
        }
    if measured is not None:
        facts |= {
            "measured_on": {"split": measured.split, "points": measured.num_points},
            "values": dict(measured.values),
            "protocol": {name: dict(how) for name, how in measured.protocol.items()},
            "absent": dict(measured.absent),
        }
    return facts


def comparison(
    measured: Measured, recorded: Mapping[str, float], tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """The recorded values, and the names of those that were not found again."""
    differing = [
        name
        for name, value in recorded.items()
        if name not in measured.values
        or abs(measured.values[name] - value) > tolerance * max(1.0, abs(value))
    ]
    return {"recorded": dict(recorded), "differing": differing}


def write(file: Path, facts: Analysis) -> None:
    """Write the facts in one step: no reader ever meets half of them.

    Raises:
        StorageError: The folder cannot be written to.
    """
    aside = file.with_name(f".{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        aside.replace(file)
    except OSError as error:
        raise StorageError(
            f"cannot write {file}: {error.strerror or error}; name another folder with --out"
        ) from error


def add_to_run(run: TrackedRun, facts: Analysis, files: Sequence[Path]) -> None:
    """Files as artifacts of the run; values of the test set as ``analysis/...`` beside its own.

    Those that were measured as recorded are the run's already.

    Raises:
        TrackingError: MLflow does not take them; the files stay where they are.
    """
    epoch = int(facts["epoch"])
    log_files(run, files, _artifacts(epoch))
    if "recorded" in facts or facts["measured_on"] is None:
        return
    where = f"epoch {epoch}, {facts['measured_on']['split']} set"
    how = {
        f"{NAME}/protocol/{name}": f"{where}, {protocol_text(facts['protocol'][name])}"
        for name in facts["values"]
    }
    values = {f"{NAME}/{name}": value for name, value in facts["values"].items()}
    log_values(run, values, epoch, how)


def _artifacts(epoch: int) -> str:
    return f"{NAME}/epoch_{epoch}"
