import pytest
from ray.exceptions import RpcError

from tune_ddvae.errors import ConfigError, ResourceError
from tune_ddvae.tuning.cluster import slots as cluster_slots
from tune_ddvae.tuning.cluster.resources import Available, Growth, NodeType, Slots, View
from tune_ddvae.tuning.cluster.slots import (
    HEAD_SILENT,
    LOOK_EVERY_S,
    SILENT_S,
    START_S,
    WAIT_VARIABLE,
    ClusterSlots,
    Waiting,
    cluster_wait_s,
    settled,
)

TRIAL = Available(2.0, 0.0)
HEAD = Available(0.0, 0.0)
WORKER = Available(4.0, 0.0)  # two trials
GROWS = Growth((NodeType(WORKER, 3),), most_workers=3)


class World:
    """A cluster and a clock that a test moves."""

    def __init__(self, *nodes: Available, growth: Growth | None = None) -> None:
        self.growth = growth
        self.time = 0.0
        self.told: list[str] = []
        self.infeasible = False
        self.looks = 0
        self.have(*nodes)

    def have(self, *nodes: Available) -> None:
        self.nodes = (HEAD, *nodes)

    def look(self) -> View:
        self.looks += 1
        return View(self.nodes, len(self.nodes) - 1, self.growth)

    def pass_(self, seconds: float) -> None:
        self.time += seconds

    def slots(self, most: int | None = None) -> ClusterSlots:
        return ClusterSlots(TRIAL, self.look, max_concurrent=most, clock=lambda: self.time)

    def waiting(self, wait_s: float = 60.0) -> Waiting:
        return Waiting(
            self.slots(),
            self.told.append,
            lambda _: self.infeasible,
            wait_s=wait_s,
            clock=lambda: self.time,
        )


# -- slots ---------------------------------------------------------------------------------------


def test_slots_follow_nodes_that_come_and_go():
    world = World(WORKER)
    slots = world.slots()
    assert slots.concurrent == 2
    world.have(WORKER, WORKER, Available(2.0, 0.0))
    world.pass_(LOOK_EVERY_S)
    assert slots.concurrent == 5
    world.have(WORKER)
    world.pass_(LOOK_EVERY_S)
    assert slots.concurrent == 2


def test_the_cluster_is_not_asked_at_every_step():
    world = World(WORKER)
    slots = world.slots()
    for _ in range(100):
        world.pass_(0.1)
        assert slots.concurrent == 2
    assert world.looks <= 1 + 10 / LOOK_EVERY_S + 1


def test_there_is_always_one_slot_so_that_tune_never_waits_with_nothing_in_flight():
    assert World().slots().concurrent == 1
    assert World(Available(1.0, 0.0)).slots().concurrent == 1


def test_a_cluster_that_grows_by_itself_is_given_one_trial_more_than_it_holds():
    world = World(growth=GROWS)
    slots = world.slots()
    assert slots.concurrent == 1
    for workers, wanted in ((1, 3), (2, 5), (3, 6)):  # three are all there may be
        world.have(*[WORKER] * workers)
        world.pass_(LOOK_EVERY_S)
        assert slots.concurrent == wanted


def test_no_more_run_at_once_than_was_asked_for():
    assert World(WORKER, WORKER, growth=GROWS).slots(most=3).concurrent == 3
    assert World(growth=GROWS).slots(most=1).concurrent == 1
    assert World().slots(most=3).most == 3


def test_another_thread_sees_the_last_number_without_asking_the_cluster():
    world = World(WORKER)
    slots = world.slots()
    world.have(WORKER, WORKER)
    world.pass_(LOOK_EVERY_S)
    assert (slots.latest, world.looks) == (2, 1)
    assert slots.now().concurrent == 4


def test_a_head_that_is_away_for_a_while_changes_nothing():
    world = World(WORKER)
    slots = world.slots()

    def away() -> View:
        raise RpcError("no answer")

    slots._look = away
    world.pass_(LOOK_EVERY_S)
    assert slots.concurrent == 2
    world.pass_(LOOK_EVERY_S)
    assert slots.silent_s == LOOK_EVERY_S
    slots._look = world.look
    assert slots.concurrent == 2
    assert slots.silent_s == 0.0


# -- waiting for nodes at all --------------------------------------------------------------------


def test_a_cluster_whose_workers_are_still_to_come_is_waited_for(monkeypatch):
    world = World()
    told = []

    def nap(seconds: float) -> None:
        world.have(WORKER)

    monkeypatch.setattr(cluster_slots.time, "sleep", nap)
    found = settled(world.look, told.append, 60.0)
    assert WORKER in found.nodes
    assert told == ["waiting for the cluster: none of its nodes gives CPUs yet"]


def test_a_cluster_that_says_what_it_will_have_is_not_waited_for():
    world = World(growth=GROWS)
    assert settled(world.look, world.told.append, 0.0).growth == GROWS
    assert world.told == []


def test_a_cluster_without_workers_is_refused_in_the_end():
    with pytest.raises(ResourceError, match=f"within 0 s .{WAIT_VARIABLE}"):
        settled(World().look, lambda _: None, 0.0)


def test_slots_follow_the_memory_of_nodes_that_come():
    world = World(Available(4.0, 0.0, 5.0))
    slots = ClusterSlots(Available(1.0, 0.0, 4.0), world.look, clock=lambda: world.time)
    assert slots.now() == Slots(concurrent=1, num_cpus=1.0, num_gpus=0.0, memory_gb=4.0)
    world.have(Available(4.0, 0.0, 5.0), Available(4.0, 0.0, 9.0))
    world.pass_(LOOK_EVERY_S)
    assert slots.concurrent == 3
    assert slots.there_is() == "4 CPUs and 9 GB of memory; 4 CPUs and 5 GB of memory; 0 CPUs"


# -- waiting for a place -------------------------------------------------------------------------


def stand(waiting: Waiting, world: World, seconds: float, **trials: int) -> str:
    """Let so much time pass; why the study has to stop meanwhile."""
    for _ in range(int(seconds)):
        if complaint := waiting.look(**{"num_running": 0, "num_waiting": 1, **trials}):
            return complaint
        world.pass_(1.0)
    return ""


def test_nothing_is_said_while_trials_train_or_a_worker_starts():
    world = World(WORKER)
    waiting = world.waiting()
    assert stand(waiting, world, 100, num_running=1) == ""
    assert stand(waiting, world, START_S) == ""
    assert stand(waiting, world, 100, num_waiting=0) == ""
    assert (world.told, waiting.text) == ([], "")


def test_a_cluster_that_others_use_is_waited_for_without_end_and_says_so():
    world = World(WORKER)
    waiting = world.waiting()
    assert stand(waiting, world, 10_000) == ""
    assert "a trial takes 2 CPUs, and the nodes that could hold it are taken" in waiting.text
    assert "or are still starting its worker" in waiting.text  # which cannot be told from here
    assert world.told == [waiting.text]
    stand(waiting, world, 1, num_running=1)
    assert waiting.text == ""
    assert world.told[1:] == ["the wait for the cluster is over"]


def test_what_may_come_is_waited_for_without_end_and_says_so():
    world = World(growth=GROWS)
    waiting = world.waiting()
    assert stand(waiting, world, 10_000) == ""
    assert "no node has that now (there are: 0 CPUs); one may be added by itself" in waiting.text


def test_a_cluster_that_lost_all_its_nodes_is_waited_for_so_long_and_then_left():
    world = World(WORKER)
    waiting = world.waiting(wait_s=60.0)
    assert stand(waiting, world, 20) == ""
    world.have()
    complaint = stand(waiting, world, 1000)
    assert "for 1 min no node of the cluster could hold a trial, which takes 2 CPUs" in complaint
    assert any("the study stops after 1 min" in line for line in world.told)


def test_a_node_that_comes_in_time_saves_the_study():
    world = World()
    waiting = world.waiting(wait_s=60.0)
    assert stand(waiting, world, 50) == ""
    world.have(WORKER)
    assert stand(waiting, world, 50) == ""
    world.have()
    assert stand(waiting, world, 50) == ""  # a new wait


def test_an_autoscaler_that_says_it_cannot_is_not_believed_at_once_and_not_for_ever():
    world = World(growth=Growth())
    world.infeasible = True
    waiting = world.waiting(wait_s=60.0)
    assert stand(waiting, world, 50) == ""
    assert "no node of the cluster could hold a trial" in stand(waiting, world, 100)


def test_a_machine_that_was_listed_and_does_not_come_is_not_waited_for_for_ever():
    world = World(growth=Growth((NodeType(None, 2),), most_workers=2))
    waiting = world.waiting(wait_s=60.0)
    assert stand(waiting, world, 50) == ""
    assert "one may be added by itself" in waiting.text
    assert "no node of the cluster could hold a trial" in stand(waiting, world, 100)


def test_a_head_that_is_gone_is_named_while_ray_still_waits_for_it():
    world = World(WORKER)
    slots = world.slots()
    waiting = Waiting(slots, world.told.append, lambda _: False, wait_s=60.0)
    shown = []

    def wait_mute() -> View:
        shown.append(waiting.text)
        world.pass_(SILENT_S)
        shown.append(waiting.text)  # as another thread sees it meanwhile
        return View((HEAD, WORKER))

    slots._look = wait_mute
    world.pass_(LOOK_EVERY_S)
    assert slots.concurrent == 2
    assert shown == ["", HEAD_SILENT]
    assert waiting.text == ""


def test_trials_without_a_place_are_counted():
    world = World(WORKER)
    waiting = world.waiting()
    waiting.look(num_running=2, num_waiting=1)
    assert waiting.num_unplaced == 1


# -- settings ------------------------------------------------------------------------------------


def test_how_long_is_waited_may_be_set(monkeypatch):
    monkeypatch.setenv(WAIT_VARIABLE, "0.5")
    assert cluster_wait_s() == 0.5
    monkeypatch.delenv(WAIT_VARIABLE)
    assert cluster_wait_s() == 600.0


@pytest.mark.parametrize("text", ["", "soon", "-1", "nan", "inf"])
def test_a_wait_that_is_no_time_is_refused(text, monkeypatch):
    monkeypatch.setenv(WAIT_VARIABLE, text)
    with pytest.raises(ConfigError, match=WAIT_VARIABLE):
        cluster_wait_s()
