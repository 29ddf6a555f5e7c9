"""The storage's disk fills up, slowly or at once, and is free again later."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.faults.stricken import NAME, Stricken
from tests.studies import ended, trials_of
from tune_ddvae import exit_codes
from tune_ddvae.tuning.storage.disk import RESERVE_BYTES
from tune_ddvae.tuning.trials import State

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

SIZE_MB = 64
LEFT_BYTES = 2**20  # enough to write a little more


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, as only root can make one."""
    place = tmp_path / "small"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(place)]
    made = subprocess.run(words, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no small file system to be had: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


class Ballast:
    """A file that leaves so much of the disk free, or nothing."""

    def __init__(self, disk: Path) -> None:
        self._path = disk / "ballast"

    def leave(self, free: int) -> None:
        with self._path.open("wb", buffering=0) as file:
            try:
                while (there := shutil.disk_usage(self._path.parent).free) > free:
                    file.write(bytes(min(there - free, 2**20)))
            except OSError:  # to the last byte
                pass

    def remove(self) -> None:
        self._path.unlink()


@pytest.mark.parametrize("left", [LEFT_BYTES, 0], ids=["nearly", "to the last byte"])
def test_a_disk_that_fills_up_stops_the_study_and_loses_nothing(
    left, small_disk, ready_tracking, undisturbed, tally, ray_address
):
    (small_disk / "studies").mkdir()
    shutil.copy(ready_tracking, small_disk / "studies" / "mlflow.db")
    study = Stricken(small_disk, "--address", ray_address, seed=70)
    ballast = Ballast(small_disk)
    for more_rows in (3, 20, 15):
        known = study.num_rows()
        with study.driving() as driver:
            assert study.await_rows(driver, known + more_rows)
            ballast.leave(left)
            done = ended(driver, 60)
        told = done.stdout + done.stderr
        assert done.returncode == exit_codes.WORK_LEFT, told
        assert "no space left in storage" in told
        assert "the same command goes on" in told
        assert "Traceback" not in told
        assert all(trial.state is not State.FAILED for trial in trials_of(small_disk, NAME))
        assert all(trial.losses == 0 for trial in trials_of(small_disk, NAME))
        study.faults["disk full"] += 1
        with study.driving() as driver:
            refused = ended(driver, 60)
        assert refused.returncode == exit_codes.REFUSED
        assert f"storage {study.folder / 'studies'}" in refused.stderr
        assert "free for this study" in refused.stderr
        ballast.remove()
    study.finish()
    study.judge(tally, undisturbed)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_made(small_disk):
    study = Stricken(small_disk)
    Ballast(small_disk).leave(RESERVE_BYTES // 2)
    before = sorted(small_disk.iterdir())
    with study.driving() as driver:
        done = ended(driver, 60)
    assert done.returncode == exit_codes.REFUSED
    assert "MB are free there" in done.stderr
    assert sorted(small_disk.iterdir()) == before
