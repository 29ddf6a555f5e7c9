"""One live driver per study: a lock that the system itself frees when its holder dies."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from tune_ddvae.errors import StorageError, StudyLockedError

FILE_NAME = "driver.lock"
LOOK_S = 0.2  # somebody who only looks whether it is held does so for much less


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
    named = _name_file(folder)
    try:
        # Never the soft kind: a lock file that a dead driver left behind would hold for ever.
        lock = FileLock(folder / FILE_NAME, fallback_to_soft=False)
        lock.acquire(timeout=LOOK_S)
    except Timeout as error:
        raise StudyLockedError(
            f"another driver holds this {what}: {_named(folder)}. Wait for it to end, or stop it "
            f"(a frozen one holds the {what} too); a copy under another --name may run beside it"
        ) from error
    except (NotImplementedError, OSError) as error:
        raise StorageError(
            f"{folder} is on a file system without locks ({error}); {elsewhere}"
        ) from error
    try:
        facts = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
        named.write_text(json.dumps(facts), encoding="utf-8")
        yield
    finally:
        named.unlink(missing_ok=True)
        lock.release()


def driver_text(host: str, pid: int, started: float) -> str:
    """A driver as a person finds it; ``started`` in seconds since 1970."""
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started))
    return f"process {pid} on {host}, started {moment}"


@dataclass(frozen=True)
class Holder:
    """The driver that holds a study."""

    host: str = ""
    pid: int = 0  # unknown
    started: float = 0.0  # seconds since 1970

    def __str__(self) -> str:
        """As a person finds it."""
        if not self.pid:
            return "an unknown process"
        return driver_text(self.host, self.pid, self.started)

    @property
    def is_here(self) -> bool:
        """Whether it runs on this host."""
        return bool(self.pid) and self.host == socket.gethostname()


def holder_of(folder: Path) -> Holder | None:
    """The driver that holds a folder now, on whichever host; None where nobody does.

    Changes nothing. A driver that starts at this very moment waits for the end of the look.
    """
    try:
        file = (folder / FILE_NAME).open("rb")
    except OSError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # let go as the file is closed
        except BlockingIOError:
            return _named(folder)
        except OSError:  # no locks there, so no driver either
            return None
    return None


def _name_file(folder: Path) -> Path:
    return folder / "driver.json"


def _named(folder: Path) -> Holder:
    """Who wrote its name into the folder last."""
    try:
        facts = json.loads(_name_file(folder).read_text(encoding="utf-8"))
        return Holder(str(facts["host"]), int(facts["pid"]), float(facts["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Holder()
