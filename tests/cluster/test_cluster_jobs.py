"""A study that the laptop sends to the cluster, and looks after from there."""

import json
import os
import sys

import pytest

from tests.cluster.cluster import DASHBOARD, eventually
from tests.faults.tally import gaps, unlike_the_record
from tests.studies import Tracked, command, num_rows, record_path, trials_of, write_tiny
from tune_ddvae import exit_codes

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

TRIALS, EPOCHS = 4, 60
WORDS = ("--cpus-per-trial", 2, "--epochs", EPOCHS, "--first-rung", "none", "--submit", DASHBOARD)
LARGE_BYTES = 700_000_000
MOST_SENT_BYTES = 20_000_000


@pytest.fixture(scope="module")
def folder(place):
    """Holds what must not be sent, as a project's folder does that was worked in."""
    folder = place("sent")
    for name in ("data/images.npz", "results/model.pt", ".git/objects/pack"):
        (folder / name).parent.mkdir(parents=True)
        with (folder / name).open("wb") as file:
            os.truncate(file.fileno(), LARGE_BYTES)
    return folder


@pytest.fixture(scope="module")
def sent(cluster, folder):
    """What the command answered when it was typed twice, as by somebody who is not sure."""
    words = command(write_tiny(folder, trials=TRIALS), folder, *WORDS, "--json")
    return [cluster.drive(words, folder, on=cluster.laptop) for _ in range(2)]


def test_a_study_is_sent_small_and_once(cluster, folder, sent):
    for done in sent:
        assert done.returncode == exit_codes.COMPLETE, done.stdout + done.stderr
    first, second = (json.loads(done.stdout) for done in sent)
    assert first["sent"]
    assert not second["sent"]
    assert first["job"] == second["job"]
    assert 0 < first["package"]["bytes"] < MOST_SENT_BYTES
    assert list(jobs(cluster)) == [first["job"]]
    assert num_rows(folder, "tiny") < TRIALS * EPOCHS  # nobody waited for it


def test_it_is_seen_running_stopped_and_resumed_to_its_end(cluster, folder, sent):
    job = json.loads(sent[0].stdout)["job"]
    eventually(lambda: num_rows(folder, "tiny") >= EPOCHS)

    logs = studies(cluster, folder, "logs", "tiny", "--address", DASHBOARD)
    assert logs.returncode == exit_codes.COMPLETE, logs.stderr
    assert "trial 0 started" in logs.stdout
    assert f"job {job}: RUNNING" in logs.stderr

    listed = entry(cluster, folder, "--address", DASHBOARD)
    assert listed["state"] == "running"
    assert listed["driver"]["host"] == "h0"
    assert listed["job"]["id"] == job

    stopped = studies(cluster, folder, "stop", "tiny", "--address", DASHBOARD)
    assert stopped.returncode == exit_codes.COMPLETE, stopped.stdout + stopped.stderr
    assert num_rows(folder, "tiny") < TRIALS * EPOCHS
    assert entry(cluster, folder)["state"] == "interrupted"
    assert all(run.info.status != "RUNNING" for run in Tracked(folder, "tiny", "tiny").children)

    resumed = studies(cluster, folder, "resume", "tiny", "--address", DASHBOARD)
    assert resumed.returncode == exit_codes.COMPLETE, resumed.stdout + resumed.stderr
    eventually(lambda: not {"PENDING", "RUNNING"} & set(jobs(cluster).values()))
    listed = entry(cluster, folder)
    assert listed["state"] == "complete"
    assert listed["trials"]["ended"] == listed["trials"]["asked"] == TRIALS
    assert listed["front"] >= 1
    assert gaps(folder, "tiny", TRIALS) == []
    assert unlike_the_record(folder, "tiny", "tiny", None) == []
    assert [trial.losses for trial in trials_of(folder, "tiny")] == [0] * TRIALS


def studies(cluster, folder, *words):
    """The command that looks after studies, on the laptop."""
    command = (sys.executable, "-m", "tune_ddvae.studies", *words)
    return cluster.drive([*command, "--storage", folder / "studies"], folder, on=cluster.laptop)


def entry(cluster, folder, *words):
    """The study as the list has it."""
    done = studies(cluster, folder, "list", "--json", *words)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    (found,) = json.loads(done.stdout)
    assert found["record"].endswith(f"{record_path(folder, 'tiny')}/record.db")
    return found


def jobs(cluster) -> dict[str, str]:
    """Status of each job that was sent."""
    drivers = cluster.ask("/api/jobs/")
    return {job["submission_id"]: job["status"] for job in drivers if job["type"] == "SUBMISSION"}
