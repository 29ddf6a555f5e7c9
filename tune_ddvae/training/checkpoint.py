"""A trainer's state in a folder: ``state.pt`` is the checkpoint, ``config.json`` is for reading.

The state file is written aside and renamed, so it is there whole or not at all, and it holds the
configuration and the checksum of the data that it belongs to.
"""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

import tune_ddvae
from tune_ddvae.config import TrialConfig, Value, from_flat, to_flat
from tune_ddvae.errors import CheckpointError, ConfigError
from tune_ddvae.training.trainer import Trainer

STATE_FILE = "state.pt"
CONFIG_FILE = "config.json"
_CHECKSUM = "checksum of the data"


@dataclass(frozen=True)
class Stored:
    """A checkpoint as it was read, and what it belongs to.

    Attributes:
        config: Of the trial.
        checksum: Of the data that it was trained on.
        epoch: Epochs trained.
        vae: The model's weights and running statistics by name.
    """

    config: TrialConfig
    checksum: str
    epoch: int
    vae: dict[str, torch.Tensor]


def save(trainer: Trainer, folder: Path) -> None:
    """Write the trainer's state into the folder, replacing what is there in one move.

    Raises:
        CheckpointError: If the folder cannot be written to.
    """
    belongs_to = _belongs_to(trainer)
    state = {"belongs_to": belongs_to, "trainer": trainer.state_dict()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(belongs_to, indent=1) + "\n"
        _write_aside(folder / CONFIG_FILE, lambda file: file.write(text.encode()))
        _write_aside(folder / STATE_FILE, lambda file: torch.save(state, file))
    except OSError as error:
        raise CheckpointError(f"cannot write a checkpoint into {folder}: {error}") from error


def load(trainer: Trainer, folder: Path) -> None:
    """Let the trainer go on from the state in the folder, on whatever device it computes.

    Raises:
        CheckpointError: If there is none, it is damaged, or it belongs to another configuration or
            other data; names the first key that differs.
    """
    state = _read(folder, trainer.device)
    try:
        theirs, ours = state["belongs_to"], _belongs_to(trainer)
        for key in [*ours, *theirs]:
            if key not in theirs or key not in ours or theirs[key] != ours[key]:
                raise CheckpointError(
                    f"checkpoint {folder} belongs to another configuration: {key} is "
                    f"{theirs.get(key)!r} there, {ours.get(key)!r} here"
                )
        trainer.load_state_dict(state["trainer"])
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise damaged(folder, error) from error


def read(folder: Path, device: torch.device) -> Stored:
    """The model in the folder with the configuration stored beside it: no trainer is needed.

    Args:
        folder: Holds ``state.pt``.
        device: Where its tensors shall lie.

    Raises:
        CheckpointError: There is none, it is damaged, or its configuration is not one that this
            version knows.
    """
    state = _read(folder, device)
    try:
        flat = dict(state["belongs_to"])
        checksum = flat.pop(_CHECKSUM)
        trained = state["trainer"]
        if not isinstance(trained["epoch"], int) or not isinstance(trained["vae"], dict):
            raise TypeError("epoch or weights are of a wrong type")  # noqa: TRY301 - told just below
        return Stored(from_flat(flat), str(checksum), trained["epoch"], dict(trained["vae"]))
    except ConfigError as error:
        raise CheckpointError(
            f"checkpoint {folder} holds a configuration that tune_ddvae {tune_ddvae.__version__} does "
            f"not know: {error}; use the version that it was trained with"
        ) from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise damaged(folder, error) from error


def epoch_of(folder: Path) -> int:
    """Epochs trained by the checkpoint in the folder; its weights are neither read nor verified.

    Raises:
        CheckpointError: There is none, or it is so damaged that it does not open.
    """
    try:
        epoch = _read(folder, torch.device("cpu"), is_glance=True)["trainer"]["epoch"]
        return int(epoch)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder, error) from error


def damaged(folder: Path, error: Exception) -> CheckpointError:
    """The error for a folder whose checkpoint is not what a checkpoint of ours is."""
    return CheckpointError(
        f"checkpoint {folder / STATE_FILE} is damaged or not one of ours ({type(error).__name__}: "
        f"{error}); go on from an earlier one"
    )


def _belongs_to(trainer: Trainer) -> dict[str, Value]:
    return {**to_flat(trainer.config), _CHECKSUM: trainer.dataset.checksum}


def _read(folder: Path, device: torch.device, *, is_glance: bool = False) -> dict[str, Any]:
    """The whole file, verified; at a glance its tensors stay on the disk and unverified."""
    path = folder / STATE_FILE
    try:
        _check(path, with_sums=not is_glance)
        state = torch.load(path, map_location=device, weights_only=True, mmap=is_glance)
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {path}; name a folder that has one") from error
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise damaged(folder, error) from error
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error}") from error
    if not isinstance(state, dict):
        raise damaged(folder, TypeError(f"a {type(state).__name__} instead of a dict"))
    return state


def _check(path: Path, *, with_sums: bool) -> None:
    """Compare the file with the checksums in it: torch does not, and would train on a flipped bit."""
    with zipfile.ZipFile(path) as archive:
        if with_sums and (broken := archive.testzip()):
            raise zipfile.BadZipFile(f"wrong checksum of {broken}")


def _write_aside(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under another name and give it its own once it is safely on disk."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
