"""Workers that are killed from outside, as the system does when memory runs out."""

import itertools
import os
import signal
import time

import psutil
import pytest

from tests.studies import (
    Tracked,
    driving,
    ended,
    num_rows,
    result,
    run,
    trials_of,
    trials_so_far,
    wait_until,
    write_tiny,
)
from tune_ddvae import exit_codes
from tune_ddvae.tuning.cluster.nodes import total_memory
from tune_ddvae.tuning.trials import State

pytestmark = [pytest.mark.field, pytest.mark.timeout(280)]

UNLUCKY, DOOMED = 0, 1  # one loses its worker once, the other one each time it returns
LOSS_LIMIT = 3
EPOCHS = 200  # some 10 s, so that a worker can be killed at its work


class Killer:
    """Kills the workers of two trials as the record names them."""

    def __init__(self, folder, driver):
        self._folder = folder
        self._driver = driver
        self.killed = {UNLUCKY: [], DOOMED: []}

    def watch(self):
        """Kill until the doomed trial has ended."""
        assert wait_until(self._driver, lambda: self._strike(UNLUCKY, at_most=1))
        assert wait_until(self._driver, lambda: self._strike(DOOMED, at_most=LOSS_LIMIT + 1))

    def _strike(self, number, at_most):
        """Kill the trial's worker, if it is a new one; whether that was the last time."""
        trials = trials_so_far(self._folder, "tiny")
        if number >= len(trials):
            return False
        trial, struck = trials[number], self.killed[number]
        pid = trial.facts.get("pid")
        if trial.state is State.UNFINISHED and pid is not None and pid not in struck:
            struck.append(pid)
            os.kill(pid, signal.SIGKILL)
        return len(struck) == at_most


@pytest.fixture(scope="module")
def bereft(tmp_path_factory, ready_tracking, ray_address):
    folder = tmp_path_factory.mktemp("bereft")
    study = write_tiny(folder, trials=4)
    words = ["--epochs", EPOCHS, "--first-rung", "none", "--max-concurrent", 2]
    words += ["--cpus-per-trial", 1, "--json", "--address", ray_address]
    with driving(study, folder, *words) as driver:
        killer = Killer(folder, driver)
        killer.watch()
        done = ended(driver)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    tracked = Tracked(folder, "tiny", "tiny")
    return killer, trials_of(folder, "tiny"), tracked, result(done), done.stderr


def test_a_trial_that_loses_its_worker_once_is_finished_by_another(bereft):
    killer, trials, tracked, _, err = bereft
    unlucky = trials[UNLUCKY]
    assert unlucky.state is State.COMPLETE
    assert unlucky.losses == 1
    assert unlucky.facts["pid"] not in killer.killed[UNLUCKY]
    assert tracked.children[UNLUCKY].data.tags["losses"] == "1"
    assert (
        "trial 0 lost its worker (likely out of memory, or killed from outside (by SIGKILL" in err
    )
    assert "of this machine's memory was in use in the last minute" in err
    assert "(raylet)" not in err  # its eight lines of possible causes for each loss


def test_a_trial_whose_worker_is_lost_each_time_fails_and_says_why(bereft):
    killer, trials, tracked, found, _ = bereft
    doomed = trials[DOOMED]
    assert len(killer.killed[DOOMED]) == LOSS_LIMIT + 1
    assert doomed.state is State.FAILED
    assert doomed.reason.startswith("worker lost 4 times; last: likely out of memory, or killed")
    run = tracked.children[DOOMED]
    assert run.info.status == "FAILED"
    assert run.data.tags["reason"] == doomed.reason
    assert run.data.tags["losses"] == "4"
    assert [group["numbers"] for group in found["groups"]] == [[DOOMED]]


def test_the_other_trials_do_not_suffer(bereft):
    _, trials, _, found, _ = bereft
    assert len(trials) == 4
    for trial in trials[2:]:
        assert trial.state is State.COMPLETE
        assert trial.losses == 0
        assert list(trial.rows) == list(range(1, EPOCHS + 1))
    assert found["findings"]


def test_a_retry_is_no_new_run_and_repeats_no_step(bereft):
    _, trials, tracked, _, _ = bereft
    tracked.assert_equals(trials)
    assert tracked.parent.info.status == "FINISHED"


def test_every_killed_worker_is_gone(bereft):
    killer, *_ = bereft
    for pids in killer.killed.values():
        assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_trial_that_hangs_is_ended_and_says_so_and_goes_on_once_it_no_longer_does(
    workplace, ray_address
):
    """So short a limit takes every trial for one that hangs."""
    study = write_tiny(workplace, trials=1)
    env = {"TUNE_DDVAE_STALL_S": "0.01"}
    done = run(study, workplace, "--address", ray_address, "--json", env=env)
    assert done.returncode == exit_codes.NO_SUCCESS, done.stderr
    (trial,) = trials_of(workplace, "tiny")
    assert trial.state is State.FAILED
    assert "worker lost 4 times; last: stalled: nothing was finished for 0:00:00.01" in trial.reason
    (before,) = Tracked(workplace, "tiny", "tiny").children
    assert before.info.status == "FAILED"
    assert result(done)["continue_command"]

    done = run(study, workplace, "--address", ray_address, "--json")
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    (trial,) = trials_of(workplace, "tiny")
    assert (trial.state, trial.losses, trial.reason) == (State.COMPLETE, 0, "")
    tracked = Tracked(workplace, "tiny", "tiny")
    (after,) = tracked.children
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    assert after.data.tags["reason"] == ""
    assert tracked.parent.info.status == "FINISHED"
    tracked.assert_equals([trial])


def test_a_worker_that_is_asked_to_end_from_outside_names_the_signal(workplace, ray_address):
    study = write_tiny(workplace, trials=1)
    words = ("--epochs", EPOCHS, "--first-rung", "none", "--address", ray_address)
    with driving(study, workplace, *words) as driver:
        assert wait_until(driver, lambda: num_rows(workplace, "tiny") >= 5)
        os.kill(trials_so_far(workplace, "tiny")[0].facts["pid"], signal.SIGTERM)
        done = ended(driver)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    assert "trial 0 lost its worker (killed from outside by SIGTERM)" in done.stdout + done.stderr
    assert trials_of(workplace, "tiny")[0].state is State.COMPLETE


def test_a_ray_that_dies_under_the_study_ends_it_with_work_left(workplace):
    """Tune itself would wait for a node for ever."""
    study = write_tiny(workplace, trials=6)
    # Far longer than Ray takes to notice: workers that run already go on for a while.
    words = ["--epochs", 100 * EPOCHS, "--first-rung", "none", "--max-concurrent", 2]
    words += ["--cpus-per-trial", 1, "--json"]
    with driving(study, workplace, *words) as driver:
        assert wait_until(driver, lambda: num_rows(workplace, "tiny") >= 10)
        children = psutil.Process(driver.pid).children()
        (raylet,) = [child for child in children if child.name() == "raylet"]
        raylet.kill()
        done = ended(driver)
    assert done.returncode == exit_codes.WORK_LEFT, done.stderr
    assert "Ray's last node died" in result(done)["outcome"]
    assert all(run.info.status != "RUNNING" for run in Tracked(workplace, "tiny", "tiny").children)
    assert trials_of(workplace, "tiny")[0].losses == 0


def test_trials_that_ask_for_all_the_memory_run_one_after_the_other(workplace):
    """On a Ray of the study's own, which has to know of every byte: else none would ever start."""
    study = write_tiny(workplace, trials=3)
    words = ("--cpus-per-trial", 1, "--max-concurrent", 2, "--json")
    done = run(study, workplace, "--memory-per-trial", total_memory() / 1e9, *words)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    trials = trials_of(workplace, "tiny")
    assert len(trials) == 3
    for before, after in itertools.pairwise(sorted(trials, key=lambda trial: trial.started)):
        assert before.ended <= after.started


def test_more_memory_than_there_is_is_refused_in_a_moment(tmp_path):
    study = write_tiny(tmp_path, trials=3)
    started = time.monotonic()
    done = run(study, tmp_path, "--memory-per-trial", 100_000)
    assert time.monotonic() - started < 60
    assert done.returncode == exit_codes.REFUSED
    assert "asks for 100000 GB of memory a trial, and there are" in done.stderr
    assert list(tmp_path.iterdir()) == [study]
