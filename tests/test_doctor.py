import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.tuning.machines import VERSIONS, examined
from tune_ddvae import exit_codes
from tune_ddvae.doctor import main
from tune_ddvae.tuning.cluster.facts import Check, State
from tune_ddvae.tuning.doctor import doctoring

OTHER_TORCH = {"versions": VERSIONS | {"torch": "2.13.0"}}
AWAY = Check(State.DOUBTFUL, "MLflow does not answer", "start that server")


@pytest.fixture
def doctor(monkeypatch):
    """Runs the command where the machines are these; its questions are kept."""
    monkeypatch.setattr("tune_ddvae.tuning.signals.terminate_cleanly", lambda: None)
    asked: list[doctoring.Question] = []

    def run(*words: str, **hosts):
        def found(question, tell):
            asked.append(question)
            tell("looking at this machine")
            return examined(**hosts)

        monkeypatch.setattr(doctoring, "examine", found)
        return CliRunner().invoke(main, words)

    run.asked = asked
    return run


def test_all_green_ends_well(doctor):
    result = doctor()
    assert result.exit_code == exit_codes.COMPLETE
    assert "All is well" in result.output
    assert "looking at this machine" in result.output  # progress, line by line in a log


def test_a_miss_ends_with_2_and_its_mend(doctor):
    result = doctor(h1=OTHER_TORCH)
    assert result.exit_code == exit_codes.REFUSED
    assert "h1, versions: torch 2.13.0" in result.output
    assert "→ install the driver's versions there" in result.output


def test_a_warning_does_not_fail(doctor):
    result = doctor(whole={"tracking": AWAY})
    assert result.exit_code == exit_codes.COMPLETE
    assert "MLflow does not answer" in result.output


def test_json_is_alone_on_stdout_and_has_the_same_exit_code(doctor):
    result = doctor("--json", h1=OTHER_TORCH)
    assert result.exit_code == exit_codes.REFUSED
    told = json.loads(result.stdout)
    assert told["can_run"] is False
    assert told["findings"][0]["where"] == "h1"
    assert "looking at this machine" in result.stderr


def test_options_are_those_of_a_study(doctor):
    doctor(
        *("clustering", "--address", "h0:6379", "--storage", "s3://b/x"),
        *("--record", "postgresql://h0/studies", "--tracking-uri", "http://h0:5000"),
        *("--cpus-per-trial", "2", "--gpus-per-trial", "0.25", "--memory-per-trial", "4.5"),
    )
    (question,) = doctor.asked
    assert question.file.name == "clustering"
    assert (question.address, question.storage) == ("h0:6379", "s3://b/x")
    assert question.record == "postgresql://h0/studies"
    assert question.tracking_uri == "http://h0:5000"
    assert (question.cpus_per_trial, question.gpus_per_trial) == (2.0, 0.25)
    assert question.memory_per_trial == 4.5


def test_an_unknown_study_is_refused_before_anything_is_looked_at(tmp_path):
    done = run_doctor(tmp_path, "sparcity")
    assert done.returncode == exit_codes.REFUSED
    assert "did you mean sparsity?" in done.stderr


def run_doctor(folder: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "tune_ddvae.doctor", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_joined_cluster_is_all_green_and_left_as_it_was(tmp_path, ray_address):
    done = run_doctor(tmp_path, "clustering", "--address", ray_address, "--json")
    assert done.returncode == exit_codes.COMPLETE, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["findings"] == []
    driver, node = told["machines"]
    assert driver["host"] == f"{node['host']} (driver)"
    assert node["checks"]["storage"]["words"] == "shared"
    assert {node["checks"][what]["words"] for what in ("versions", "code")} == {"equal"}
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_that_does_not_answer_is_a_finding(tmp_path):
    done = run_doctor(tmp_path, "clustering", "--address", "127.0.0.1:1")
    assert done.returncode == exit_codes.REFUSED
    assert "study, cluster: nothing answers at --address 127.0.0.1:1" in done.stdout
    assert "A study could not run" in done.stdout
    assert list(tmp_path.iterdir()) == []
