"""Data that one machine has and another lacks: the raw files, carried over and laid into its cache.

What carries them is the caller's; they are verified where they arrive, as any given folder's are.
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tune_ddvae import data
from tune_ddvae.config import DataConfig
from tune_ddvae.data import cache, dsprites, fashion_mnist
from tune_ddvae.errors import DataError

FOLDER = "placed"  # in the data cache, one folder for each parcel
_FILES: Mapping[str, Callable[[Path | None], dict[str, bytes]]] = {
    "fashion_mnist": fashion_mnist.files,
    "dsprites": dsprites.files,
}
_held: set[tuple[DataConfig, Path | None, str]] = set()  # what was found on this machine


@dataclass(frozen=True)
class Parcel:
    """The files of a data set.

    Attributes:
        key: Tells these files from any others.
        files: Content by name.
    """

    key: str
    files: Mapping[str, bytes]


def pack(config: DataConfig, data_dir: Path | None = None) -> Parcel | None:
    """What another machine would need of this one's files; None for data that need none.

    Raises:
        DataError: A file is missing or damaged.
    """
    files = _FILES[config.name](data_dir) if config.name in _FILES else {}
    if not files:
        return None
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return Parcel(digest.hexdigest()[:16], files)


def settle(
    config: DataConfig,
    data_dir: Path | None,
    wanted: str,
    fetch: Callable[[], Parcel] | None = None,
) -> Path | None:
    """The folder to load the wanted data from on this machine, which gets them where it lacks them.

    Args:
        config: Which data.
        data_dir: Folder that holds them on the machine that asks for this; it may not exist here.
        wanted: Their checksum; empty for any.
        fetch: Brings that machine's files; None if it has none to give.

    Returns:
        The given folder where it exists here, None for this machine's own places, or the folder of the
        parcel. Data that cannot be had are not refused here, but by ``load`` or for their checksum.

    Raises:
        DataError: The parcel cannot be laid into the cache.
    """
    own = data_dir if data_dir is not None and data_dir.exists() else None
    if fetch is None or _holds(config, own, wanted):
        return own
    return _lay(fetch())


def _holds(config: DataConfig, folder: Path | None, wanted: str) -> bool:
    key = (config, folder, wanted)
    if key not in _held:
        try:
            is_there = bool(data.found(config, folder))
            is_wanted = data.checksum(config, folder) == wanted or not wanted
        except DataError:
            return False
        if not (is_there and is_wanted):
            return False
        _held.add(key)  # a reused worker reads and verifies them for its first trial only
    return True


def _lay(parcel: Parcel) -> Path:
    """The folder with the parcel's files, written once on this machine."""
    folder = cache.cache_dir() / FOLDER / parcel.key
    if folder.is_dir():
        return folder
    with cache.locked(folder.parent):
        if folder.is_dir():  # another process was quicker
            return folder
        aside = folder.with_name(f"{parcel.key}.part")
        try:
            shutil.rmtree(aside, ignore_errors=True)  # a killed writer's rest
            aside.mkdir()
            for name, content in parcel.files.items():
                (aside / name).write_bytes(content)
            aside.rename(folder)
        except OSError as error:
            raise DataError(f"cannot write the data cache {folder}: {error}") from error
    return folder
