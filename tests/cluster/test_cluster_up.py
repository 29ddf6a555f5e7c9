"""What ``ray up cluster/on-prem.yaml`` leaves running, and its stop script does not."""

import json
import stat

import pytest

from tests.cluster.hosts import HOME

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(280)]

RAY_PROCESSES = ("/raylet", "gcs_server", "ray/dashboard", "_private/monitor.py", "ray::")
# Asks every address that it is given, with nothing in hand: as a web server, and for one call of each
# of Ray's own services, with an empty message. Prints who told something, and who refused which call.
ASK = """
import http.client, json, sys, urllib.error, urllib.request
import grpc
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
services = ("NodeInfoGcsService/GetAllNodeInfo", "NodeManagerService/GetNodeStats",
            "ObjectManagerService/Pull", "CoreWorkerService/GetCoreWorkerStats",
            "ReporterService/HealthCheck", "RayletDriver/ClusterInfo")
told, refused = [], []
for address in sys.argv[1:]:
    for path in ("/", "/metrics", "/api/version"):
        try:
            with opener.open(f"http://{address}{path}", timeout=5) as answer:
                told.append((address, path, answer.status))
        except urllib.error.HTTPError as error:
            if error.code not in (401, 403):
                told.append((address, path, error.code))
        except (OSError, http.client.HTTPException):
            break
    with grpc.insecure_channel(address) as channel:
        for name in services:
            try:
                channel.unary_unary(f"/ray.rpc.{name}")(b"", timeout=5)
                told.append((address, name, "OK"))
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    refused.append((address, name.partition("/")[0]))
                elif error.code() not in (
                    grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE
                ):
                    told.append((address, name, error.code().name))
print(json.dumps([told, refused]))
"""
# The page that asks for the token, and shows nothing before it has it.
START_PAGE = (8265, "/", 200)
SERVICES = {"NodeManagerService", "ObjectManagerService", "ReporterService"}  # of every machine
HEADS_SERVICES = {"NodeInfoGcsService", "RayletDriver"}


def test_head_and_workers_are_brought_up_over_ssh(cluster):
    nodes = {node["node_ip"]: node for node in cluster.nodes() if node["state"] == "ALIVE"}
    assert set(nodes) == {host.address for host in (cluster.head, *cluster.workers)}
    cpus = {address: node["resources_total"].get("CPU", 0) for address, node in nodes.items()}
    assert cpus[cluster.head.address] == 0
    assert all(cpus[worker.address] > 0 for worker in cluster.workers)


def test_no_other_account_of_any_host_can_read_the_token(cluster):
    for host in cluster.hosts:
        token = host.path(HOME / ".ray" / "auth_token").stat()
        assert (stat.S_IMODE(token.st_mode), token.st_uid) == (0o600, 0), host.name


def ask_without_token(cluster, host):
    """What a host's ports tell to another host, as (port, asked, answer); and who refuses a call."""
    places = host.run(["ss", "--no-header", "--tcp", "--listening", "--numeric"]).stdout
    ports = {line.split()[3].rpartition(":")[2] for line in places.splitlines()}
    tried = [f"{host.address}:{port}" for port in sorted(ports)]
    done = cluster.laptop.run(["python", "-c", ASK, *tried])
    assert done.returncode == 0, done.stderr
    told, refused = json.loads(done.stdout)
    told = {(int(address.rpartition(":")[2]), *rest) for address, *rest in told}
    return told, {service for _, service in refused}


def test_nothing_answers_without_the_token(cluster):
    told, refusing = ask_without_token(cluster, cluster.head)
    assert told == {START_PAGE}
    assert refusing >= SERVICES | HEADS_SERVICES  # and those of workers, where there are any
    for worker in cluster.workers:
        told, refusing = ask_without_token(cluster, worker)
        assert told == set(), worker.name
        assert refusing >= SERVICES, worker.name


def test_the_stop_script_leaves_nothing_of_ray_on_any_host(cluster):
    assert cluster.head.pids("gcs_server")
    cluster.stop()
    left = {
        (host.name, name): host.pids(name)
        for host in (cluster.head, *cluster.workers)
        for name in RAY_PROCESSES
    }
    assert not any(left.values()), left
