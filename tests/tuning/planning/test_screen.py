import json

import pytest

from tests.tuning.screens import QUICK, make_plan, printed
from tests.tuning.simulated import make_spec
from tune_ddvae.spec import flat_space
from tune_ddvae.tuning.cluster.resources import Slots
from tune_ddvae.tuning.planning.plan import Plan
from tune_ddvae.tuning.planning.screen import render


def screen(plan: Plan, width: int = 120) -> str:
    return printed(render(plan), width)


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


def test_the_memory_that_a_trial_asks_for_is_told():
    assert "each with 1 CPU and no GPU" in screen(make_plan())
    plan = make_plan(slots=Slots(concurrent=2, num_cpus=1.0, num_gpus=0.0, memory_gb=4.5))
    assert "each with 1 CPU, no GPU and 4.5 GB of memory" in screen(plan)
    assert plan.to_json()["slots"]["memory_gb"] == 4.5


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


def test_a_lack_of_disk_is_told():
    assert "NOT ENOUGH" not in screen(make_plan())
    assert "NOT ENOUGH" in screen(make_plan(free_bytes=10**6))


def test_without_a_number_of_trials_the_hours_are_told():
    text = screen(make_plan(trials=None, hours=2.0))
    assert "as many as the hours allow; at most 2 h" in text
    assert "until the hours are used up" in text


def test_time_is_unknown_without_seconds_per_epoch():
    assert "unknown; some" in screen(make_plan(seconds_per_epoch=None))


def test_time_is_that_of_new_trials_and_never_about_nothing():
    assert "time         about 10 s: some" in screen(make_plan(seconds_per_epoch=1e-6))
    assert "epochs of 3 new trials" in screen(make_plan(num_recorded=9))
    assert "no new one is to be begun" in screen(make_plan(num_recorded=12))


def test_without_rungs_it_says_that_nobody_is_stopped():
    spec = make_spec(epochs=7, first_rung=None)
    assert "no trial is stopped early" in screen(make_plan(spec=spec))
