import io

import pytest
from rich.console import Console

from search_spaces import clustering, independence, sparsity
from tests.tuning.screens import printed
from tune_ddvae.config import with_overrides
from tune_ddvae.training.folder import TrainedRow
from tune_ddvae.tuning.one_training.screen import (
    TrainingScreen,
    final_table,
    header_lines,
    rows_table,
    shown_metrics,
)

FASHION = with_overrides(sparsity.STUDY.base, {"data/num_validation": 0})
FACTS = {
    "device": "cpu", "device_name": "x86_64", "threads": 1, "data_origin": "/data/fashion"
}  # fmt: skip


def make_row(epoch: int, **metrics) -> TrainedRow:
    found = {
        "training/objective": -100.0 / epoch,
        "training/seconds": 8.0,
        "training/evaluation_seconds": 2.0,
        "sparsity/hoyer": 0.25,
        "latent/active_units": 7.0,
        "log_likelihood/iwae": 812.3456,
        "latent/kl": 30.0,
    }
    absent = {"latent/components_used": "needs a clustered prior"}
    return TrainedRow(epoch, 0.0, found | metrics, absent)


class Screen:
    """A screen of 100 columns whose clock stands still until it is moved."""

    def __init__(self, *, until=20, every=1, height=20, is_terminal=False) -> None:
        self.file = io.StringIO()
        self.rows: dict[int, TrainedRow] = {}
        self.now = 0.0
        self.console = Console(file=self.file, width=100, height=height, force_terminal=is_terminal)
        self.screen = TrainingScreen(
            self.console, self.rows, until=until, every=every, clock=lambda: self.now
        )

    def step(self, epoch: int, batches: int = 4) -> None:
        for _ in range(batches):
            self.screen.on_batch()
        self.now += 10.0
        self.rows[epoch] = make_row(epoch)
        self.screen.on_row(self.rows[epoch])

    def drawn(self) -> str:
        return printed(self.screen.screen(), width=100, height=20)


def test_without_a_terminal_each_evaluation_is_a_line_with_the_time_left():
    on = Screen()
    with on.screen:
        on.screen.on_start(0)
        on.step(1)
        on.step(2)
    assert on.file.getvalue().splitlines() == [
        f"epoch {epoch}/20: training/objective {value}, sparsity/hoyer 0.2500, latent/active_units 7, "
        f"log_likelihood/iwae 812.3, latent/kl 30.00; 10.00 s an epoch, about {left} left"
        for epoch, value, left in ((1, "-100.0", "3 min 10 s"), (2, "-50.00", "3 min"))
    ]


def test_going_on_and_notes_are_told():
    on = Screen()
    on.screen.on_start(7)
    on.screen.on_note("passed over a checkpoint")
    assert on.file.getvalue().splitlines() == [
        "goes on from the checkpoint of epoch 7",
        "passed over a checkpoint",
    ]


def test_a_terminal_shows_the_latest_evaluations_that_there_is_room_for():
    on = Screen(is_terminal=True)
    on.screen.on_start(0)
    for epoch in range(1, 20):
        on.step(epoch)
    lines = on.drawn().splitlines()
    assert len(lines) <= 20
    assert lines[0].split() == ["training", "sparsity", "latent", "log_likelihood", "latent"]
    epochs = [int(line.split()[0]) for line in lines[2:-3]]
    assert epochs == list(range(19 - len(epochs) + 1, 20))
    assert (
        lines[-1].rstrip()
        == "epoch 19 of 20; 3 min 10 s elapsed, 10.00 s an epoch, about 10 s left"
    )


def test_epochs_that_will_be_trained_again_are_not_shown():
    on = Screen(is_terminal=True)
    for epoch in (1, 2, 3):
        on.rows[epoch] = make_row(epoch)
    on.screen.on_start(2)
    shown = [line.split()[0] for line in on.drawn().splitlines()[2:4]]
    assert shown == ["1", "2"]
    assert "epoch 2 of 20" in on.drawn()


def test_the_time_left_runs_down_within_a_step():
    on = Screen(until=4, every=2)
    on.screen.on_start(0)
    on.step(2)
    on.now += 4.0
    assert "5.000 s an epoch, about 6 s left" in on.drawn()
    on.now += 400.0
    assert "about 0 s left" in on.drawn()


def test_nothing_is_foretold_before_the_first_evaluation():
    on = Screen()
    on.screen.on_start(0)
    assert "time left unknown yet" in on.drawn()


def test_a_live_screen_is_drawn_a_few_times_a_second_and_taken_away():
    on = Screen(is_terminal=True)
    with on.screen:
        on.screen.on_start(0)
        before = len(on.file.getvalue())
        for _ in range(1000):
            on.screen.on_batch()
        assert len(on.file.getvalue()) == before
        on.now += 0.3
        on.screen.on_batch()
        assert len(on.file.getvalue()) > before
        on.step(1)


def test_as_many_metrics_as_there_is_room_for():
    rows = [make_row(epoch) for epoch in (1, 2)]
    wide, narrow = (printed(rows_table(rows, width), width=width) for width in (100, 40))
    assert "kl" in wide
    assert "kl" not in narrow
    assert "objective" in narrow
    assert all(len(line) <= 40 for line in narrow.splitlines())


def test_without_evaluations_the_training_terms_are_shown():
    row = TrainedRow(1, 0.0, {"training/objective": 1.0, "training/kl": 2.0})
    assert shown_metrics([row]) == ["training/objective", "training/kl"]


def test_a_metric_without_a_value_is_absent_and_one_that_was_not_due_is_empty():
    rows = [make_row(1), TrainedRow(2, 0.0, {"training/objective": 1.0}, {"sparsity/hoyer": "no"})]
    last = printed(rows_table(rows, 100), width=100).splitlines()[-1]
    assert last.split() == ["2", "1.000", "absent"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (FASHION, ["prior        sparse, gamma 0.8, spike_scale 0.05", "alpha 100 (mmd), K 1",
                   "laplace, scale 0.1", "60000 points", "10000 test points"]),
        (with_overrides(FASHION, {"prior/gamma": 0.0}), ["prior        sparse, gamma 0"]),
        (with_overrides(FASHION, {"prior/kind": "normal"}), ["prior        normal, scale 1"]),
        (clustering.STUDY.base, ["prior        clustered", "normal, a learned scale",
                                 "400 validation points"]),
        (with_overrides(independence.STUDY.base, {
            "training/images_per_epoch": 12_000,
            "objective/kind": "iwae",
            "objective/num_samples": 5,
        }), ["12000 of them an epoch", "likelihood   bernoulli", "iwae, the importance-weighted",
             "K 5"]),
    ],
)  # fmt: skip
def test_the_header_says_what_is_really_trained(config, expected):
    text = "\n".join(header_lines(config, FACTS))
    for words in expected:
        assert words in text
    assert "1 thread" in text


def test_the_last_table_has_units_and_the_reason_of_what_is_absent():
    row = make_row(3)
    absent = {"sparsity/hoyer": "needs two active ones", **row.absent}
    metrics = {key: value for key, value in row.metrics.items() if key != "sparsity/hoyer"}
    text = printed(final_table(TrainedRow(3, 0.0, metrics, absent), FASHION))
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert "nats" in lines["log_likelihood/iwae"]
    assert "needs two active ones" in lines["sparsity/hoyer"]
    assert "latent/components_used" not in lines  # it could not have a value here
