"""A Ray cluster of several nodes on this machine, in a process of its own: nodes come and go.

with raylets.running(cpus=(2, 2)) as cluster:
    cluster.address, cluster.env, cluster.add(cpus=1), cluster.remove(node)
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

STORE_BYTES = 100_000_000


class Cluster:
    """Talks to the process that the nodes belong to; ``env`` is what lets a driver in."""

    def __init__(self, process: subprocess.Popen, env: dict[str, str]) -> None:
        self._process = process
        self.env = env
        self.address: str = self._read()

    def add(self, cpus: float, gpus: float = 0.0, **env: str) -> int:
        """Start a node, with an environment of its own; its number."""
        return self._ask(["add", cpus, gpus, env])

    def remove(self, node: int) -> None:
        """Kill a node as a power cut does."""
        self._ask(["remove", node])

    def _ask(self, words: list):
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self):
        line = self._process.stdout.readline()
        assert line, "the cluster has ended"
        return json.loads(line)


@contextmanager
def running(
    cpus: Sequence[float] = (), *, cwd: Path | None = None, env: dict | None = None, **head
) -> Iterator[Cluster]:
    """A head that gives no CPU unless told to, and a node for each number of CPUs."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    process = subprocess.Popen(
        [sys.executable, __file__, json.dumps({"num_cpus": 0, **head})],
        cwd=cwd,
        env={**os.environ, **token, **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        cluster = Cluster(process, token)
        for number in cpus:
            cluster.add(number)
        yield cluster
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for (
            left
        ) in family:  # nodes that Ray's own autoscaler started leave their log monitors behind
            with suppress(psutil.NoSuchProcess):
                left.kill()
        psutil.wait_procs(family, timeout=10)


def serve(head: dict) -> None:
    from ray.cluster_utils import Cluster as Raylets

    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints too

    def tell(what: object) -> None:
        told.write(json.dumps(what) + "\n")
        told.flush()

    common = {"object_store_memory": STORE_BYTES, "include_dashboard": False}
    # A dead node is known to be dead within seconds.
    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
    raylets = Raylets(
        initialize_head=True, head_node_args={**common, "_system_config": quick, **head}
    )
    tell(raylets.address)
    nodes = []
    for line in sys.stdin:
        what, *words = json.loads(line)
        if what == "add":
            num_cpus, num_gpus, env = words
            os.environ.update(env)
            # Nodes that share this folder take each other's copy of what a driver sends away.
            own = tempfile.mkdtemp(prefix="raylet-")
            nodes.append(
                raylets.add_node(num_cpus=num_cpus, num_gpus=num_gpus, temp_dir=own, **common)
            )
            for name in env:
                del os.environ[name]
            tell(len(nodes) - 1)
        else:
            raylets.remove_node(nodes[words[0]], allow_graceful=False)
            tell(None)
    raylets.shutdown()


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
