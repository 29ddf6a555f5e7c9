import os
import subprocess
import sys
from pathlib import Path

import pytest

from tune_ddvae.tuning.jobs.ray_python import interpreter

WORKER, SHELL = 4_000_001, 4_000_002
MAPS = """\
7f00-7f01 r-xp 00000000 08:01 1 /usr/lib/x86_64-linux-gnu/libc.so.6
7f02-7f03 r-xp 00000000 08:01 2 {library}/ray/_raylet.so
"""


@pytest.fixture
def processes(tmp_path):
    """What a system shows of us, of the shell above us, and of the worker above that."""

    def make(library: Path | None) -> Path:
        folder = tmp_path / "proc"
        for process, above, maps in (
            (os.getpid(), SHELL, ""),
            (SHELL, WORKER, ""),
            (WORKER, 1, "" if library is None else MAPS.format(library=library)),
            (1, 0, ""),
        ):
            place = folder / str(process)
            place.mkdir(parents=True)
            (place / "stat").write_text(f"{process} (a name) with) spaces) S {above} 0 0")
            (place / "maps").write_text(maps)
        (folder / str(WORKER) / "exe").symlink_to("/usr/bin/python3.11")
        return folder

    return make


@pytest.mark.parametrize("lib", ["lib", "lib64"])
def test_it_is_the_one_of_the_environment_that_ray_was_loaded_from(processes, tmp_path, lib):
    environment = tmp_path / "an environment"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python3").touch()
    library = environment / lib / "python3.11" / "site-packages"
    assert interpreter(processes(library)) == str(environment / "bin" / "python3")


def test_without_an_environment_it_is_what_the_worker_runs(processes, tmp_path):
    library = tmp_path / ".local" / "lib" / "python3.11" / "dist-packages"
    assert interpreter(processes(library)) == "/usr/bin/python3.11"


def test_without_a_ray_above_it_is_our_own(processes, tmp_path):
    assert interpreter(processes(None)) == sys.executable
    assert interpreter(tmp_path / "nowhere") == sys.executable


def test_a_module_is_run_with_its_words_by_a_python_that_knows_no_package(tmp_path):
    root = Path(__file__).parents[3]
    (tmp_path / "says.py").write_text("import sys; print(sys.argv[1:])")
    done = subprocess.run(
        [sys.executable, "-S", "-m", "tune_ddvae.tuning.jobs.ray_python", "says", "a b", "$c"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{root}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "['a b', '$c']\n", done.stderr
