"""Data sets by name: found, verified, fetched once, and held once per machine."""

from collections.abc import Callable, Mapping
from pathlib import Path

from tune_ddvae.config import DataConfig
from tune_ddvae.data import digits, dsprites, fashion_mnist, pinwheel
from tune_ddvae.data.dataset import Dataset, FactorGrid, Split
from tune_ddvae.data.principal import principal_variances
from tune_ddvae.errors import ConfigError

__all__ = [
    "Dataset",
    "FactorGrid",
    "Split",
    "check_dir",
    "checksum",
    "found",
    "load",
    "place",
    "prepare",
    "principal_variances",
]

_PREPARE: Mapping[str, Callable[[DataConfig, Path | None], Path]] = {
    "fashion_mnist": fashion_mnist.prepare,
    "dsprites": dsprites.prepare,  # the others need no files
}
_PLACE: Mapping[str, Callable[[Path | None], str]] = {
    "fashion_mnist": fashion_mnist.place,
    "pinwheel": lambda _: "generated from data/seed",
    "dsprites": dsprites.place,
    "digits": lambda _: "bundled with scikit-learn",
}
_FOUND: Mapping[str, Callable[[DataConfig, Path | None], str]] = {
    "fashion_mnist": fashion_mnist.found,
    "dsprites": dsprites.found,
}
_LOAD: Mapping[str, Callable[[DataConfig, Path | None], Dataset]] = {
    "fashion_mnist": fashion_mnist.load,
    "pinwheel": pinwheel.load,
    "digits": digits.load,
    "dsprites": dsprites.load,
}
_CHECKSUM: Mapping[str, Callable[[DataConfig, Path | None], str]] = {
    "fashion_mnist": fashion_mnist.checksum,
    "pinwheel": pinwheel.checksum,
    "digits": digits.checksum,
    "dsprites": dsprites.checksum,
}


def prepare(config: DataConfig, data_dir: Path | None = None) -> Path | None:
    """Make data ready on this machine, before any trial: find, fetch, verify, resize, cache.

    Args:
        config: Which data.
        data_dir: Folder with the data set's files; None: TUNE_DDVAE_DATA, else wherever found.

    Returns:
        The cached file that every process maps, or None for data that need none.

    Raises:
        DataError: A file is missing or damaged; names it, where it was looked for and the mend.
    """
    return _PREPARE[config.name](config, data_dir) if config.name in _PREPARE else None


def place(config: DataConfig, data_dir: Path | None = None) -> str:
    """Where the data will come from, in words; quick, and makes nothing.

    Raises:
        DataError: A folder was given and lacks files, or what can be told of them at once is wrong.
    """
    return _PLACE[config.name](data_dir)


def found(config: DataConfig, data_dir: Path | None = None) -> str:
    """Where the data lie on this machine, read and verified; empty where they would be fetched.

    Makes and fetches nothing. Data that need no files are always there.

    Raises:
        DataError: A file is missing or damaged; names it, where it was looked for and the mend.
    """
    look = _FOUND.get(config.name)
    return place(config, data_dir) if look is None else look(config, data_dir)


def check_dir(config: DataConfig, data_dir: Path | None) -> None:
    """Refuse a folder that was given for data that have no files.

    Raises:
        ConfigError: It was; says where those data come from.
    """
    if data_dir is not None and config.name not in _PREPARE:
        raise ConfigError(
            f"--data-dir must be left out where data have no files, got {data_dir}: {config.name} is "
            f"{place(config)}"
        )


def load(config: DataConfig, data_dir: Path | None = None) -> Dataset:
    """The data set, split as configured; prepared first where that has not been done.

    Raises:
        DataError: As ``prepare``.
    """
    return _LOAD[config.name](config, data_dir)


def checksum(config: DataConfig, data_dir: Path | None = None) -> str:
    """``load(config).checksum``, without unpacking or making anything: milliseconds."""
    return _CHECKSUM[config.name](config, data_dir)
