"""How many trials run at once and what each takes; what there can never be is refused, not waited for.

A trial runs on one node: two nodes of two CPUs hold none that takes three.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tune_ddvae.errors import ResourceError
from tune_ddvae.tuning.cluster.nodes import total_memory
from tune_ddvae.tuning.wording import plural

MOST_AT_ONCE = 8  # by default on one node, where no GPU sets the number
_SLACK = 1e-6  # 1 / (1 / 49) is just below 49
GIGABYTE = 10**9


@dataclass(frozen=True)
class Available:
    """What one node has, or one trial takes.

    Attributes:
        memory_gb: That Ray gives out on a node, infinite where nobody has said; for a trial, 0 asks for
            none in particular.
    """

    num_cpus: float
    num_gpus: float
    memory_gb: float = 0.0

    def __str__(self) -> str:
        """In words; of memory nothing where there is nothing to say."""
        words = [f"{self.num_gpus:g} {plural('GPU', self.num_gpus)}"] if self.num_gpus else []
        words.append(f"{self.num_cpus:g} {plural('CPU', self.num_cpus)}")
        if 0 < self.memory_gb < math.inf:
            words.append(memory_text(self.memory_gb))
        return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))

    @property
    def memory_bytes(self) -> int:
        """The memory as Ray counts it; not for one that nobody has said."""
        return round(self.memory_gb * GIGABYTE)

    @property
    def bundle(self) -> dict[str, float]:
        """What Ray is asked for, for such a trial."""
        asked = {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": float(self.memory_bytes)}
        return {what: number for what, number in asked.items() if number or what == "CPU"}


@dataclass(frozen=True)
class NodeType:
    """A kind of node that an autoscaler may add.

    Attributes:
        size: What such a node has; None where nobody has said so.
        most: How many of them there may be.
    """

    size: Available | None
    most: int


@dataclass(frozen=True)
class Growth:
    """What an autoscaler may add to a cluster.

    Attributes:
        types: Empty where it does not say.
        most_workers: Nodes beside the head, of all types together; None where it does not say.
    """

    types: tuple[NodeType, ...] = ()
    most_workers: int | None = None


@dataclass(frozen=True)
class View:
    """A cluster as it is now.

    Attributes:
        nodes: What those that are alive have.
        num_workers: How many of them are not the head.
        growth: What may be added; None where nothing adds nodes by itself.
    """

    nodes: tuple[Available, ...]
    num_workers: int = 0
    growth: Growth | None = None


@dataclass(frozen=True, kw_only=True)
class Slots:
    """What one trial takes and how many run at once."""

    concurrent: int
    num_cpus: float
    num_gpus: float
    memory_gb: float = 0.0  # 0: none in particular

    @property
    def trial(self) -> Available:
        """What one trial takes."""
        return Available(self.num_cpus, self.num_gpus, self.memory_gb)

    @property
    def latest(self) -> int:
        """How many run at once, as last seen."""
        return self.concurrent

    @property
    def most(self) -> int:
        """How many there may ever be."""
        return self.concurrent

    def now(self) -> "Slots":
        """Themselves: on a machine of our own they stay as they are."""
        return self


def local_resources() -> Available:
    """CPUs and memory that this process may use, and GPUs that torch sees."""
    import torch

    num_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    num_gpus = float(torch.cuda.device_count())
    return Available(float(num_cpus or 1), num_gpus, total_memory() / GIGABYTE)


def make_slots(
    available: Available,
    *,
    max_concurrent: int | None = None,
    cpus_per_trial: float | None = None,
    gpus_per_trial: float | None = None,
    memory_per_trial: float | None = None,
) -> Slots:
    """Slots on one machine for what was asked, filled in by what there is.

    Raises:
        ResourceError: A single trial asks for more than there is; names asked and available. Or for
            a number of GPUs that Ray cannot give.
    """
    view = View((available,))
    trial = trial_size(
        view,
        max_concurrent=max_concurrent,
        cpus_per_trial=cpus_per_trial,
        gpus_per_trial=gpus_per_trial,
        memory_per_trial=memory_per_trial,
    )
    most = max_concurrent or (num_fitting(available, trial) if trial.num_gpus else MOST_AT_ONCE)
    concurrent = min(num_fitting(available, trial), most)
    return Slots(
        concurrent=concurrent,
        num_cpus=trial.num_cpus,
        num_gpus=trial.num_gpus,
        memory_gb=trial.memory_gb,
    )


def trial_size(
    view: View,
    *,
    max_concurrent: int | None = None,
    cpus_per_trial: float | None = None,
    gpus_per_trial: float | None = None,
    memory_per_trial: float | None = None,
) -> Available:
    """What one trial takes: as asked, else filled in by what the nodes have.

    Without a word from the user it takes a GPU where there are any; and the most CPUs with which as
    many trials fit as the GPUs hold, or without GPUs as many as there are CPUs, at most eight a node;
    and no memory in particular. Where no node is there yet, nodes that may be added are counted instead.

    Raises:
        ResourceError: No node that there is or may be holds such a trial; names asked and available.
            Or a number of GPUs that Ray cannot give.
    """
    to_come = [kind.size for kind in view.growth.types if kind.size] if view.growth else []
    gpus = gpus_per_trial
    if gpus is None:
        gpus = 1.0 if any(node.num_gpus for node in (*view.nodes, *to_come)) else 0.0
    if gpus > 1 and gpus % 1:
        raise ResourceError(
            f"--gpus-per-trial must be a share of one GPU or a whole number, got {gpus:g}"
        )
    asked = Available(cpus_per_trial or 1.0, gpus, memory_per_trial or 0.0)
    check_holdable(view, asked)
    nodes = [node for node in view.nodes if num_fitting(node, asked)] or to_come
    if cpus_per_trial is not None or not nodes:
        return asked
    wanted = sum(
        num_fitting(node, asked) if gpus else min(MOST_AT_ONCE, num_fitting(node, asked))
        for node in nodes
    )
    wanted = min(max_concurrent or wanted, sum(num_fitting(node, asked) for node in nodes))
    cpus = float(max(math.floor(node.num_cpus) for node in nodes))
    while cpus > 1 and sum(num_fitting(n, replace(asked, num_cpus=cpus)) for n in nodes) < wanted:
        cpus -= 1.0
    return replace(asked, num_cpus=max(1.0, cpus))


def num_fitting(node: Available, trial: Available) -> int:
    """How many such trials a node holds at once; a share of a GPU lies on one and never spans two."""
    fitting = [math.floor(node.num_cpus / trial.num_cpus + _SLACK)]
    if trial.num_gpus >= 1:
        fitting.append(math.floor(node.num_gpus / trial.num_gpus))
    elif trial.num_gpus:
        fitting.append(math.floor(node.num_gpus) * math.floor(1 / trial.num_gpus + _SLACK))
    if trial.memory_bytes and node.memory_gb < math.inf:
        # To the byte, as Ray counts: a trial that lacks one would wait for ever.
        fitting.append(node.memory_bytes // trial.memory_bytes)
    return min(fitting)


def num_held(view: View, trial: Available) -> int:
    """How many such trials the nodes that are there hold at once, were they all ours."""
    return sum(num_fitting(node, trial) for node in view.nodes)


def may_come(view: View, trial: Available) -> bool:
    """Whether an autoscaler may still add a node that holds such a trial."""
    growth = view.growth
    if growth is None:
        return False
    if growth.most_workers is not None and view.num_workers >= growth.most_workers:
        return False
    fitting = [kind for kind in growth.types if kind.size is None or num_fitting(kind.size, trial)]
    return not growth.types or any(kind.most > 0 for kind in fitting)


def is_promised(view: View, trial: Available) -> bool:
    """Whether a node that holds such a trial is known to be among those that may still be added.

    Where an autoscaler does not say what it may add, it says itself when it cannot. Machines that were
    listed by their addresses are as large as they are: nobody knows before they have come. Nor how much
    memory those of a kind will have where the cluster's file says nothing of it.
    """
    if view.growth is None or not view.growth.types:
        return may_come(view, trial)
    known = tuple(
        kind
        for kind in view.growth.types
        if kind.size is not None and not (trial.memory_gb and kind.size.memory_gb == math.inf)
    )
    return bool(known) and may_come(replace(view, growth=replace(view.growth, types=known)), trial)


def check_holdable(view: View, trial: Available) -> None:
    """Refuse a trial that no node holds, nor any that may be added.

    A cluster without a node that gives CPUs is no ground to refuse: its nodes are still to come.

    Raises:
        ResourceError: Names what is asked for and what there is.
    """
    if num_held(view, trial) or may_come(view, trial):
        return
    kinds = view.growth.types if view.growth else ()
    sizes = [*view.nodes, *(kind.size for kind in kinds if kind.size)]
    if not any(node.num_cpus for node in sizes):
        return
    one = "" if len(sizes) == 1 else ", on one node at most"
    for what, option, asked, most in (
        ("GPUs", "--gpus-per-trial", trial.num_gpus, max(node.num_gpus for node in sizes)),
        ("CPUs", "--cpus-per-trial", trial.num_cpus, max(node.num_cpus for node in sizes)),
    ):
        if asked > most:
            raise ResourceError(
                f"{option} asks for {asked:g} {what} a trial, and there are {most:g}{one}: "
                "no trial could ever start"
            )
    most_memory = max(node.memory_gb for node in sizes)
    if trial.memory_gb > most_memory:
        raise ResourceError(
            f"--memory-per-trial asks for {memory_text(trial.memory_gb)} a trial, and there are "
            f"{_rounded_down(most_memory):g}{one}: no trial could ever start"
        )
    options = "--cpus-per-trial or --gpus-per-trial"
    if trial.memory_gb:
        options = "--cpus-per-trial, --gpus-per-trial or --memory-per-trial"
    together = "both" if len(trial.bundle) == 2 else "all of it"
    raise ResourceError(
        f"a trial takes {trial}, and no node has {together}; nodes have: {sizes_text(sizes, trial)}. "
        f"Ask for less with {options}"
    )


def sizes_text(nodes: Sequence[Available], trial: Available) -> str:
    """What the nodes have, largest first, each kind once; their memory where the trial asks for some."""
    shown = [
        replace(node, memory_gb=_rounded_down(node.memory_gb) if trial.memory_gb else 0.0)
        for node in nodes
    ]
    largest = sorted(shown, key=lambda n: (n.num_gpus, n.num_cpus, n.memory_gb), reverse=True)
    return "; ".join(dict.fromkeys(map(str, largest))) or "none"


def memory_text(memory_gb: float) -> str:
    """An amount of memory in words."""
    return f"{memory_gb:g} GB of memory"


def _rounded_down(memory_gb: float) -> float:
    """To what people read: never as much as was asked for where there is less."""
    return memory_gb if memory_gb == math.inf else math.floor(memory_gb * 10) / 10
