from typing import Any

import pytest

from tests.tuning.machines import facts, machine
from tune_ddvae.errors import ResourceError
from tune_ddvae.tuning.cluster import cluster, nodes, storage_probe
from tune_ddvae.tuning.cluster.cluster import Answer, Node
from tune_ddvae.tuning.cluster.facts import Need
from tune_ddvae.tuning.cluster.resources import Available, Growth, NodeType, View
from tune_ddvae.tuning.doctor.rounds import ahead, alone, round_of

ADDRESS = "10.77.0.10:6379"
GROWS = View((Available(2.0, 0.0),), 0, Growth((NodeType(None, 3),)))


def node(host: str, num_cpus: float = 2.0) -> Node:
    known = {"id": f"id of {host}", "host": host, "address": f"at {host}"}
    return Node(**known, num_cpus=num_cpus, num_gpus=0.0, is_head=host == "h0")


class Asked:
    """A cluster of hosts that answer as they are told to, and what they were asked."""

    def __init__(self, hosts: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
        self._hosts = hosts
        self.words: list[tuple[str, tuple[str, ...]]] = []
        self.is_left = False
        patch.setattr(cluster, "join_cluster", lambda _: None)
        patch.setattr(cluster, "alive_nodes", lambda: tuple(map(node, hosts)))
        patch.setattr(cluster, "on_each_node", self._ask)
        patch.setattr(cluster, "Looker", lambda: lambda: GROWS)
        patch.setattr(cluster, "stop_ray", self._leave)

    def _leave(self) -> None:
        self.is_left = True

    def _ask(self, function, *args, nodes, **_: float) -> dict[str, Answer]:
        self.words.append((function.__name__, tuple(one.host for one in nodes)))
        told = {one: self._hosts[one.host](function, *args) for one in nodes}
        return {
            one.id: Answer(one.host, one.address, error=value)
            if isinstance(value, str)
            else Answer(one.host, one.address, value=value)
            for one, value in told.items()
        }


def well(host: str):
    """A host that runs what it is asked, but for the look at itself."""

    def answer(function, *args):
        if function is not nodes.look:
            return function(*args)
        (need,) = args
        assert not need.is_driver
        storage_probe.write_storage(need.storage, f".probe-{need.probe}-{host}")
        return facts(host, probe=f".probe-{need.probe}-{host}")

    return answer


def silent(function, *args) -> str:
    return "no answer within 90 s"


@pytest.fixture
def need(tmp_path) -> Need:
    storage_probe.write_storage(tmp_path, ".probe-word-driver")
    return Need(storage=tmp_path, probe="word", is_driver=True)


DRIVER = machine("h0", probe=".probe-word-driver", seen=None)


def test_every_node_looks_then_sees_what_all_wrote_and_nothing_is_left(need, monkeypatch, tmp_path):
    asked = Asked({"h0": well("h0"), "h1": well("h1")}, monkeypatch)
    told: list[str] = []
    found = round_of(ADDRESS, DRIVER, need, told.append)
    assert [what for what, _ in asked.words] == ["look", "see_storage", "remove_probes", "clock"]
    probes = {".probe-word-driver", ".probe-word-h0", ".probe-word-h1"}
    assert set(found.driver.seen) == probes
    assert all(set(machine.seen) == probes for machine in found.nodes)
    assert [machine.host for machine in found.nodes] == ["h0", "h1"]
    assert all(machine.ahead_s == 0.0 for machine in found.nodes)
    assert found.view is GROWS
    assert list(tmp_path.iterdir()) == []
    assert asked.is_left
    assert told[0] == f"joining the cluster at {ADDRESS}"
    assert told[1] == "asking 2 nodes, for at most 90 s"


def test_a_silent_node_is_asked_once_and_has_its_words(need, monkeypatch):
    asked = Asked({"h0": well("h0"), "h1": silent}, monkeypatch)
    _, lost = round_of(ADDRESS, DRIVER, need, lambda _: None).nodes
    assert (lost.facts, lost.seen, lost.ahead_s) == (None, None, None)
    assert lost.error == "no answer within 90 s"
    assert dict(asked.words)["look"] == ("h0", "h1")
    assert dict(asked.words)["see_storage"] == ("h0",)


def test_the_cluster_is_left_whatever_happens(need, monkeypatch):
    def broken(function, *args):
        raise KeyboardInterrupt

    asked = Asked({"h0": broken}, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        round_of(ADDRESS, DRIVER, need, lambda _: None)
    assert asked.is_left


def test_a_head_that_does_not_say_whether_it_grows_does_not_end_the_round(need, monkeypatch):
    Asked({"h0": well("h0")}, monkeypatch)

    def refuse() -> None:
        raise ResourceError("the head does not answer")

    monkeypatch.setattr(cluster, "Looker", refuse)
    view = round_of(ADDRESS, DRIVER, need, lambda _: None).view
    assert view == View((Available(2.0, 0.0),))


def test_a_machine_alone_is_its_own_cluster():
    assert alone(machine("h0", num_cpus=4.0)).view == View((Available(4.0, 0.0),))
    assert alone(machine("h0")).nodes == ()
    assert alone(machine("h0", memory_gb=9.0)).view.nodes[0].memory_gb == 9.0


@pytest.mark.parametrize(
    ("told", "is_ahead"), [(100.0, 0.0), (103.0, 0.0), (110.0, 7.0), (95.0, -5.0), (None, None)]
)
def test_a_clock_is_off_by_what_the_asking_cannot_explain(told, is_ahead):
    assert ahead(told, before=100.0, after=103.0) == is_ahead
