"""dSprites (Matthey et al. 2017): white sprites on black, one for each combination of five factors.

The images are those of the published archive where a folder with it was given or where it was
fetched before; otherwise the same grid is drawn, and says so wherever it is named. Nothing is
fetched unasked: what a study trains on must not hang on whether a network was up that minute.

Images are held once per machine, eight pixels to a byte, in the order of the grid (377 MB), and
splits are rows of it. data/seed deals them out: 5,000 for testing first, validation after these,
training from the other end.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tune_ddvae.config import DATASETS, DataConfig
from tune_ddvae.data import cache
from tune_ddvae.data.dataset import (
    Dataset,
    FactorGrid,
    Split,
    checksum_of,
    permutation,
    split_sizes,
)
from tune_ddvae.data.sources import given_dir
from tune_ddvae.data.sprites_archive import (
    NAME,
    Archive,
    SpriteSource,
    find_download,
    find_given,
    pack,
)
from tune_ddvae.data.sprites_archive import fetch as fetch_archive
from tune_ddvae.data.sprites_drawn import GEOMETRY, SIDE, draw
from tune_ddvae.errors import DataError

CLASS_NAMES = ("square", "ellipse", "heart")
FACTOR_NAMES = ("shape", "scale", "orientation", "position x", "position y")
DRAWN = "drawn dSprites, same grid"
FETCH_COMMAND = "python -m tune_ddvae.data dsprites --fetch"

_STREAM = 0
_LAYOUT = "dsprites 64x64, 8 pixels a byte, grid order: 1"
_IMAGE_BYTES = SIDE * SIDE // 8

DSPRITES = SpriteSource(
    sizes=(3, 6, 40, 32, 32),
    num_test=DATASETS["dsprites"].max_test,
    blob_id="d98996d3f8ee1550e06b9d4ed78d0beb478910d5",
    mirrors=("https://github.com/google-deepmind/dsprites-dataset/raw/master/",),
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Content:
    """Which images there are.

    Attributes:
        name: Of their cached file; other images, another name.
        origin: The same in words.
        is_drawn: Whether they come from formulas.
        archive: That they come from; None too where only the cached file is left of it.
    """

    name: str
    origin: str
    is_drawn: bool
    archive: Archive | None = None

    @property
    def path(self) -> Path:
        return _folder() / f"{self.name}.bin"


def fetch(source: SpriteSource = DSPRITES) -> Path:
    """The archive, downloaded and verified unless it was before; studies take it from then on.

    Raises:
        DataError: It cannot be had; names each address that was tried.
    """
    return fetch_archive(source).path


def prepare(
    config: DataConfig,  # noqa: ARG001 - one file serves all seeds and splits
    data_dir: Path | None = None,
    source: SpriteSource = DSPRITES,
) -> Path:
    """The cached file of packed images, made if it is not there; safe to call from anywhere.

    Args:
        config: Any.
        data_dir: Folder with the archive, or that file; None: TUNE_DDVAE_DATA, and where that is
            unset too, the archive fetched before, else drawn.
        source: What to expect and where; tests have a small one.

    Raises:
        DataError: The archive is not where it should be, or damaged; names path and mend.
    """
    return _ensured(_content(data_dir, source), source)


def place(data_dir: Path | None = None, source: SpriteSource = DSPRITES) -> str:
    """Where the images are from, "drawn" included.

    Raises:
        DataError: As ``prepare``, as far as can be told without unpacking.
    """
    return _content(data_dir, source).origin


def found(
    config: DataConfig,  # noqa: ARG001 - one file serves all seeds and splits
    data_dir: Path | None = None,
    source: SpriteSource = DSPRITES,
) -> str:
    """Where ``prepare`` has what it needs on this machine, verified, "drawn" included.

    Raises:
        DataError: As ``prepare``, as far as can be told without unpacking.
    """
    content = _content(data_dir, source)
    needs_file = content.archive is None and not content.is_drawn
    if needs_file and not cache.is_intact(content.path, source.num_images * _IMAGE_BYTES):
        raise _damaged(content)
    return content.origin


def files(data_dir: Path | None = None, source: SpriteSource = DSPRITES) -> dict[str, bytes]:
    """The archive that ``prepare`` takes the images from, by name; none where they are drawn.

    Raises:
        DataError: It is not where it should be, or damaged.
    """
    archive = _content(data_dir, source).archive
    return {} if archive is None else {NAME: archive.path.read_bytes()}


def load(
    config: DataConfig, data_dir: Path | None = None, source: SpriteSource = DSPRITES
) -> Dataset:
    """The data set, its images mapped from the cached file; prepared first if need be.

    Raises:
        DataError: As ``prepare``.
    """
    content = _content(data_dir, source)
    packed = cache.open_shared(_ensured(content, source)).reshape(source.num_images, _IMAGE_BYTES)
    images = torch.from_numpy(packed)
    train, validation, test = (torch.from_numpy(rows) for rows in _rows(config, source))
    num_of_a_shape = source.num_images // source.sizes[0]

    def own(rows: torch.Tensor) -> Split:
        # Copied, being small: on a GPU the whole grid would else be held once for each split.
        return Split(images[rows], rows // num_of_a_shape)

    return Dataset(
        name=config.name,
        train=Split(images, train // num_of_a_shape, rows=train),
        validation=own(validation) if len(validation) else None,
        test=own(test),
        class_names=CLASS_NAMES,
        checksum=_checksum(content, config, source),
        origin=content.origin,
        grid=FactorGrid(images, source.sizes, FACTOR_NAMES, unordered=frozenset({FACTOR_NAMES[0]})),
        packed_shape=(1, SIDE, SIDE),
    )


def checksum(
    config: DataConfig, data_dir: Path | None = None, source: SpriteSource = DSPRITES
) -> str:
    """Digest of the data as used, after "drawn-" for drawn ones; unpacks nothing."""
    return _checksum(_content(data_dir, source), config, source)


def _checksum(content: _Content, config: DataConfig, source: SpriteSource) -> str:
    order = permutation(source.num_images, config.seed, _STREAM).astype("<i8")
    digest = checksum_of(_LAYOUT, content.name, *split_sizes(config), order)
    return f"drawn-{digest}" if content.is_drawn else digest


def _content(data_dir: Path | None, source: SpriteSource) -> _Content:
    """Given, fetched before, left in the cache by an earlier archive, or drawn: the first there is."""
    given = given_dir(data_dir)
    archive = find_download(source) if given is None else find_given(given, source)
    if archive is not None:
        is_published = archive.blob_id == source.blob_id
        which = "" if is_published else ", not the published file but with its keys and shapes"
        return _Content(_name(archive.blob_id), f"{archive.path}{which}", False, archive)
    cached = _Content(_name(source.blob_id), "", False)
    if cache.is_there(cached.path):
        origin = f"{cached.path}, from the published archive"
        return _Content(cached.name, origin, False)
    sizes = "x".join(map(str, source.sizes))
    origin = f"{DRAWN} (no archive was given or fetched; `{FETCH_COMMAND}` fetches it)"
    return _Content(f"drawn-{sizes}-{GEOMETRY}", origin, True)


def _name(blob_id: str) -> str:
    return f"archive-{blob_id}"


def _folder() -> Path:
    return cache.cache_dir() / "dsprites"


def _ensured(content: _Content, source: SpriteSource) -> Path:
    cache.ensure(content.path, source.num_images * _IMAGE_BYTES, lambda: _images(content, source))
    return content.path


def _images(content: _Content, source: SpriteSource) -> Iterable[np.ndarray]:
    """The cached file's parts."""
    if content.is_drawn:
        _log.info("drawing dSprites, once on this machine")
        return draw(source.sizes)
    if content.archive is None:
        raise _damaged(content)
    _log.info("packing %s, once on this machine", content.archive.path)
    return pack(content.archive, source)


def _damaged(content: _Content) -> DataError:
    return DataError(
        f"{content.path} is damaged and the archive that it came from is not at hand: give "
        f"--data-dir with {NAME}, or run `{FETCH_COMMAND}`, or delete the file to go on with {DRAWN}"
    )


def _rows(config: DataConfig, source: SpriteSource) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which images are for training, validation and test."""
    num_train, num_validation, num_test = split_sizes(config)
    order = permutation(source.num_images, config.seed, _STREAM)
    test, rest = order[: source.num_test], order[source.num_test :]
    return rest[len(rest) - num_train :], rest[:num_validation], test[:num_test]
