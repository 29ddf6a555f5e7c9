"""What one machine says of itself: plain data, since it travels from nodes to the driver."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tune_ddvae.config import DataConfig
from tune_ddvae.tuning.storage.bucket import Bucket

MAKE_ROOM = "make room there: delete what is not needed, or name another --storage"  # it is full


class State(StrEnum):
    """How a check came out."""

    GOOD = "good"
    DOUBTFUL = "doubtful"  # worth a word, and a study would run
    BAD = "bad"  # a study could not run
    ABSENT = "absent"  # nothing to check here


@dataclass(frozen=True)
class Check:
    """One thing looked at on one machine."""

    state: State
    words: str
    mend: str = ""  # what to do about it


@dataclass(frozen=True, kw_only=True)
class Need:
    """What to look for on every node; plain data, since it is sent to them."""

    data: tuple[DataConfig, ...] = ()
    data_dir: str | None = None
    is_driver: bool = False  # only the driver must have that folder: it hands its files over
    storage: Path | Bucket | None = None  # a folder is absolute
    probe: str = ""  # this look's own word, in the names of the files that it leaves in the storage


@dataclass(frozen=True)
class Devices:
    """The CPUs that a process may use and the GPUs that torch can compute on."""

    num_cpus: int
    gpus: tuple[str, ...] = ()  # models
    problem: str = ""  # why GPUs that the machine has cannot be used


@dataclass(frozen=True)
class DataSeen:
    """One data set on one machine."""

    name: str
    check: Check
    checksum: str = ""


@dataclass(frozen=True)
class Space:
    """Room in one place of a machine."""

    place: str
    free_bytes: int
    is_storage: bool = False


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """All that one machine said of itself."""

    host: str
    versions: Mapping[str, str]  # empty text: not installed
    digest: str  # of the project's code as it runs there; empty where it cannot be told
    loading: Check  # of all that trains
    devices: Devices
    data: tuple[DataSeen, ...] = ()
    writing: Check | None = None  # into the storage
    probe: str = ""  # what this machine wrote there
    spaces: tuple[Space, ...] = ()
    free_memory: int | None = None
    problems: tuple[str, ...] = ()  # what could not be looked at, and why
