"""How many trials run at once and what each takes; more than there is is refused, not waited for."""

import math
import os
from dataclasses import dataclass

from tune_ddvae.errors import ResourceError

MOST_AT_ONCE = 8  # by default, where no GPU sets the number


@dataclass(frozen=True)
class Available:
    """What a machine or cluster has."""

    num_cpus: float
    num_gpus: float


@dataclass(frozen=True, kw_only=True)
class Slots:
    """What one trial takes and how many run at once."""

    concurrent: int
    num_cpus: float
    num_gpus: float


def local_resources() -> Available:
    """CPUs this process may use, and GPUs that torch sees."""
    import torch

    num_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Available(float(num_cpus or 1), float(torch.cuda.device_count()))


def make_slots(
    available: Available,
    *,
    max_concurrent: int | None = None,
    cpus_per_trial: float | None = None,
    gpus_per_trial: float | None = None,
) -> Slots:
    """Slots for what was asked, filled in by what there is.

    Raises:
        ResourceError: A single trial asks for more than there is; names asked and available. Or for
            a number of GPUs that Ray cannot give.
    """
    gpus = gpus_per_trial
    if gpus is None:
        gpus = 1.0 if available.num_gpus else 0.0
    if gpus > 1 and gpus % 1:
        raise ResourceError(
            f"--gpus-per-trial must be a share of one GPU or a whole number, got {gpus:g}"
        )
    _check("GPUs", gpus, available.num_gpus, "--gpus-per-trial")
    _check("CPUs", cpus_per_trial or 0.0, available.num_cpus, "--cpus-per-trial")
    fit = _fitting_gpus(available.num_gpus, gpus) if gpus else MOST_AT_ONCE
    fit = min(fit, math.floor(available.num_cpus / (cpus_per_trial or 1.0)))
    concurrent = max(1, min(fit, max_concurrent or fit))
    cpus = cpus_per_trial or max(1.0, float(available.num_cpus // concurrent))
    return Slots(concurrent=concurrent, num_cpus=cpus, num_gpus=gpus)


def _check(what: str, asked: float, available: float, option: str) -> None:
    if asked > available:
        raise ResourceError(
            f"{option} asks for {asked:g} {what} a trial, and there are {available:g}: "
            "no trial could ever start"
        )


def _fitting_gpus(available: float, each: float) -> int:
    """How many trials the GPUs hold; a share lies on one GPU and never spans two."""
    if each >= 1:
        return math.floor(available / each)
    return math.floor(available) * math.floor(1 / each + 1e-6)  # 1 / (1 / 49) is just below 49
