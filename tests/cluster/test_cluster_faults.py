"""A study on three hosts: cut off, without power, and with a head that has to be started again."""

import signal

import pytest

from tests.cluster.cluster import ADDRESS, await_so
from tests.faults.tally import gaps, unlike_the_record
from tests.studies import (
    command,
    ended,
    num_rows,
    result,
    trials_of,
    trials_so_far,
    write_tiny,
)
from tune_ddvae import exit_codes
from tune_ddvae.tuning.trials import State

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(580)]

TRIALS, FEW, EPOCHS = 8, 4, 40
# A whole worker each, so that both of them train.
WORDS = ("--address", ADDRESS, "--cpus-per-trial", 2, "--epochs", EPOCHS, "--first-rung", "none")


@pytest.fixture(scope="module")
def stricken(cluster, place):
    """One worker is cut off, the other one loses its power meanwhile, and then both come back."""
    folder = place("stricken")
    hosts, (first, second) = cluster.hosts, cluster.workers
    words = command(write_tiny(folder, trials=TRIALS), folder, *WORDS, "--json")
    with cluster.driving(words, folder) as driver:
        await_so(driver, lambda: training_on(folder) == {"h1", "h2"})
        hosts.cut(second)
        cluster.await_nodes(first)
        rows = num_rows(folder, "tiny")
        await_so(driver, lambda: num_rows(folder, "tiny") > rows)
        hosts.kill(first)
        cluster.await_nodes()
        struck = trials_of(folder, "tiny")
        hosts.mend(second)
        hosts.bring_up(first)
        cluster.await_workers()  # nobody starts Ray on them but the head
        done = ended(driver, 200)
    assert done.returncode == exit_codes.COMPLETE, done.stdout + done.stderr
    return folder, struck, done


def test_trials_are_trained_on_both_workers(stricken):
    _, struck, _ = stricken
    assert hosts_of(struck) == {"h1", "h2"}


def test_hosts_that_go_lose_and_double_nothing(stricken):
    folder, struck, done = stricken
    assert sum(len(trial.rows) for trial in struck) < TRIALS * EPOCHS
    assert gaps(folder, "tiny", TRIALS) == []
    assert unlike_the_record(folder, "tiny", "tiny", None) == []
    assert result(done)["outcome"] == "complete"


def test_the_loss_of_a_host_counts_against_no_trial(stricken):
    folder, _, done = stricken
    assert done.stderr.count("lost its worker (its node died or cannot be reached)") >= 2
    assert [trial.losses for trial in trials_of(folder, "tiny")] == [0] * TRIALS


def test_a_study_goes_on_by_the_same_command_once_its_head_is_started_again(cluster, place):
    folder = place("beheaded")
    words = command(write_tiny(folder, trials=FEW), folder, *WORDS)
    with cluster.driving(words, folder) as driver:
        await_so(driver, lambda: num_rows(folder, "tiny") >= EPOCHS)
        cluster.hosts.kill(cluster.head)
        assert driver.wait(30) == -signal.SIGKILL
    assert num_rows(folder, "tiny") < FEW * EPOCHS
    cluster.hosts.bring_up(cluster.head)
    cluster.launch()
    cluster.await_workers()
    with cluster.driving(words, folder) as driver:
        done = ended(driver, 200)
    assert done.returncode == exit_codes.COMPLETE, done.stdout + done.stderr
    assert gaps(folder, "tiny", FEW) == []
    assert unlike_the_record(folder, "tiny", "tiny", None) == []
    assert [trial.losses for trial in trials_of(folder, "tiny")] == [0] * FEW


def training_on(folder) -> set[str]:
    """Hosts of the trials that are being trained."""
    return hosts_of(
        trial for trial in trials_so_far(folder, "tiny") if trial.state is State.UNFINISHED
    )


def hosts_of(trials) -> set[str]:
    """Where they began; one that waits for a host that is there has not begun anywhere."""
    return {trial.facts["host"] for trial in trials if "host" in trial.facts}
