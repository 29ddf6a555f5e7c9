"""Studies on a cluster of several nodes, all on this machine: what reaches them, what they follow."""

import copy
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import yaml

from tests import raylets
from tests.studies import driving, ended, run, trials_of, trials_so_far, wait_until, write_tiny
from tune_ddvae.tuning.trials import State

pytestmark = pytest.mark.field
EPOCHS = {"training/epochs": 9}


def decoy(folder: Path) -> Path:
    """A package of our name that must never be imported."""
    (folder / "tune_ddvae").mkdir(parents=True)
    (folder / "tune_ddvae" / "__init__.py").write_text("raise ImportError('the decoy')")
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes of two CPUs, started where decoys lie, and found first by whoever looks there."""
    folder = decoy(tmp_path_factory.mktemp("decoy"))
    with raylets.running((2, 2), cwd=folder, env={"PYTHONPATH": str(folder)}) as cluster:
        yield cluster


def in_flight(folder: Path, name: str) -> int:
    return sum(
        trial.started is not None and trial.state is State.UNFINISHED
        for trial in trials_so_far(folder, name)
    )


def test_workers_run_the_drivers_code_wherever_decoys_lie(workplace, cluster):
    study = write_tiny(workplace, trials=6, overrides=EPOCHS)
    elsewhere = decoy(workplace / "elsewhere")
    words = ["--address", cluster.address, "--cpus-per-trial", 1, "--json"]
    options = ["--storage", str(workplace / "studies"), "--no-report", *map(str, words)]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tune_ddvae.study", str(study), *options],
        cwd=elsewhere,
        env={**os.environ, **cluster.env, "TUNE_DDVAE_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    trials = trials_of(workplace, "tiny")
    assert {trial.losses for trial in trials} == {0}
    assert all(trial.facts["tune_ddvae"] for trial in trials)
    # What the driver sets for its own machine stays there.
    assert {trial.facts["threads"] for trial in trials} == {1}
    assert not list((workplace / "studies" / "tiny").glob(".session-*"))


def test_what_no_one_node_can_hold_is_refused_naming_asked_and_available(workplace, cluster):
    study = write_tiny(workplace, trials=2, overrides=EPOCHS)
    started = time.monotonic()
    words = ("--address", cluster.address, "--cpus-per-trial", 3)
    done = run(study, workplace, *words, env=cluster.env)
    assert time.monotonic() - started < 60
    assert done.returncode == 2
    assert "asks for 3 CPUs a trial, and there are 2, on one node at most" in done.stderr
    assert not (workplace / "studies" / "tiny").exists()


OPEN = {"RAY_AUTH_MODE": "disabled"}


def test_a_driver_and_its_cluster_agree_on_a_token_or_are_told_why_not(workplace, cluster):
    study = write_tiny(workplace, trials=2, overrides=EPOCHS)
    words = ("--address", cluster.address)
    for env, why in (
        (OPEN, "asks for a token: set RAY_AUTH_MODE=token"),
        ({**cluster.env, "RAY_AUTH_TOKEN": "b" * 32}, "refuses the token that is here"),
    ):
        done = run(study, workplace, *words, env=env)
        assert done.returncode == 2
        assert why in done.stderr
    with raylets.running(env=OPEN) as without:
        done = run(study, workplace, "--address", without.address, env=without.env)
        assert done.returncode == 2
        assert "runs without: unset it here" in done.stderr


def test_gpus_that_torch_cannot_compute_on_are_refused_before_any_trial(workplace, cluster):
    node = cluster.add(1, gpus=1)
    study = write_tiny(workplace, trials=2, overrides=EPOCHS)
    words = ("--address", cluster.address, "--gpus-per-trial", 0.25)
    done = run(study, workplace, *words, env=cluster.env)
    cluster.remove(node)
    assert done.returncode == 2
    assert "Ray gives out 1 GPU, torch can use 0" in done.stderr
    assert not (workplace / "studies" / "tiny").exists()


def test_a_node_without_the_data_is_brought_the_drivers(tmp_path, workplace):
    caches = [workplace / "first", workplace / "second"]
    size = {"data/num_train": 200, "data/num_validation": 100, "data/num_test": 100}
    pins = [word for key, value in size.items() for word in ("--set", f"{key}={value}")]
    with raylets.running() as cluster:
        for cache in caches:
            cluster.add(1, TUNE_DDVAE_DATA="/nowhere", TUNE_DDVAE_CACHE=str(cache))
        done = run(
            "sparsity",
            workplace,
            *("--address", cluster.address, "--quick", "--trials", 2, "--epochs", 1, *pins),
            *("--first-rung", "none"),
            env=cluster.env,
        )
    trials = trials_of(workplace, "sparsity-quick")
    assert all(trial.last_epoch == 1 for trial in trials), done.stdout  # so few images: collapsed
    assert all(trial.facts["data"] for trial in trials)
    for cache in caches:
        (placed,) = (path for path in (cache / "placed").iterdir() if path.is_dir())
        assert len(list(placed.iterdir())) == 4


def test_slots_follow_nodes_that_come_and_go(workplace):
    study = write_tiny(workplace, trials=24)
    with raylets.running((2,)) as cluster:
        words = ("--address", cluster.address, "--cpus-per-trial", 1, "--json")
        with driving(study, workplace, *words, env=cluster.env) as driver:
            assert wait_until(driver, lambda: in_flight(workplace, "tiny") == 2)
            cluster.add(2)
            assert wait_until(driver, lambda: in_flight(workplace, "tiny") == 4)
            cluster.remove(0)
            done = ended(driver, 240)
    assert done.returncode == 0, done.stderr
    trials = trials_of(workplace, "tiny")
    assert len(trials) == 24
    assert {trial.losses for trial in trials} == {0}  # a node's end is no fault of its trials
    assert "its node died or cannot be reached" in done.stderr


def test_a_cluster_without_nodes_is_waited_for_and_then_left_with_work_to_do(workplace):
    study = write_tiny(workplace, trials=6)
    wait = {"TUNE_DDVAE_CLUSTER_WAIT_S": "8"}
    with raylets.running((1,)) as cluster:
        wait |= cluster.env
        words = ("--address", cluster.address)
        with driving(study, workplace, *words, env=wait) as driver:
            assert wait_until(driver, lambda: in_flight(workplace, "tiny") > 0)
            cluster.remove(0)
            done = ended(driver, 120)
        assert done.returncode == 3, done.stderr
        assert "waiting for the cluster: a trial takes 1 CPU, no node has that now" in done.stdout
        assert "no node of the cluster could hold a trial" in done.stdout
        refused = run(study, workplace, *words, env=wait)
        assert refused.returncode == 2
        assert "no node of the cluster gave CPUs within 8 s" in refused.stderr
        cluster.add(2)
        assert run(study, workplace, *words, "--json", env=wait).returncode == 0
    assert {trial.losses for trial in trials_of(workplace, "tiny")} == {0}


# Ray's autoscaler itself, adding nodes on this machine.
FAKE_HEAD = "f" * 51 + "00000"
GROWING = {
    "cluster_name": "growing",
    "max_workers": 2,
    "provider": {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"CPU": 2, "object_store_memory": raylets.STORE_BYTES},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 2,
        },
    },
    "head_node_type": "ray.head.default",
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 5,
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "initialization_commands": [],
    "auth": {},
    "docker": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
}


@pytest.fixture
def growing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    config = copy.deepcopy(GROWING)
    config["provider"]["gcs_address"] = f"{ray.util.get_node_ip_address()}:{port}"
    path = tmp_path / "growing.yaml"
    path.write_text(yaml.safe_dump(config))
    env = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD,
    }
    head = {"autoscaling_config": str(path), "gcs_server_port": port}
    with raylets.running(env=env, **head) as cluster:
        yield cluster


def test_a_cluster_that_grows_is_waited_for_and_grows_because_a_trial_waits(workplace, growing):
    study = write_tiny(workplace, trials=8, overrides=EPOCHS)
    words = ("--address", growing.address, "--cpus-per-trial", 1, "--max-concurrent", 3)
    done = run(study, workplace, *words, env=growing.env)
    assert done.returncode == 0, done.stderr
    trials = trials_of(workplace, "tiny")
    assert len(trials) == 8
    times = [(trial.started, trial.ended) for trial in trials]
    at_once = max(sum(a <= start < b for a, b in times) for start, _ in times)
    assert at_once == 3  # more than one node holds
    # These nodes share a folder of Ray's, and the second takes the first's code away: a worker may
    # be lost by that, as on no two machines.
    assert all(trial.state is not State.FAILED for trial in trials)


def test_what_no_node_of_a_growing_cluster_holds_is_refused(workplace, growing):
    study = write_tiny(workplace, trials=2, overrides=EPOCHS)
    words = ("--address", growing.address, "--cpus-per-trial", 4)
    done = run(study, workplace, *words, env=growing.env)
    assert done.returncode == 2
    assert "asks for 4 CPUs a trial, and there are 2, on one node at most" in done.stderr


SHARES = """
import json, sys, ray
from tune_ddvae.tuning.cluster import cluster
from tune_ddvae.tuning.cluster.resources import Available, make_slots
import os
os.environ.update(cluster.ENVIRONMENT)
ray.init(address="local", num_cpus=8, num_gpus=1, include_dashboard=False, log_to_driver=False)
slots = make_slots(Available(8.0, 1.0), gpus_per_trial=0.25)
bundle = slots.trial.bundle
groups = [ray.util.placement_group([bundle]) for _ in range(slots.concurrent + 1)]
told = [group.ready() for group in groups]
ready, waiting = ray.wait(told, num_returns=len(groups), timeout=10)
@ray.remote(num_cpus=bundle["CPU"], num_gpus=bundle["GPU"])
def sees():
    return os.environ.get("CUDA_VISIBLE_DEVICES")
strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
placed = [group for group, answer in zip(groups, told) if answer in ready]
seen = ray.get([sees.options(scheduling_strategy=strategy(g)).remote() for g in placed])
print(json.dumps([slots.concurrent, bundle, len(ready), len(waiting), seen]))
"""


def test_four_trials_share_a_gpu_and_a_fifth_waits(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SHARES], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    concurrent, bundle, num_ready, num_waiting, seen = json.loads(done.stdout.splitlines()[-1])
    assert (concurrent, bundle) == (4, {"CPU": 2.0, "GPU": 0.25})
    assert (num_ready, num_waiting) == (4, 1)
    assert seen == ["0"] * 4
