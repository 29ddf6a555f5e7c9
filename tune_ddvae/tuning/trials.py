"""What is known of one trial, as plain data: the words that record, search and engine share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tune_ddvae.config import Value


class State(StrEnum):
    """How a trial stands. All but UNFINISHED are final."""

    UNFINISHED = "unfinished"
    COMPLETE = "complete"  # trained to the last epoch
    STOPPED = "stopped early"  # by a rung's decision
    COLLAPSED = "collapsed"  # no active unit, or nothing to rank it by: the constraint is broken
    FAILED = "failed"


@dataclass(frozen=True)
class Decision:
    """One rung's verdict on one trial, with the values that it was made from; it is final."""

    goes_on: bool
    value: float | None
    earlier: tuple[float | None, ...]  # of the trials that reached the rung before
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """One evaluation of one trial."""

    epoch: int
    time: float  # seconds since 1970, when the result reached the driver
    metrics: Mapping[str, float]  # all finite
    absent: Mapping[str, str] = field(default_factory=dict)  # metric -> why it has no value
    decision: Decision | None = None  # at rungs


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was announced as whole; ``path`` is relative to the study's storage."""

    epoch: int
    path: str


@dataclass
class Trial:
    """One configuration of the study and everything recorded about it."""

    number: int
    config: Mapping[str, Value]  # flat, whole
    params: Mapping[str, Value] | None  # None: outside the search space, so no sampler sees it
    setting: str | None = None  # name of the published setting, if it is one
    replicate: int | None = None  # which of the setting's seeds, where several are trained
    state: State = State.UNFINISHED
    reason: str = ""
    values: tuple[float, ...] | None = None  # of rank_by, at COMPLETE
    losses: int = 0  # workers lost that count against it
    started: float | None = None
    ended: float | None = None
    facts: Mapping[str, Value] = field(default_factory=dict)  # device, threads, host, … as used
    rows: dict[int, Row] = field(default_factory=dict)
    checkpoints: list[Checkpoint] = field(default_factory=list)

    @property
    def seed(self) -> int:
        """Seed that its networks, noise and order follow from."""
        return int(self.config["training/seed"] or 0)

    @property
    def label(self) -> str:
        """What a published setting's trial is called; nothing for one that the sampler proposed."""
        if self.setting is None or self.replicate is None:
            return self.setting or ""
        return f"{self.setting}, seed {self.replicate}"

    @property
    def last_epoch(self) -> int:
        """Newest recorded epoch; 0 before the first evaluation."""
        return max(self.rows, default=0)

    @property
    def is_whole(self) -> bool:
        """Whether it was trained to the last epoch, collapsed there or not."""
        return self.last_epoch == self.config["training/epochs"]

    @property
    def latest_row(self) -> Row | None:
        """Newest evaluation; safe to ask for while the trial trains."""
        return max(list(self.rows.values()), key=lambda row: row.epoch, default=None)


@dataclass(frozen=True)
class Assignment:
    """What a worker needs to train one trial from where its record stands."""

    number: int
    attempt: str  # unique token: names the folder that this attempt writes to
    config: Mapping[str, Value]
    checkpoints: tuple[str, ...]  # newest first; the first intact one is continued from
    storage: str  # folder that the checkpoint paths are relative to
    data_dir: str | None
    num_cpus: float
    stall_s: float
    rungs: tuple[int, ...] = ()  # where expensive metrics are due
    data_checksum: str = ""  # of the study's data; empty: whatever is found
    num_gpus: float = 0.0  # that it was given, or the share of one
    code: str = ""  # digest of the driver's own; empty: this machine has no other
    mark: str = ""  # name of the file in the storage that tells it from others of that name


@dataclass(frozen=True)
class Report:
    """What a worker sends back after each step; also how it says that it cannot go on."""

    epoch: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Value] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # e.g. a damaged checkpoint that was passed over
    error_kind: str = ""  # class of the error that ended the trial
    error: str = ""
    is_last: bool = False
