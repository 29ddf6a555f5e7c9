"""The doctor on three hosts: a healthy cluster, and one with something wrong in three places."""

import json
import sys

import pytest
import torch

from tests.cluster.cluster import ADDRESS, hidden_behind
from tune_ddvae import exit_codes
from tune_ddvae.tuning.cluster.facts import State

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(280)]

HOSTS = ("h0 (driver)", "h0", "h1", "h2")
OTHER_TORCH = "1.2.3"
VERSION_FILE = f"""__version__ = {OTHER_TORCH!r}
cuda = hip = rocm = xpu = debug = None
git_version = ""
"""
NOBODY = "http://h0:5999"  # where a tracking server was, and is no more


def test_a_healthy_cluster_is_all_green(cluster, place):
    done, found = examine(cluster, place("healthy"))
    assert done.returncode == exit_codes.COMPLETE, done.stdout
    assert [machine["host"] for machine in found["machines"]] == list(HOSTS)
    assert found["findings"] == []
    assert found["study"]["trials"]["words"].startswith("4 trials at once")


def test_each_thing_that_is_wrong_is_named_with_its_host(cluster, place):
    folder = place("unhealthy")
    first, second = cluster.workers
    version = f"{torch.__path__[0]}/version.py"
    other = folder / "version.py"
    other.write_text(VERSION_FILE)
    with (
        hidden_behind(first, version, other),
        hidden_behind(second, folder / "studies", folder / "studies", "-o", "ro"),
    ):
        done, found = examine(cluster, folder, "--tracking-uri", NOBODY)
    assert done.returncode == exit_codes.REFUSED, done.stdout
    named = {(finding["where"], finding["what"]): finding for finding in found["findings"]}
    assert set(named) == {("h1", "versions"), ("h2", "storage"), ("study", "tracking")}
    assert named["h1", "versions"]["words"].startswith(f"torch {OTHER_TORCH}, the driver has")
    assert str(folder) in named["h2", "storage"]["words"]
    assert NOBODY in named["study", "tracking"]["words"]
    assert all(finding["mend"] for finding in named.values())
    bad = {place for place, finding in named.items() if finding["state"] == State.BAD}
    assert bad == {("h1", "versions"), ("h2", "storage")}  # a study waits for no tracking server


def examine(cluster, folder, *words):
    doctor = (sys.executable, "-m", "tune_ddvae.doctor", "clustering", "--json")
    where = ("--address", ADDRESS, "--storage", folder / "studies")
    done = cluster.drive([*doctor, *where, *words], folder)
    return done, json.loads(done.stdout)
