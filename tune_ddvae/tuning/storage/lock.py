"""One live driver per study: a lock that the system itself frees when its holder dies."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from tune_ddvae.errors import StorageError, StudyLockedError
from tune_ddvae.tuning.wording import shown

FILE_NAME = "driver.lock"
NOTE_NAME = "driver.json"  # whose lock it is
LOOK_S = 0.2  # somebody who only looks whether it is held does so for much less
LAST_TIME = 253_402_300_799.0  # the last second that a date can name
Birth = Mapping[str, str | int | float]


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
        raise _locked(_named(folder), what) from error
    except (NotImplementedError, OSError) as error:
        raise StorageError(
            f"{folder} is on a file system without locks ({error}); {elsewhere}"
        ) from error
    try:
        facts = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": time.time(),
            "birth": birth_of(os.getpid()),
        }
        named.write_text(json.dumps(facts), encoding="utf-8")
        yield
    finally:
        named.unlink(missing_ok=True)
        lock.release()


def driver_text(host: str, pid: int, started: float) -> str:
    """A driver as a person finds it; ``started`` in seconds since 1970."""
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started))
    return f"process {pid} on {shown(host)}, started {moment}"


@dataclass(frozen=True)
class Holder:
    """The driver that holds a study."""

    host: str = ""
    pid: int = 0  # unknown
    started: float = 0.0  # seconds since 1970
    birth: Birth = field(default_factory=dict, compare=False)  # empty: unknown
    left_s: float | None = field(default=None, compare=False)  # of its lease, if it holds by one

    def __str__(self) -> str:
        """As a person finds it."""
        if not self.pid:
            return "an unknown process"
        return driver_text(self.host, self.pid, self.started)

    @property
    def is_here(self) -> bool:
        """Whether it runs on this host."""
        return self.pid > 0 and self.host == socket.gethostname()


def birth_of(pid: int) -> Birth:
    """What tells a process of this host from every other that has, had or will have its number.

    Raises:
        psutil.Error: There is no such process, or it may not be seen.
    """
    return {
        "boot": _boot_id(),
        "pid_namespace": _pid_namespace(),  # containers may share a host's name
        "born": _born(pid),
    }


def _boot_id() -> str:
    """Of this start of the machine; empty where the system gives none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _pid_namespace() -> int:
    """That our process numbers are of; 0 where the system has no such spaces."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def _born(pid: int) -> float:
    """When a process was made, the same whoever asks, and whenever."""
    try:
        # By the boot's clock: psutil's answer moves when the machine's time is set.
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return psutil.Process(pid).create_time()
    return float(stat.rpartition(b")")[2].split()[19])


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


def check_free(folder: Path) -> None:
    """Refuse a study that another driver holds now; changes nothing, and promises nothing.

    Raises:
        StudyLockedError: Says which driver, and since when.
    """
    if holder := holder_of(folder):
        raise _locked(holder, "study")


def _locked(holder: Holder, what: str) -> StudyLockedError:
    return StudyLockedError(
        f"another driver holds this {what}: {holder}. Wait for it to end, or stop it "
        f"(a frozen one holds the {what} too); a copy under another --name may run beside it"
    )


def _name_file(folder: Path) -> Path:
    return folder / NOTE_NAME


def _named(folder: Path) -> Holder:
    """Who wrote its name into the folder last."""
    try:
        facts = json.loads(_name_file(folder).read_text(encoding="utf-8"))
        host, pid, started = facts["host"], facts["pid"], facts["started"]
        birth = facts.get("birth", {})  # missing from notes of before it was written
    except (OSError, ValueError, KeyError, TypeError):
        return Holder()
    is_process = isinstance(host, str) and type(pid) is int and pid > 0
    is_time = type(started) in (int, float) and 0 <= started <= LAST_TIME
    if not is_process or not is_time:
        return Holder()
    return Holder(host, pid, float(started), birth if isinstance(birth, dict) else {})
