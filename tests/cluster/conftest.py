import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.hosts import Hosts, missing


@pytest.fixture(scope="session")
def hosts():
    """The hosts, with nothing running on them but sshd."""
    if reason := missing():
        pytest.skip(reason)
    with Hosts() as hosts:
        yield hosts


@pytest.fixture(scope="session")
def the_cluster(hosts) -> Cluster:
    """One cluster for all tests: starting it takes the better part of a minute."""
    return Cluster(hosts)


@pytest.fixture(scope="module")
def cluster(the_cluster) -> Cluster:
    """The cluster with its head and both workers, whatever other tests did to it."""
    the_cluster.ensure_up()
    return the_cluster


@pytest.fixture(scope="session")
def place(hosts, ready_tracking) -> Callable[[str], Path]:
    """Makes a folder that every host sees, with a tracking database that is ready."""

    def make(name: str) -> Path:
        folder = hosts.shared / name
        (folder / "studies").mkdir(parents=True)
        shutil.copy(ready_tracking, folder / "studies" / "mlflow.db")
        return folder

    return make
