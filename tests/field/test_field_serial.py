"""One study run twice, serially and with seed 0, on a worker that is reused from trial to trial."""

import time

import psutil
import pytest
import torch

from tests.studies import (
    driving,
    ended,
    outcome,
    result,
    trials_of,
    without_seconds,
    write_tiny,
)
from tune_ddvae import exit_codes
from tune_ddvae.tuning.running.worker import Worker
from tune_ddvae.tuning.trials import Assignment, State

pytestmark = [pytest.mark.field, pytest.mark.timeout(280)]

NUM_TRIALS = 12  # three of them given, five drawn at random; then the sampler speaks
SIZES = {"narrow": {"model/latent_dim": 2}, "wide": {"model/latent_dim": 7}}
MOST_GROWTH = 50_000_000  # bytes


class Sampled:
    """A serial study, and how much memory its driver held as time went by."""

    def __init__(self, folder, ray_address):
        self.folder = folder
        study = write_tiny(
            folder,
            trials=NUM_TRIALS,
            overrides={"prior/kind": "normal"},
            published={**SIZES, "narrow_again": SIZES["narrow"]},
            first=("narrow", "wide", "narrow_again"),
        )
        words = ("--seed", "0", "--max-concurrent", "1", "--cpus-per-trial", "1", "--json")
        self.memory = []
        with driving(study, folder, *words, "--address", ray_address) as driver:
            self._sample(driver)
            done = ended(driver)
        assert done.returncode == exit_codes.COMPLETE, done.stderr
        self.trials = trials_of(folder, "tiny")
        self.found = result(done)

    def _sample(self, driver):
        process = psutil.Process(driver.pid)
        while driver.poll() is None:
            try:
                self.memory.append((time.time(), process.memory_info().rss))
            except psutil.Error:  # it has just ended
                return
            time.sleep(0.1)  # the interval of the samples


@pytest.fixture(scope="module")
def twice(tmp_path_factory, ready_tracking, ray_address):
    return [Sampled(tmp_path_factory.mktemp("serial"), ray_address) for _ in range(2)]


@pytest.fixture
def threads():
    """Torch's threads, put back afterwards."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def trained_alone(trial, folder):
    """The same configuration in a worker that has trained nothing before."""
    worker = Worker()
    worker.assign(
        Assignment(
            number=trial.number,
            attempt="alone",
            config=trial.config,
            checkpoints=(),
            storage=str(folder),
            data_dir=None,
            num_cpus=float(trial.facts["threads"]),
            stall_s=600.0,
        )
    )
    metrics = {}
    for epoch in range(1, trial.last_epoch + 1):
        metrics[epoch] = without_seconds(worker.step().metrics)
    return metrics


def test_the_same_seed_gives_the_same_study_to_the_last_digit(twice):
    first, second = twice
    assert outcome(first.folder, "tiny") == outcome(second.folder, "tiny")
    assert {trial.state for trial in first.trials} >= {State.COMPLETE, State.STOPPED}


def test_every_trial_has_a_seed_of_its_own_that_is_recorded(twice):
    assert len({trial.config["training/seed"] for trial in twice[0].trials}) == NUM_TRIALS


def test_the_best_configuration_as_printed_gives_the_same_score_alone(twice, threads, tmp_path):
    (best, *_) = twice[0].found["findings"]
    trial = twice[0].trials[best["number"]]
    trial.config = best["config"]  # as it went through the printed JSON
    alone = trained_alone(trial, tmp_path)
    assert {m: alone[trial.last_epoch][m] for m in best["values"]} == best["values"]


def test_a_reused_worker_keeps_nothing_of_the_trials_before(twice, threads, tmp_path):
    trials = twice[0].trials
    assert len({trial.facts["pid"] for trial in trials}) == 1
    assert [trial.config["model/latent_dim"] for trial in trials[:3]] == [2, 7, 2]
    for trial in (*trials[:3], trials[-1]):
        recorded = {epoch: without_seconds(row.metrics) for epoch, row in trial.rows.items()}
        assert trained_alone(trial, tmp_path) == recorded


def test_the_drivers_memory_does_not_grow_with_the_trials(twice):
    for study in twice:
        settled = study.trials[3].ended  # by then MLflow is loaded, which a thread does meanwhile
        last = study.trials[-1].ended  # what the end itself takes is no trial's
        after = [size for moment, size in study.memory if settled <= moment <= last]
        assert len(after) > 5
        assert max(after) - after[0] < MOST_GROWTH
