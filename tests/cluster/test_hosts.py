"""The hosts themselves, before anything is tried on them."""

import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.cluster.hosts import (
    HEAD,
    LAPTOP,
    NAMES,
    ROOT,
    WORKERS,
    Host,
    Hosts,
    inside,
    missing,
    send,
    signal,
)

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(120),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
SSH = ("ssh", "-o", "StrictHostKeyChecking=no", "-o", "ConnectTimeout=1")


@pytest.fixture(scope="module")
def hosts():
    with Hosts() as hosts:
        yield hosts


def test_the_laptop_reaches_every_host_over_ssh(hosts):
    for name in (HEAD, *WORKERS):
        done = hosts[LAPTOP].run([*SSH, f"root@{name}", "hostname; command -v ray"])
        assert done.stdout.split() == [name, f"{ROOT}/.venv/bin/ray"], done.stderr


def test_no_host_reaches_another_without_the_laptops_key(hosts):
    assert hosts[HEAD].run([*SSH, f"root@{WORKERS[0]}", "true"]).returncode == 255


def test_one_folder_is_shared_and_another_is_each_hosts_own(hosts):
    for name in NAMES:
        write = f"echo {name} >> {hosts.shared}/all; echo {name} >> {hosts.private}/own"
        assert hosts[name].run(["bash", "-c", write]).returncode == 0
    assert (hosts.shared / "all").read_text().split() == list(NAMES)
    for name in NAMES:
        assert hosts[name].path(hosts.private / "own").read_text() == f"{name}\n"


def test_a_host_has_its_own_processes(hosts):
    first, second = (hosts[name] for name in WORKERS)
    sleeper = _sleeper(first)
    try:
        assert len(first.pids("sleep 997")) == 1
        assert second.pids("sleep 997") == []
    finally:
        send(sleeper, signal.SIGTERM)
    assert sleeper.wait(10) == -signal.SIGTERM


def test_a_host_whose_cable_is_pulled_is_out_of_reach_until_it_is_put_back(hosts):
    laptop, worker = hosts[LAPTOP], hosts[WORKERS[0]]
    hosts.cut(worker)
    assert laptop.run([*SSH, "root@h1", "true"]).returncode == 255
    hosts.mend(worker)
    assert laptop.run([*SSH, "root@h1", "true"]).returncode == 0


def test_a_host_that_is_killed_takes_its_processes_along_and_boots_anew(hosts):
    worker = hosts[WORKERS[1]]
    sleeper = _sleeper(worker)
    worker.run(["bash", "-c", "touch ~/kept /tmp/lost"])
    process = psutil.Process(inside(sleeper))
    hosts.kill(worker)
    assert sleeper.wait(10) == -signal.SIGKILL
    assert not _is_alive(process)
    hosts.bring_up(worker)
    done = hosts[LAPTOP].run([*SSH, "root@h2", "ls ~/kept /tmp/lost"])
    assert done.stdout == "/root/kept\n", done
    assert worker.pids("sleep 997") == []


def test_nothing_is_left_of_them():
    before = _everything(psutil.Process())
    with Hosts() as hosts:
        sleeper = _sleeper(hosts[HEAD])
        everything = [one for one in _everything(psutil.Process()) if one not in before]
    assert len(everything) > len(NAMES)
    assert sleeper.wait(10) == -signal.SIGKILL
    assert not any(map(_is_alive, everything))
    assert not hosts.folder.exists()


def test_they_end_with_the_process_that_made_them(tmp_path):
    words = "from tests.cluster.hosts import *; hosts = Hosts().__enter__(); print(hosts.folder)"
    maker = subprocess.Popen(
        [sys.executable, "-c", f"{words}; sys.stdout.flush(); time.sleep(997)"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with maker:
        folder = Path(maker.stdout.readline().strip())
        everything = _everything(psutil.Process(maker.pid))
        maker.kill()
    shutil.rmtree(folder)
    assert len(everything) > len(NAMES)
    psutil.wait_procs(everything, timeout=10)
    assert not any(map(_is_alive, everything))


def test_a_command_that_takes_too_long_is_ended_on_its_host(hosts):
    with pytest.raises(subprocess.TimeoutExpired):
        hosts[HEAD].run(["sleep", "997"], timeout=0.5)
    assert hosts[HEAD].pids("sleep 997") == []


def _sleeper(host: Host) -> "subprocess.Popen[str]":
    """A command that runs on the host by now."""
    sleeper = host.start(["bash", "-c", "echo here; exec sleep 997"], stderr=None)
    with sleeper.stdout:
        assert sleeper.stdout.readline() == "here\n"
    return sleeper


def _everything(process: psutil.Process) -> list[psutil.Process]:
    return process.children(recursive=True)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
