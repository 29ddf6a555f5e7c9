"""The published archive of dSprites (Matthey et al. 2017): found, checked, packed, fetched.

The archive is a zip of arrays. Its images are 3 GB unpacked, so they are read a few at a time. Its
``metadata`` is a pickle, which could run any code: it is never opened.
"""

import functools
import hashlib
import logging
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from tune_ddvae.data import cache, sources
from tune_ddvae.data.sprites_drawn import SIDE, Sizes, factor_values
from tune_ddvae.errors import DataError

NAME = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
_CLONE = "dsprites-dataset"  # where else in a given folder it may lie: a clone of its repository
_IMAGES, _CLASSES, _VALUES = "imgs", "latents_classes", "latents_values"
_IMAGES_AT_ONCE = 4096  # 16 MB
_MEND_DOWNLOAD = "delete it, or run `python -m tune_ddvae.data dsprites --fetch` again"
# What reading a damaged zip, a damaged array in it, or another file altogether may raise.
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OSError),
    *(KeyError, struct.error),
)

_log = logging.getLogger(__name__)


@runtime_checkable
class _Readable(Protocol):
    """What a zip opens a member as; typing's IO asks for more than that has."""

    def read(self, size: int = ..., /) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class SpriteSource:
    """What the archive must hold, and where it may come from.

    Attributes:
        sizes: Number of values of each factor, in the order of the grid.
        num_test: Images that are kept for testing.
        blob_id: Git's identifier of the published file.
        mirrors: Addresses that, followed by the archive's name, serve it; tried in order.
    """

    sizes: Sizes
    num_test: int
    blob_id: str
    mirrors: tuple[str, ...]

    @property
    def num_images(self) -> int:
        """One for each combination of the factors."""
        return math.prod(self.sizes)


@dataclass(frozen=True)
class Archive:
    """A file with the archive's keys, shapes and types; its arrays have not been read yet.

    Attributes:
        path: Where it lies.
        blob_id: Git's identifier of the file, which tells its content from any other's.
    """

    path: Path
    blob_id: str


def find_given(folder: Path, source: SpriteSource) -> Archive:
    """The archive in a folder that the user named, or that file itself.

    Raises:
        DataError: It is not there, or another file. The folder is refused, not passed over.
    """
    expected = folder / NAME
    mend = f"give another --data-dir (or {sources.DATA_VARIABLE}), or none"
    try:
        places = (folder, expected, folder / _CLONE / NAME)
        path = next((path for path in places if path.is_file()), None)
    except OSError as error:
        raise DataError(f"cannot look for {expected}: {error}; {mend}") from error
    if path is None:
        raise DataError(
            f"--data-dir (or {sources.DATA_VARIABLE}) must hold the archive of dSprites, but there "
            f"is no {expected}. Put it there, or give no folder: the same grid is then drawn, "
            "unless `python -m tune_ddvae.data dsprites --fetch` has downloaded the archive"
        )
    return _inspect(path, source, f"replace it, or {mend}")


def download_path() -> Path:
    """Where ``fetch`` leaves the archive."""
    return cache.cache_dir() / "dsprites" / "downloads" / NAME


def find_download(source: SpriteSource) -> Archive | None:
    """The archive as fetched earlier; None if it was not.

    Raises:
        DataError: It is damaged. To pass it over would change a study's data unasked.
    """
    path = download_path()
    return _inspect_published(path, source, _MEND_DOWNLOAD) if cache.is_there(path) else None


def fetch(source: SpriteSource) -> Archive:
    """The archive, downloaded and verified unless that was done before; by one process at a time.

    Raises:
        DataError: No address serves it intact; names each that was tried and what would do.
    """
    path = download_path()
    with cache.locked(path.parent):
        try:
            found = find_download(source)
        except DataError as error:
            _log.warning("%s; fetching it now", error)
            found = None
        if found is not None:
            return found
        try:
            sources.fetch_checked(
                path,
                source.mirrors,
                lambda aside: _inspect_published(aside, source, "it is not kept"),
            )
        except DataError as error:
            raise DataError(
                f"the archive of dSprites {error}. Fetch {NAME} by other means and give its folder "
                f"as --data-dir or {sources.DATA_VARIABLE}, or give a reachable "
                f"{sources.MIRROR_VARIABLE}"
            ) from error
    return _inspect_published(path, source, _MEND_DOWNLOAD)


def pack(archive: Archive, source: SpriteSource) -> Iterator[UInt8[np.ndarray, "images bytes"]]:
    """Its images in order, bit-packed, a few at a time, once its order has been checked.

    Raises:
        DataError: It is damaged, holds pixels that are neither 0 nor 1, or is in another order.
    """
    try:
        with zipfile.ZipFile(archive.path) as zipped:
            _check_order(zipped, source)
            with zipped.open(f"{_IMAGES}.npy") as file:
                _read_header(file)
                for start in range(0, source.num_images, _IMAGES_AT_ONCE):
                    num = min(_IMAGES_AT_ONCE, source.num_images - start)
                    pixels = np.frombuffer(file.read(num * SIDE * SIDE), np.uint8)
                    if pixels.max() > 1:
                        raise ValueError(f"pixels must be 0 or 1, got {pixels.max()}")
                    yield np.packbits(pixels.reshape(num, SIDE * SIDE), axis=1)
                if file.read(1):  # and the checksum of a zip's member is compared at its end
                    raise ValueError(f"more than {source.num_images} images")
    except _UNREADABLE as error:
        raise DataError(
            f"{archive.path} is damaged or not the archive of dSprites: {error}; replace it"
        ) from error


def _inspect_published(path: Path, source: SpriteSource, mend: str) -> Archive:
    archive = _inspect(path, source, mend)
    if archive.blob_id != source.blob_id:
        raise DataError(
            f"{path} is damaged or another file: its git blob id is {archive.blob_id}, not "
            f"{source.blob_id}; {mend}"
        )
    return archive


def _inspect(path: Path, source: SpriteSource, mend: str) -> Archive:
    try:
        stat = path.stat()
        return _inspected(path, source, stat.st_size, stat.st_ino, stat.st_mtime_ns)
    except _UNREADABLE as error:
        raise DataError(
            f"{path} is damaged or not the archive of dSprites: {error}; {mend}"
        ) from error


@functools.lru_cache(maxsize=16)
def _inspected(
    path: Path,
    source: SpriteSource,
    _num_bytes: int,  # these three only tell one state of the file from another
    _inode: int,
    _mtime_ns: int,
) -> Archive:
    num = source.num_images
    expected: dict[str, tuple[tuple[int, ...], np.dtype]] = {
        _IMAGES: ((num, SIDE, SIDE), np.dtype(np.uint8)),
        _CLASSES: ((num, 6), np.dtype(np.int64)),
        _VALUES: ((num, 6), np.dtype(np.float64)),
    }
    with zipfile.ZipFile(path) as zipped:
        for key, due in expected.items():
            with zipped.open(f"{key}.npy") as file:
                found = _read_header(file)
            if found != due:
                raise ValueError(f"{key} must be {_described(due)}, got {_described(found)}")
    return Archive(path, _blob_id(path))


def _blob_id(path: Path) -> str:
    """As ``git hash-object`` names the file: 40 ms for the archive."""
    content = path.read_bytes()
    # A SHA-1, since that is what was published; it keeps accidents out, not forgers.
    digest = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    digest.update(content)
    return digest.hexdigest()


def _read_header(file: _Readable) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array in numpy's format, the file left at its first value."""
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"array format {version} is unknown")
    shape, is_fortran, dtype = read[version](file)
    if is_fortran and len(shape) == 3:  # tables are read whole, in whatever order
        raise ValueError("images must lie one after another")
    return shape, dtype


def _described(array: tuple[tuple[int, ...], np.dtype]) -> str:
    return f"{array[1]} of shape {array[0]}"


def _check_order(zipped: zipfile.ZipFile, source: SpriteSource) -> None:
    """That images lie in the order of the grid, by both tables that come with them."""
    classes, values = (_read_table(zipped, key) for key in (_CLASSES, _VALUES))
    colour = np.ones(1)  # white, the only one
    of_each_factor = (colour, *factor_values(source.sizes))
    grid = np.indices((1, *source.sizes)).reshape(len(of_each_factor), -1)
    for factor, (index, possible) in enumerate(zip(grid, of_each_factor, strict=True)):
        if not np.array_equal(classes[:, factor], index):
            raise ValueError(f"{_CLASSES} is not in the order of the grid, at factor {factor}")
        if not np.allclose(values[:, factor], possible[index], rtol=0.0, atol=1e-6):
            raise ValueError(f"{_VALUES} is not that of the grid, at factor {factor}")


def _read_table(zipped: zipfile.ZipFile, key: str) -> np.ndarray:
    with zipped.open(f"{key}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)
