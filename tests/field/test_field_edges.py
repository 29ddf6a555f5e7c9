"""Values at the edge of what a model takes, and the real data, through the whole machinery."""

import math

import pytest
from click.testing import CliRunner

from tests.studies import Tracked, command, result, run, trials_of, write_tiny
from tune_ddvae import exit_codes
from tune_ddvae.config import DataConfig
from tune_ddvae.data import prepare
from tune_ddvae.errors import ConfigError, DataError
from tune_ddvae.study import main
from tune_ddvae.tuning.trials import State

pytestmark = [pytest.mark.field, pytest.mark.timeout(280)]

SPARSE = {"prior/kind": "sparse"}
DIGITS = {
    "data/name": "digits",
    "data/num_train": 65,
    "data/num_validation": 20,
    "data/num_test": 20,
    "model/width": 4,
    "objective/alpha": 1.0,
}
SETTINGS = {
    "gamma_0": {**SPARSE, "prior/gamma": 0.0},
    "gamma_1": {**SPARSE, "prior/gamma": 1.0},
    **{
        # 65 images in batches of 64 leave a last batch of one; 1,000 are more than there are.
        f"{divergence}_{size}": {
            **DIGITS,
            "objective/divergence": divergence,
            "training/batch_size": size,
        }
        for divergence in ("mmd", "inclusive_kl")
        for size in (64, 1000)
    },
}


@pytest.fixture(scope="module")
def edges(tmp_path_factory, ready_tracking, ray_address):
    folder = tmp_path_factory.mktemp("edges")
    study = write_tiny(folder, trials=len(SETTINGS), published=SETTINGS, first=tuple(SETTINGS))
    words = ("--epochs", "2", "--first-rung", "none", "--json", "--address", ray_address)
    done = run(study, folder, *words)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    trials = {trial.setting: trial for trial in trials_of(folder, "tiny")}
    return trials, Tracked(folder, "tiny", "tiny")


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_edge_trains_to_its_last_epoch_with_finite_numbers(setting, edges):
    trial = edges[0][setting]
    ends = {State.COMPLETE}
    if trial.config["data/name"] == "digits":
        ends.add(State.COLLAPSED)  # 65 images and two epochs need not make a unit active
    assert trial.state in ends, trial.reason
    assert list(trial.rows) == [1, 2]
    for row in trial.rows.values():
        assert all(map(math.isfinite, row.metrics.values()))
        assert "log_likelihood/iwae" in row.metrics


def test_the_prior_that_is_logged_is_the_one_that_was_used(edges):
    trials, tracked = edges
    for child in tracked.children:
        trial = trials[child.data.tags["setting"]]
        assert child.data.params["prior/kind"] == child.data.tags["prior"] == trial.facts["prior"]
        assert child.data.params["prior/gamma"] == str(trial.config["prior/gamma"]).lower()


REFUSED = [
    ("prior/gamma=-0.1", "prior/gamma must be at least 0.0, got -0.1"),
    ("prior/gamma=1.1", "prior/gamma must be at most 1.0, got 1.1"),
    ("training/batch_size=1", "training/batch_size must be at least 2, got 1"),
]


@pytest.mark.parametrize(("setting", "message"), REFUSED, ids=[setting for setting, _ in REFUSED])
def test_beyond_the_edge_is_refused_before_anything_is_made(setting, message, tmp_path):
    study = write_tiny(tmp_path)
    words = command(study, tmp_path, "--set", "prior/kind=sparse", "--set", setting)
    done = CliRunner().invoke(main, words[3:])
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == [study.name]


@pytest.fixture(scope="module")
def fashion_mnist():
    try:
        prepare(DataConfig())
    except DataError as error:
        pytest.skip(f"Fashion-MNIST is not there: {error}")


def test_the_sparsity_study_runs_on_real_images(fashion_mnist, workplace):
    words = ("--quick", "--trials", "4", "--epochs", "2", "--json")
    done = run("sparsity", workplace, *words)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    trials = trials_of(workplace, "sparsity-quick")
    assert len(trials) == 4
    assert {trial.state for trial in trials} <= {State.COMPLETE, State.STOPPED}
    Tracked(workplace, "sparsity-quick", "sparsity").assert_equals(trials)
    findings = result(done)["findings"]
    assert findings
    for finding in findings:
        assert set(finding["values"]) == {"sparsity/hoyer", "log_likelihood/iwae"}
        assert 0.0 < finding["values"]["sparsity/hoyer"] < 1.0
        assert {f"test/{metric}" for metric in finding["values"]} <= set(finding["test"])
