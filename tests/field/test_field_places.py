"""Where a study is run from, where it is kept, and what it is called."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tune_ddvae
from tests import raylets
from tests.studies import (
    Tracked,
    driving,
    ended,
    kill_after,
    record_path,
    run,
    trials_of,
    write_tiny,
)
from tune_ddvae import exit_codes
from tune_ddvae.catalogue import known_studies

pytestmark = [pytest.mark.field, pytest.mark.timeout(280)]

ROOT = Path(tune_ddvae.__file__).parent.parent
SHORT = ("--trials", "2", "--epochs", "3", "--first-rung", "none", "--max-concurrent", "1")
ODD_NAME = "a study / of @ll [things] und Müll 研究 " + "x" * 200


def test_a_relative_storage_works_and_is_shown_absolute(tmp_path, ray_address):
    study = write_tiny(tmp_path)
    done = run(study, tmp_path, *SHORT, "--storage", "./out", "--address", ray_address)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    assert f"  {tmp_path}/out/tiny\n" in spaced(done.stdout)
    assert f"  sqlite:///{tmp_path}/out/tiny/record.db\n" in spaced(done.stdout)
    assert (tmp_path / "out" / "tiny" / "record.db").is_file()
    assert not (tmp_path / "studies").exists()


def spaced(text):
    """The text with every column of spaces as two."""
    return (
        "\n".join("  " + "  ".join(line.split("  ")).strip() for line in text.splitlines()) + "\n"
    )


def test_an_interrupted_study_goes_on_where_its_storage_was_moved_to(workplace, ray_address):
    study = write_tiny(workplace, trials=4)
    words = ("--max-concurrent", "1", "--first-rung", "none", "--address", ray_address)
    with driving(study, workplace, *words) as driver:
        assert kill_after(driver, workplace, "tiny", 40, signal.SIGINT)
        assert ended(driver).returncode == exit_codes.INTERRUPTED
    before = trials_of(workplace, "tiny")
    parent = Tracked(workplace, "tiny", "tiny").parent.info.run_id
    there = workplace / "another disk"
    there.mkdir()
    (workplace / "studies").rename(there / "studies")

    done = run(study, there, *words)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    assert not (workplace / "studies").exists()
    trials = trials_of(there, "tiny")
    for cut, whole in zip(before, trials, strict=False):
        assert {epoch: whole.rows[epoch].time for epoch in cut.rows} == {
            epoch: row.time for epoch, row in cut.rows.items()
        }
    assert [list(trial.rows) for trial in trials] == [list(range(1, 28))] * 4
    assert "passed over a checkpoint" not in done.stdout + done.stderr
    tracked = Tracked(there, "tiny", "tiny")
    tracked.assert_equals(trials)
    assert tracked.parent.info.run_id == parent
    for child, trial in zip(tracked.children, trials, strict=True):
        assert json.loads(tracked.artifact(child, "config.json")) == trial.config


class Odd:
    """A study with an odd name, in a folder of the home folder that has a space.

    On a Ray of its own: the token that opens the shared one is in another home folder.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.study = write_tiny(home)
        words = (*SHORT, "--storage", "~/x y", "--name", ODD_NAME)
        self.done = run(self.study, home, *words, env={"HOME": str(home)})
        self.folder = home / "x y"


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    found = Odd(tmp_path_factory.mktemp("home"))
    assert found.done.returncode == exit_codes.COMPLETE, found.done.stderr
    # Where the other helpers look.
    (found.home / "studies").symlink_to(found.folder)
    return found


def test_a_storage_below_home_with_a_space_works_and_is_shown_absolute(odd):
    assert f"{odd.folder}/" in odd.done.stdout
    assert not (odd.home / "~").exists()


def test_a_cluster_that_asks_for_a_token_is_refused_without_one(tmp_path, ray_address):
    words = ("--address", ray_address)
    env = {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}
    done = run(write_tiny(tmp_path), tmp_path, *SHORT, *words, env=env)
    assert done.returncode == exit_codes.REFUSED
    assert "asks for a token that is not here: set RAY_AUTH_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_odd_name_is_kept_whole_and_makes_no_long_path(odd):
    (folder,) = (path for path in odd.folder.iterdir() if (path / "record.db").exists())
    assert folder == odd.folder / record_path(odd.home, ODD_NAME).name
    parts = {part for path in odd.folder.rglob("*") for part in path.relative_to(odd.folder).parts}
    assert len(parts) > 10
    assert max(map(len, parts)) <= 100
    assert all(part.isascii() and part.isprintable() and " " not in part for part in parts)
    assert ODD_NAME in odd.done.stdout


def test_an_odd_name_and_the_whole_configuration_are_in_mlflow(odd):
    trials = trials_of(odd.home, ODD_NAME)
    tracked = Tracked(odd.home, ODD_NAME, "tiny")
    tracked.assert_equals(trials)
    assert tracked.parent.data.tags["study"] == ODD_NAME
    for child, trial in zip(tracked.children, trials, strict=True):
        assert json.loads(tracked.artifact(child, "config.json")) == trial.config


def test_workers_run_our_code_and_not_a_namesake_in_the_users_folder(workplace):
    """By the console script, whose own path does not begin with the current folder."""
    decoy = workplace / "tune_ddvae"
    decoy.mkdir()
    (decoy / "__init__.py").write_text('__version__ = "decoy"\n')
    write_tiny(workplace)
    script = Path(sys.executable).with_name("tune-ddvae")
    done = subprocess.run(
        [script, "study", "tiny.py", *SHORT],
        cwd=workplace,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    trials = trials_of(workplace, "tiny")
    assert {trial.facts["tune_ddvae"] for trial in trials} == {tune_ddvae.__version__}
    for child in Tracked(workplace, "tiny", "tiny").children:
        assert child.data.tags["version"] == tune_ddvae.__version__


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A wheel of this tree, built and installed into a folder of its own."""
    place = tmp_path_factory.mktemp("wheel")
    tree, target = place / "tree", place / "installed"
    for name in ("tune_ddvae", "search_spaces"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", place, tree]
    subprocess.run([*pip, *build], check=True, capture_output=True, timeout=120)
    (wheel,) = place.glob("tune_ddvae-*.whl")
    install = ["install", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run([*pip, *install], check=True, capture_output=True, timeout=120)
    return target


def of_wheel(installed, folder, *words, env=None):
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed), **(env or {})},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_the_wheel_brings_its_own_studies(installed, tmp_path):
    whence = of_wheel(installed, tmp_path, "-c", "import tune_ddvae; print(tune_ddvae.__file__)")
    assert whence.stdout.strip() == str(installed / "tune_ddvae" / "__init__.py")
    shown = of_wheel(installed, tmp_path, "-m", "tune_ddvae.study", "--list", "--json")
    files = {path.stem for path in (ROOT / "search_spaces").glob("*.py")} - {"__init__"}
    assert list(json.loads(shown.stdout)) == sorted(files) == known_studies()


def test_the_wheel_plans_a_study_from_an_empty_folder(installed, tmp_path):
    words = ("-m", "tune_ddvae.study", "clustering", "--quick", "--dry-run", "--json")
    done = of_wheel(installed, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["study_file"] == str(installed / "search_spaces" / "clustering.py")
    assert list(tmp_path.iterdir()) == []


@contextmanager
def marked(installed, more: str = "") -> Iterator[str]:
    """A version that only the installed package has, and maybe more of its code, for a while."""
    version = "0.0.0+wheel"
    path = installed / "tune_ddvae" / "__init__.py"
    whole = path.read_text()
    path.write_text(whole.replace(tune_ddvae.__version__, version) + more)
    try:
        yield version
    finally:
        path.write_text(whole)


STUDY = ("-m", "tune_ddvae.study", "clustering", *SHORT, "--set", "training/evaluate_every=1")


def test_the_wheel_runs_a_study_with_the_wheels_code_in_the_workers(installed, tmp_path):
    with marked(installed) as version:
        done = of_wheel(installed, tmp_path, *STUDY)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    trials = trials_of(tmp_path, "clustering")
    assert {trial.facts["tune_ddvae"] for trial in trials} == {version}


# Each process that imports the package leaves a note where it found it, under its process id.
NOTE = "\nimport os, pathlib\npathlib.Path({folder!r}, str(os.getpid())).write_text(__file__)\n"


def test_the_wheel_drives_a_cluster_whose_workers_run_the_copy_it_sent(installed, tmp_path):
    """Its nodes do not see the wheel; the checkout, installed there, is what they would import."""
    notes, nodes = tmp_path / "notes", tmp_path / "nodes"
    notes.mkdir()
    nodes.mkdir()
    with (
        raylets.running((1, 1), cwd=nodes) as cluster,
        marked(installed, NOTE.format(folder=str(notes))) as version,
    ):
        words = ("--address", cluster.address, "--cpus-per-trial", "1")
        done = of_wheel(installed, tmp_path, *STUDY, *words, env=cluster.env)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    trials = trials_of(tmp_path, "clustering")
    assert [trial.last_epoch for trial in trials] == [3, 3]
    assert {trial.facts["tune_ddvae"] for trial in trials} == {version}
    whence = {int(note.name): Path(note.read_text()) for note in notes.iterdir()}
    sent = {pid: path for pid, path in whence.items() if not path.is_relative_to(installed)}
    assert {trial.facts["pid"] for trial in trials} <= sent.keys()
    assert all("working_dir_files" in path.parts for path in sent.values())
    # Every node was asked whether it could, before the first trial, and has unpacked its own copy.
    assert len(set(sent.values())) >= 2
