"""The doctor's round of a cluster: every node looks at itself, then at what the others wrote."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tune_ddvae.errors import ResourceError
from tune_ddvae.tuning.cluster import cluster, nodes, storage_probe
from tune_ddvae.tuning.cluster.cluster import Answer, Node
from tune_ddvae.tuning.cluster.diagnosis import Machine
from tune_ddvae.tuning.cluster.facts import Need
from tune_ddvae.tuning.cluster.resources import View
from tune_ddvae.tuning.wording import plural

LOOK_S = 90.0  # torch from a slow disk, on a busy machine
AGAIN_S = 30.0  # what is asked later, everything being loaded there
SILENT = Answer("", "", error="said nothing the second time")


@dataclass(frozen=True, kw_only=True)
class Round:
    """What the machines said.

    Attributes:
        driver: This one, with what it sees of what the nodes wrote.
        nodes: Of the cluster.
        view: The cluster as Ray gives it out.
    """

    driver: Machine
    nodes: tuple[Machine, ...]
    view: View


def alone(driver: Machine) -> Round:
    """The round of one machine."""
    return Round(driver=driver, nodes=(), view=View((driver.size,)))


def round_of(address: str, driver: Machine, need: Need, tell: Callable[[str], None]) -> Round:
    """The round of the cluster at an address, which is left again.

    Args:
        address: Of the cluster.
        driver: This machine, which has looked at itself.
        need: What to look for.
        tell: Hears what is being waited for.

    Raises:
        ResourceError: The cluster cannot be joined; says why and what would do.
    """
    tell(f"joining the cluster at {address}")
    cluster.join_cluster(address)
    try:
        return _asked(driver, need, tell)
    finally:
        cluster.stop_ray()


def _asked(driver: Machine, need: Need, tell: Callable[[str], None]) -> Round:
    there, ask = cluster.alive_nodes(), cluster.on_each_node
    tell(f"asking {len(there)} {plural('node', len(there))}, for at most {LOOK_S:g} s")
    theirs = dataclasses.replace(need, is_driver=False)
    looked = ask(nodes.look, theirs, timeout_s=LOOK_S, nodes=there)
    spoke = [node for node in there if not looked[node.id].error]
    tell("asking each what it sees of what the others wrote")
    seen: dict[str, Answer] = {}
    if need.storage is not None:
        probes = [looked[node.id].value.probe for node in spoke]
        probes += [driver.facts.probe] if driver.facts else []
        seen = ask(storage_probe.see_storage, need.storage, probes, timeout_s=AGAIN_S, nodes=spoke)
        driver = dataclasses.replace(driver, seen=storage_probe.see_storage(need.storage, probes))
        ask(storage_probe.remove_probes, need.storage, need.probe, timeout_s=AGAIN_S, nodes=spoke)
    before = time.time()
    clocks = ask(nodes.clock, timeout_s=AGAIN_S, nodes=spoke)
    after = time.time()
    machines = tuple(
        Machine(
            host=node.host,
            address=node.address,
            num_cpus=node.num_cpus,
            num_gpus=node.num_gpus,
            memory_gb=node.memory_gb,
            facts=looked[node.id].value,
            seen=seen.get(node.id, SILENT).value,
            ahead_s=ahead(clocks.get(node.id, SILENT).value, before, after),
            error=looked[node.id].error,
        )
        for node in there
    )
    return Round(driver=driver, nodes=machines, view=_view(there))


def ahead(told: float | None, before: float, after: float) -> float | None:
    """How far a clock is ahead of ours at least; ours was read before and after it was asked."""
    if told is None:
        return None
    return max(told - after, 0.0) + min(told - before, 0.0)


def _view(there: Sequence[Node]) -> View:
    try:
        return cluster.Looker()()
    except ResourceError:  # its head is silent, which its row says; what is there, is there
        return View(tuple(node.size for node in there))
