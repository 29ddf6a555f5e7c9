"""Where a study lives on disk: one folder per study, named by a short safe slug."""

import hashlib
import os
import re
import tempfile
import unicodedata
from pathlib import Path

import psutil

from tune_ddvae.errors import ConfigError, StorageError

LONGEST_NAME = 400
MAX_SLUG = 40
TRIALS_FOLDER = "trials"  # below the study's folder: one folder per attempt
TEMPORARY = "tune-ddvae-"  # how the names of our temporary folders begin
NOT_IN_ADDRESSES = frozenset("?%#")  # SQLAlchemy and MLflow read these as other than part of a path
# File systems on which SQLite's shared-memory log (WAL) does not work.
NETWORK_FILE_SYSTEMS = frozenset(
    ("nfs", "nfs4", "lustre", "cifs", "smb3", "smbfs", "ceph", "beegfs", "gpfs", "fuse.sshfs", "9p")
)


def slug(name: str, kind: str = "study") -> str:
    """A folder name for any name: short, plain, and different for different names.

    Args:
        name: Any.
        kind: Of what has the name: its folder is called so where nothing plain is left of that.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    plain = re.sub(r"[^a-z0-9_]+", "-", plain).strip("-")[:MAX_SLUG].strip("-")
    if plain == name:
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{plain or kind}--{digest}"  # no plain name has two dashes running


def check_name(name: str) -> None:
    """Refuse what no study can be called.

    Raises:
        ConfigError: It is empty or too long.
    """
    if not 0 < len(name) <= LONGEST_NAME:
        raise ConfigError(f"--name must have 1 to {LONGEST_NAME} characters, got {name!r}")


def absolute(storage: str | Path) -> Path:
    """The folder that the user means, absolute, with ~ expanded.

    Raises:
        StorageError: The address of a database in it could not be written down.
    """
    folder = Path(storage).expanduser().absolute()
    odd = NOT_IN_ADDRESSES.intersection(str(folder))
    if odd:
        raise _unusable(folder, f"{' '.join(sorted(odd))} in its path")
    return folder


def planned_folder(storage: str | Path) -> Path:
    """The storage folder, absolute; checked as far as can be without making it.

    Raises:
        StorageError: It could not be made or written to.
    """
    folder = absolute(storage)
    parent = existing_parent(folder)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise _unusable(folder, f"{parent} cannot be written to")
    return folder


def attempt_name(number: int, attempt: str) -> str:
    """Name of an attempt's folder: short whatever the params, and no two drivers write to one."""
    return f"{number:05d}-{attempt}"


def existing_parent(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def storage_folder(storage: str | Path) -> Path:
    """The storage folder, absolute, with ~ expanded; made, and probed for writing.

    Raises:
        StorageError: It cannot be made or written to.
    """
    folder = absolute(storage)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as probe:
            probe.write(b"probe")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        if made and folder.exists():
            folder.rmdir()
        raise _unusable(folder, str(error.strerror)) from error
    return folder


def _unusable(folder: Path, why: str) -> StorageError:
    return StorageError(
        f"storage {folder} must be a folder that can be written to, got: {why}; "
        "name another with --storage"
    )


def file_system(folder: Path) -> str:
    """Type of the file system that holds the folder, as the system names it."""
    resolved = folder.resolve()
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    for parent in (resolved, *resolved.parents):
        if parent in mounts:
            return mounts[parent]
    return "unknown"


def takes_wal(folder: Path) -> bool:
    """Whether SQLite's write-ahead log works there."""
    return file_system(folder) not in NETWORK_FILE_SYSTEMS


def free_bytes(folder: Path) -> int:
    """Bytes free for us on the folder's file system."""
    return psutil.disk_usage(str(folder)).free
