"""Files for `ray up`: Ray's own validation, offline, and what it does not look at."""

import copy
import os
import re
import shlex
import stat
import subprocess

import jsonschema
import pytest
from ray.autoscaler._private.command_runner import _with_interactive
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster_files.files import (
    CLOUD_FILES,
    FOLDER,
    RAY_FILES,
    ROOT,
    commands,
    load,
    start_commands,
)

each_file = pytest.mark.parametrize("path", RAY_FILES, ids=lambda path: path.name)
each_cloud = pytest.mark.parametrize("path", CLOUD_FILES, ids=lambda path: path.name)
TOKEN = "~/.ray/auth_token"  # noqa: S105 (where it lies)
ON_PREM = FOLDER / "on-prem.yaml"


def checked(config):
    """What Ray makes of a file, once it has passed Ray's validation."""
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@each_file
def test_ray_accepts_it(path):
    config = load(path)
    assert checked(config)["cluster_name"] == config["cluster_name"]


@each_file
def test_a_misspelt_key_is_refused(path):
    config = load(path)
    config["idle_timeout_minute"] = 1
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute"):
        checked(config)


@each_file
def test_a_misspelt_key_of_the_login_is_refused(path):
    config = load(path)
    config["auth"]["ssh_usr"] = "ubuntu"
    with pytest.raises(jsonschema.ValidationError, match="ssh_usr"):
        checked(config)


@each_cloud
def test_a_misspelt_machine_type_is_refused(path):
    config = load(path)
    config["head_node_type"] = "haed"
    with pytest.raises(ValueError, match="head_node_type"):
        checked(config)


@each_file
def test_no_key_of_ours_is_lost_on_the_way(path):
    config = load(path)
    prepared = checked(config)
    for key, value in config.items():
        if not key.endswith("setup_commands") and key != "available_node_types":
            assert prepared[key] == value, key


@each_file
def test_the_number_of_machines_is_limited(path):
    prepared = checked(load(path))
    kinds = prepared["available_node_types"]
    limit = prepared["max_workers"]
    assert 0 < limit <= 16
    for kind in kinds.values():
        assert kind["max_workers"] <= limit


def test_own_machines_are_all_used_however_many_are_named():
    config = load(ON_PREM)
    config["provider"]["worker_ips"] = [f"10.77.0.{number}" for number in range(11, 30)]
    prepared = checked(config)
    (kind,) = prepared["available_node_types"].values()
    assert kind["min_workers"] == kind["max_workers"] == prepared["max_workers"] == 19


@each_cloud
def test_a_cloud_costs_only_the_head_while_nobody_trains(path):
    prepared = checked(load(path))
    head = prepared["head_node_type"]
    kinds = prepared["available_node_types"]
    assert kinds[head]["max_workers"] == 0
    assert kinds[head]["resources"] == {"CPU": 0}  # no trial is placed there
    assert [kind["min_workers"] for kind in kinds.values()] == [0] * len(kinds)
    assert 0 < prepared["idle_timeout_minutes"] <= 15
    assert prepared["provider"].get("cache_stopped_nodes", False) is False


@each_cloud
def test_workers_have_a_gpu_and_are_spot_and_the_head_is_neither(path):
    config = load(path)
    kinds = config["available_node_types"]
    head = kinds.pop(config["head_node_type"])
    assert kinds
    for kind in kinds.values():
        assert kind["resources"]["GPU"] >= 1
        assert "spot" in repr(kind["node_config"]).lower()
    assert "spot" not in repr(head["node_config"]).lower()
    assert "GPU" not in head["resources"]


@each_cloud
def test_storage_is_mounted_before_the_container_starts_that_sees_it(path):
    config = load(path)
    (mount,) = [line for line in config["initialization_commands"] if "sudo mount" in line]
    assert re.search(r"-t nfs4?\b.*:/\w* /shared;", mount)
    assert "--volume=/shared:/shared" in config["docker"]["run_options"]


def test_disks_on_google_cloud_are_of_a_type_that_its_gpu_machines_take_and_in_their_zone():
    """Left out, it is pd-standard, which G2 machines do not take."""
    config = load(FOLDER / "gcp.yaml")
    zone = config["provider"]["availability_zone"]
    for kind in config["available_node_types"].values():
        for disk in kind["node_config"]["disks"]:
            wanted = f"zones/{zone}/diskTypes/pd-balanced"
            assert disk["initializeParams"]["diskType"] == wanted


@each_file
def test_every_command_is_one_for_the_shell_as_ray_wraps_it(path):
    """Ray puts commands into parentheses on one line: a comment in one would swallow its end."""
    for command in commands(load(path)):
        (wrapped,) = shlex.split(_with_interactive(command)[-1])
        done = subprocess.run(["bash", "-n", "-c", wrapped], capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
        assert "#" not in command


@each_file
def test_the_token_is_closed_to_other_accounts_before_anything_else(path, tmp_path):
    """Ray copies it with the rights that it has, and writes it with those that files usually have."""
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)
    first = load(path)["setup_commands"][0]
    done = subprocess.run(
        ["bash", "-c", f"({first})"],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.stat().st_uid == os.geteuid()


@each_file
def test_every_start_of_ray_asks_for_the_token(path):
    config = load(path)
    started = start_commands(config)
    assert len(started) == 2
    for command in started:
        words = command.split()
        assert words.index("RAY_AUTH_MODE=token") < words.index("start")
    assert config["file_mounts"][TOKEN] == TOKEN


@each_file
def test_the_dashboard_listens_on_one_address_only(path):
    head, worker = start_commands(load(path))
    (host,) = re.findall(r"--dashboard-host=(\S+)", head)
    assert host in ("127.0.0.1", '"$3"')  # loopback, or the address that ssh came to
    assert "dashboard" not in worker


@each_file
def test_no_trial_inherits_the_single_thread_of_rays_launcher(path):
    for command in start_commands(load(path)):
        assert command.startswith("unset OMP_NUM_THREADS PYTHONWARNINGS;")


@each_file
def test_what_is_sent_exists_and_is_what_an_installation_needs(path):
    """And no more: no data, no results, no history."""
    sent = set(load(path)["file_mounts"].values()) - {TOKEN}
    assert sent == {
        *("constraints.txt", "pyproject.toml", "README.md", "LICENSE"),
        *("tune_ddvae", "search_spaces"),
    }
    for name in sent:
        assert (ROOT / name).exists(), name


def test_a_machine_with_an_environment_of_its_own_is_left_as_it_is(tmp_path):
    done, asked = set_up(tmp_path, has_link=True)
    assert done.returncode == 0, done.stderr
    assert asked == []


def test_a_bare_machine_gets_the_tested_versions(tmp_path):
    done, asked = set_up(tmp_path, has_link=False)
    assert done.returncode == 0, done.stderr
    source = tmp_path / "tune-ddvae" / "source"
    assert asked == [
        f"-m venv {tmp_path}/tune-ddvae/.venv",
        f"install --quiet --constraint {source}/constraints.txt {source}[cluster]",
    ]


def test_an_installation_that_fails_ends_the_launch(tmp_path):
    done, _ = set_up(tmp_path, has_link=False, code=1)
    assert done.returncode != 0


def set_up(home, *, has_link, code=0):
    """The set-up of one's own machine, where Python and pip only note what they are asked for."""
    (home / "tune-ddvae").mkdir()
    if has_link:
        (home / "tune-ddvae" / ".venv").symlink_to(home)
    programs = home / "programs"
    programs.mkdir()
    python = programs / "python3.11"
    note = f'#!/bin/sh\necho "$@" >> {home}/asked\n'
    python.write_text(
        f'{note}mkdir -p "$3/bin"\nprintf \'{note}exit {code}\' > "$3/bin/pip"\nchmod +x "$3/bin/pip"\n'
    )
    python.chmod(0o755)
    _, command = load(ON_PREM)["setup_commands"]
    done = subprocess.run(
        ["bash", "-c", f"({command})"],
        env={"HOME": str(home), "PATH": f"{programs}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    asked = home / "asked"
    return done, asked.read_text().splitlines() if asked.exists() else []
