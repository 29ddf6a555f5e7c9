"""One study as a list shows it, as plain data, and what its jobs on a cluster add to that."""

import dataclasses
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from tune_ddvae.config import Direction
from tune_ddvae.tuning.jobs.jobs import Cargo, Job, jobs_of
from tune_ddvae.tuning.storage.folders import slug
from tune_ddvae.tuning.storage.lock import Holder
from tune_ddvae.tuning.trials import State


class Standing(StrEnum):
    """How a study stands."""

    RUNNING = "running"  # a driver holds it
    COMPLETE = "complete"
    NO_SUCCESS = "no success"  # all trials have ended, and none succeeded
    OUT_OF_TIME = "out of time"
    INTERRUPTED = "interrupted"  # by a signal, or its driver is gone
    STOPPED = "stopped"  # by itself, with work left
    UNREADABLE = "unreadable"
    UNSEEN = "not seen here"  # known from a job alone: its record is elsewhere
    UNRECORDED = "no record"  # known from a job alone: there is none where it should be


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One study, as far as it can be known without running it."""

    name: str
    is_named_by_folder: bool = False  # the name is its folder's: no record says the study's own
    standing: Standing
    record: str = ""  # address, without a password
    storage: str = ""  # that the record's file lies in; empty for a database on a server
    why: str = ""  # that it stands like this, where the standing does not say it all
    counts: Mapping[State, int] = field(default_factory=dict)
    asked: int | None = None  # trials in all; None: as many as the hours allow, or unknown
    rank_by: Mapping[str, Direction] = field(default_factory=dict)
    best: float | None = None  # of the first metric, among the complete trials
    front: int = 0  # size of the Pareto set
    changed: float | None = None  # seconds since 1970
    holder: Holder | None = None
    command: str = ""  # of its last driver
    folder: str = ""  # where that was typed
    job: Job | None = None  # the newest that runs it, where a cluster was asked

    @property
    def place(self) -> tuple[str, str]:
        """What makes two studies the same; as ``Cargo.place``."""
        return (self.name, self.storage or self.record)

    def is_called(self, name: str) -> bool:
        """Whether a person who says that name means this study."""
        if self.name == name:
            return True
        try:
            return self.is_named_by_folder and self.name == slug(name)
        except UnicodeEncodeError:  # bytes that are no text name no study of ours
            return False

    @property
    def num_ended(self) -> int:
        """Trials that have ended, well or not."""
        return sum(self.counts.values()) - self.counts.get(State.UNFINISHED, 0)

    def to_json(self) -> dict[str, Any]:
        """The study as plain data, every value unrounded."""
        return {
            "name": self.name,
            "state": str(self.standing),
            "why": self.why,
            "trials": {
                "asked": self.asked,
                "ended": self.num_ended,
                **{str(state): self.counts.get(state, 0) for state in State},
            },
            "rank_by": dict(self.rank_by),
            "best": self.best,
            "front": self.front,
            "changed": None if self.changed is None else moment(self.changed),
            "driver": None
            if self.holder is None
            else {
                "host": self.holder.host,
                "pid": self.holder.pid,
                "started": moment(self.holder.started),
            },
            "job": None if self.job is None else self.job.to_json(),
            "storage": self.storage,
            "record": self.record,
            "command": self.command,
        }


def with_jobs(studies: Sequence[Listed], jobs: Sequence[Job], looked_at: str) -> list[Listed]:
    """The studies, each with its newest job, and those that are known from a job alone.

    Args:
        studies: Whose records were read.
        jobs: Of one cluster, the newest first.
        looked_at: Where that was, a storage or a database, as ``Cargo.place`` has it; empty where
            there is none.
    """
    found = [
        dataclasses.replace(study, job=next(iter(jobs_of(jobs, study.place)), None))
        for study in studies
    ]
    seen = {study.place for study in studies}
    for job in jobs:
        if job.cargo is not None and job.cargo.place not in seen:
            seen.add(job.cargo.place)
            is_seen = job.cargo.place[1] == looked_at
            found.append(_known_from_job(job, job.cargo, is_seen=is_seen))
    return newest_first(found)


def newest_first(studies: Iterable[Listed]) -> list[Listed]:
    """What changed last comes first."""
    return sorted(studies, key=lambda study: (-(study.changed or 0.0), study.name))


def _known_from_job(job: Job, cargo: Cargo, *, is_seen: bool) -> Listed:
    where = cargo.record or f"in {cargo.storage}"
    if not is_seen:
        why = f"its record, {where}, was not seen from here"
    elif job.is_live:
        why = "it has no record yet"
    elif job.status == "SUCCEEDED":
        why = f"its job succeeded, but its record, {where}, is not there: is that another place there?"
    else:
        logs = shlex.join(["studies", "logs", cargo.study])
        why = f"its job ended before there was a record: see {logs}"
    return Listed(
        name=cargo.study,
        standing=Standing.UNRECORDED if is_seen else Standing.UNSEEN,
        why=why,
        record=cargo.record,
        storage="" if cargo.record else cargo.storage,
        changed=job.ended or job.started,
        job=job,
    )


def moment(seconds: float) -> str:
    """A time since 1970 in ISO 8601, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
