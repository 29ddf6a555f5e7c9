"""One live driver per study: a lock that the system itself frees when its holder dies."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tune_ddvae.errors import StorageError, StudyLockedError


@contextmanager
def sole_driver(
    folder: Path,
    what: str = "study",
    elsewhere: str = "use a local --storage, or keep the record on a server with --record",
) -> Iterator[None]:
    """Hold a folder for the life of this driver.

    Args:
        folder: Of a study, or of one training.
        what: Which of the two, for messages.
        elsewhere: What to do where the file system has no locks.

    Raises:
        StudyLockedError: Another driver holds it; says which, and since when.
        StorageError: The file system has no locks.
    """
    holder = folder / "driver.json"
    try:
        # Never the soft kind: a lock file that a dead driver left behind would hold for ever.
        lock = FileLock(folder / "driver.lock", fallback_to_soft=False)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StudyLockedError(
            f"another driver holds this {what}: {_described(holder)}. Wait for it to end, or stop it "
            f"(a frozen one holds the {what} too); a copy under another --name may run beside it"
        ) from error
    except (NotImplementedError, OSError) as error:
        raise StorageError(
            f"{folder} is on a file system without locks ({error}); {elsewhere}"
        ) from error
    try:
        facts = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
        holder.write_text(json.dumps(facts), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def driver_text(host: str, pid: int, started: float) -> str:
    """A driver as a person finds it; ``started`` in seconds since 1970."""
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started))
    return f"process {pid} on {host}, started {moment}"


def _described(holder: Path) -> str:
    try:
        facts = json.loads(holder.read_text(encoding="utf-8"))
        return driver_text(facts["host"], facts["pid"], facts["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return "an unknown process"
