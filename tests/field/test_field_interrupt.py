"""A study of one trial, frozen, contested and interrupted; and what SIGTERM leaves behind."""

import os
import signal
import sqlite3
import subprocess
from pathlib import Path

import psutil
import pytest
import torch

from tests.studies import (
    Tracked,
    command,
    driving,
    ended,
    kill_after,
    num_rows,
    outcome,
    record_path,
    run,
    trials_of,
    wait_until,
    write_tiny,
)
from tune_ddvae import exit_codes
from tune_ddvae.tuning.trials import State

pytestmark = [pytest.mark.field, pytest.mark.timeout(280)]

EPOCHS = 60
CUT_AFTER = 5  # evaluations
LONG = ("--epochs", "100000", "--first-rung", "none")  # never at its end by itself
MOST_S = 30.0  # what Slurm and Kubernetes give


def files_of(folder: Path) -> set[str]:
    """All but what SQLite makes and removes as it likes."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return {path for path in found if not path.endswith(("-wal", "-shm"))}


class Contested:
    """The study while others want its name, and after it was resumed."""

    def __init__(self, folder: Path, undisturbed: Path, ray_address: str) -> None:
        self.folder, self.undisturbed = folder, undisturbed
        words = ["--epochs", str(EPOCHS), "--first-rung", "none", "--max-concurrent", "1"]
        words += ["--cpus-per-trial", "1", "--address", ray_address]
        study = write_tiny(folder, trials=1)
        with driving(study, folder, *words) as driver:
            self.holder = driver.pid
            assert kill_after(driver, folder, "tiny", CUT_AFTER, signal.SIGSTOP)
            self.second = run(study, folder, *words)
            driver.send_signal(signal.SIGCONT)
            driver.send_signal(signal.SIGINT)
            done = ended(driver, MOST_S)
        assert done.returncode == exit_codes.INTERRUPTED, done.stderr

        self.cut = trials_of(folder, "tiny")
        before = (outcome(folder, "tiny"), files_of(record_path(folder, "tiny")))
        self.other = run(study, folder, *words, "--seed", "1")
        self.is_unchanged = before == (
            outcome(folder, "tiny"),
            files_of(record_path(folder, "tiny")),
        )
        self.resumed = run(study, folder, *words)
        left_alone = run(write_tiny(undisturbed, trials=1), undisturbed, *words)
        assert left_alone.returncode == exit_codes.COMPLETE, left_alone.stderr


@pytest.fixture(scope="module")
def contested(tmp_path_factory, ready_tracking, ray_address):
    return Contested(
        tmp_path_factory.mktemp("contested"), tmp_path_factory.mktemp("undisturbed"), ray_address
    )


def test_a_second_driver_is_refused_and_told_who_holds_the_study(contested):
    assert contested.second.returncode == exit_codes.REFUSED
    assert f"process {contested.holder} on {os.uname().nodename}" in contested.second.stderr
    assert "Traceback" not in contested.second.stderr


def test_another_study_under_the_same_name_is_refused_and_changes_nothing(contested):
    assert contested.other.returncode == exit_codes.REFUSED
    assert "seed: 0 in the record, 1 now" in contested.other.stderr
    assert "--name" in contested.other.stderr
    assert contested.is_unchanged


def test_a_resumed_trial_ends_as_one_left_alone(contested):
    assert contested.resumed.returncode == exit_codes.COMPLETE, contested.resumed.stderr
    (cut,) = contested.cut
    assert cut.state is State.UNFINISHED
    assert CUT_AFTER <= cut.last_epoch < EPOCHS
    assert outcome(contested.folder, "tiny") == outcome(contested.undisturbed, "tiny")


def test_a_resumed_trial_trains_no_recorded_epoch_again(contested):
    (cut,), (whole,) = contested.cut, trials_of(contested.folder, "tiny")
    assert {epoch: whole.rows[epoch].time for epoch in cut.rows} == {
        epoch: row.time for epoch, row in cut.rows.items()
    }
    assert list(whole.rows) == list(range(1, EPOCHS + 1))
    Tracked(contested.folder, "tiny", "tiny").assert_equals([whole])


def test_a_checkpoint_opens_with_torchs_default_loader(contested):
    (whole,) = trials_of(contested.folder, "tiny")
    folder = record_path(contested.folder, "tiny") / whole.checkpoints[-1].path
    (file,) = folder.glob("*.pt")
    assert torch.load(file)["trainer"]["epoch"] == EPOCHS


def test_one_cpu_a_trial_is_one_thread(contested):
    assert contested.cut[0].facts["threads"] == 1
    (child,) = Tracked(contested.folder, "tiny", "tiny").children
    assert child.data.tags["threads"] == "1"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_sigterm_leaves_nothing_running_and_no_process(workplace):
    """On a Ray of the study's own; with two CPUs a trial, which are two threads."""
    study = write_tiny(workplace, trials=2)
    words = (*LONG, "--max-concurrent", "1", "--cpus-per-trial", "2")
    with driving(study, workplace, *words) as driver:
        assert wait_until(driver, lambda: num_rows(workplace, "tiny") >= CUT_AFTER)
        left = psutil.Process(driver.pid).children(recursive=True)
        assert any("raylet" in process.name() for process in left)
        driver.send_signal(signal.SIGTERM)
        done = ended(driver, MOST_S)
    assert done.returncode == exit_codes.TERMINATED, done.stderr
    _, alive = psutil.wait_procs(left, timeout=5)
    assert alive == []

    (trial,) = trials_of(workplace, "tiny")
    assert trial.facts["threads"] == 2
    assert trial.facts["pid"] in {process.pid for process in left}
    tracked = Tracked(workplace, "tiny", "tiny")
    tracked.assert_equals([trial])
    assert tracked.parent.info.status == "KILLED"
    assert tracked.parent.data.tags["reason"] == "terminated"


def test_sigterm_ends_a_study_in_time_whose_record_somebody_has_locked(workplace):
    study, num_epochs = write_tiny(workplace, trials=1), 400
    words = ("--epochs", str(num_epochs), "--first-rung", "none")
    with driving(study, workplace, *words) as driver:
        assert wait_until(driver, lambda: num_rows(workplace, "tiny") >= CUT_AFTER)
        left = psutil.Process(driver.pid).children(recursive=True)
        holder = sqlite3.connect(record_path(workplace, "tiny") / "record.db", isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        driver.send_signal(signal.SIGTERM)
        done = ended(driver, MOST_S)
        holder.close()
    assert done.returncode == exit_codes.TERMINATED, done.stderr
    assert "terminated: record, storage or Ray did not let go within 28 s" in done.stderr
    _, alive = psutil.wait_procs(left, timeout=30)
    assert alive == []
    assert CUT_AFTER <= num_rows(workplace, "tiny") < num_epochs
    done = run(study, workplace, *words)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    (trial,) = trials_of(workplace, "tiny")
    assert list(trial.rows) == list(range(1, num_epochs + 1))
    Tracked(workplace, "tiny", "tiny").assert_equals([trial])


@pytest.mark.parametrize("begun", ["gcs_server", "raylet"])
def test_sigterm_while_ray_starts_leaves_nothing_either(begun, workplace):
    with driving(write_tiny(workplace, trials=2), workplace, *LONG) as driver:
        process = psutil.Process(driver.pid)
        assert wait_until(
            driver, lambda: any(begun in child.name() for child in process.children())
        )
        left = process.children(recursive=True)
        driver.send_signal(signal.SIGTERM)
        done = ended(driver, MOST_S)
    assert done.returncode == exit_codes.TERMINATED, done.stderr
    assert "Study tiny: terminated" in done.stdout + done.stderr
    _, alive = psutil.wait_procs(left, timeout=5)
    assert alive == []
    tracked = Tracked(workplace, "tiny", "tiny")
    assert [run.info.status for run in (tracked.parent, *tracked.children)] == ["KILLED"]
    assert tracked.parent.data.tags["reason"] == "terminated"


def test_a_signal_to_the_whole_process_group_costs_no_trial_anything(workplace):
    """As systemd and srun send it: Ray and its workers are told to end as well."""
    study, num_epochs = write_tiny(workplace, trials=2), 60
    words = ("--epochs", str(num_epochs), "--first-rung", "none", "--max-concurrent", "2")
    words += ("--cpus-per-trial", "1")
    driver = subprocess.Popen(
        command(study, workplace, *words),
        cwd=workplace,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert wait_until(driver, lambda: num_rows(workplace, "tiny") >= 2 * CUT_AFTER)
        left = psutil.Process(driver.pid).children(recursive=True)
        os.killpg(driver.pid, signal.SIGTERM)
        done = ended(driver, MOST_S)
    finally:
        if driver.poll() is None:
            driver.kill()
            driver.communicate(timeout=30)
    assert done.returncode == exit_codes.TERMINATED, done.stderr
    _, alive = psutil.wait_procs(left, timeout=10)
    assert alive == []
    assert [trial.losses for trial in trials_of(workplace, "tiny")] == [0, 0]

    done = run(study, workplace, *words)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    trials = trials_of(workplace, "tiny")
    assert [(trial.state, trial.losses) for trial in trials] == [(State.COMPLETE, 0)] * 2
    assert all(list(trial.rows) == list(range(1, num_epochs + 1)) for trial in trials)
    Tracked(workplace, "tiny", "tiny").assert_equals(trials)
