"""What of the record one tracking address does not hold yet, by the marks kept in the record.

A mark says what the address is known to hold of one trial (number -1: of the study itself). It is
written after a server has taken something; what was sent just before a crash is sent once more.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, and_, func, or_, select

from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.record.ledger import Ledger
from tune_ddvae.tuning.record.tables import (
    ASKED,
    CHECKPOINTS,
    ROWS,
    SENT,
    SESSIONS,
    STUDIES,
    TRIALS,
    row_from,
    trial_from,
)
from tune_ddvae.tuning.tracking import own_place
from tune_ddvae.tuning.tracking.names import shortened
from tune_ddvae.tuning.trials import Checkpoint, Row, State, Trial

STUDY = -1  # number that the study's own mark has
LONGEST_KEY = 512  # what the column of SENT holds
NO_ARTIFACT = "!"  # ends the status of a mark whose artifact could not be stored


@dataclass(frozen=True)
class Mark:
    """What the address holds of one run; ``status`` is empty until the run has been described."""

    run_id: str = ""
    epoch: int = 0
    status: str = ""

    @property
    def says(self) -> str:
        """The mark of the view that was last shown."""
        return self.status.removesuffix(NO_ARTIFACT)

    @property
    def lacks_artifact(self) -> bool:
        """Whether the run's artifact still has to be stored."""
        return self.status.endswith(NO_ARTIFACT)


@dataclass(frozen=True)
class Due:
    """A trial that may have something to send; its rows are not read yet."""

    trial: Trial
    mark: Mark
    last_epoch: int


@dataclass(frozen=True)
class StudyFacts:
    """A study's own row in the record."""

    study_id: str
    name: str
    created: float
    identity: Mapping[str, Any]
    about: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How far MLflow has come, honestly."""

    address: str  # without password
    experiment: str
    run_id: str  # of the study; empty before there is one
    rows_left: int  # evaluations still to be sent
    runs_left: int  # runs that do not look as they should yet, the study's own included
    artifacts_left: int  # config.json and the like that could not be stored
    error: str = ""  # what kept them from being sent
    rows_sent: int = 0  # evaluations, in this session
    runs_sent: int = 0  # described or closed in it, the study's own included

    @property
    def is_whole(self) -> bool:
        """Whether MLflow shows everything that the record holds."""
        return not (self.rows_left or self.runs_left or self.artifacts_left)

    def __str__(self) -> str:
        place = f"MLflow at {self.address}, experiment {self.experiment}"
        if self.is_whole:
            return f"{place}: everything is there, run {self.run_id}"
        counts = {
            "evaluations": self.rows_left,
            "runs": self.runs_left,
            "artifacts": self.artifacts_left,
        }
        left = ", ".join(f"{what}: {num}" for what, num in counts.items() if num)
        why = f" ({self.error})" if self.error else ""
        left += why
        return (
            f"{place} is behind, still to be sent: {left}. Nothing is lost, the record holds it all"
        )


def addresses(record: Ledger) -> list[str]:
    """Every tracking address that the study was ever shown at, without passwords.

    Of a storage that was moved or copied, its own database is meant, not the one of the place before.
    """
    query = select(SENT.c.tracking).where(SENT.c.study_id == record.study_id).distinct()
    return sorted({own_place.address_now(record, row.tracking) for row in record.read(query)})


class Backlog:
    """Reads one study's record and marks for one tracking address."""

    def __init__(self, record: Ledger, uri: str) -> None:
        self._record = record
        recorded = own_place.recorded_as(record, uri)
        self.is_own = recorded == own_place.OWN  # the storage's, so nobody else's
        self._key = shortened(without_password(recorded), LONGEST_KEY)
        (row,) = self._read(select(STUDIES).where(STUDIES.c.study_id == record.study_id))
        self.study = StudyFacts(
            row.study_id, row.name, row.created, json.loads(row.identity), json.loads(row.about)
        )

    def flush(self) -> None:
        """Return once every mark set so far can be read; raise what the record failed with."""
        self._record.flush()

    def check_held(self) -> None:
        """Raise if the study may be another's by now."""
        self._record.check_held()

    def study_folder(self) -> Path | None:
        """The study's own folder, if its record lies there."""
        return own_place.study_folder(self._record)

    def lies_also_in(self, folder: Path) -> bool:
        """Whether another record of this very study is in that folder."""
        return own_place.lies_also_in(folder, self._record)

    def note_address(self) -> None:
        """Let the record know of this address before it holds anything."""
        if STUDY not in self.marks():
            self.set_mark(STUDY, Mark())

    def set_mark(self, number: int, mark: Mark) -> None:
        """Queue a mark."""
        self._record.mark_sent(
            {
                "tracking": self._key,
                "number": number,
                "run_id": mark.run_id,
                "epoch": mark.epoch,
                "status": mark.status,
            }
        )

    def marks(self) -> dict[int, Mark]:
        """Every mark, by trial number."""
        found = self._read(
            select(SENT).where(SENT.c.study_id == self.study.study_id, SENT.c.tracking == self._key)
        )
        return {row.number: Mark(row.run_id, row.epoch, row.status) for row in found}

    def study_mark(self) -> Mark:
        """The mark of the study's own run."""
        return self.marks().get(STUDY, Mark())

    def due(self) -> list[Due]:
        """All trials but those that are known to be shown to the end, in order of number.

        One query, whatever the number of rows: the newest epoch of a trial comes from the index.
        """
        newest = (
            select(func.max(ROWS.c.epoch))
            .where(ROWS.c.study_id == TRIALS.c.study_id, ROWS.c.number == TRIALS.c.number)
            .scalar_subquery()
        )
        may_change = or_(
            SENT.c.run_id.is_(None),
            TRIALS.c.state == State.UNFINISHED,
            SENT.c.status != TRIALS.c.state,
        )
        query = (
            select(TRIALS, SENT.c.run_id, SENT.c.epoch, SENT.c.status, newest.label("newest"))
            .select_from(TRIALS.outerjoin(SENT, self._marking(TRIALS)))
            .where(TRIALS.c.study_id == self.study.study_id, may_change)
            .order_by(TRIALS.c.number)
        )
        return [
            Due(
                trial_from(row),
                Mark() if row.run_id is None else Mark(row.run_id, row.epoch, row.status),
                row.newest or 0,
            )
            for row in self._read(query)
        ]

    def num_rows(self) -> int:
        """Evaluations that lie beyond the marks."""
        query = (
            select(func.count())
            .select_from(ROWS.outerjoin(SENT, self._marking(ROWS)))
            .where(
                ROWS.c.study_id == self.study.study_id,
                ROWS.c.epoch > func.coalesce(SENT.c.epoch, 0),
            )
        )
        return int(self._read(query)[0][0])

    def rows(self, number: int, after: int) -> dict[int, Row]:
        """A trial's evaluations beyond an epoch, in order."""
        query = (
            select(ROWS)
            .where(
                ROWS.c.study_id == self.study.study_id,
                ROWS.c.number == number,
                ROWS.c.epoch > after,
            )
            .order_by(ROWS.c.epoch)
        )
        return {row.epoch: row_from(row) for row in self._read(query)}

    def checkpoints(self, number: int) -> list[Checkpoint]:
        """A trial's checkpoints that are still kept."""
        query = select(CHECKPOINTS).where(
            CHECKPOINTS.c.study_id == self.study.study_id, CHECKPOINTS.c.number == number
        )
        return [Checkpoint(row.epoch, row.path) for row in self._read(query)]

    def ending(self) -> str | None:
        """How the last driver said it ended: nothing if it was killed; None if there was none."""
        query = (
            select(SESSIONS.c.ended_as)
            .where(SESSIONS.c.study_id == self.study.study_id)
            .order_by(SESSIONS.c.started.desc())
            .limit(1)
        )
        return next((str(row.ended_as) for row in self._read(query)), None)

    def num_asked(self) -> int | None:
        """How many trials the last driver was asked for in all; None: without limit, or unknown."""
        same_driver = (SESSIONS.c.study_id == ASKED.c.study_id) & (
            SESSIONS.c.token == ASKED.c.token
        )
        query = (
            select(ASKED.c.trials)
            .join(SESSIONS, same_driver)
            .where(SESSIONS.c.study_id == self.study.study_id)
            .order_by(SESSIONS.c.started.desc())
            .limit(1)
        )
        return next((row.trials for row in self._read(query)), None)

    def trials(self) -> list[Trial]:
        """All trials without their evaluations, in order of number."""
        query = (
            select(TRIALS).where(TRIALS.c.study_id == self.study.study_id).order_by(TRIALS.c.number)
        )
        return [trial_from(row) for row in self._read(query)]

    def last_moment(self) -> float:
        """When anything was last heard of the study, in seconds since 1970."""
        study_id = self.study.study_id
        ended = select(func.max(TRIALS.c.ended)).where(TRIALS.c.study_id == study_id)
        heard = select(func.max(ROWS.c.time)).where(ROWS.c.study_id == study_id)
        moments = [self._read(query)[0][0] for query in (ended, heard)]
        return max((moment for moment in moments if moment is not None), default=time.time())

    def _marking(self, table: FromClause) -> ColumnElement[bool]:
        return and_(
            SENT.c.study_id == table.c.study_id,
            SENT.c.number == table.c.number,
            SENT.c.tracking == self._key,
        )

    def _read(self, query: Select[Any]) -> list[Any]:
        return self._record.read(query)
