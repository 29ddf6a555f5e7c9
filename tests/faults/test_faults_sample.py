"""A sample of what ``make test-faults`` does, small enough for ``make test``."""

import os
import signal
import sqlite3
import time

import pytest

from tests.faults.stricken import Stricken, Undisturbed, await_so, kill, worker_of
from tests.faults.tally import Tally
from tests.studies import ended, record_path, trials_of
from tests.training.tiny import bit_flipped
from tune_ddvae import exit_codes
from tune_ddvae.tuning.trials import State

pytestmark = pytest.mark.timeout(300)


EPOCHS = 27


def damage_newest_checkpoint(study: Stricken) -> None:
    """One bit of the checkpoint that the first trial would go on from."""
    (trial, *_) = trials_of(study.folder, study.name)
    assert trial.state is State.UNFINISHED
    assert len(trial.checkpoints) > 1
    newest = max(trial.checkpoints, key=lambda mark: mark.epoch)
    file = record_path(study.folder, study.name) / newest.path / "state.pt"
    file.write_bytes(bit_flipped(file.read_bytes()))


def test_a_study_survives_one_fault_of_each_common_kind(
    workplace, tmp_path_factory, tally: Tally, ray_address
):
    undisturbed = Undisturbed(tmp_path_factory.mktemp("undisturbed"), ray_address, EPOCHS)
    study = Stricken(workplace, "--address", ray_address, seed=1, epochs=EPOCHS)
    with study.driving() as driver:
        assert study.await_rows(driver, 5)
        kill(driver)
        study.faults["driver killed"] += 1
    damage_newest_checkpoint(study)
    study.faults["checkpoint damaged"] += 1
    with study.driving() as driver:
        assert study.await_rows(driver, study.num_rows() + 10)
        database = sqlite3.connect(workplace / "studies" / "mlflow.db", isolation_level=None)
        database.execute("BEGIN EXCLUSIVE")
        assert await_so(driver, lambda: worker_of(workplace) is not None)
        os.kill(worker_of(workplace)[1], signal.SIGKILL)
        study.faults["worker killed"] += 1
        assert study.await_rows(driver, study.num_rows() + 10)
        database.close()
        study.faults["MLflow's database locked"] += 1
        driver.send_signal(signal.SIGTERM)
        began = time.monotonic()
        done = ended(driver)
        assert done.returncode == exit_codes.TERMINATED, done.stderr
        assert "note: trial 0 passed over a checkpoint: checkpoint " in done.stdout
        assert time.monotonic() - began < 30.0
        study.faults["SIGTERM"] += 1
    study.finish()
    study.judge(tally, undisturbed)
