"""Ray itself: joined at an address with our code going along, or started on this machine.

And one question put to every node of it, each asked once and with a time limit.
"""

import json
import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import utils as ray_utils
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import tune_ddvae
from tune_ddvae.errors import ResourceError
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.cluster import autoscaler, shipping
from tune_ddvae.tuning.cluster.entry import (
    check_cluster,
    keep_own_token,
    loopback_kept,
    uses_token,
)
from tune_ddvae.tuning.cluster.nodes import total_memory
from tune_ddvae.tuning.cluster.resources import GIGABYTE, Available, View
from tune_ddvae.tuning.storage.folders import TEMPORARY

ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours reports and records first
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # 41 ms of driver CPU a result
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",  # snapshots for a restore that we never use
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial that asked for no GPU sees none
    "RAY_USAGE_STATS_ENABLED": "0",
}
# Of a Ray that we start: its exporters would tell anyone who asks, token or not. Two of them have a
# port instead of a switch: with one that cannot be, they log that they do not start, and do not.
EXPORTERS_OFF = {
    "RAY_enable_metrics_collection": "0",
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
}
# Those that workers read; on a cluster that we join they do not come from us by themselves.
FOR_WORKERS = ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO",)
HEAD_RESOURCE = "node:__internal_head__"
HEAD_S = 60.0  # how long the head may take to start a worker and answer
LOOK_EVERY_S = 0.5  # how soon a signal is heeded while nodes are asked
# A driver whose head is gone ends with code 1 and without a Python exception, a minute later: C++
# ends it (RAY_gcs_rpc_server_reconnect_timeout_s, 60, says when). What is in the record counts; the
# time-out stays as it is, since a head with durable state comes back within it.


@dataclass(frozen=True)
class Node:
    """A machine of the cluster that is alive now."""

    id: str
    host: str  # as it calls itself
    address: str
    num_cpus: float  # that Ray gives away there; a head may give none
    num_gpus: float
    memory_gb: float = 0.0
    is_head: bool = False

    @property
    def size(self) -> Available:
        """What Ray gives away there."""
        return Available(self.num_cpus, self.num_gpus, self.memory_gb)


@dataclass(frozen=True)
class Answer:
    """What one node said.

    Attributes:
        value: What the function returned there; None where it failed.
        error: Why there is no value; empty where there is.
    """

    host: str
    address: str
    value: Any = None
    error: str = ""


def join_cluster(address: str) -> None:
    """Join the cluster at an address; its workers will run the code that runs here.

    Raises:
        ResourceError: It cannot be joined; says why and what would do.
    """
    os.environ.update(ENVIRONMENT)
    place = check_cluster(address)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY) as staged:
        environment = runtime_env(Path(staged), os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR))
        try:
            with _on_our_terms(), loopback_kept():
                ray.init(
                    address=place,  # for auto, Ray would use a token that nobody asked for
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env=environment,
                )
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise ResourceError(
                f"the Ray cluster at --address {address} could not be joined: {error}"
            ) from error
    if uses_token() and not _ask_head(uses_token):
        # Such a driver joins, and refuses every call of the cluster's: no actor of its ever starts.
        ray.shutdown()
        raise ResourceError(
            f"RAY_AUTH_MODE is token here, and the Ray cluster at --address {address} runs without: "
            "unset it here, or start the cluster with it, which is safer"
        )


def _ask_head(function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns on the head of the cluster that was joined.

    Raises:
        ResourceError: It does not answer.
    """
    heads = [node for node in alive_nodes() if node.is_head]
    answers = on_each_node(function, *args, timeout_s=HEAD_S, nodes=heads)
    answer = next(iter(answers.values()), Answer("", "", error="it is gone"))
    if answer.error:
        raise ResourceError(f"the cluster's head does not answer: {answer.error}")
    return answer.value


def runtime_env(folder: Path, job_config: str | None) -> dict[str, Any]:
    """What our workers run in: our code, laid into the folder, and the switches that they read.

    The code goes as their working directory, which alone comes before whatever lies in theirs: a
    package of our name there would win silently over one that is only on their path.

    Args:
        folder: An empty one; it is uploaded.
        job_config: Ray's description of the submitted job that this driver is, as JSON; None if it
            is none. Such a job has its code already, and Ray refuses to be told a thing twice.
    """
    given: Mapping[str, Any] = {}
    if job_config is not None:
        given = json.loads(job_config).get("runtime_env") or {}
    already = given.get("env_vars") or {}
    ours: dict[str, Any] = {
        "env_vars": {name: ENVIRONMENT[name] for name in FOR_WORKERS if name not in already}
    }
    if not given.get("working_dir"):
        shipping.stage(folder)
        ours["working_dir"] = str(folder)
    return ours


def check_sockets() -> None:
    """Refuse a place for a Ray of our own where its sockets' names would be too long for the system.

    Raises:
        ResourceError: Names the place, what is too long, and what would do.
    """
    folder = get_default_ray_temp_dir()  # type: ignore[no-untyped-call]
    session = f"session_{datetime.now():%Y-%m-%d_%H-%M-%S_%f}_{os.getpid()}"
    try:
        ray_utils.validate_socket_filepath(f"{folder}/{session}/sockets/plasma_store")
    except OSError as error:
        raise ResourceError(
            f"Ray keeps its sockets below {folder}, whose name is too long for that ({error}): name "
            "a folder with a short one, as in RAY_TMPDIR=/tmp"
        ) from error


def start_ray() -> None:
    """Start a Ray of our own on this machine, on loopback, unless a cluster has been joined.

    Raises:
        ResourceError: Others could read its token.
    """
    os.environ.update(ENVIRONMENT)
    if ray.is_initialized():
        return
    keep_own_token()
    os.environ.update(EXPORTERS_OFF)
    with _on_our_terms(), loopback_kept():
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=200_000_000,
            _memory=total_memory(),  # by which slots are counted; Ray's own is what is free now
        )


def stop_ray() -> None:
    """End the Ray that we started, or leave the cluster that we joined."""
    ray.shutdown()


def alive_nodes() -> tuple[Node, ...]:
    """The nodes that are alive now, in order of host and address."""
    nodes = [
        Node(
            id=node["NodeID"],
            host=node["NodeManagerHostname"],
            address=node["NodeManagerAddress"],
            num_cpus=node["Resources"].get("CPU", 0.0),
            num_gpus=node["Resources"].get("GPU", 0.0),
            memory_gb=node["Resources"].get("memory", 0.0) / GIGABYTE,
            is_head=HEAD_RESOURCE in node["Resources"],
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
    return tuple(sorted(nodes, key=lambda node: (node.host, node.address, node.id)))


class Looker:
    """Sees the cluster that was joined as it is at any time, and whether it grows by itself.

    Raises:
        ResourceError: Its head does not say whether it does.
    """

    def __init__(self) -> None:
        # By its port: the head may be known here by a name, and to itself by an address.
        port = int(ray.get_runtime_context().gcs_address.rpartition(":")[2])
        self._monitor: autoscaler.Monitor = _ask_head(autoscaler.find_monitor, port)
        self._reports = False

    def __call__(self) -> View:
        """The cluster as it is now."""
        nodes = alive_nodes()
        if not self._monitor.is_there and not self._reports:
            self._reports = autoscaler.reports_here()
        return View(
            tuple(node.size for node in nodes),
            sum(not node.is_head for node in nodes),
            autoscaler.growth_of(self._monitor, reports=self._reports),
        )


def on_each_node(
    function: Callable[..., Any],
    *args: Any,
    timeout_s: float,
    nodes: Collection[Node] | None = None,
) -> dict[str, Answer]:
    """Run a function once on every node at the same time; a node that does not answer is an answer.

    Takes no CPU of any node, so that nodes that are busy or give none away answer too.

    Args:
        function: One of our own modules' functions: workers import it there.
        args: Passed on; a reference of Ray's is given inside a list, or Ray fetches it first.
        timeout_s: How long all of it may take.
        nodes: Which; None for all that are alive.

    Returns:
        The answer of each, by the node's id.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = {
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
        ).remote(*args): node
        for node in (alive_nodes() if nodes is None else nodes)
    }
    until = time.monotonic() + timeout_s
    waiting = list(asked)
    while waiting and (left_s := until - time.monotonic()) > 0:
        # In short waits: Ray heeds no signal in a long one.
        _, waiting = ray.wait(
            waiting, num_returns=len(waiting), timeout=min(left_s, LOOK_EVERY_S), fetch_local=False
        )
    for reference in waiting:
        ray.cancel(reference, force=True)
    silent = set(waiting)
    return {
        node.id: Answer(node.host, node.address, error=f"no answer within {timeout_s:g} s")
        if reference in silent
        else _answer(node, reference)
        for reference, node in asked.items()
    }


def _answer(node: Node, reference: Any) -> Answer:
    try:
        return Answer(node.host, node.address, value=ray.get(reference, timeout=LOOK_EVERY_S * 20))
    except RayTaskError as error:  # the function's own
        cause = error.cause
        text = str(cause) or type(cause).__name__
        return Answer(node.host, node.address, error=text)
    except GetTimeoutError:
        return Answer(node.host, node.address, error="its answer could not be fetched")
    except RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return Answer(node.host, node.address, error=lines[-1] if lines else type(error).__name__)


@contextmanager
def _on_our_terms() -> Iterator[None]:
    """Let ``ray.init`` do neither more nor less than we mean.

    It would put in SIGTERM handlers of its own: one of Python's, which ends a driver without a word
    while Ray is half started, and one of C++, which aborts; so ours is put in again over that. It
    writes down this driver's command, which whoever may list a cluster's jobs reads: not with its
    passwords. And it puts the current folder first on its workers' path: a package of our name that
    lies there would win over us in the workers, so that folder has to be the one that we come from.
    """
    sets_handler, tells_command = ray_utils.set_sigterm_handler, ray_utils.get_entrypoint_name
    ours = signal.getsignal(signal.SIGTERM)
    ray_utils.set_sigterm_handler = _leave_sigterm
    ray_utils.get_entrypoint_name = lambda: without_password(tells_command())  # type: ignore[no-untyped-call]
    try:
        with chdir(Path(tune_ddvae.__file__).parent.parent):
            yield
    finally:
        signal.signal(signal.SIGTERM, ours)
        ray_utils.set_sigterm_handler = sets_handler
        ray_utils.get_entrypoint_name = tells_command


def _leave_sigterm(_handler: Callable[..., Any]) -> None:
    """Ray's handler is not put in: ours stays."""
