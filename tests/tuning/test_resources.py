import pytest

from tune_ddvae.errors import ResourceError
from tune_ddvae.tuning.resources import Available, Slots, local_resources, make_slots


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
