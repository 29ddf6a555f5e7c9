"""What ``ray up cluster/on-prem.yaml`` leaves running, and its stop script does not."""

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(280)]

RAY_PROCESSES = ("/raylet", "gcs_server", "ray/dashboard", "_private/monitor.py", "ray::")
# Tries every port that a host listens on, with nothing in hand; prints those that give an answer.
TRY = """
import http.client, sys, urllib.request
for address in sys.argv[1:]:
    try:
        with urllib.request.urlopen(f"http://{address}/", timeout=2) as answer:
            print(address, answer.read(200))
    except (OSError, http.client.HTTPException):
        pass
"""


def test_head_and_workers_are_brought_up_over_ssh(cluster):
    nodes = {node["node_ip"]: node for node in cluster.nodes() if node["state"] == "ALIVE"}
    assert set(nodes) == {host.address for host in (cluster.head, *cluster.workers)}
    cpus = {address: node["resources_total"].get("CPU", 0) for address, node in nodes.items()}
    assert cpus[cluster.head.address] == 0
    assert all(cpus[worker.address] > 0 for worker in cluster.workers)


def test_nothing_answers_without_the_token(cluster):
    for host in (cluster.head, *cluster.workers):
        places = host.run(["ss", "--no-header", "--tcp", "--listening", "--numeric"]).stdout
        ports = {line.split()[3].rpartition(":")[2] for line in places.splitlines()}
        tried = [f"{host.address}:{port}" for port in ports]
        done = cluster.laptop.run(["python", "-c", TRY, *tried])
        assert done.returncode == 0, done.stderr
        assert done.stdout == "", host.name


def test_the_stop_script_leaves_nothing_of_ray_on_any_host(cluster):
    assert cluster.head.pids("gcs_server")
    cluster.stop()
    left = {
        (host.name, name): host.pids(name)
        for host in (cluster.head, *cluster.workers)
        for name in RAY_PROCESSES
    }
    assert not any(left.values()), left
