"""Files made once per machine and shared by every process on it.

A cached file is its arrays' bytes one after another, then their SHA-256. It is written aside under
a lock and renamed, so it is either whole or absent; processes map it into memory, so the machine
holds it once. What is truncated or damaged all the same is noticed and made again.
"""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import platformdirs
from filelock import FileLock, Timeout

from tune_ddvae.errors import DataError

CACHE_VARIABLE = "TUNE_DDVAE_CACHE"
LOCK_TIMEOUT_S = 1800.0  # a slow download is worth waiting for, a frozen holder is not
_DIGEST_BYTES = hashlib.sha256().digest_size
_PART_BYTES = 1 << 20


def cache_dir() -> Path:
    """The data cache: TUNE_DDVAE_CACHE, else the user's own cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given or platformdirs.user_cache_dir("tune_ddvae")).expanduser().absolute()


def ensure(path: Path, num_bytes: int, make: Callable[[], Iterable[np.ndarray]]) -> None:
    """Leave an intact file of ``num_bytes`` at ``path``, calling ``make`` only where there is none.

    Raises:
        DataError: The cache cannot be written or locked; names the folder and the mend.
    """
    if is_intact(path, num_bytes):
        return
    with locked(path.parent):
        if not is_intact(path, num_bytes):  # else another process was quicker
            _write(path, make())


def is_there(path: Path) -> bool:
    """Whether a file of the cache exists; a cache that cannot be looked into has none.

    What is wrong with that cache is said where something is to be written into it.
    """
    try:
        return path.is_file()
    except OSError:
        return False


def is_intact(path: Path, num_bytes: int) -> bool:
    """Whether the file is there, of that size and with the content that it was written with."""
    try:
        stat = path.stat()
        if stat.st_size != num_bytes + _DIGEST_BYTES:
            return False
        return _digest_holds(path, stat.st_ino, stat.st_mtime_ns)
    except OSError:
        return False


def open_shared(path: Path) -> np.ndarray:
    """The content as one row of bytes, mapped from the file that all processes share.

    Copy-on-write: torch warns on read-only arrays, and a stray write stays in its own process.

    Raises:
        DataError: The file has gone or cannot be mapped.
    """
    try:
        return np.memmap(path, np.uint8, mode="c")[:-_DIGEST_BYTES]
    except (OSError, ValueError) as error:
        raise DataError(f"cannot map the cached data {path}: {error}; run `make data`") from error


@functools.lru_cache(maxsize=16)
def _digest_holds(path: Path, inode: int, mtime_ns: int) -> bool:  # noqa: ARG001 - cache keys
    # Remembered: a reused worker pays it for its first trial only, 50 ms for Fashion-MNIST and
    # 0.4 s for dSprites. Read, not mapped, or its pages would count as the worker's memory.
    digest, left = hashlib.sha256(), path.stat().st_size - _DIGEST_BYTES
    with path.open("rb") as file:
        while part := file.read(min(left, _PART_BYTES)):
            digest.update(part)
            left -= len(part)
        return digest.digest() == file.read()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes on this machine from making what belongs into the folder.

    Raises:
        DataError: The folder cannot be made or locked, or another process holds it for too long.
    """
    lock = folder / "lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A soft lock would outlive a killed holder, so a file system without locks is refused.
        held = FileLock(lock, timeout=LOCK_TIMEOUT_S, fallback_to_soft=False)
        held.acquire()
    except Timeout as error:
        raise DataError(
            f"another process has held {lock} for {LOCK_TIMEOUT_S:.0f} s while preparing data; "
            "end it and start again"
        ) from error
    except OSError as error:
        raise DataError(_unusable(folder, error)) from error
    try:
        yield
    finally:
        held.release()


def _write(path: Path, arrays: Iterable[np.ndarray]) -> None:
    aside = path.with_name(path.name + ".part")  # a killed writer's rest is overwritten by the next
    digest = hashlib.sha256()
    try:
        with aside.open("wb") as file:
            for array in arrays:
                data = np.ascontiguousarray(array).data
                digest.update(data)
                file.write(data)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except DataError:
        raise
    except OSError as error:
        raise DataError(_unusable(path.parent, error)) from error
    finally:
        # Suppressed, since it must not hide what went wrong before.
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def _unusable(folder: Path, error: OSError) -> str:
    return (
        f"cannot write the data cache {folder}: {error}; "
        f"set {CACHE_VARIABLE} to a folder on a local disk with room"
    )
