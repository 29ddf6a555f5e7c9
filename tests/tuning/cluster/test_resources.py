import math

import pytest

from tune_ddvae.errors import ResourceError
from tune_ddvae.tuning.cluster.resources import (
    Available,
    Growth,
    NodeType,
    Slots,
    View,
    check_holdable,
    is_promised,
    local_resources,
    make_slots,
    may_come,
    num_fitting,
    num_held,
    sizes_text,
    trial_size,
)


def slots(cpus, gpus=0, **asked) -> Slots:
    return make_slots(Available(float(cpus), float(gpus)), **asked)


def test_a_trial_takes_a_whole_gpu_where_there_are_any():
    assert slots(16, 4) == Slots(concurrent=4, num_cpus=4.0, num_gpus=1.0)


def test_no_gpu_is_taken_where_there_is_none():
    assert slots(4) == Slots(concurrent=4, num_cpus=1.0, num_gpus=0.0)


def test_at_most_eight_trials_share_the_cpus_of_one_machine():
    assert slots(64) == Slots(concurrent=8, num_cpus=8.0, num_gpus=0.0)


def test_no_gpu_asked_for_on_a_machine_with_gpus_shares_the_cpus():
    assert slots(16, 4, gpus_per_trial=0.0) == Slots(concurrent=8, num_cpus=2.0, num_gpus=0.0)


@pytest.mark.parametrize(
    ("gpus", "each", "concurrent"),
    [(1, 0.5, 2), (1, 0.25, 4), (2, 0.3, 6), (3, 2.0, 1), (4, 2.0, 2), (1, 1.0, 1)],
)
def test_gpus_a_trial_set_how_many_run_at_once(gpus, each, concurrent):
    assert slots(32, gpus, gpus_per_trial=each).concurrent == concurrent


def test_a_share_of_a_gpu_never_spans_two():
    assert slots(32, 2, gpus_per_trial=0.6).concurrent == 2
    assert slots(32, 3, gpus_per_trial=0.4).concurrent == 6


def test_a_number_of_gpus_that_ray_cannot_give_is_refused():
    with pytest.raises(ResourceError, match=r"a share of one GPU or a whole number, got 1\.5"):
        slots(8, 2, gpus_per_trial=1.5)


@pytest.mark.parametrize("each", [0.1, 0.2, 1 / 3, 1 / 49])
def test_fractions_that_fill_a_gpu_waste_none_of_it(each):
    assert slots(64, 1, gpus_per_trial=each).concurrent == round(1 / each)


def test_too_few_cpus_limit_the_trials_that_gpus_would_allow():
    assert slots(2, 8) == Slots(concurrent=2, num_cpus=1.0, num_gpus=1.0)


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ({"cpus_per_trial": 64.0}, "--cpus-per-trial asks for 64 CPUs a trial, and there are 2"),
        ({"gpus_per_trial": 1.0}, "--gpus-per-trial asks for 1 GPUs a trial, and there are 0"),
        ({"gpus_per_trial": 0.5}, "--gpus-per-trial asks for 0.5 GPUs a trial, and there are 0"),
    ],
)
def test_more_than_there_is_is_refused_naming_asked_and_available(asked, numbers):
    with pytest.raises(ResourceError) as refused:
        slots(2, **asked)
    assert numbers in str(refused.value)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_fewer_at_once_leave_more_cpus_for_each(most):
    found = slots(8, max_concurrent=most)
    assert found.concurrent == most
    assert found.num_cpus == 8 // most


def test_asking_for_more_at_once_than_fit_runs_as_many_as_fit():
    assert slots(4, max_concurrent=100).concurrent == 4
    assert slots(4, 1, max_concurrent=100).concurrent == 1


def test_cpus_a_trial_set_how_many_run_at_once():
    assert slots(8, cpus_per_trial=3.0) == Slots(concurrent=2, num_cpus=3.0, num_gpus=0.0)
    assert slots(2, cpus_per_trial=0.5).concurrent == 4


@pytest.mark.parametrize("gpus", [0, 1, 3])
@pytest.mark.parametrize("most", [None, 1, 5])
def test_what_is_planned_fits_into_what_there_is(gpus, most):
    for cpus in range(1, 20):
        found = slots(cpus, gpus, max_concurrent=most)
        assert found.concurrent >= 1
        assert found.concurrent * found.num_cpus <= cpus
        assert found.concurrent * found.num_gpus <= gpus


def test_this_machine_has_a_cpu():
    here = local_resources()
    assert here.num_cpus >= 1
    assert slots(here.num_cpus, here.num_gpus).concurrent >= 1


def test_more_at_once_than_the_default_is_a_matter_of_asking():
    assert slots(64, max_concurrent=16) == Slots(concurrent=16, num_cpus=4.0, num_gpus=0.0)


# -- a cluster -----------------------------------------------------------------------------------


def node(cpus, gpus=0) -> Available:
    return Available(float(cpus), float(gpus))


def view(*nodes: Available, growth: Growth | None = None, num_workers: int | None = None) -> View:
    return View(nodes, len(nodes) - 1 if num_workers is None else num_workers, growth)


HEAD = node(0)  # gives no CPU


def test_a_trial_fits_on_one_node_or_not_at_all():
    cluster = view(HEAD, node(2), node(2))
    assert num_held(cluster, node(2)) == 2
    with pytest.raises(ResourceError) as refused:
        trial_size(cluster, cpus_per_trial=3.0)
    assert "asks for 3 CPUs a trial, and there are 2, on one node at most" in str(refused.value)


@pytest.mark.parametrize("each", [0.25, 0.5, 1.0])
def test_shares_of_a_gpu_are_counted_node_by_node(each):
    cluster = view(HEAD, node(16, 1), node(16, 2))
    assert num_held(cluster, Available(1.0, each)) == 3 * round(1 / each)


def test_gpus_and_cpus_that_no_one_node_has_together_are_refused_naming_what_there_is():
    with pytest.raises(ResourceError) as refused:
        trial_size(view(node(16), node(2, 4)), cpus_per_trial=4.0, gpus_per_trial=1.0)
    assert "a trial takes 1 GPU and 4 CPUs, and no node has both" in str(refused.value)
    assert "nodes have: 4 GPUs and 2 CPUs; 16 CPUs" in str(refused.value)


def test_a_trial_takes_the_most_cpus_with_which_every_gpu_is_used():
    assert trial_size(view(HEAD, node(16, 4), node(8, 4))) == Available(2.0, 1.0)
    assert trial_size(view(HEAD, node(16, 4)), gpus_per_trial=0.25) == Available(1.0, 0.25)


def test_nodes_without_gpus_do_not_count_where_a_trial_takes_one():
    cluster = view(node(64), node(8, 2))
    trial = trial_size(cluster)
    assert trial == Available(4.0, 1.0)
    assert num_held(cluster, trial) == 2


def test_fewer_trials_at_once_take_more_cpus_each_but_never_more_than_a_node_has():
    cluster = view(HEAD, node(8), node(8))
    assert trial_size(cluster).num_cpus == 1.0
    assert trial_size(cluster, max_concurrent=4).num_cpus == 4.0
    assert trial_size(cluster, max_concurrent=1).num_cpus == 8.0


@pytest.mark.parametrize("most", [None, 1, 3, 7])
@pytest.mark.parametrize("gpus", [0, 2])
def test_what_is_asked_of_a_cluster_by_default_always_fits_it(most, gpus):
    for cpus in ((4,), (1, 1), (2, 64), (3, 5, 7)):
        cluster = view(HEAD, *(node(n, gpus) for n in cpus))
        trial = trial_size(cluster, max_concurrent=most)
        wanted = sum(min(n, gpus or 8) for n in cpus)
        assert num_held(cluster, trial) >= min(most or wanted, wanted) >= 1


def test_one_machine_is_a_cluster_of_one_node():
    for cpus in range(1, 40):
        for gpus in (0, 1, 3):
            local = make_slots(node(cpus, gpus))
            assert local.trial == trial_size(view(node(cpus, gpus)))


GROWS = Growth((NodeType(node(8, 1), 3), NodeType(node(4), 2)), most_workers=4)


def test_what_an_autoscaler_may_add_is_not_refused():
    empty = view(HEAD, growth=GROWS)
    assert trial_size(empty) == Available(8.0, 1.0)
    assert trial_size(empty, gpus_per_trial=0.0, max_concurrent=1) == Available(8.0, 0.0)
    assert may_come(empty, node(4, 1))


def test_what_no_node_of_an_autoscaler_holds_is_refused():
    with pytest.raises(ResourceError, match="asks for 2 GPUs a trial, and there are 1, on one"):
        trial_size(view(HEAD, growth=GROWS), gpus_per_trial=2.0)
    with pytest.raises(ResourceError, match="asks for 9 CPUs a trial, and there are 8, on one"):
        trial_size(view(HEAD, growth=GROWS), cpus_per_trial=9.0, gpus_per_trial=0.0)


def test_an_autoscaler_that_has_added_all_it_may_promises_nothing():
    assert may_come(view(HEAD, growth=GROWS, num_workers=3), node(4))
    assert not may_come(view(HEAD, growth=GROWS, num_workers=4), node(4))
    assert not may_come(view(HEAD, growth=Growth((NodeType(node(8), 0),))), node(4))


def test_machines_of_unknown_size_are_hoped_for_until_all_are_there():
    listed = Growth((NodeType(None, 2),), most_workers=2)
    assert may_come(view(HEAD, node(2), growth=listed), node(64))
    with pytest.raises(ResourceError, match="64 CPUs a trial"):
        check_holdable(view(HEAD, node(2), node(2), growth=listed), node(64))


def test_an_autoscaler_that_says_nothing_of_itself_is_hoped_for():
    assert may_come(view(HEAD, growth=Growth()), node(64, 8))


def test_a_cluster_whose_nodes_are_still_to_come_is_not_refused():
    check_holdable(view(HEAD), node(1))


def test_half_a_cpu_fits_twice():
    assert num_fitting(node(1), Available(0.5, 0.0)) == 2
    assert num_fitting(node(0.3), Available(0.1, 0.0)) == 3


# -- memory --------------------------------------------------------------------------------------


def with_memory(memory, cpus=8, gpus=0) -> Available:
    return Available(float(cpus), float(gpus), float(memory))


def test_as_many_trials_run_at_once_as_have_the_memory_that_they_ask_for():
    found = make_slots(with_memory(16), cpus_per_trial=1.0, memory_per_trial=5.0)
    assert found == Slots(concurrent=3, num_cpus=1.0, num_gpus=0.0, memory_gb=5.0)
    assert make_slots(with_memory(16), cpus_per_trial=1.0).concurrent == 8


def test_fewer_trials_for_want_of_memory_leave_more_cpus_for_each():
    assert make_slots(with_memory(16), memory_per_trial=5.0).num_cpus == 2.0
    assert make_slots(with_memory(16), memory_per_trial=9.0).num_cpus == 8.0
    # Asking for more at once than have the memory leaves those that run no less.
    assert make_slots(with_memory(16), memory_per_trial=9.0, max_concurrent=8).num_cpus == 8.0


@pytest.mark.parametrize("num_bytes", [1, 3, 25_325_268_992, 25_325_268_993, 2**45 + 1])
def test_memory_is_counted_to_the_byte_as_ray_counts_it(num_bytes):
    """A trial that lacked a single one would wait for ever."""
    machine = with_memory(num_bytes / 1e9)
    assert machine.memory_bytes == num_bytes
    assert num_fitting(machine, with_memory(num_bytes / 1e9, 1)) == 1
    assert num_fitting(machine, with_memory((num_bytes + 1) / 1e9, 1)) == 0


def test_more_memory_than_there_is_is_refused_naming_asked_and_available():
    with pytest.raises(ResourceError) as refused:
        make_slots(with_memory(16.29), memory_per_trial=64.0)
    assert str(refused.value) == (
        "--memory-per-trial asks for 64 GB of memory a trial, and there are 16.2: "
        "no trial could ever start"
    )


def test_available_memory_never_reads_like_what_is_asked_for():
    with pytest.raises(ResourceError, match=r"asks for 16\.3 GB .*, and there are 16\.2:"):
        make_slots(with_memory(16.2999), memory_per_trial=16.3)


def test_memory_is_that_of_one_node_and_not_of_all_together():
    cluster = view(HEAD, with_memory(8), with_memory(16))
    assert num_held(cluster, with_memory(5, 1)) == 4
    with pytest.raises(ResourceError, match="24 GB of memory a trial, and there are 16, on one"):
        trial_size(cluster, memory_per_trial=24.0)


def test_memory_and_gpus_that_no_one_node_has_together_are_refused_naming_what_there_is():
    with pytest.raises(ResourceError) as refused:
        trial_size(
            view(with_memory(64.04), with_memory(64.01), with_memory(16, gpus=1)),
            cpus_per_trial=2.0,
            memory_per_trial=32.0,
        )
    text = str(refused.value)
    assert "a trial takes 1 GPU, 2 CPUs and 32 GB of memory, and no node has all of it" in text
    assert "nodes have: 1 GPU, 8 CPUs and 16 GB of memory; 8 CPUs and 64 GB of memory. " in text
    assert "--memory-per-trial" in text


def test_memory_is_told_only_where_a_trial_asks_for_some():
    nodes = (with_memory(64.04), with_memory(16.3), with_memory(math.inf))
    assert sizes_text(nodes, node(1)) == "8 CPUs"
    assert sizes_text(nodes, with_memory(4)) == (
        "8 CPUs; 8 CPUs and 64 GB of memory; 8 CPUs and 16.3 GB of memory"
    )


def test_a_kind_of_node_whose_memory_nobody_has_said_is_hoped_for_and_not_promised():
    grows = Growth((NodeType(with_memory(math.inf), 2),))
    assert trial_size(view(HEAD, growth=grows), memory_per_trial=64.0).memory_gb == 64.0
    assert may_come(view(HEAD, growth=grows), with_memory(64))
    assert not is_promised(view(HEAD, growth=grows), with_memory(64))
    assert is_promised(view(HEAD, growth=grows), node(8))
    assert is_promised(view(HEAD, growth=Growth((NodeType(with_memory(64), 2),))), with_memory(64))


def test_ray_is_asked_for_no_more_than_a_trial_asks_for():
    assert node(2).bundle == {"CPU": 2.0}
    assert node(2, 0.25).bundle == {"CPU": 2.0, "GPU": 0.25}
    assert with_memory(4.1, 2).bundle == {"CPU": 2.0, "memory": 4_100_000_000}


def test_this_machine_has_memory_for_one_trial_that_takes_all_of_it():
    here = local_resources()
    found = make_slots(here, gpus_per_trial=0.0, memory_per_trial=here.memory_gb)
    assert found.concurrent == 1
