"""Before the first trial on a cluster: every node that may hold one is asked whether it could.

The same versions and code, the storage seen from everywhere, the study's data, placed where they lack.
What is wrong is refused here, by host and with its mend; nodes that join later are checked by their
workers.
"""

import platform
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from tune_ddvae import data
from tune_ddvae.config import DataConfig
from tune_ddvae.data import placing
from tune_ddvae.errors import DataError, ResourceError, StorageError
from tune_ddvae.tuning.cluster import nodes, storage_probe
from tune_ddvae.tuning.cluster.cluster import Answer, Node, alive_nodes, on_each_node
from tune_ddvae.tuning.cluster.diagnosis import Machine, code_of, devices_of, versions_of
from tune_ddvae.tuning.cluster.facts import Check, Devices, NodeFacts, State
from tune_ddvae.tuning.cluster.fetching import fetching
from tune_ddvae.tuning.cluster.resources import Available, num_fitting
from tune_ddvae.tuning.storage.place import Place
from tune_ddvae.tuning.wording import plural

FACTS_S = 90.0  # torch is loaded from a slow disk, on a busy machine
STORAGE_S = 60.0
DATA_S = 1800.0  # as long as one process waits for another that prepares data
SHOWN = 3  # hosts that a refusal names
SHARE = "keep studies in a folder that every machine sees, or in a bucket, with --storage"


@dataclass(frozen=True)
class Tried:
    """What came of one node's try at the storage."""

    sees_driver: bool
    writing: Check
    name: str  # of what it wrote


def trial_nodes(trial: Available) -> tuple[Node, ...]:
    """The nodes of the cluster that could hold a trial."""
    return tuple(node for node in alive_nodes() if num_fitting(node.size, trial))


def check_versions(on: Collection[Node], *, needs_gpu: bool) -> None:
    """Refuse nodes that run other versions or other code than this driver, or lack what trains.

    Args:
        on: The nodes.
        needs_gpu: Whether they must be able to compute on the GPUs that they give out.

    Raises:
        ResourceError: Names hosts and what is to be done.
    """
    answers = on_each_node(facts, needs_gpu, timeout_s=FACTS_S, nodes=on)
    ours = facts(sees_devices=False)
    given = {node.id: node for node in on}
    refuse(
        ResourceError,
        problems(answers, lambda node, theirs: _differs(ours, theirs, given[node], needs_gpu)),
    )


def check_storage(storage: Place, on: Collection[Node]) -> None:
    """Refuse a storage that is not one and the same for all nodes and this driver.

    Args:
        storage: A folder that exists, or a bucket.
        on: The nodes.

    Raises:
        StorageError: Names hosts and the place.
    """
    look = uuid.uuid4().hex[:12]
    try:
        if complaint := _said(storage_probe.write_storage(storage, f"{storage_probe.PROBE}{look}")):
            raise StorageError(complaint)
        answers = on_each_node(try_storage, storage, look, timeout_s=STORAGE_S, nodes=on)
        refuse(StorageError, problems(answers, lambda _, tried: _unshared(storage, tried)))
    finally:
        storage_probe.remove_probes(storage, look)


def place_data(
    config: DataConfig, data_dir: str | None, wanted: str, on: Collection[Node]
) -> Any | None:
    """Make the study's data ready on every node, once on each; those that lack them get this one's.

    Args:
        config: Which data.
        data_dir: Folder that holds them here; it need not exist there.
        wanted: Their checksum.
        on: The nodes.

    Returns:
        Ray's reference to the files for nodes that join later; None for data that need none.

    Raises:
        DataError: A node cannot have them, or has others; names hosts and the mend.
    """
    parcel = placing.pack(config, None if data_dir is None else Path(data_dir))
    reference = None if parcel is None else ray.put(parcel)
    answers = on_each_node(
        ready_data, config, data_dir, wanted, [reference], timeout_s=DATA_S, nodes=on
    )
    refuse(DataError, problems(answers, lambda _, theirs: _other_data(config.name, wanted, theirs)))
    return reference


def facts(sees_devices: bool) -> NodeFacts:
    """What this machine runs; asked on each."""
    loading = nodes.load_training()  # first: what it loads tells its version itself
    return NodeFacts(
        host=platform.node(),
        loading=loading,
        versions=nodes.versions(),
        digest=nodes.project_digest(),
        devices=nodes.see_devices() if sees_devices else Devices(0),
    )


def try_storage(storage: Place, look: str) -> Tried:
    """Whether this machine sees the driver's file in the storage, and writes one of its own there."""
    name = f"{storage_probe.PROBE}{look}-{uuid.uuid4().hex[:8]}"
    return Tried(
        sees_driver=bool(storage_probe.see_storage(storage, [f"{storage_probe.PROBE}{look}"])),
        writing=storage_probe.write_storage(storage, name),
        name=name,
    )


def ready_data(config: DataConfig, data_dir: str | None, wanted: str, parcel: Sequence[Any]) -> str:
    """Make the data ready on this machine, with the driver's files if need be; their checksum.

    Raises:
        DataError: They cannot be had.
    """
    (reference,) = parcel
    given = None if data_dir is None else Path(data_dir)
    folder = placing.settle(config, given, wanted, fetching(reference))
    data.prepare(config, folder)
    return data.checksum(config, folder)


def problems(answers: Mapping[str, Answer], judge: Callable[[str, Any], str]) -> list[str]:
    """What is wrong with which host: no answer, or what the judge says of node and answer."""
    found = []
    for node, answer in answers.items():
        where = f"{answer.host} ({answer.address})"
        if answer.error:
            found.append(f"{where}: {answer.error}")
        elif complaint := judge(node, answer.value):
            found.append(f"{where}: {complaint}")
    return found


def refuse(kind: type[Exception], found: Sequence[str]) -> None:
    """Raise the error with what was found; nothing where that is nothing.

    Raises:
        Exception: Of that kind.
    """
    if found:
        more = len(found) - SHOWN
        rest = f"; and {more} more {plural('node', more)}" if more > 0 else ""
        raise kind(f"the cluster cannot run this study. {'; '.join(found[:SHOWN])}{rest}")


def _differs(ours: NodeFacts, theirs: NodeFacts, node: Node, needs_gpu: bool) -> str:
    checks = [versions_of(theirs, ours), code_of(theirs, ours)]
    if needs_gpu:
        machine = Machine(host=node.host, num_cpus=node.num_cpus, num_gpus=node.num_gpus)
        checks.append(devices_of(machine, theirs))
    return next(filter(None, map(_said, checks)), "")


def _unshared(storage: Place, tried: Tried) -> str:
    if not tried.sees_driver:
        return f"does not see what this machine writes to {storage}; {SHARE}"
    if complaint := _said(tried.writing):
        return complaint
    if not storage_probe.see_storage(storage, [tried.name]):
        return f"what it writes to {storage} is not seen on this machine; {SHARE}"
    return ""


def _said(check: Check) -> str:
    """What a check complains of; nothing where a study could run all the same."""
    if check.state is not State.BAD:
        return ""
    return "; ".join(filter(None, (check.words, check.mend)))


def _other_data(name: str, wanted: str, theirs: str) -> str:
    if theirs == wanted:
        return ""
    return (
        f"its {name} data have checksum {theirs[:16]}, the study's {wanted[:16]}; put the same files on "
        "every machine, or take away those that only this one has"
    )
