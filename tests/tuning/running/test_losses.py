"""What is said of a lost worker; Ray's own texts are in test_engine."""

from types import SimpleNamespace

import pytest

from tune_ddvae.tuning.running import losses
from tune_ddvae.tuning.running.losses import Loss, Memory, judge

SILENT = "Worker unexpectedly exits ... (1) the process was killed by the OOM killer ..."
TERMINATED = "Worker exits with an exit code 1. The process receives a SIGTERM."
AWAY = """Traceback (most recent call last):
  File "ray/train/_internal/storage.py", line 558, in persist_current_checkpoint
OSError: When testing for existence of bucket 'mine': AWS Error NETWORK_CONNECTION during HeadBucket \
operation: curlCode: 7, Could not connect to server"""
GOOGLES = "OSError: google::cloud::Status(UNAVAILABLE: Retry policy exhausted)"
FULL = "OSError: [Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine whose memory and kernel say what they are told to."""
    facts = SimpleNamespace(percent=40.0, counters=tmp_path / "vmstat")
    facts.counters.write_text("nr_free_pages 1\noom_kill 7\n")
    monkeypatch.setattr(losses.psutil, "virtual_memory", lambda: facts)
    monkeypatch.setattr(losses, "KERNEL_COUNTERS", facts.counters)
    monkeypatch.setattr(losses, "SAMPLE_EVERY_S", 0.0)
    return facts


def test_a_silent_death_is_told_with_what_memory_says(machine):
    reason = judge(SILENT, evidence=Memory().evidence()).reason
    assert reason.startswith("likely out of memory, or killed from outside (by SIGKILL")
    assert "at most 40 % of this machine's memory was in use" in reason
    assert "memory was short" not in reason
    assert reason.endswith("--max-concurrent, or ask for memory with --memory-per-trial")


def test_memory_that_was_high_a_moment_ago_counts_though_it_is_free_again(machine):
    memory = Memory()
    machine.percent = 97.0
    memory.sample()
    machine.percent = 30.0
    assert memory.evidence() == (
        "memory was short: at most 97 % of this machine's memory was in use in the last minute"
    )


def test_the_kernels_own_count_is_told_once(machine):
    memory = Memory()
    machine.counters.write_text("oom_kill 9\n")
    assert memory.evidence().startswith("the kernel ended 2 of this machine's processes")
    assert "kernel" not in memory.evidence()


def test_a_system_without_such_counts_is_no_problem(machine):
    machine.counters.unlink()
    assert "40 %" in Memory().evidence()


def test_any_other_signal_is_named():
    assert judge(TERMINATED) == Loss("killed from outside by SIGTERM")


def test_what_the_worker_said_itself_goes_before_rays_guess():
    said = "crashed: Segmentation fault, in forward (vae.py:1)"
    assert judge(SILENT, said, "at most 99 % ...") == Loss(said)


@pytest.mark.parametrize("text", [AWAY, GOOGLES])
def test_a_bucket_that_is_away_is_no_fault_of_the_trials(text):
    loss = judge(text, "stalled: nothing was finished for 0:10:00")
    assert (loss.counts, loss.is_full) == (False, False)
    assert loss.reason.startswith("the storage was away: OSError: ")


NO_STORAGE = """RuntimeError: Unable to set up cluster storage with the following settings:
StorageContext<
  storage_filesystem='local',
  storage_fs_path='/studies/a b',
  experiment_dir_name='trials',
>
Check that all nodes in the cluster have read/write access to the configured storage path."""


def test_a_storage_that_is_gone_is_named_in_plain_words_and_is_no_fault_of_the_trials():
    assert judge(NO_STORAGE) == Loss(
        "its checkpoint could not be saved: /studies/a b/trials is gone, or its machine does not see it",
        counts=False,
    )


def test_a_text_that_is_too_long_ends_with_a_whole_word_and_says_so():
    reason = judge("word " * 100).reason
    assert reason.endswith("word …")
    assert len(reason) <= 200


def test_a_full_disk_is_no_fault_of_the_trials():
    loss = judge(f"Failure # 1\n{FULL}\n")
    assert (loss.counts, loss.is_full) == (False, True)
    assert "No space left on device" in loss.reason
