"""A trainer's state in a folder: ``state.pt`` is the checkpoint, ``config.json`` is for reading.

The state file is written aside and renamed, so it is there whole or not at all, and it holds the
configuration and the checksum of the data that it belongs to.
"""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from tune_ddvae.config import Value, to_flat
from tune_ddvae.errors import CheckpointError
from tune_ddvae.training.trainer import Trainer

STATE_FILE = "state.pt"
CONFIG_FILE = "config.json"


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
    state = _read(folder / STATE_FILE, trainer.device)
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
        raise _damaged(folder / STATE_FILE, error) from error


def _belongs_to(trainer: Trainer) -> dict[str, Value]:
    return {**to_flat(trainer.config), "checksum of the data": trainer.dataset.checksum}


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        _check_sums(path)
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {path}; name a folder that has one") from error
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error}") from error
    if not isinstance(state, dict):
        raise _damaged(path, TypeError(f"a {type(state).__name__} instead of a dict"))
    return state


def _check_sums(path: Path) -> None:
    """Compare the file with the checksums in it: torch does not, and would train on a flipped bit."""
    with zipfile.ZipFile(path) as archive:
        if broken := archive.testzip():
            raise zipfile.BadZipFile(f"wrong checksum of {broken}")


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {path} is damaged or not one of ours ({type(error).__name__}: {error}); "
        "go on from an earlier one"
    )


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
