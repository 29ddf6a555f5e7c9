"""on-prem-stop.sh, with a stand-in for ssh that notes where it was sent."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cluster_files.files import FOLDER, STOP, load

SSH = """#!/bin/sh
for word; do host=$command; command=$word; done  # the last two
echo "$host $command" >> "$NOTES"
test "$host" != "$GONE"
"""


@pytest.fixture
def stop(tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "ssh").write_text(SSH)
    (programs / "ssh").chmod(0o755)

    def run(path: Path, gone: str = "") -> tuple[subprocess.CompletedProcess, list[str]]:
        notes = tmp_path / "notes"
        done = subprocess.run(
            ["bash", str(STOP), str(path)],
            env={
                "PATH": f"{programs}:/usr/bin:/bin",
                "HOME": str(tmp_path),
                "TUNE_DDVAE_VENV": sys.prefix,
                "NOTES": str(notes),
                "GONE": gone,
            },
            capture_output=True,
            text=True,
        )
        return done, notes.read_text().splitlines() if notes.exists() else []

    return run


def test_every_machine_is_stopped_the_head_first(stop):
    done, sent = stop(FOLDER / "on-prem.yaml")
    assert done.returncode == 0, done.stderr
    provider = load(FOLDER / "on-prem.yaml")["provider"]
    machines = [provider["head_ip"], *provider["worker_ips"]]
    assert [line.split()[0] for line in sent] == [f"root@{machine}" for machine in machines]
    for line in sent:
        assert "~/tune-ddvae/.venv/bin/ray stop --force" in line


def test_a_machine_that_cannot_be_reached_is_named_and_the_others_are_stopped(stop):
    done, sent = stop(FOLDER / "on-prem.yaml", gone="root@10.77.0.11")
    assert done.returncode == 1
    assert "not stopped: 10.77.0.11;" in done.stderr
    assert len(sent) == 3


def test_the_heads_outer_address_is_used_where_there_is_one(stop, tmp_path):
    config = load(FOLDER / "on-prem.yaml")
    config["provider"]["external_head_ip"] = "192.0.2.1"
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(config))
    _, sent = stop(path)
    assert sent[0].startswith("root@192.0.2.1 ")


@pytest.mark.parametrize("content", ["", "provider: {type: aws}", "auth: ["])
def test_a_file_that_names_no_machines_is_refused(content, stop, tmp_path):
    path = tmp_path / "other.yaml"
    path.write_text(content)
    done, sent = stop(path)
    assert done.returncode == 2
    assert "names no machines, or cannot be read" in done.stderr
    assert sent == []
