import faulthandler
import re
import signal
import subprocess
import sys

import pytest

from tune_ddvae.tuning.running.last_words import FILE_NAME, LastWords, heard

OPEN = """
import faulthandler, os, signal, sys, threading, time
from pathlib import Path
from tune_ddvae.tuning.running.last_words import LastWords
from tune_ddvae.tuning.running.worker import Watchdog
words = LastWords()
words.open(Path(sys.argv[1]))

threading.Thread(target=time.sleep, args=(60,), daemon=True).start()  # as Ray has some

def train():
    {deed}

train()
"""
DEEDS = {
    "crashes": "os.kill(os.getpid(), signal.SIGSEGV); time.sleep(60)",
    "aborts": "os.abort()",
    "stalls": "Watchdog(0.2, words.handle)(); time.sleep(60)",
    "is killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "ends": "words.close()",
    "stalls in a library": (
        "import tune_ddvae.tuning.running.worker as w; Watchdog(0.2, words.handle)(); "
        "w.platform.node = lambda: time.sleep(60); w.Worker().assign(None)"
    ),
}


def left_by(deed, folder) -> int:
    command = [sys.executable, "-c", OPEN.format(deed=DEEDS[deed]), str(folder)]
    return subprocess.run(command, stderr=subprocess.DEVNULL, timeout=60, check=False).returncode


def test_a_crash_is_named_with_its_signal_and_place(tmp_path):
    assert left_by("crashes", tmp_path) == -signal.SIGSEGV
    assert heard(tmp_path) == "crashed: Segmentation fault, in train (<string>:12)"
    assert left_by("aborts", tmp_path) == -signal.SIGABRT
    assert heard(tmp_path) == "crashed: Aborted, in train (<string>:12)"


def test_a_stall_is_named_with_its_length_and_place(tmp_path):
    assert left_by("stalls", tmp_path) == 1
    found = heard(tmp_path)
    assert found.startswith("stalled: nothing was finished for 0:00:00.2")
    assert found.endswith("in train (<string>:12)")


def test_a_stall_in_other_code_names_ours_that_called_it(tmp_path):
    assert left_by("stalls in a library", tmp_path) == 1
    assert re.search(
        r", in <lambda> \(<string>:12\), in assign \(worker\.py:\d+\)$", heard(tmp_path)
    )


def test_a_worker_that_is_killed_says_nothing(tmp_path):
    assert left_by("is killed", tmp_path) == -signal.SIGKILL
    assert (tmp_path / FILE_NAME).read_text() == ""
    assert heard(tmp_path) == ""


def test_an_attempt_that_ends_well_leaves_no_file(tmp_path):
    assert left_by("ends", tmp_path / "made") == 0
    assert list((tmp_path / "made").iterdir()) == []


def test_nothing_is_heard_where_there_never_was_a_file(tmp_path):
    assert heard(tmp_path / "nowhere") == ""


@pytest.fixture
def handler():
    """What faulthandler did before."""
    was_enabled = faulthandler.is_enabled()
    yield
    if was_enabled:
        faulthandler.enable(file=sys.__stderr__)


def test_a_folder_that_cannot_be_made_is_gone_without(tmp_path, handler):
    (tmp_path / "file").write_text("")
    words = LastWords()
    words.open(tmp_path / "file" / "folder")
    assert words.handle == 2
    words.close()
