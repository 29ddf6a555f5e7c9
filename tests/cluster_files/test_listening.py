"""Nothing in cluster/ listens on all interfaces without the token, or where nobody asked for it."""

import re

import pytest

from tests.cluster_files.files import (
    ALL,
    COMPOSE,
    KUBERAY_FILES,
    RAY_FILES,
    SLURM,
    load,
    start_commands,
)

EVERYWHERE = re.compile(r"\b0\.0\.0\.0\b|(?<![\w:])::(?![\w:])|\[::\]|\bINADDR_ANY\b")
STARTS_RAY = re.compile(r"^(?!\s*#).*\bray start\b|^(?!\s*#).*/ray\" start\b", re.MULTILINE)
WITH_TOKEN = re.compile(
    r"^(?!\s*#).*(RAY_AUTH_MODE=token|authOptions: \{mode: token\})", re.MULTILINE
)
EXPORTERS_OFF = (
    ("RAY_enable_metrics_collection", "0"),
    ("AUTOSCALER_METRIC_PORT", "-1"),
    ("DASHBOARD_METRIC_PORT", "-1"),
)
NOT_IN_SCRIPTS = [path for path in ALL if path.suffix != ".md"]

each_file = pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)


@each_file
def test_all_interfaces_are_named_nowhere_but_inside_a_container(path):
    """MLflow's, which publishes its port on loopback: test_mlflow_compose.py."""
    found = EVERYWHERE.findall(path.read_text(encoding="utf-8"))
    assert len(found) == (1 if path == COMPOSE else 0)


@each_file
def test_whatever_starts_ray_starts_it_with_the_token(path):
    text = path.read_text(encoding="utf-8")
    if STARTS_RAY.search(text):
        assert WITH_TOKEN.search(text)
        assert "RAY_AUTH_MODE=disabled" not in text


def test_files_that_start_ray_are_all_known():
    starting = {
        path for path in NOT_IN_SCRIPTS if STARTS_RAY.search(path.read_text(encoding="utf-8"))
    }
    assert starting == {*RAY_FILES, SLURM}
    for path in KUBERAY_FILES:
        assert WITH_TOKEN.search(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", RAY_FILES, ids=lambda path: path.name)
def test_rays_exporters_which_know_no_token_are_off_wherever_ray_up_starts_it(path):
    head, worker = map(str.split, start_commands(load(path)))
    for words, switches in ((head, EXPORTERS_OFF), (worker, EXPORTERS_OFF[:1])):
        before = words[: words.index("start")]
        assert {f"{name}={value}" for name, value in switches} <= set(before)


def test_rays_exporters_are_off_in_a_slurm_job():
    before = SLURM.read_text(encoding="utf-8").partition("start_ray()")[0]
    (line,) = re.findall(r"^export (RAY_enable_metrics.*)", before, re.MULTILINE)
    assert line.split() == [f"{name}={value}" for name, value in EXPORTERS_OFF]


@pytest.mark.parametrize("path", KUBERAY_FILES, ids=lambda path: path.name)
def test_rays_exporters_are_off_in_every_container(path):
    cluster = load(path)["spec"]
    cluster = cluster.get("rayClusterSpec", cluster)
    metrics, autoscaler, dashboard = (
        {"name": name, "value": value} for name, value in EXPORTERS_OFF
    )
    assert autoscaler in cluster["autoscalerOptions"]["env"]  # it has a container of its own
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert metrics in head["env"]
    assert dashboard in head["env"]
    for group in cluster["workerGroupSpecs"]:
        (worker,) = group["template"]["spec"]["containers"]
        assert metrics in worker["env"]


def test_a_ray_that_a_study_starts_has_the_same_exporters_off():
    from tune_ddvae.tuning.cluster import cluster

    assert dict(EXPORTERS_OFF) == cluster.EXPORTERS_OFF


@each_file
def test_a_dashboard_is_bound_to_loopback_or_to_the_address_that_ssh_came_to(path):
    hosts = re.findall(r"--dashboard-host[= ](\S+)", path.read_text(encoding="utf-8"))
    assert {host.rstrip("`") for host in hosts} <= {"127.0.0.1", '"$3"'}


@pytest.mark.parametrize("path", KUBERAY_FILES, ids=lambda path: path.name)
def test_no_service_of_kubernetes_is_open_to_the_outside(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"LoadBalancer|NodePort|hostPort|hostNetwork|enableIngress", text)


@each_file
def test_no_token_password_or_key_is_written_into_a_file(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b[0-9a-f]{32,}\b|AKIA[0-9A-Z]{16}|PRIVATE KEY", text)
    assert not re.search(r"://[^\s/:@]+:[^\s/@$*]+@", text)  # an address with a password in it


def test_only_the_mlflow_server_publishes_a_port():
    for path in RAY_FILES:
        config = load(path)
        assert "--publish" not in repr(config.get("docker"))
