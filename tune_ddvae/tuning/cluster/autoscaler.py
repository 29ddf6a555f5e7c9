"""Whether a cluster adds nodes by itself, and which: Ray has no word for it, so it is found out.

`ray up` leaves a monitor on the head that was told of the cluster's file, and that file says all. Under
KubeRay the autoscaler runs outside of the head, where only what it reports can be seen. Every other
head has a monitor that was told of nothing and adds nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from ray._private import ray_constants
from ray.core.generated import autoscaler_pb2
from ray.exceptions import RayError
from ray.experimental.internal_kv import internal_kv_get_gcs_client

from tune_ddvae.tuning.cluster.resources import GIGABYTE, Available, Growth, NodeType

HEAD = "--gcs-address="
OPTION = "--autoscaling-config="
SCRIPT = "monitor.py"
STATUS_S = 10.0  # how long the head may take to say how it stands


@dataclass(frozen=True)
class Monitor:
    """The process that may add nodes, as its own machine shows it.

    Attributes:
        is_there: Whether it runs on the head.
        config: The cluster's file that it was told of; None where it adds nothing.
    """

    is_there: bool
    config: Mapping[str, Any] | None = None


def find_monitor(port: int) -> Monitor:
    """The monitor of the cluster whose head listens on that port; to be asked on its head.

    Raises:
        OSError: Its file cannot be read.
    """
    for process in psutil.process_iter(["cmdline"]):
        words: Sequence[str] = process.info["cmdline"] or ()
        is_monitor = any(Path(word).name == SCRIPT for word in words)  # log_monitor.py is another
        if is_monitor and any(
            word.startswith(HEAD) and word.endswith(f":{port}") for word in words
        ):
            files = [word.removeprefix(OPTION) for word in words if word.startswith(OPTION)]
            if not files:
                return Monitor(is_there=True)
            text = Path(files[-1]).expanduser().read_text(encoding="utf-8")
            return Monitor(is_there=True, config=yaml.safe_load(text))
    return Monitor(is_there=False)


def growth_of(monitor: Monitor, *, reports: bool) -> Growth | None:
    """What may be added, from what the head shows; None where nothing adds nodes.

    Args:
        monitor: As seen on the head.
        reports: Whether some autoscaler reports to the head, wherever it runs.
    """
    if monitor.config is not None:
        return _growth_in(monitor.config)
    return Growth() if reports and not monitor.is_there else None


def reports_here() -> bool:
    """Whether an autoscaler has reported to the head of the cluster that was joined."""
    key = ray_constants.DEBUG_AUTOSCALING_STATUS.encode()
    told = _directory().internal_kv_get(key, namespace=None)
    return bool(told) or _state().autoscaler_state_version > 0


def is_infeasible(trial: Available) -> bool:
    """Whether the autoscaler has said of such a trial that no node can be had for it now."""
    try:
        state = _state()
    except RayError:  # the head is away for now, and nothing has been said
        return False
    bundles = [
        dict(request.resources_bundle)
        for gang in state.infeasible_gang_resource_requests
        for requests in (gang.requests, *(s.resource_requests for s in gang.bundle_selectors))
        for request in requests
    ]
    return trial.bundle in bundles


def _growth_in(config: Mapping[str, Any]) -> Growth:
    """What a cluster's file says may be added."""
    head = config.get("head_node_type")
    most = config.get("max_workers")
    types = []
    for name, kind in (config.get("available_node_types") or {}).items():
        if name == head:
            continue  # there is one
        limits = [n for n in (kind.get("max_workers"), most) if n is not None]
        size = kind.get("resources") or {}
        known = Available(
            float(size.get("CPU", 0.0)),
            float(size.get("GPU", 0.0)),
            float(size.get("memory", math.inf)) / GIGABYTE,
        )
        types.append(NodeType(known if size else None, min(limits, default=0)))
    if not types:  # machines that were listed by address: whatever they have
        types.append(NodeType(None, most or 0))
    return Growth(tuple(types), most)


def _directory() -> Any:
    """The head's, as the cluster that was joined knows it."""
    return internal_kv_get_gcs_client()  # type: ignore[no-untyped-call]


def _state() -> Any:
    """What an autoscaler last reported to the head; empty where none did."""
    reply = autoscaler_pb2.GetClusterStatusReply()  # type: ignore[attr-defined]
    reply.ParseFromString(_directory().get_cluster_status(timeout_s=STATUS_S))
    return reply.autoscaling_state
