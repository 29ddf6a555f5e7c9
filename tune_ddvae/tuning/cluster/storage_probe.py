"""A storage, folder or bucket, tried from any machine: small files are written, read and taken away."""

import errno
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tune_ddvae.errors import DdvaeError
from tune_ddvae.tuning.cluster.facts import MAKE_ROOM, Check, State
from tune_ddvae.tuning.storage import bucket
from tune_ddvae.tuning.storage.bucket import Bucket

PROBE = ".probe-"  # how the names of the files begin
ELSEWHERE = "make it one that can be written to, or name another with --storage"
FULL = (errno.ENOSPC, errno.EDQUOT)  # said here too: this runs where psutil may be missing


def write_storage(storage: Path | Bucket, name: str) -> Check:
    """Write a small file of that name into the storage and read it back; nothing above it is made.

    Args:
        storage: Absolute folder, or a bucket.
        name: The file's; no other look has it.
    """
    try:
        if isinstance(storage, Bucket):
            files = bucket.file_system(storage)
            with bucket.answering(storage), files.open_output_stream(_path(storage, name)) as file:
                file.write(name.encode())
        else:
            (storage / name).write_bytes(name.encode())
    except DdvaeError as error:
        return Check(State.BAD, str(error))
    except (OSError, ImportError) as error:
        mend = MAKE_ROOM if getattr(error, "errno", None) in FULL else ELSEWHERE
        return Check(State.BAD, f"cannot write to {storage}: {_why(error)}", mend)
    if not see_storage(storage, [name]):
        return Check(State.BAD, f"{storage} does not give back what was written to it", ELSEWHERE)
    return Check(State.GOOD, "written")


def see_storage(storage: Path | Bucket, names: Sequence[str]) -> tuple[str, ...]:
    """Which of the files that ``write_storage`` wrote, here or on other machines, are read here."""
    # By their own names and not in a list: what a network file system lists may be old.
    return tuple(name for name in names if _read(storage, name) == name.encode())


def remove_probes(storage: Path | Bucket, word: str) -> None:
    """Take away the files of one look that are seen here, whichever machine wrote them.

    Args:
        storage: Absolute folder, or a bucket.
        word: That look's own.
    """
    with suppress(OSError, ImportError):  # out of reach: what cannot be seen stays as it is
        if isinstance(storage, Bucket):
            for name in bucket.names_in(storage):
                if name.startswith(f"{PROBE}{word}"):
                    bucket.file_system(storage).delete_file(_path(storage, name))
        else:
            for path in storage.glob(f"{PROBE}{word}*"):
                path.unlink(missing_ok=True)


def _read(storage: Path | Bucket, name: str) -> bytes | None:
    """What a file in the storage holds; None where it is not seen."""
    try:
        if isinstance(storage, Bucket):
            files = bucket.file_system(storage)
            with files.open_input_stream(_path(storage, name)) as file:
                content: bytes = file.read()
            return content
        return (storage / name).read_bytes()
    except (OSError, ImportError):
        return None


def _path(there: Bucket, name: str) -> str:
    return (there / name).path


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
