"""Joining a cluster, as far as it can be tried without one; and one question put to a Ray of our own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import ray
from ray import cloudpickle, tune
from ray.exceptions import AuthenticationError
from ray.runtime_env.runtime_env import _merge_runtime_env

from tune_ddvae.errors import DataError, ResourceError
from tune_ddvae.tuning.cluster import cluster
from tune_ddvae.tuning.cluster import entry as cluster_entry
from tune_ddvae.tuning.cluster.cluster import Answer, alive_nodes, on_each_node, runtime_env
from tune_ddvae.tuning.cluster.entry import check_cluster
from tune_ddvae.tuning.cluster.resources import Available, local_resources, num_fitting
from tune_ddvae.tuning.running.trainable import TrialTrainable

# -- what goes along -----------------------------------------------------------------------------


def test_our_code_goes_as_the_workers_working_folder(tmp_path):
    ours = runtime_env(tmp_path, None)
    assert ours["working_dir"] == str(tmp_path)
    assert (tmp_path / "tune_ddvae" / "tuning" / "running" / "trainable.py").is_file()
    assert ours["env_vars"] == {name: cluster.ENVIRONMENT[name] for name in cluster.FOR_WORKERS}


@pytest.mark.parametrize(
    "given",
    [
        None,
        {},
        {"working_dir": "gcs://_ray_pkg_1.zip"},
        {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "OTHER": "1"}},
        {"working_dir": "gcs://_ray_pkg_1.zip", "env_vars": {"OTHER": "1"}},
    ],
)
def test_a_submitted_job_is_not_told_a_second_time_what_it_was_sent_with(given, tmp_path):
    ours = runtime_env(tmp_path, json.dumps({"runtime_env": given, "metadata": {}}))
    merged = _merge_runtime_env(given, ours)  # None where both say the same thing
    assert merged is not None
    assert merged["working_dir"] == (given or {}).get("working_dir", str(tmp_path))
    assert any(tmp_path.iterdir()) == ("working_dir" not in (given or {}))
    assert "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO" in merged["env_vars"]


def test_a_pickled_trainable_is_small():
    sized = tune.with_resources(TrialTrainable, tune.PlacementGroupFactory([{"CPU": 1}]))
    assert len(cloudpickle.dumps(sized)) < 1_000_000


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_a_place_too_long_for_rays_sockets_is_refused_with_a_shorter_one(
    variable, tmp_path, monkeypatch
):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    monkeypatch.setenv(variable, str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(ResourceError, match=rf"{folder}.*107 bytes.*RAY_TMPDIR=/tmp"):
        cluster.check_sockets()
    monkeypatch.setenv(variable, "/t")
    monkeypatch.setattr(tempfile, "tempdir", None)
    cluster.check_sockets()


# -- who is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://head:8265", "the address of its dashboard belongs to --submit"),
        ("https://head", "the address of its dashboard belongs to --submit"),
        ("ray://head:10001", "Ray's client protocol is not used"),
        ("nonsense", "must be HOST:PORT of a Ray cluster, got nonsense"),
        ("127.0.0.1:1", "nothing answers at --address 127.0.0.1:1"),
        ("127.0.0.1:99999", "nothing answers at --address 127.0.0.1:99999"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused_at_once(address, why):
    started = time.monotonic()
    with pytest.raises(ResourceError) as refused:
        check_cluster(address)
    assert why in str(refused.value)
    assert time.monotonic() - started < 5


def refused_token(monkeypatch, *, mode: bool, source: str, answers: bool = False) -> str:
    def standalone(*_) -> None:
        assert answers, "Ray would have ended this process"
        raise AuthenticationError("RPC error: InvalidAuthToken")

    modes = cluster_entry.AuthenticationMode
    monkeypatch.setattr(
        cluster_entry,
        "get_authentication_mode",
        lambda: modes.TOKEN if mode else modes.DISABLED,
    )
    monkeypatch.setattr(cluster_entry, "_token_source", lambda: source)
    monkeypatch.setattr(
        cluster_entry,
        "InnerGcsClient",
        type("Client", (), {"standalone": staticmethod(standalone)}),
    )
    with pytest.raises(ResourceError) as refused:
        cluster_entry._head("h0:6379", "10.0.0.1:6379")
    return str(refused.value)


def test_a_token_that_is_asked_for_is_named_with_all_that_must_be_set(monkeypatch):
    said = refused_token(monkeypatch, mode=False, source="", answers=True)
    assert "--address h0:6379 asks for a token: set RAY_AUTH_MODE=token" in said
    assert "RAY_AUTH_TOKEN or ~/.ray/auth_token" in said


def test_a_token_that_is_here_but_not_used_only_wants_the_mode(monkeypatch):
    said = refused_token(monkeypatch, mode=False, source="~/.ray/auth_token", answers=True)
    assert said.endswith("asks for a token: set RAY_AUTH_MODE=token")


def test_a_mode_without_a_token_is_refused_before_ray_is_asked(monkeypatch):
    said = refused_token(monkeypatch, mode=True, source="")
    assert "asks for a token that is not here: set RAY_AUTH_TOKEN" in said
    assert "copy the cluster's ~/.ray/auth_token" in said


def test_a_wrong_token_is_named_by_where_it_came_from(monkeypatch):
    said = refused_token(monkeypatch, mode=True, source="RAY_AUTH_TOKEN", answers=True)
    assert "refuses the token that is here, from RAY_AUTH_TOKEN" in said


@pytest.mark.parametrize("variable", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", None])
def test_a_token_is_looked_for_where_ray_does(variable, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert cluster_entry._token_source() == ""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    assert cluster_entry._token_source() == "~/.ray/auth_token"
    if variable is not None:
        monkeypatch.setenv(variable, "given")
        assert cluster_entry._token_source() == variable


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"ray_version": "2.40.0"}, f"runs Ray 2.40.0, and this is Ray {ray.__version__}"),
        ({"python_version": "3.9.1"}, "runs Python 3.9.1, and this is Python 3"),
    ],
)
def test_other_versions_are_refused_with_both(facts, named, monkeypatch):
    import platform

    same = {"ray_version": ray.__version__, "python_version": platform.python_version()}
    monkeypatch.setattr(cluster_entry, "get_cluster_metadata", lambda _: same | facts)
    with pytest.raises(ResourceError, match=named):
        cluster_entry._check_versions("h0:6379", None)
    monkeypatch.setattr(cluster_entry, "get_cluster_metadata", lambda _: same)
    cluster_entry._check_versions("h0:6379", None)


def test_a_machine_that_is_no_node_of_the_cluster_is_told_how_to_become_one(monkeypatch):
    monkeypatch.setattr(cluster_entry.services, "find_node_ids", set)
    with pytest.raises(ResourceError) as refused:
        cluster_entry._check_is_node("h0:6379", None)
    assert "not a node of the Ray cluster at --address h0:6379" in str(refused.value)
    assert "ray start --address=h0:6379 --num-cpus=0" in str(refused.value)


# -- asking every node ---------------------------------------------------------------------------


def only(answers: dict[str, Answer]) -> Answer:
    (answer,) = answers.values()
    return answer


def test_every_node_answers_by_its_own_name(ray_address):
    (node,) = alive_nodes()
    assert node.is_head
    answers = on_each_node(lambda a, b: (a + b, os.getpid()), 1, 2, timeout_s=60.0)
    assert list(answers) == [node.id]
    total, pid = answers[node.id].value
    assert (total, answers[node.id].host) == (3, node.host)
    assert pid != os.getpid()


def test_a_node_that_fails_is_an_answer_in_its_own_words(ray_address):
    def broken() -> None:
        raise DataError("no such file")

    assert only(on_each_node(broken, timeout_s=60.0)).error == "no such file"


def test_a_node_that_is_silent_is_an_answer_after_the_time_limit(ray_address):
    def forever() -> None:
        time.sleep(600)

    started = time.monotonic()
    answer = only(on_each_node(forever, timeout_s=1.0))
    assert answer.error == "no answer within 1 s"
    assert time.monotonic() - started < 10


def test_a_node_that_dies_of_it_is_an_answer(ray_address):
    assert only(on_each_node(lambda: os._exit(7), timeout_s=60.0)).error


def test_no_nodes_no_answers(ray_address):
    assert on_each_node(lambda: 0, timeout_s=1.0, nodes=()) == {}


def test_a_node_whose_cpus_are_all_taken_answers_too(ray_address):
    @ray.remote
    class Busy:
        def ready(self) -> bool:
            return True

    cpus = ray.cluster_resources()["CPU"]
    busy = Busy.options(num_cpus=cpus).remote()
    assert ray.get(busy.ready.remote())
    assert only(on_each_node(lambda: "here", timeout_s=60.0)).value == "here"
    ray.kill(busy)


def test_what_goes_to_every_node_may_be_one_object_of_rays(ray_address):
    reference = ray.put(b"x" * 1000)
    found = only(on_each_node(lambda parcel: len(ray.get(parcel[0])), [reference], timeout_s=60.0))
    assert found.value == 1000


def test_the_head_says_whether_the_cluster_grows(ray_address):
    look = cluster.Looker()
    view = look()
    assert view.growth is None
    assert view.num_workers == 0
    assert view.nodes[0].num_cpus == len(os.sched_getaffinity(0))


def test_a_ray_of_our_own_gives_out_the_memory_that_slots_are_counted_by(ray_address):
    (node,) = alive_nodes()
    assert node.size.memory_bytes == local_resources().memory_bytes
    assert num_fitting(node.size, Available(1.0, 0.0, node.memory_gb)) == 1


def test_a_ray_of_our_own_is_on_loopback_and_is_joined_there(ray_address):
    """Ray would put the machine's outer address in place of it, at both ends."""
    assert ray_address.startswith("127.0.0.1:")
    assert check_cluster(ray_address) == ray_address
    assert [node.address for node in alive_nodes()] == ["127.0.0.1"]


JOINS = """
import os, signal, sys, ray
from tune_ddvae.tuning.cluster import cluster
signal.signal(signal.SIGTERM, lambda *_: print("heard"))
cluster.join_cluster(sys.argv[1])
os.kill(os.getpid(), signal.SIGTERM)
mine = ray.get_runtime_context().get_job_id()
print(*[job["Entrypoint"] for job in ray._private.state.jobs() if job["JobID"] == mine])
"""


def test_a_cluster_is_told_no_password_and_leaves_our_handler_of_signals(ray_address):
    """Whoever may list its jobs reads the commands of their drivers."""
    words = ["--record", "postgresql://mary:hidden@h/d", "--tracking-uri", "http://mary:hidden@h"]
    command = [sys.executable, "-c", JOINS, ray_address, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith("heard")
    assert "hidden" not in done.stdout
    assert "--record postgresql://mary:***@h/d --tracking-uri http://mary:***@h" in done.stdout


def test_the_code_of_a_ray_of_our_own_is_ours(ray_address):
    def where() -> str:
        import tune_ddvae

        return tune_ddvae.__file__

    import tune_ddvae

    assert Path(only(on_each_node(where, timeout_s=60.0)).value) == Path(tune_ddvae.__file__)
