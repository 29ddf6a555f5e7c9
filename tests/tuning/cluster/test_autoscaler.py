import math
import subprocess
import sys
import time

import psutil
import pytest
import yaml
from ray.core.generated import autoscaler_pb2
from ray.exceptions import RpcError

from tune_ddvae.tuning.cluster import autoscaler
from tune_ddvae.tuning.cluster.autoscaler import (
    Monitor,
    find_monitor,
    growth_of,
    is_infeasible,
    reports_here,
)
from tune_ddvae.tuning.cluster.resources import Available, Growth, NodeType

# As `ray up` writes them for its monitor: of machines in a cloud, and of machines listed by address.
CLOUD = {
    "max_workers": 5,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 2}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 4},
        "spare": {"resources": {"CPU": 4, "memory": 16_500_000_000}, "min_workers": 0},
    },
}
LISTED = {
    "max_workers": 2,
    "head_node_type": "local.cluster.node",
    "available_node_types": {"local.cluster.node": {"resources": {}, "max_workers": 2}},
}


def test_what_a_cloud_may_add_is_read_from_the_clusters_file():
    grows = growth_of(Monitor(is_there=True, config=CLOUD), reports=True)
    gpu, spare = Available(8.0, 1.0, math.inf), Available(4.0, 0.0, 16.5)
    assert grows == Growth((NodeType(gpu, 4), NodeType(spare, 5)), most_workers=5)


def test_listed_machines_have_sizes_that_nobody_knows_yet():
    grows = growth_of(Monitor(is_there=True, config=LISTED), reports=True)
    assert grows == Growth((NodeType(None, 2),), most_workers=2)


def test_a_monitor_that_was_told_of_no_file_adds_nothing_though_it_reports():
    assert growth_of(Monitor(is_there=True), reports=True) is None


def test_an_autoscaler_outside_of_the_head_is_known_by_its_reports():
    assert growth_of(Monitor(is_there=False), reports=True) == Growth()
    assert growth_of(Monitor(is_there=False), reports=False) is None


@pytest.fixture
def monitor(tmp_path):
    """Something that looks like Ray's monitor to who reads the table of processes."""
    started = []

    def start(*words: str, name: str = "monitor.py") -> None:
        script = tmp_path / name
        script.write_text("import sys; sys.stdin.read()")
        process = subprocess.Popen(
            [sys.executable, str(script), *words], stdin=subprocess.PIPE, cwd=tmp_path
        )
        started.append(process)
        while str(script) not in psutil.Process(process.pid).cmdline():
            time.sleep(0.01)  # between fork and exec

    yield start
    for process in started:
        process.stdin.close()
        process.wait()


def test_each_cluster_has_its_own_monitor(monitor, tmp_path):
    monitor("--gcs-address=10.0.0.1:16379", name="log_monitor.py")
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(CLOUD))
    monitor("--gcs-address=10.0.0.1:16379", f"--autoscaling-config={tmp_path / 'cluster.yaml'}")
    monitor("--gcs-address=10.0.0.1:16380")
    assert find_monitor(16379) == Monitor(is_there=True, config=CLOUD)
    assert find_monitor(16380) == Monitor(is_there=True)
    assert find_monitor(6379) == Monitor(is_there=False)


class Head:
    """What the head's directory answers."""

    def __init__(self, *bundles: dict[str, float], status: bytes | None = None, version=0) -> None:
        self.reply = autoscaler_pb2.GetClusterStatusReply()
        self.reply.autoscaling_state.autoscaler_state_version = version
        self.status = status
        for bundle in bundles:
            gang = self.reply.autoscaling_state.infeasible_gang_resource_requests.add()
            gang.requests.add().resources_bundle.update(bundle)

    def get_cluster_status(self, **_) -> bytes:
        return self.reply.SerializeToString()

    def internal_kv_get(self, *_, **__) -> bytes | None:
        return self.status


@pytest.fixture
def head(monkeypatch):
    def install(found: Head) -> None:
        monkeypatch.setattr(autoscaler, "_directory", lambda: found)

    return install


def test_only_a_trial_like_ours_that_no_node_can_be_had_for_is_ours(head):
    head(Head({"CPU": 4.0, "GPU": 0.25}, {"CPU": 64.0}))
    assert is_infeasible(Available(4.0, 0.25))
    assert is_infeasible(Available(64.0, 0.0))
    assert not is_infeasible(Available(4.0, 0.0))
    assert not is_infeasible(Available(4.0, 1.0))


def test_a_trial_that_asks_for_memory_is_known_by_it(head):
    trial = Available(4.0, 0.25, 4.1)
    head(Head(trial.bundle))
    assert is_infeasible(trial)
    assert not is_infeasible(Available(4.0, 0.25))
    assert not is_infeasible(Available(4.0, 0.25, 4.2))


def test_a_head_that_is_away_has_said_nothing(head):
    class Away(Head):
        def get_cluster_status(self, **_) -> bytes:
            raise RpcError("no answer")

    head(Away())
    assert not is_infeasible(Available(1.0, 0.0))


@pytest.mark.parametrize(
    ("found", "reports"),
    [(Head(), False), (Head(status=b"{}"), True), (Head(version=7), True)],
)
def test_both_kinds_of_autoscaler_are_known_by_their_reports(found, reports, head):
    head(found)
    assert reports_here() == reports
