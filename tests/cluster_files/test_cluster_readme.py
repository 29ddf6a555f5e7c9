"""README.md of cluster/ says what the files say."""

import os
import re
import shlex
import stat
import subprocess
import sys

import pytest

from tests.cluster_files.files import ALL, FOLDER, RAY_FILES, header, making_a_token
from tune_ddvae import doctor, studies, study

README = (FOLDER / "README.md").read_text(encoding="utf-8")
TABLE = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in README.split("|---|---|---|---|---|\n")[1].split("\n\n")[0].splitlines()
]
MAINS = {"study": study.main, "studies": studies.main, "doctor": doctor.main}


def code(cell: str) -> str:
    (found,) = re.findall(r"`(.+?)`", cell)
    return found


def test_every_file_is_named():
    for path in ALL:
        if path.name not in ("README.md", "Dockerfile.dockerignore"):
            assert f"`{path.name}`" in README, path.name


def test_every_file_that_is_named_is_there():
    for name in re.findall(r"`([\w.-]+\.(?:yaml|sh))`", README):
        assert (FOLDER / name).exists(), name
    for path in re.findall(r"\bcluster/[\w.-]+\b", README):
        assert (FOLDER.parent / path).exists(), path


@pytest.mark.parametrize("row", TABLE, ids=lambda row: code(row[1]))
def test_each_file_has_one_command_to_start_and_one_to_stop_it_and_says_them_itself(row):
    """Word for word, so that what is documented is what the file was made for."""
    _, name, start, cost, stop = row
    text = (FOLDER / code(name)).read_text(encoding="utf-8")
    assert f"cluster/{code(name)}" in code(start)
    assert cost
    for command in (code(start), code(stop)):
        assert command in text, command


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_a_files_own_commands_name_files_that_are_there(path):
    for command in header(path):
        for name in re.findall(r"\bcluster/[\w.-]+", command):
            assert (FOLDER.parent / name).exists(), command


def own_commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    found = [line.partition("#")[0].split("python -m tune_ddvae.", 1)[1:] for line in lines]
    return [shlex.split(words) for (words,) in filter(None, found)]


@pytest.mark.parametrize("words", own_commands(), ids=" ".join)
def test_each_command_of_ours_is_one(words):
    name, *options = words
    with MAINS[name].make_context(name, options, resilient_parsing=False) as context:
        if name != "studies":
            return
        sub_name, sub, rest = MAINS[name].resolve_command(context, [*options])
        sub.make_context(sub_name, rest, parent=context).close()


def test_ours_are_all_shown():
    shown = {words[0] for words in own_commands()}
    assert shown == set(MAINS)
    verbs = {words[1] for words in own_commands() if words[0] == "studies"}
    assert verbs == set(studies.main.commands)


@pytest.mark.parametrize("path", RAY_FILES, ids=lambda path: path.name)
def test_a_token_is_made_in_the_same_way_everywhere(path):
    assert [line for line in header(path) if "get-auth-token" in line] == [making_a_token()]


def test_a_token_is_made_for_this_account_alone_and_not_shown(tmp_path):
    """By Ray's own command, which would write it for all to read."""
    done = make_token(tmp_path, f"{sys.prefix}/bin")
    token = tmp_path / ".ray" / "auth_token"
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text() not in done.stdout + done.stderr


def test_one_that_was_there_already_is_closed_and_a_new_one_never_open(tmp_path):
    token = tmp_path / "home" / ".ray" / "auth_token"
    token.parent.mkdir(parents=True)
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\numask >> "$HOME/umask"\n')
    ray.chmod(0o755)
    token.write_text("secret")
    token.chmod(0o644)
    done = make_token(tmp_path / "home", tmp_path)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert (tmp_path / "home" / "umask").read_text().split() == ["0077"]


def make_token(home, programs) -> "subprocess.CompletedProcess[str]":
    """What README.md says, where files are open to be read unless told otherwise."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    return subprocess.run(
        ["bash", "-c", f"umask 022; {making_a_token()}"],
        env={**env, "HOME": str(home), "PATH": f"{programs}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
