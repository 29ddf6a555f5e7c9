import re
import shutil
from pathlib import Path

import pytest

from tests.cluster_files import pins
from tests.cluster_files.files import ALL, FOLDER, ROOT

PINS = pins.find(FOLDER)


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of everything that states versions."""
    shutil.copytree(FOLDER, tmp_path / "cluster")
    for name in ("constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def other(version: str) -> str:
    """Another version of the same form."""
    return re.sub(r"\d+$", lambda last: str(int(last[0]) + 1), version)


def test_cluster_files_agree_with_the_constraints():
    assert pins.complaints(ROOT) == []


@pytest.mark.parametrize("pin", PINS, ids=lambda pin: f"{pin.file}:{pin.start}:{pin.what}")
def test_changing_one_pin_is_noticed(pin, copy):
    path = copy / "cluster" / pin.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: pin.start] + other(pin.version) + text[pin.end :], encoding="utf-8")
    assert any(complaint.startswith(pin.file) for complaint in pins.complaints(copy))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("constraints.txt", r"^ray==\S+$"),
        ("constraints.txt", r"^mlflow==\S+$"),
        ("constraints.txt", r"Python 3\.11"),
        ("pyproject.toml", r'^version = "[\d.]+'),
    ],
)
def test_changing_what_they_are_compared_with_is_noticed(name, line, copy):
    path = copy / name
    text = path.read_text(encoding="utf-8")
    (found,) = re.findall(line, text, re.MULTILINE)
    path.write_text(text.replace(found, other(found)), encoding="utf-8")
    assert pins.complaints(copy)


def test_every_kind_of_pin_is_found():
    assert {pin.what for pin in PINS} == set(pins.PINS)


def test_files_that_start_something_state_versions_or_take_those_of_the_constraints():
    with_pins = {pin.file for pin in PINS}
    for path in ALL:
        text = path.read_text(encoding="utf-8")
        if re.search(r"\bimage:|\bFROM ", text):
            assert path.name in with_pins, path.name


@pytest.mark.parametrize("line", ["image: busybox:1.37", "pip install torch==2.1.0"])
def test_a_version_that_nothing_is_compared_with_is_noticed(line, copy):
    path = copy / "cluster" / "slurm.sh"
    path.write_text(path.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    (complaint,) = pins.complaints(copy)
    assert complaint.startswith("slurm.sh")


def test_whatever_pip_installs_has_one_version():
    """By the constraints, or by a pin of its own that is compared above."""
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {name.lower() for name in re.findall(r"^([\w.-]+)==", constraints, re.MULTILINE)}
    num_installs = 0
    for path in ALL:
        if path.suffix == ".md":
            continue
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        for words in re.findall(r"pip install((?:\s+(?!&&|\|\||;|\})\S+)+)", text):
            num_installs += 1
            options, names = re.findall(r"--constraint (\S+)", words), []
            for word in re.sub(r"--constraint \S+|--quiet", "", words).split():
                names += [] if "[cluster]" in word or "==" in word else [word.lower()]
            assert options, f"{path.name}: {words}"
            assert Path(options[0]).name == "constraints.txt"
            assert set(names) <= pinned, f"{path.name}: {set(names) - pinned}"
    assert num_installs >= 5
