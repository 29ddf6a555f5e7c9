"""The driver is killed at random moments, frozen, or asked to end."""

import signal
import time

import psutil
import pytest

from tests.faults.stricken import Stricken, assert_gone, family, kill
from tests.studies import ended
from tune_ddvae import exit_codes

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

ENDS_WITHIN_S = 30.0  # what Slurm and Kubernetes give


def kill_again_and_again(study: Stricken, times: int) -> list[psutil.Process]:
    """Everything that the killed drivers had started."""
    started = []
    while study.faults["driver killed"] < times:
        with study.driving() as driver:
            if study.await_moment(driver):
                started += kill(driver)
                study.faults["driver killed"] += 1
            else:
                raise AssertionError(f"it ended too soon: {ended(driver)}")
    return started


@pytest.mark.parametrize("seed", [10, 11])
def test_a_driver_killed_at_random_moments_changes_nothing(
    seed, workplace, undisturbed, tally, ray_address
):
    """On a standing cluster, where its workers have to notice."""
    study = Stricken(workplace, "--address", ray_address, seed=seed)
    kill_again_and_again(study, 8)
    study.finish()
    study.judge(tally, undisturbed)


def test_a_driver_killed_with_a_ray_of_its_own_leaves_no_process(workplace, undisturbed, tally):
    study = Stricken(workplace, seed=12)
    started = kill_again_and_again(study, 4)
    study.finish()
    study.judge(tally, undisturbed)
    assert started
    assert_gone(started)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, exit_codes.INTERRUPTED), (signal.SIGTERM, exit_codes.TERMINATED)],
)
def test_a_driver_asked_to_end_does_so_in_time_and_goes_on(
    number, code, workplace, undisturbed, tally
):
    study = Stricken(workplace, seed=int(number))
    for more_rows in (7, 20):
        known = study.num_rows()
        with study.driving() as driver:
            assert study.await_rows(driver, known + more_rows)
            children = family(driver.pid)
            began = time.monotonic()
            driver.send_signal(number)
            done = ended(driver, 2 * ENDS_WITHIN_S)
            assert time.monotonic() - began < ENDS_WITHIN_S
            assert done.returncode == code, done.stderr
            assert_gone(children)
            study.faults[number.name] += 1
    study.finish()
    study.judge(tally, undisturbed)
