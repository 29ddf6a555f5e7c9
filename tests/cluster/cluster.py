"""A Ray cluster on the hosts, started as the shipped file says, and what a test asks of it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.hosts import ADDRESSES, HEAD, HOME, LAPTOP, ROOT, WORKERS, Host, Hosts
from tests.cluster_files.files import making_a_token
from tests.studies import wait_until

SHIPPED = ROOT / "cluster" / "on-prem.yaml"
FILE = HOME / "on-prem.yaml"  # the same with our addresses, on the laptop
ADDRESS = f"{ADDRESSES[HEAD]}:6379"
DASHBOARD = f"http://{ADDRESSES[HEAD]}:8265"
LAUNCHING = {"RAY_UP_enable_autoscaler_v2": "0"}
WITH_TOKEN = {"RAY_AUTH_MODE": "token"}
JOINS_WITHIN_S = 150.0
# What the state of a cluster is asked with: a `ray` command takes five seconds only to load.
ASK = """
import pathlib, sys, urllib.request
token = (pathlib.Path.home() / ".ray" / "auth_token").read_text()
asked = urllib.request.Request(sys.argv[1], headers={"Authorization": f"Bearer {token}"})
print(urllib.request.urlopen(asked, timeout=5).read().decode())
"""


class Cluster:
    """Head and workers as ``ray up`` starts them from the laptop."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.head, self.laptop = hosts[HEAD], hosts[LAPTOP]
        self.workers = [hosts[name] for name in WORKERS]
        for host in hosts:
            home = host.path(HOME)
            (home / "tune-ddvae").mkdir(exist_ok=True)
            (home / "tune-ddvae" / ".venv").symlink_to(sys.prefix)
        made = self.laptop.run(["bash", "-c", making_a_token()])
        assert made.returncode == 0, made.stderr

    def ensure_up(self) -> None:
        """Start it where it is not; return once the head and both workers are there."""
        if self.alive() != {host.address for host in (self.head, *self.workers)}:
            self.launch()
            self.await_workers()

    def launch(self) -> None:
        """``ray up`` on the laptop, with nothing but the addresses changed."""
        config = yaml.safe_load(SHIPPED.read_text())
        config["provider"]["head_ip"] = self.head.address
        config["provider"]["worker_ips"] = [worker.address for worker in self.workers]
        self.laptop.path(FILE).write_text(yaml.safe_dump(config, sort_keys=False))
        words = ["ray", "up", "--yes", FILE]
        done = self.laptop.run(words, cwd=ROOT, env=LAUNCHING, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr

    def stop(self) -> None:
        """The shipped way to end it."""
        done = self.laptop.run([SHIPPED.with_name("on-prem-stop.sh"), FILE], cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr

    def await_nodes(self, *hosts: Host, timeout_s: float = JOINS_WITHIN_S) -> None:
        """Return once the head and these workers are there, and no other."""
        wanted = {host.address for host in (self.head, *hosts)}
        eventually(lambda: self.alive() == wanted, timeout_s)

    def await_workers(self) -> None:
        """Return once every worker is there."""
        self.await_nodes(*self.workers)

    def alive(self) -> set[str]:
        """Addresses of the nodes that the head knows to be alive; none where it does not answer."""
        return {node["node_ip"] for node in self.nodes() if node["state"] == "ALIVE"}

    def nodes(self) -> list[dict[str, Any]]:
        """Every node that the head knows of, dead ones too."""
        try:
            answer = self.ask("/api/v0/nodes")
        except ValueError:
            return []
        return answer["data"]["result"]["result"]

    def ask(self, path: str) -> Any:
        """What the dashboard answers; a ValueError where it does not."""
        done = self.laptop.run(["python", "-c", ASK, DASHBOARD + path])
        return json.loads(done.stdout)

    def drive(
        self,
        words: Sequence[Any],
        cwd: Path,
        *,
        on: Host | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """A command on the head, or on another host, once it has ended."""
        return (on or self.head).run(words, cwd=cwd, env={**WITH_TOKEN, **(env or {})})

    @contextmanager
    def driving(
        self,
        words: Sequence[Any],
        cwd: Path,
        *,
        on: Host | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Iterator["subprocess.Popen[str]"]:
        """A command on the head, or on another host, that does not outlive a test that fails."""
        driver = (on or self.head).start(words, cwd=cwd, env={**WITH_TOKEN, **(env or {})})
        try:
            yield driver
        finally:
            if driver.poll() is None:
                driver.kill()
            driver.communicate(timeout=30)


@contextmanager
def hidden_behind(host: Host, path: Path | str, other: Path | str, *how: str) -> Iterator[None]:
    """Let a host see another file or folder at a path; all others see what is there."""
    mounted = host.run(["mount", "--bind", *how, other, path])
    assert mounted.returncode == 0, mounted.stderr
    try:
        yield
    finally:
        host.run(["umount", "--lazy", path])


def await_so(
    driver: "subprocess.Popen[str]", is_so: Callable[[], bool], timeout_s: float = 120.0
) -> None:
    """Return once something is so; an error that shows what the driver said if it ends before."""
    assert wait_until(driver, is_so, timeout_s), driver.communicate(timeout=30)


def eventually(is_so: Callable[[], bool], timeout_s: float = 200.0) -> None:
    """Return once something is so that no process of ours brings about."""
    until = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < until, f"waited for {timeout_s:g} s"
        time.sleep(0.5)  # a record and a job have no event to wait on
