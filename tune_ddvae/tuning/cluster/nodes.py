"""What a machine can be seen to have, asked on that machine itself: versions, devices, data, storage.

Every function may be sent to a node on which hardly anything is installed: what is heavy is imported
inside of them, and nothing here knows Ray. ``look`` never raises: what is missing, it says.
"""

import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import tune_ddvae
from tune_ddvae.config import DataConfig
from tune_ddvae.errors import DdvaeError
from tune_ddvae.tuning.cluster.facts import Check, DataSeen, Devices, Need, NodeFacts, Space, State
from tune_ddvae.tuning.cluster.storage_probe import PROBE, write_storage
from tune_ddvae.tuning.storage.bucket import Bucket

PACKAGES = ("ray", "torch", "numpy")  # beside Python and the project: what numbers rest on
TRAINABLE = "tune_ddvae.tuning.running.trainable"  # whatever a worker needs, this imports
GPU_FILES = ("nvidia[0-9]*", "kfd", "dxg")  # in /dev: CUDA, ROCm, and Windows' Linux
GPU_S = 60.0  # torch and its first CUDA call, on a busy machine
# Each GPU computes something: a driver may list what it cannot use.
GPU_SCRIPT = """
import json, torch
for index in range(max(1, torch.cuda.device_count())):
    assert (torch.ones(64, device=f"cuda:{index}") * 2).sum().item() == 128
print(json.dumps([torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]))
"""
OLD_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of version 1 of cgroups
MEMORY_LIMIT, MEMORY_USED, MEMORY_STAT = (  # of a container, where there is one
    Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory.current", "memory.stat")
)
UNSEEN = Check(State.BAD, "could not be looked at")
Seen = TypeVar("Seen")


def look(need: Need) -> NodeFacts:
    """All that this machine has and lacks; never raises."""
    problems: list[str] = []

    def tried(what: str, check: Callable[[], Seen], otherwise: Seen) -> Seen:
        try:
            return check()
        except Exception as error:  # noqa: BLE001 - told, and the rest is looked at all the same
            problems.append(f"{what} could not be looked at: {type(error).__name__}: {error}")
            return otherwise

    folder = need.data_dir
    if folder is not None and not need.is_driver and not Path(folder).exists():
        folder = None
    loading = load_training()  # first: what it loads tells its version itself
    probe = f"{PROBE}{need.probe}-{uuid.uuid4().hex[:8]}"
    return NodeFacts(
        host=platform.node(),
        loading=loading,
        versions=tried("versions", versions, {}),
        digest=tried("the project's code", project_digest, ""),
        devices=tried("devices", see_devices, Devices(0)),
        data=tuple(
            tried(config.name, partial(see_data, config, folder), DataSeen(config.name, UNSEEN))
            for config in need.data
        ),
        writing=None
        if need.storage is None
        else tried("the storage", partial(write_storage, need.storage, probe), UNSEEN),
        probe=probe,
        spaces=tried("free space", partial(spaces, need.storage), ()),
        free_memory=tried("free memory", free_memory, None),
        problems=tuple(problems),
    )


def versions() -> dict[str, str]:
    """Versions of Python, this project and what its numbers rest on; empty where not installed."""
    found = {"python": platform.python_version(), "tune_ddvae": tune_ddvae.__version__}
    return found | {name: _version(name) for name in PACKAGES}


def project_digest() -> str:
    """Digest of this project's code as it is imported on this machine."""
    from tune_ddvae.tuning.cluster import shipping

    return shipping.digest()


def load_training() -> Check:
    """Import all that a worker trains with."""
    try:
        importlib.import_module(TRAINABLE)
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        return Check(
            State.BAD,
            f"{name or error} is not installed",
            f"install what the driver has there too: pip install -c constraints.txt {name}".rstrip(),
        )
    except Exception as error:  # noqa: BLE001 - a broken package may raise anything
        return Check(
            State.BAD,
            f"training cannot be loaded ({type(error).__name__}: {_first_line(error)})",
            "install the driver's versions there: pip install -c constraints.txt tune-ddvae",
        )
    return Check(State.GOOD, "training loads")


def see_devices() -> Devices:
    """The CPUs that this process may use, and the GPUs that torch computed something on.

    Asked in a process of its own: Ray hides the GPUs from those that asked for none, and what a
    process has once used of a GPU it keeps.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    num_cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    if not any(found for pattern in GPU_FILES for found in Path("/dev").glob(pattern)):
        return Devices(num_cpus)
    unhidden = {name: value for name, value in os.environ.items() if "VISIBLE_DEVICES" not in name}
    try:
        done = subprocess.run(  # noqa: S603 - this Python and our own script
            [sys.executable, "-c", GPU_SCRIPT],
            env={**unhidden, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            timeout=GPU_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Devices(num_cpus, (), f"torch did not compute on the GPU within {GPU_S:g} s")
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return Devices(num_cpus, (), lines[-1] if lines else f"ended with {done.returncode}")
    return Devices(num_cpus, tuple(json.loads(done.stdout.splitlines()[-1])))


def see_data(config: DataConfig, data_dir: str | None) -> DataSeen:
    """Whether a data set lies here intact, and its checksum; makes and fetches nothing."""
    name = config.name
    try:
        from tune_ddvae import data

        place = data.found(config, None if data_dir is None else Path(data_dir))
        checksum = data_checksum(config, data_dir)
    except ModuleNotFoundError as error:
        # What is missing is said where training is loaded.
        return DataSeen(name, Check(State.ABSENT, f"cannot be read without {error.name}"))
    except (DdvaeError, OSError) as error:
        return DataSeen(name, Check(State.BAD, f"{name}: {_first_line(error)}"))
    if not place:
        words = f"{name} is not here: a study fetches it when it starts"
        mend = f"to be sure, fetch it now: python -m tune_ddvae.data {name}"
        return DataSeen(name, Check(State.DOUBTFUL, words, mend), checksum)
    return DataSeen(name, Check(State.GOOD, f"{name}: {place}"), checksum)


def data_checksum(config: DataConfig, data_dir: str | None = None) -> str:
    """Checksum of a data set as this machine would use it; makes and fetches nothing.

    Raises:
        DataError: A folder was given and lacks files.
    """
    from tune_ddvae import data

    return data.checksum(config, None if data_dir is None else Path(data_dir))


def spaces(storage: Path | Bucket | None) -> tuple[Space, ...]:
    """Room where a trial writes on this machine: the storage, if it is a folder, and what is passing."""
    places = [(Path(tempfile.gettempdir()), False)]
    with suppress(ModuleNotFoundError):  # said where training is loaded
        from tune_ddvae.data.cache import cache_dir

        places.append((cache_dir(), False))
    if isinstance(storage, Path):
        places.insert(0, (storage, True))
    found: dict[int, Space] = {}  # one a file system
    for place, is_storage in places:
        there = next(parent for parent in (place, *place.parents) if parent.exists())
        free = shutil.disk_usage(there).free
        found.setdefault(there.stat().st_dev, Space(str(place), free, is_storage))
    return tuple(found.values())


def free_memory() -> int:
    """Bytes that a new process may take, a container's limit kept."""
    import psutil

    free: int = psutil.virtual_memory().available
    limit = _memory_limit()
    if limit is None:
        return free
    try:
        used = int(MEMORY_USED.read_text(encoding="ascii"))
        stat = dict(line.split() for line in MEMORY_STAT.read_text(encoding="ascii").splitlines())
    except OSError:  # not by a container of this kind
        return min(free, limit)
    cached = int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))
    return max(0, min(free, limit - used + cached))


def total_memory() -> int:
    """Bytes that all processes together may take, a container's limit kept."""
    import psutil

    total: int = psutil.virtual_memory().total
    limit = _memory_limit()
    return total if limit is None else min(total, limit)


def clock() -> float:
    """What this machine's clock says, in seconds since 1970."""
    return time.time()


def _memory_limit() -> int | None:
    """A container's, in bytes; None where there is none."""
    for file in (MEMORY_LIMIT, OLD_MEMORY_LIMIT):
        try:
            limit = file.read_text(encoding="ascii").strip()
        except OSError:  # no container of this kind
            continue
        return int(limit) if limit.isdecimal() else None
    return None


def _version(name: str) -> str:
    loaded = getattr(sys.modules.get(name), "__version__", None)  # what runs, whatever is installed
    if loaded is not None:
        return str(loaded)
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _first_line(error: BaseException) -> str:
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return told.strip().partition("\n")[0] or type(error).__name__
