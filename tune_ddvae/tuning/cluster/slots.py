"""Slots that follow a cluster as it grows and shrinks, and how long a study waits for room in it."""

import math
import os
import time
from collections.abc import Callable
from contextlib import suppress

from ray.exceptions import RayError

from tune_ddvae.errors import ConfigError, ResourceError
from tune_ddvae.tuning.cluster.resources import (
    Available,
    Slots,
    View,
    is_promised,
    may_come,
    num_held,
    sizes_text,
)
from tune_ddvae.tuning.wording import duration

WAIT_VARIABLE = "TUNE_DDVAE_CLUSTER_WAIT_S"
WAIT_S = 600.0
LOOK_EVERY_S = 2.0  # how soon a node that came or went is known
MOST_AT_ONCE = 1000  # more than one driver keeps up with
PATIENT_S = 5.0  # shorter waits are not worth a word
START_S = 30.0  # a worker may take so long to start on a busy machine
SILENT_S = 10.0  # a head that is only busy answers sooner
HEAD_SILENT = (
    "the cluster's head does not answer; if it stays away for a minute, Ray ends this study, and the "
    "same command goes on from its record once a head is there"
)


def cluster_wait_s() -> float:
    """How long a cluster may be without a node that holds a trial; ten minutes unless set.

    Raises:
        ConfigError: TUNE_DDVAE_CLUSTER_WAIT_S is no number of seconds.
    """
    text = os.environ.get(WAIT_VARIABLE)
    try:
        seconds = WAIT_S if text is None else float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ConfigError(f"{WAIT_VARIABLE} must be a number of seconds from 0, got {text!r}")
    return seconds


def settled(look: Callable[[], View], tell: Callable[[str], None], wait_s: float) -> View:
    """The cluster once it has a node that gives CPUs, or says what nodes it will have.

    A head alone often gives none, and its workers come a minute later.

    Args:
        look: The cluster as it is now.
        tell: Takes a line for the person who waits.
        wait_s: How long to wait.

    Raises:
        ResourceError: There was none in that time.
    """
    until = time.monotonic() + wait_s
    is_told = False
    while True:
        view = look()
        promised = view.growth.types if view.growth else ()
        if any(n.num_cpus for n in view.nodes) or any(kind.size for kind in promised):
            return view
        if time.monotonic() >= until:
            raise ResourceError(
                f"no node of the cluster gave CPUs within {duration(wait_s)} ({WAIT_VARIABLE} says "
                "how long to wait): start its workers, `ray start --address=…` on each"
            )
        if not is_told:
            is_told = True
            tell("waiting for the cluster: none of its nodes gives CPUs yet")
        time.sleep(LOOK_EVERY_S)


class ClusterSlots:
    """As many slots as the cluster's nodes hold trials now, whoever else uses it.

    Where an autoscaler runs there is one more than that, since only a trial that waits makes a
    cluster grow. When nodes go, nothing is cancelled: fewer trials are handed out.

    Args:
        trial: What one takes.
        look: The cluster as it is now.
        max_concurrent: Most trials at once; None for as many as fit.
        clock: Seconds; for tests.
    """

    def __init__(
        self,
        trial: Available,
        look: Callable[[], View],
        *,
        max_concurrent: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.trial = trial
        self.most = max_concurrent or MOST_AT_ONCE
        self._look = look
        self._clock = clock
        self._looked = clock()
        self._unanswered: float | None = None  # since when the head owes an answer
        self._view = look()

    @property
    def num_cpus(self) -> float:
        """CPUs that one trial takes."""
        return self.trial.num_cpus

    @property
    def num_gpus(self) -> float:
        """GPUs that one trial takes, or a share of one."""
        return self.trial.num_gpus

    @property
    def memory_gb(self) -> float:
        """Memory that one trial takes; 0 where it asks for none in particular."""
        return self.trial.memory_gb

    @property
    def concurrent(self) -> int:
        """How many trials may be handed out now; at least one."""
        self._refresh()
        return self.latest

    @property
    def latest(self) -> int:
        """The same as last seen: asks nobody, for other threads."""
        wanted = num_held(self._view, self.trial) + may_come(self._view, self.trial)
        return max(1, min(wanted, self.most))

    @property
    def num_held(self) -> int:
        """How many trials the nodes that are there could hold, were they all ours."""
        self._refresh()
        return num_held(self._view, self.trial)

    @property
    def may_come(self) -> bool:
        """Whether the cluster may get a node that holds a trial by itself."""
        self._refresh()
        return may_come(self._view, self.trial)

    @property
    def is_promised(self) -> bool:
        """Whether what may come is known to hold a trial."""
        return is_promised(self._view, self.trial)

    def there_is(self) -> str:
        """What the cluster's nodes have, in words."""
        return sizes_text(self._view.nodes, self.trial)

    @property
    def silent_s(self) -> float:
        """How long the cluster's head has owed an answer: asks nobody, for other threads."""
        since = self._unanswered
        return 0.0 if since is None else self._clock() - since

    def now(self) -> Slots:
        """As they stand now."""
        return Slots(
            concurrent=self.concurrent,
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus,
            memory_gb=self.memory_gb,
        )

    def _refresh(self) -> None:
        if self._clock() - self._looked >= LOOK_EVERY_S:
            self._looked = self._clock()
            if self._unanswered is None:
                self._unanswered = self._looked
            with suppress(RayError):  # its head is away for now: what was seen last still holds
                self._view = self._look()  # of a head that is gone Ray waits for an answer, mute
                self._unanswered = None


class Waiting:
    """What a study waits for while none of its trials has a place, and when it has waited enough.

    Args:
        slots: That follow the cluster.
        tell: Takes a line for the person watching.
        is_infeasible: Whether the cluster's autoscaler has said that it cannot get a node for such a
            trial.
        wait_s: How long to wait for what nobody has promised.
        clock: Seconds; for tests.
    """

    def __init__(
        self,
        slots: ClusterSlots,
        tell: Callable[[str], None],
        is_infeasible: Callable[[Available], bool],
        *,
        wait_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._why = ""  # as it was told; empty while trials train
        self.num_unplaced = 0  # trials that were handed out and have no place yet
        self._slots = slots
        self._tell = tell
        self._is_infeasible = is_infeasible
        self._wait_s = wait_s
        self._clock = clock
        self._since: float | None = None  # none of the trials has had a place
        self._without: float | None = None  # nor could any node have held one

    @property
    def text(self) -> str:
        """For a screen, which another thread draws; empty while trials train and the head answers."""
        return HEAD_SILENT if self._slots.silent_s >= SILENT_S else self._why

    def look(self, *, num_running: int, num_waiting: int) -> str:
        """Take note of how trials stand; why the study must stop now, or nothing."""
        now = self._clock()
        self.num_unplaced = num_waiting
        if num_running or not num_waiting:
            if self._why:
                self._tell("the wait for the cluster is over")
            self._why, self._since, self._without = "", None, None
            return ""
        self._since = now if self._since is None else self._since
        if now - self._since < PATIENT_S:
            return ""
        slots = self._slots
        if slots.num_held:
            self._without = None
            if now - self._since >= START_S:
                self._say(
                    f"a trial takes {slots.trial}, and the nodes that could hold it are taken, or "
                    "are still starting its worker"
                )
            return ""
        self._without = now if self._without is None else self._without
        left_s = self._wait_s - (now - self._without)
        is_in_vain = not slots.is_promised or self._is_infeasible(slots.trial)
        if slots.may_come and not (left_s <= 0 and is_in_vain):
            self._say(
                f"a trial takes {slots.trial}, no node has that now (there are: "
                f"{slots.there_is()}); one may be added by itself"
            )
            return ""
        if left_s > 0:
            self._say(
                f"a trial takes {slots.trial}, no node has that now (there are: "
                f"{slots.there_is()}); one that joins is used at once, and the study stops "
                f"after {duration(self._wait_s)} without any ({WAIT_VARIABLE})"
            )
            return ""
        return (
            f"for {duration(self._wait_s)} no node of the cluster could hold a trial, which takes "
            f"{slots.trial} (there are: {slots.there_is()})"
        )

    def _say(self, why: str) -> None:
        text = f"waiting for the cluster: {why}"
        if text != self._why:
            self._why = text
            self._tell(text)
