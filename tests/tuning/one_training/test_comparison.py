import json

import pytest

from tune_ddvae.tuning.one_training.comparison import compared

THERE = {
    "training/objective": {1: 0.1 + 0.2, 2: 0.7},
    "sparsity/hoyer": {2: 0.5},
    "training/seconds": {1: 3.0, 2: 4.0},
    "training/evaluation_seconds": {1: 1.0},
    "best/sparsity/hoyer": {2: 0.5},
    "analysis/log_likelihood": {2: 3.0},
}
TAGS = {"torch": "2.1", "threads": "2", "absent/latent/components_used": "needs a clustered prior"}


def changed(**changes):
    here = {metric: dict(values) for metric, values in THERE.items()}
    for key, value in changes.items():
        metric, epoch = key.rsplit("_", 1)
        values = here.setdefault(metric.replace("__", "/"), {})
        if value is None:
            del values[int(epoch)]
        else:
            values[int(epoch)] = value
    return compared(THERE, here, TAGS, {"torch": "2.1", "threads": "2"})


def test_a_training_is_the_same_as_itself():
    found = changed()
    assert found.is_same
    assert found.lines() == ["identical to the last bit (3 values)"]


def test_times_and_what_was_measured_afterwards_are_not_compared():
    assert changed(training__seconds_1=9.0, analysis__log_likelihood_2=9.0).is_same


def test_the_smallest_difference_is_seen_and_both_values_are_named_unrounded():
    found = changed(training__objective_1=0.3)
    assert not found.is_same
    assert found.lines() == [
        "not the same: 1 of 3 values differ",
        "first differs epoch 1, training/objective: 0.30000000000000004 there, 0.3 here",
        f"largest relative difference 1.9e-16: {found.differences[0]}",
    ]


def test_the_first_difference_is_the_earliest_and_the_largest_is_relative():
    found = changed(training__objective_1=0.31, sparsity__hoyer_2=1.0, training__objective_2=0.9)
    assert (found.differences[0].epoch, found.differences[0].metric) == (1, "training/objective")
    assert found.largest.metric == "sparsity/hoyer"
    assert found.largest.relative == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsity__hoyer_2": None}, "epoch 2, sparsity/hoyer: 0.5 there, no value here"),
        ({"sparsity__hoyer_1": 0.4}, "epoch 1, sparsity/hoyer: no value there, 0.4 here"),
        ({"latent__components_used_2": 4.0}, "latent/components_used: no value there, 4.0 here"),
    ],
)
def test_a_value_that_only_one_of_them_has_is_a_difference(change, message):
    found = changed(**change)
    assert not found.is_same
    assert message in found.lines()[1]
    assert found.largest is None


def test_a_metric_that_was_not_known_there_is_named_and_no_difference():
    found = changed(disentanglement__new_2=0.5)
    assert found.is_same
    assert found.lines()[1] == "not measured there: disentanglement/new"


def test_zero_in_both_is_no_difference_and_against_something_it_is_a_whole_one():
    assert compared({"a": {1: 0.0}}, {"a": {1: -0.0}}, {}, {}).is_same
    assert compared({"a": {1: 0.0}}, {"a": {1: 1e-9}}, {}, {}).largest.relative == 1.0


def test_versions_and_machine_that_differ_are_named():
    found = compared(THERE, THERE, TAGS, {"torch": "2.2", "threads": "2", "host": "here"})
    assert found.is_same
    assert found.lines()[1:] == ["torch differs: 2.1 there, 2.2 here"]


def test_it_can_be_written_as_json():
    found = json.loads(json.dumps(changed(sparsity__hoyer_2=1.0).to_json()))
    assert found["first_difference"] == {
        "epoch": 2, "metric": "sparsity/hoyer", "there": 0.5, "here": 1.0
    }  # fmt: skip
    assert found["largest_relative_difference"]["relative"] == 0.5
    assert found["num_values"] == 3
    assert json.loads(json.dumps(changed().to_json()))["first_difference"] is None
