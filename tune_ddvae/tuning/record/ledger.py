"""One study's part of an open database: what can be read of it, and one ordered queue of writes.

Whoever holds a study holds it by one of these: the driver by a ``Record``, which knows trials, and
who only brings MLflow up to date by this alone.
"""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Select, delete

from tune_ddvae.tuning.record.file import RecordFile
from tune_ddvae.tuning.record.lease import Lease
from tune_ddvae.tuning.record.postgresql import patiently
from tune_ddvae.tuning.record.tables import SENT, insert_new, place_of
from tune_ddvae.tuning.record.writer import Writer


class Ledger:
    """A study that is held by this process alone. All writes go through its ordered queue."""

    def __init__(self, engine: Engine, study_id: str, lease: Lease | None = None) -> None:
        self.engine = engine
        self.study_id = study_id
        self.token = uuid.uuid4().hex if lease is None else lease.token
        self._lease = lease  # of a record on a server
        self._file: RecordFile | None = None
        if engine.dialect.name == "sqlite":
            self._file = RecordFile(Path(place_of(engine)))
            self._file.fence(engine)
        self._writer = Writer(engine)

    def read(self, query: Select[Any]) -> list[Any]:
        """The rows that a query finds."""

        def found() -> list[Any]:
            with self.engine.connect() as connection:
                return list(connection.execute(query))

        return patiently(found, give_up=self.check)

    def mark_sent(self, values: Mapping[str, str | int]) -> None:
        """Queue what a tracking server is now known to hold (columns of ``SENT``)."""
        key = [
            SENT.c.study_id == self.study_id,
            SENT.c.tracking == values["tracking"],
            SENT.c.number == values["number"],
        ]
        self._writer.put(delete(SENT).where(*key))
        self._writer.put(insert_new(self.engine, SENT), {"study_id": self.study_id, **values})

    def flush(self) -> None:
        """Return once everything queued is durable; raise what the writer failed with."""
        self._writer.flush()

    def check(self) -> None:
        """Raise what the writer failed with, if it did, or that the study is held no longer."""
        self._writer.check()
        if self._file is not None:
            self._file.glance()
        if self._lease is not None:
            self._lease.check()

    def check_held(self) -> None:
        """As ``check``, and by the clock too: a driver that was frozen need not have heard of it yet.

        For what no fence stands around, as there is around the record itself. A file is looked at now,
        however soon after the last time.
        """
        self.check()
        if self._file is not None:
            self._file.check()
        if self._lease is not None:
            self._lease.check_clock()

    def close(self) -> None:
        """Write what is queued and let go of the study and the database; raises as ``check`` does."""
        self._writer.close()
        if self._lease is not None:
            self._lease.release()
        try:
            self._writer.check()
            if self._file is not None:
                self._file.check()
        finally:
            self.engine.dispose()
