"""Where a trial computes, and with how many threads."""

import os
import platform
from pathlib import Path

import torch

from tune_ddvae.errors import ConfigError

THREADS_VARIABLE = "TUNE_DDVAE_THREADS"


def choose_device() -> torch.device:
    """The first GPU that this process was given, else the CPU.

    Ray hides the GPUs that a trial did not ask for through CUDA_VISIBLE_DEVICES.
    """
    is_given = os.environ.get("CUDA_VISIBLE_DEVICES") != ""
    return torch.device("cuda" if is_given and torch.cuda.is_available() else "cpu")


def describe_device(device: torch.device) -> str:
    """Kind and model of a device, as it is written beside results."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({_cpu_model()})"


def set_threads(num_cpus: int | float) -> int:
    """Let torch compute with as many threads as the trial has CPUs, at least one.

    TUNE_DDVAE_THREADS takes precedence. OMP_NUM_THREADS cannot say what the user wants: Ray sets it
    itself in every worker.

    Returns:
        The number of threads as used.

    Raises:
        ConfigError: If TUNE_DDVAE_THREADS is not a whole number from 1.
    """
    asked = os.environ.get(THREADS_VARIABLE)
    if asked is not None and (not asked.isdecimal() or int(asked) < 1):
        raise ConfigError(f"{THREADS_VARIABLE} must be a whole number from 1, got {asked!r}")
    threads = max(1, int(num_cpus)) if asked is None else int(asked)
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
