import dataclasses
import json

import pytest

from tests.tuning.screens import make_plan
from tune_ddvae.tuning.cluster.resources import Slots
from tune_ddvae.tuning.planning.plan import CHECKPOINT_BYTES


def test_json_holds_the_whole_base_configuration_and_reads_back():
    plain = json.loads(json.dumps(make_plan().to_json()))
    assert plain["base"]["optimiser/amsgrad"] is True
    assert plain["first"]["gamma_0.8_alpha_100"]["objective/alpha"] == 100.0
    assert plain["rungs"] == [1, 3]


def test_disk_counts_weights_and_three_moments_of_three_checkpoints():
    assert make_plan().disk_bytes == 12 * 3 * (16 * 1_000_000 + CHECKPOINT_BYTES)


def test_without_a_number_of_trials_nothing_is_invented():
    plan = make_plan(trials=None, hours=2.0)
    assert (plan.disk_bytes, plan.expected_epochs, plan.seconds) == (None, None, None)


def test_time_is_never_less_than_one_whole_trial_takes():
    plan = make_plan(trials=4, slots=Slots(concurrent=100, num_cpus=1.0, num_gpus=0.0))
    assert plan.seconds == 10.0 + 9 * 2.0


def test_time_counts_the_start_of_a_study_so_that_it_is_never_nothing():
    plan = make_plan(seconds_per_epoch=1e-6)
    assert plan.seconds == pytest.approx(10.0, abs=1e-3)


def test_what_is_recorded_already_is_not_to_be_trained_again():
    whole, rest = make_plan(), make_plan(num_recorded=9)
    assert rest.num_new == 3
    assert rest.expected_epochs == pytest.approx(
        whole.expected_epochs - make_plan(trials=9).expected_epochs
    )
    # Three new trials train to the first rung at least, and to the end at most.
    assert 3 * 1 <= rest.expected_epochs <= 3 * 9
    assert rest.seconds < whole.seconds


@pytest.mark.parametrize("num_recorded", [12, 15])
def test_where_all_is_recorded_nothing_new_is_planned(num_recorded):
    plan = make_plan(num_recorded=num_recorded)
    assert (plan.num_new, plan.expected_epochs, plan.seconds) == (0, 0.0, 10.0)


def test_a_plan_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_plan().trials = 3
