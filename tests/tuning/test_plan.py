import dataclasses
import io
import json
import random
from pathlib import Path

import pytest
from rich.console import Console

from search_spaces import clustering, sparsity
from tests.tuning.simulated import make_spec
from tune_ddvae.spec import flat_space
from tune_ddvae.tuning import halving
from tune_ddvae.tuning.plan import (
    Plan,
    duration,
    epochs_left,
    expected_epochs,
    expected_to_go_on,
    figure,
    file_size,
    number,
    params_text,
    render,
    searched,
    short_names,
)
from tune_ddvae.tuning.resources import Slots
from tune_ddvae.tuning.sampling import searched_params

QUICK = sparsity.STUDY.resized(sparsity.STUDY.quick)


def make_plan(**changes) -> Plan:
    facts = {
        "name": "sparsity-quick",
        "study_file": "search_spaces/sparsity.py",
        "doc": sparsity.__doc__,
        "spec": QUICK,
        "trials": 12,
        "slots": Slots(concurrent=2, num_cpus=1.0, num_gpus=0.0),
        "data_place": "/usr/share/datasets/fashion-mnist",
        "folder": Path("/studies/sparsity-quick"),
        "record": "sqlite:////studies/sparsity-quick/record.db",
        "tracking": "sqlite:////studies/tracking.db",
        "free_bytes": 10**10,
        "num_parameters": 1_000_000,
        "seconds_per_epoch": 2.0,
    }
    return Plan(**{**facts, **changes})


def screen(plan: Plan, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render(plan))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_every_searched_key_is_on_the_screen_at_any_width(width):
    text = screen(make_plan(), width)
    assert all(len(line) <= width for line in text.splitlines())
    for key in flat_space(QUICK.space):
        assert key in text


def test_the_screen_says_what_where_and_with_what():
    text = screen(make_plan(num_recorded=5))
    assert "Does a sparse prior make codes sparse, and what does that cost?" in text
    assert "the validation set, 500 points" in text
    assert "training: epochs 9, batch_size 100" in text
    assert "compared by sparsity/hoyer after 1, 3" in text
    assert "12, 5 of them recorded already" in text
    assert "/studies/sparsity-quick" in text


def test_a_range_that_has_a_meaning_under_one_option_says_so():
    line = next(line for line in screen(make_plan()).splitlines() if "prior/gamma" in line)
    assert "0.5 to 0.95" in line
    assert line.rstrip().endswith("prior/kind sparse")
    assert make_plan().to_json()["space"]["prior/df"]["under"] == {"prior/kind": ("student_t",)}


def test_defaults_and_searched_keys_are_left_out_of_what_every_trial_shares():
    text = screen(make_plan())
    assert "evaluate_every" not in text
    assert "learning_rate 0.0005" not in text


def test_a_name_is_never_taken_for_markup():
    assert "Study [bold]x[/bold] :smile:" in screen(make_plan(name="[bold]x[/bold] :smile:"))


def test_no_password_reaches_screen_or_json():
    plan = make_plan(
        record="postgresql://me:s3cret@host/db", tracking="http://me:s3cret@tracking:5000"
    )
    assert "s3cret" not in screen(plan)
    assert "s3cret" not in json.dumps(plan.to_json())


def test_json_holds_the_whole_base_configuration_and_reads_back():
    plain = json.loads(json.dumps(make_plan().to_json()))
    assert plain["base"]["optimiser/amsgrad"] is True
    assert plain["first"]["gamma_0.8_alpha_100"]["objective/alpha"] == 100.0
    assert plain["rungs"] == [1, 3]


def test_disk_counts_weights_and_three_moments_of_three_checkpoints():
    assert make_plan().disk_bytes == 12 * 3 * 16 * 1_000_000
    assert "NOT ENOUGH" not in screen(make_plan())
    assert "NOT ENOUGH" in screen(make_plan(free_bytes=10**6))


def test_without_a_number_of_trials_nothing_is_invented():
    plan = make_plan(trials=None, hours=2.0)
    assert (plan.disk_bytes, plan.expected_epochs, plan.seconds) == (None, None, None)
    text = screen(plan)
    assert "as many as the hours allow; at most 2 h" in text
    assert "until the hours are used up" in text


def test_time_is_unknown_without_seconds_per_epoch():
    assert "unknown; some" in screen(make_plan(seconds_per_epoch=None))


def test_time_is_never_less_than_one_whole_trial_takes():
    plan = make_plan(trials=4, slots=Slots(concurrent=100, num_cpus=1.0, num_gpus=0.0))
    assert plan.seconds == 9 * 2.0


def test_without_rungs_every_trial_trains_all_epochs():
    spec = make_spec(epochs=7, first_rung=None)
    assert expected_epochs(spec, 5) == 35
    assert "no trial is stopped early" in screen(make_plan(spec=spec))


@pytest.mark.parametrize("num_trials", [2, 5, 12])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_expected_passes_agree_with_the_rule_itself(num_trials, factor):
    draws, passes, repeats = random.Random(0), 0, 300
    for _ in range(repeats):
        values = [draws.random() for _ in range(num_trials)]
        passes += sum(halving.goes_on(v, values[:i], factor) for i, v in enumerate(values))
    assert expected_to_go_on(float(num_trials), factor) == pytest.approx(passes / repeats, rel=0.06)


def test_epochs_left_run_to_the_next_rung_where_nobody_passes_and_to_the_end_where_all_do():
    spec = make_spec(epochs=27)  # rungs 1, 3, 9
    assert epochs_left(spec, 0, dict.fromkeys(spec.rungs, 0.0)) == 1
    assert epochs_left(spec, 4, dict.fromkeys(spec.rungs, 0.0)) == 5
    assert epochs_left(spec, 4, dict.fromkeys(spec.rungs, 1.0)) == 23
    assert epochs_left(spec, 3, {9: 0.5}) == 6 + 0.5 * 18


def test_numbers_keep_four_digits_and_whole_ones_all():
    assert [number(v) for v in (0.123456, 64, 1234.56, 123456.7, None, "mmd")] == [
        "0.1235",
        "64",
        "1235",
        "123457",
        "none",
        "mmd",
    ]
    assert [figure(v) for v in (0.4, -236.0, 1234.5)] == ["0.4000", "-236.0", "1234"]


def test_durations_and_sizes_read_well():
    assert [duration(s) for s in (0.2, 59.0, 61.0, 3599.6, 5400.0, 90_000.0)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "1 h",
        "1 h 30 min",
        "1 d 1 h",
    ]
    assert [file_size(b) for b in (999, 1_530_000, 4 * 10**12)] == ["999 B", "1.53 MB", "4 TB"]


def test_short_names_stay_unique():
    names = short_names(["prior/kind", "prior/scale", "likelihood/scale", "objective/beta"])
    assert list(names.values()) == ["prior", "prior/scale", "likelihood/scale", "beta"]


def test_a_setting_outside_the_space_still_shows_its_searched_keys():
    spec = clustering.STUDY
    config = {**make_plan(spec=spec).to_json()["base"], "objective/alpha": 0.0}
    assert searched_params(spec, config) is None
    assert searched(spec, config)["objective/alpha"] == 0.0
    assert params_text(spec, config) == "beta 1, alpha 0, learning_rate 0.001"


def test_a_plan_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_plan().trials = 3
