"""Dockerfile: what goes into the images, and as whom they run."""

import fnmatch
import re
from pathlib import PurePosixPath

import pytest

from tests.cluster_files.files import DOCKERFILE, FOLDER, ROOT

TEXT = DOCKERFILE.read_text(encoding="utf-8")
INSTRUCTIONS = [
    line.split(maxsplit=1)
    for line in TEXT.replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]
IGNORED = (FOLDER / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()


def stages() -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    for word, rest in INSTRUCTIONS:
        if word == "FROM":
            found[rest.split(" AS ")[1]] = []
        elif found:
            found[list(found)[-1]].append([word, rest])
    return found


def is_sent(path: str) -> bool:
    """Whether Docker gets to see a file: the last rule that fits it, or a folder it is in, decides."""
    sent = True
    parts = PurePosixPath(path).parts
    for rule in IGNORED:
        pattern = rule.removeprefix("!")
        for end in range(1, len(parts) + 1):
            name = "/".join(parts[:end])
            if fnmatch.fnmatch(name, pattern) or (
                pattern.startswith("**/") and parts[end - 1] == pattern[3:]
            ):
                sent = rule.startswith("!")
    return sent


def test_every_instruction_is_one():
    known = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER"}
    assert {word for word, _ in INSTRUCTIONS} <= known
    assert list(stages()) == ["base", "tracking", "study"]


@pytest.mark.parametrize("stage", ["tracking", "study"])
def test_an_image_runs_as_nobody_special(stage):
    last = [rest for word, rest in stages()[stage] if word == "USER"][-1]
    assert last == "1000:1000"
    after = stages()[stage][-1]
    assert after == ["USER", last]  # nothing is done as another user afterwards
    assert "useradd --uid 1000" in TEXT


def test_what_is_copied_is_there_and_is_sent():
    copied = [name for word, rest in INSTRUCTIONS if word == "COPY" for name in rest.split()[:-1]]
    assert {"constraints.txt", "pyproject.toml", "tune_ddvae", "search_spaces"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists(), name
        assert is_sent(name if (ROOT / name).is_file() else f"{name}/x.py"), name


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "studies/x/record.db",
        "studies/mlflow.db",
        "data/train-images-idx3-ubyte.gz",
        "runs/x/checkpoint.pt",
        ".env",
        "tests/test_cli.py",
        "tune_ddvae/__pycache__/study.cpython-311.pyc",
    ],
)
def test_no_data_results_history_or_secrets_are_sent(path):
    assert not is_sent(path)


def test_the_build_leaves_no_package_lists_and_no_cache():
    for word, rest in INSTRUCTIONS:
        if word == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert rest.endswith("rm -rf /var/lib/apt/lists/*")
    assert "PIP_NO_CACHE_DIR=1" in TEXT


def test_no_secret_is_baked_in():
    assert not re.search(r"PASSWORD|TOKEN|SECRET|_KEY", TEXT)
