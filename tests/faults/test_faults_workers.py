"""Trial workers are killed, and whole nodes under them."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.stricken import SERIAL, Stricken, await_so, family, is_alive, worker_of
from tests.faults.tally import gaps, unlike_the_record
from tests.studies import ended, trials_of
from tune_ddvae import exit_codes

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

KILLS = 10
MOST_A_TRIAL = 3  # at the next one the study gives up on it
NODE_KILLS = 5
# How soon the death of a node is noticed; by default it takes some 20 s.
ENVIRONMENT = {
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def test_workers_killed_at_random_moments_change_nothing(
    workplace, undisturbed, tally, ray_address
):
    killed: set[int] = set()
    counted = 0

    def strike() -> bool:
        losses, pid = worker_of(workplace, study.name) or (0, 0)
        if pid in (0, *killed) or losses == MOST_A_TRIAL or not is_alive(pid):
            return False
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
        return True

    while len(killed) < KILLS:  # in as many studies as that takes
        name = f"study-{len(killed)}"
        study = Stricken(workplace, "--address", ray_address, seed=20 + len(killed), name=name)
        with study.driving() as driver:
            while len(killed) < KILLS and study.await_moment(driver, most_rows=4):
                study.faults["worker killed"] += await_so(driver, strike)
            done = ended(driver, 300)
        assert done.returncode == exit_codes.COMPLETE, done.stderr
        study.judge(tally, undisturbed)
        losses = sum(trial.losses for trial in trials_of(workplace, name))
        # A worker that is killed as its trial ends costs that trial nothing: it is settled as ended.
        assert losses <= study.faults["worker killed"]
        counted += losses
    assert counted > KILLS / 2
    assert not any(map(is_alive, killed))


class Cluster:
    """A head and a second node on this machine, which can be taken away like a plug pulled."""

    def __init__(self, folder: Path, head_cpus: int) -> None:
        self._env = {**os.environ, **ENVIRONMENT}
        self._folder = folder
        self._nodes: list[subprocess.Popen] = []
        self._heads: list[subprocess.Popen] = []
        port = random.Random(os.getpid()).randint(20_000, 30_000)
        self.address = f"127.0.0.1:{port}"
        words = (f"--port={port}", f"--num-cpus={head_cpus}", "--include-dashboard=false")
        self._heads.append(self._start("--head", *words))
        self.add_node()

    def add_node(self) -> None:
        self._nodes.append(self._start(f"--address={self.address}", "--num-cpus=1"))

    def pull_the_plug(self) -> None:
        """Every process of the newest node ends at once."""
        node = self._nodes.pop()
        _end(node)

    def close(self) -> None:
        for node in [*self._nodes, *self._heads]:
            _end(node)

    def _start(self, *words: str) -> subprocess.Popen:
        log = self._folder / f"node-{len(self._nodes)}-{time.monotonic_ns()}.log"
        with log.open("w") as file:
            node = subprocess.Popen(
                [Path(sys.executable).with_name("ray"), "start", *words, "--block"],
                env=self._env,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if not await_so(node, lambda: "Ray runtime started" in log.read_text(), 60):
            self.close()
            raise AssertionError(log.read_text())
        return node


def _end(node: subprocess.Popen) -> None:
    if node.poll() is not None:
        return
    children = family(node.pid)
    node.kill()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    node.wait(timeout=30)
    psutil.wait_procs(children, timeout=30)


@pytest.fixture
def cluster(tmp_path, request):
    cluster = Cluster(tmp_path, head_cpus=request.param)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.mark.parametrize("cluster", [0], indirect=True, ids=["one slot"])
def test_a_node_that_goes_away_under_a_serial_study_changes_nothing(
    cluster, workplace, undisturbed, tally, monkeypatch
):
    for key, value in ENVIRONMENT.items():
        monkeypatch.setenv(key, value)
    study = Stricken(workplace, "--address", cluster.address, seed=30)
    with study.driving() as driver:
        while study.faults["node killed"] < 3:
            assert study.await_moment(driver)
            cluster.pull_the_plug()
            study.faults["node killed"] += 1
            cluster.add_node()
        done = ended(driver, 300)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    study.judge(tally, undisturbed)
    assert all(trial.losses == 0 for trial in trials_of(workplace, "tiny"))


@pytest.mark.parametrize("cluster", [1], indirect=True, ids=["two slots"])
def test_a_node_that_goes_away_beside_another_loses_and_doubles_nothing(
    cluster, workplace, tally, monkeypatch
):
    for key, value in ENVIRONMENT.items():
        monkeypatch.setenv(key, value)
    words = ("--address", cluster.address, "--max-concurrent", "2")
    study = Stricken(workplace, *words, seed=31)
    assert SERIAL[:2] == ("--max-concurrent", "1")  # which the later word overrules
    with study.driving() as driver:
        for _ in range(NODE_KILLS - 3):
            assert study.await_moment(driver)
            cluster.pull_the_plug()
            study.faults["node killed"] += 1
            cluster.add_node()
        done = ended(driver, 300)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    wrong = gaps(workplace, "tiny", 15) + unlike_the_record(workplace, "tiny", "tiny", None)
    tally.take(study.faults, wrong)
    assert wrong == []
