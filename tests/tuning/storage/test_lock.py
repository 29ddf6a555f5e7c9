import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tune_ddvae.errors import StorageError, StudyLockedError
from tune_ddvae.tuning.storage.lock import birth_of, check_free, holder_of, sole_driver

ROOT = Path(__file__).parents[3]
# Holds the lock with a child of its own alive, as a driver holds it with its workers.
HOLDER = """
import subprocess, sys
from pathlib import Path
from tune_ddvae.tuning.storage.lock import sole_driver
with sole_driver(Path(sys.argv[1])):
    child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder; ended with its child when the test is."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    child = int(process.stdout.readline())
    yield process
    process.kill()
    process.communicate()
    os.kill(child, signal.SIGKILL)


def acquire(folder: Path) -> None:
    with sole_driver(folder):
        pass


def test_a_second_driver_is_refused_with_the_holders_host_process_and_start(holder, tmp_path):
    with pytest.raises(StudyLockedError) as refused:
        acquire(tmp_path)
    message = str(refused.value)
    assert f"process {holder.pid} on {socket.gethostname()}" in message
    stamp = re.search(r"started (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", message).group(1)
    started = time.mktime(time.strptime(stamp, "%Y-%m-%d %H:%M:%S"))
    assert abs(time.time() - started) < 60
    assert "--name" in message


def test_being_refused_leaves_the_holder_undisturbed(holder, tmp_path):
    before = (tmp_path / "driver.json").read_text()
    for _ in range(2):
        with pytest.raises(StudyLockedError):
            acquire(tmp_path)
    assert (tmp_path / "driver.json").read_text() == before


def test_a_killed_holder_frees_the_study_though_its_children_live(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / "driver.json").exists()
    with sole_driver(tmp_path):
        assert json.loads((tmp_path / "driver.json").read_text())["pid"] == os.getpid()


def test_a_frozen_holder_keeps_the_study_and_the_message_says_so(holder, tmp_path):
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(StudyLockedError, match="a frozen one holds the study too"):
        acquire(tmp_path)


def test_a_study_can_be_held_again_once_let_go(tmp_path):
    acquire(tmp_path)
    assert not (tmp_path / "driver.json").exists()
    acquire(tmp_path)


def test_an_error_while_holding_travels_and_lets_go(tmp_path):
    with pytest.raises(OSError, match="disk"), sole_driver(tmp_path):
        raise OSError("disk")
    acquire(tmp_path)


@pytest.mark.parametrize("left", ["", "{", "{}", "[]", "null", '{"started": "?", "pid": 1}'])
def test_a_drivers_note_that_cannot_be_read_is_no_obstacle(left, tmp_path):
    with sole_driver(tmp_path):
        (tmp_path / "driver.json").write_text(left)
        with pytest.raises(StudyLockedError, match="an unknown process"):
            acquire(tmp_path)
    (tmp_path / "driver.json").write_text(left)
    acquire(tmp_path)


def test_two_studies_do_not_stand_in_each_others_way(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with sole_driver(tmp_path / "a"), sole_driver(tmp_path / "b"):
        pass


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StorageError, match=re.escape(f"{tmp_path} is on a file system without")):
        acquire(tmp_path)


def test_a_look_finds_the_holder_and_nobody_once_it_has_let_go(tmp_path):
    assert holder_of(tmp_path) is None
    with sole_driver(tmp_path):
        found = holder_of(tmp_path)
        assert (found.pid, found.is_here) == (os.getpid(), True)
        assert f"process {os.getpid()} on {socket.gethostname()}" in str(found)
    assert holder_of(tmp_path) is None


def test_a_study_that_is_held_is_refused_before_it_is_taken(holder, tmp_path):
    with pytest.raises(StudyLockedError, match=f"holds this study: process {holder.pid} on"):
        check_free(tmp_path)
    check_free(tmp_path / "another")


def test_a_driver_notes_what_tells_its_process_from_every_other(holder, tmp_path):
    found = holder_of(tmp_path)
    assert found.birth == birth_of(holder.pid)
    assert found.birth != birth_of(os.getpid())
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    if boot_id.exists():
        assert found.birth["boot"] == boot_id.read_text().strip()


@pytest.mark.parametrize("started", ["1e300", "-1", "NaN", "1e999", '"x"', "true"])
def test_a_start_that_is_no_time_makes_the_holder_unknown(started, tmp_path):
    with sole_driver(tmp_path):
        note = f'{{"host": "h", "pid": 5, "started": {started}}}'
        (tmp_path / "driver.json").write_text(note)
        assert str(holder_of(tmp_path)) == "an unknown process"


def test_a_hosts_name_cannot_command_the_terminal(tmp_path):
    with sole_driver(tmp_path):
        (tmp_path / "driver.json").write_text('{"host": "h\\u001b[2J", "pid": 5, "started": 1}')
        assert "on h\\x1b[2J," in str(holder_of(tmp_path))


def test_a_look_takes_no_note_of_a_dead_driver_for_a_live_one(holder, tmp_path):
    assert holder_of(tmp_path).pid == holder.pid
    holder.kill()
    holder.wait()
    assert (tmp_path / "driver.json").exists()
    assert holder_of(tmp_path) is None


def test_a_holder_that_left_no_name_is_unknown_and_of_no_host(tmp_path):
    with sole_driver(tmp_path):
        (tmp_path / "driver.json").write_text("{")
        found = holder_of(tmp_path)
    assert str(found) == "an unknown process"
    assert not found.is_here


def test_a_driver_waits_for_the_end_of_a_look(tmp_path):
    acquire(tmp_path)
    with (tmp_path / "driver.lock").open("rb") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        threading.Timer(0.05, lambda: fcntl.flock(look, fcntl.LOCK_UN)).start()
        acquire(tmp_path)


def test_a_file_system_without_locks_has_no_holders(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    acquire(tmp_path)
    monkeypatch.setattr(fcntl, "flock", flock)
    assert holder_of(tmp_path) is None
