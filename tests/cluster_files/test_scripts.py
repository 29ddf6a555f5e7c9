"""What holds for every shell script of cluster/."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster_files.files import ALL

SCRIPTS = [path for path in ALL if path.suffix == ".sh"]

each_script = pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)


@each_script
def test_bash_can_read_it(path):
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@each_script
def test_it_ends_at_the_first_error(path):
    assert "\nset -euo pipefail\n" in path.read_text(encoding="utf-8")


@each_script
def test_it_can_be_called(path):
    assert os.access(path, os.X_OK)


@each_script
def test_shellcheck_has_nothing_to_say(path):
    program = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([str(program), str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@each_script
def test_no_script_ends_processes_by_name_or_all_of_them(path):
    """`ray stop` of a job would end its neighbour's Ray as well."""
    text = path.read_text(encoding="utf-8")
    assert not any(word in text for word in ("pkill", "killall"))
    if path.name == "slurm.sh":
        assert "ray stop" not in text
