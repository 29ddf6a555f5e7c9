import io

from rich.console import Console

from tune_ddvae.tuning.analysing.screen import protocol_text, show, working

FACTS = {
    "run": {
        "id": "1a2b",
        "name": "trial 3",
        "tracking": "sqlite:////studies/mlflow.db",
        "artifacts": "analysis/epoch_9",
    },
    "checkpoint": "/a/very/long/path/" + 8 * "to/be/copied/" + "checkpoint_000008",
    "folder": "/a/folder",
    "epoch": 9,
    "setting": "digits, sparse prior",
    "device": "cpu (any)",
    "measured_on": {"split": "test", "points": 10_000},
    "values": {"sparsity/hoyer": 0.5, "latent/active_units": 7.0, "latent/kl": 12.25},
    "protocol": {
        "sparsity/hoyer": {"points": 10_000},
        "latent/active_units": {"points": 10_000, "which": [0, 1, 2]},
        "latent/kl": {"points": 10_000, "per_dimension": [1.0, 2.0]},
    },
    "absent": {
        "disentanglement/mig": "needs known factors",
        "disentanglement/dci": "needs known factors",
        "sparsity/hoyer_all": "dimension 3 does not vary",
    },
    "figures": ["samples", "traversals"],
}


def shown(width=100, **changes) -> str:
    console = Console(file=io.StringIO(), width=width)
    is_in_run = changes.pop("is_in_run", True)
    show({**FACTS, **changes}, console, is_in_run=is_in_run)
    return console.file.getvalue()


def test_every_value_stands_in_a_row_with_unit_and_protocol():
    rows = [line.split() for line in shown().splitlines()]
    assert ["sparsity/hoyer", "0.5000", "0", "to", "1", "points", "10000"] in rows
    assert ["latent/active_units", "7", "dimensions", "points", "10000"] in rows
    assert ["latent/kl", "12.25", "nats", "points", "10000"] in rows


def test_split_points_model_and_machine_are_named():
    text = shown()
    assert "Analysis of run 1a2b (trial 3): epoch 9" in text
    assert "digits, sparse prior, on cpu (any)" in text
    assert "measured on the test set, 10,000 points" in text


def test_what_is_absent_for_one_reason_stands_together():
    text = shown(width=200)
    assert "absent: disentanglement/mig, disentanglement/dci: needs known factors\n" in text
    assert "absent: sparsity/hoyer_all: dimension 3 does not vary\n" in text


def test_paths_are_never_folded():
    assert FACTS["checkpoint"] in shown(width=40).splitlines()[-5].split()


def test_a_run_is_named_only_where_it_has_the_files():
    assert "artifacts in analysis/epoch_9" in shown()
    assert "MLflow" not in shown(is_in_run=False)
    assert shown(run=None, is_in_run=False).startswith("Analysis: epoch 9")


def test_figures_alone_show_no_table():
    text = shown(measured_on=None, values={}, protocol={}, absent={})
    assert "metric" not in text
    assert "samples, traversals: PNG and PDF each" in text


def test_recorded_values_stand_beside_those_found_again():
    recorded = {"sparsity/hoyer": 0.5, "latent/kl": 12.5, "divergence/mmd": 0.25}
    differing = ["latent/kl", "divergence/mmd"]
    text = shown(recorded=recorded, differing=differing)
    rows = [line.split() for line in text.splitlines()]
    assert ["latent/kl", "12.25", "12.50", "nats", "points", "10000"] in rows
    assert ["divergence/mmd", "absent", "0.2500", "1"] in rows
    assert "not as recorded: latent/kl, divergence/mmd" in text
    assert "all values are as recorded" in shown(recorded=recorded, differing=[])


def test_a_protocol_is_one_line_without_what_is_one_entry_a_dimension():
    protocol = {"train_votes": 10, "which": [1, 2], "per_dimension": "none", "scaled": True}
    assert protocol_text(protocol) == "train votes 10, scaled True"


# -- how far it has come ----------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(total, *steps) -> list[str]:
    console, clock = Console(file=io.StringIO(), width=20), Clock()
    with working(console, "log-likelihood", total, clock=clock) as advance:
        for seconds, num in steps:
            clock.now += seconds
            advance(num)
    return console.file.getvalue().splitlines()


def test_a_log_gets_a_line_now_and_then_with_the_time_left():
    lines = lines_of(100, (10, 10), (10, 10), (1, 1), (19, 19))
    assert lines == [
        "log-likelihood: 20 %, 20 s elapsed, about 1 min 20 s left",
        "log-likelihood: 40 %, 40 s elapsed, about 1 min left",
    ]


def test_work_of_unknown_length_tells_no_time_left():
    assert lines_of(None, (20, 3)) == ["log-likelihood: 3 steps, 20 s elapsed"]


def test_short_work_is_not_worth_a_line():
    assert lines_of(10, (1, 5), (1, 5)) == []


def test_a_terminal_gets_a_bar_that_leaves_nothing_behind():
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with working(console, "log-likelihood", 10) as advance:
        advance(5)
    text = console.file.getvalue()
    assert "log-likelihood" in text
    assert text.endswith("\x1b[2K")
