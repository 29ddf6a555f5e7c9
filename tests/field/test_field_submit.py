"""A study sent to a real head: once, looked at, stopped, resumed, and left behind by a head that died."""

import json
import os
import subprocess
import sys
import time

import pytest

from tests.ray_head import running
from tests.studies import (
    Tracked,
    driving,
    ended,
    num_rows,
    trials_of,
    trials_so_far,
    wait_until,
    write_tiny,
)
from tune_ddvae import exit_codes
from tune_ddvae.tuning.trials import State

pytestmark = [pytest.mark.field, pytest.mark.timeout(560)]


@pytest.fixture(scope="module")
def head():
    with running() as head:
        yield head


@pytest.fixture
def command(head, workplace):
    """Our commands as typed in a folder of its own, on a machine that has the head's token."""

    def run(name: str, *words: object, storage: bool = True, asks: bool = True, cwd=workplace):
        safely = ["-P"] if cwd != workplace else []  # as the console script has it
        line = [sys.executable, *safely, "-m", f"tune_ddvae.{name}", *map(str, words)]
        line += ["--storage", str(workplace / "studies")] if storage else []
        line += ["--submit" if name == "study" else "--address", head.address] if asks else []
        return subprocess.run(
            line,
            cwd=cwd,
            env={**os.environ, **head.client},
            capture_output=True,
            text=True,
            timeout=400,
        )

    return run


def send(command, study, name, *words):
    """Send a study that trains one trial at a time."""
    options = ("--name", name, "--max-concurrent", 1, "--cpus-per-trial", 1)
    options += ("--no-report", "--json")
    done = command("study", study, *options, *words)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    return json.loads(done.stdout)


def listed(command, name):
    done = command("studies", "list", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = [study for study in json.loads(done.stdout) if study["name"] == name]
    return found


def wait_for(is_so, what: str, timeout_s: float = 120.0) -> None:
    until = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < until, what
        time.sleep(0.1)  # the record is what is awaited; it has no event to wait on


def num_ended(workplace, name) -> int:
    return sum(t.state is not State.UNFINISHED for t in trials_so_far(workplace, name))


def test_a_study_that_is_sent_twice_runs_once_and_ends_complete(command, workplace):
    study = write_tiny(workplace, trials=4)
    first = send(command, study, "twice")
    again = send(command, study, "twice")
    assert (first["sent"], again["sent"]) == (True, False)
    assert again["job"] == first["job"]
    followed = command("studies", "logs", "twice", "--follow", storage=False)
    assert followed.returncode == 0, followed.stderr
    assert "Study twice: complete" in followed.stdout
    assert f"job {first['job']}: SUCCEEDED" in followed.stderr
    found = listed(command, "twice")
    assert found["state"] == "complete"
    assert found["job"] == {"id": first["job"], "status": "SUCCEEDED", "exit_code": 0}
    trials = trials_of(workplace, "twice")
    assert found["trials"]["ended"] == found["trials"]["asked"] == len(trials) == 4
    assert "--submit" in found["command"]
    Tracked(workplace, "twice", "tiny").assert_equals(trials)


def test_a_study_that_is_stopped_is_interrupted_and_goes_on_from_there(command, workplace):
    study = write_tiny(workplace, trials=10, overrides={"training/epochs": 243})
    first = send(command, study, "stopped")
    wait_for(lambda: num_ended(workplace, "stopped") >= 2, "two trials")
    assert listed(command, "stopped")["state"] == "running"
    stopped = command("studies", "stop", "stopped", storage=False)
    assert stopped.returncode == 0, stopped.stderr
    assert f"job {first['job']} ended within" in stopped.stdout
    found = listed(command, "stopped")
    assert (found["state"], found["why"]) == ("interrupted", "terminated")
    assert found["job"]["status"] == "STOPPED"
    before = {t.number: t.ended for t in trials_of(workplace, "stopped") if t.ended}
    assert 2 <= len(before) < 10

    resumed = command("studies", "resume", "stopped", storage=False)
    assert resumed.returncode == 0, resumed.stderr
    followed = command("studies", "logs", "stopped", "--follow", storage=False)
    assert "Study stopped: complete" in followed.stdout, followed.stderr
    assert listed(command, "stopped")["state"] == "complete"
    trials = trials_of(workplace, "stopped")
    assert len(trials) == 10
    assert {t.number: t.ended for t in trials if t.number in before} == before
    Tracked(workplace, "stopped", "tiny").assert_equals(trials)


def test_a_refusal_of_the_heads_own_checks_is_in_the_log(command):
    sent = send(command, "sparsity", "refused", "--gpus-per-trial", 4)
    followed = command("studies", "logs", "refused", "--follow", storage=False)
    assert f"job {sent['job']}: FAILED" in followed.stderr
    assert "--gpus-per-trial asks for 4 GPUs" in followed.stdout


def test_a_study_of_this_machine_is_stopped_and_resumed_from_another_folder(command, workplace):
    """Where a package of our name lies, which must not be what runs."""
    study = write_tiny(workplace, trials=6, overrides={"training/epochs": 243})
    words = ("--name", "local", "--max-concurrent", 1, "--cpus-per-trial", 1)
    with driving(study.name, workplace, *words) as driver:
        wait_until(driver, lambda: num_ended(workplace, "local") >= 2)
        stopped = command("studies", "stop", "local", asks=False)
        assert stopped.returncode == 0, stopped.stderr
        assert f"process {driver.pid} on" in stopped.stdout
        assert ended(driver).returncode == exit_codes.TERMINATED
    elsewhere = workplace / "elsewhere"
    (elsewhere / "tune_ddvae").mkdir(parents=True)
    (elsewhere / "tune_ddvae" / "__init__.py").write_text("raise SystemExit('the decoy ran')")
    resumed = command("studies", "resume", "local", asks=False, cwd=elsewhere)
    assert resumed.returncode == exit_codes.COMPLETE, resumed.stderr
    assert "Study local: complete" in resumed.stdout
    trials = trials_of(workplace, "local")
    assert len(trials) == 6
    Tracked(workplace, "local", "tiny").assert_equals(trials)


def test_a_study_that_a_driver_trains_is_not_sent_and_is_stopped_though_it_is_no_job(
    command, workplace
):
    study = write_tiny(workplace, trials=200, overrides={"training/epochs": 243})
    words = ("--name", "held", "--max-concurrent", 1, "--cpus-per-trial", 1)
    with driving(study.name, workplace, *words) as driver:
        wait_until(driver, lambda: num_rows(workplace, "held") >= 1)
        sent = send(command, study, "held")
        assert (sent["sent"], sent["job"], sent["driver"]["pid"]) == (False, None, driver.pid)
        resumed = command("studies", "resume", "held")
        assert f"is running already: process {driver.pid} on" in resumed.stdout, resumed.stderr
        assert driver.poll() is None
        stopped = command("studies", "stop", "held")
        assert stopped.returncode == 0, stopped.stderr
        assert f"process {driver.pid} on" in stopped.stdout
        assert ended(driver).returncode == exit_codes.TERMINATED
    assert listed(command, "held")["job"] is None


def test_a_head_that_died_with_its_study_takes_it_again(head, command, workplace):
    """Its job is still said to run; the record says that nobody holds the study."""
    study = write_tiny(workplace, trials=6, overrides={"training/epochs": 243})
    first = send(command, study, "orphan")
    wait_for(lambda: num_rows(workplace, "orphan") >= 5, "five evaluations")
    head.kill()
    gone = command("studies", "list", "--json")
    assert gone.returncode == exit_codes.REFUSED
    assert "nothing answers at" in gone.stderr
    head.start()
    found = listed(command, "orphan")
    assert (found["state"], found["driver"]) == ("interrupted", None)
    assert found["job"]["status"] == "RUNNING"
    resumed = command("studies", "resume", "orphan", storage=False)
    assert resumed.returncode == 0, resumed.stderr
    followed = command("studies", "logs", "orphan", "--follow", storage=False)
    assert "Study orphan: complete" in followed.stdout, followed.stderr
    found = listed(command, "orphan")
    assert found["state"] == "complete"
    assert found["job"]["id"] != first["job"]
    trials = trials_of(workplace, "orphan")
    assert len(trials) == 6
    Tracked(workplace, "orphan", "tiny").assert_equals(trials)
