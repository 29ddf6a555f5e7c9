"""One ordered queue into the database, with one thread that empties it: a transaction per batch.

The tuning loop only ever puts; it waits at ``flush`` alone. An error of the writer is kept and raised
at the next ``check``, ``put`` or ``flush``, so that it reaches the tuning loop as it is.
"""

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Engine, Executable

from tune_ddvae.tuning.record.postgresql import patiently

BATCH_S = 0.2  # what a hard kill can lose, at most


@dataclass(frozen=True)
class Entry:
    """One statement; ``after`` runs once it is durable."""

    statement: Executable | None
    values: Mapping[str, Any] | None = None
    after: Callable[[], None] | None = None


class Writer:
    """Writes entries in the order they were put."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._entries: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._closing = threading.Event()
        self._hurry = threading.Event()  # set while somebody waits at flush
        self._thread = threading.Thread(target=self._run, name="record-writer", daemon=True)
        self._thread.start()

    def put(
        self,
        statement: Executable | None,
        values: Mapping[str, Any] | None = None,
        after: Callable[[], None] | None = None,
    ) -> None:
        """Add one statement to the queue.

        Raises:
            Exception: What an earlier write failed with.
        """
        self.check()
        self._entries.put(Entry(statement, values, after))

    def flush(self) -> None:
        """Return once everything put so far is durable.

        Raises:
            Exception: What the write failed with.
        """
        done = threading.Event()
        self.put(None, after=done.set)
        self._hurry.set()
        while not done.wait(timeout=0.5):
            self.check()
            if not self._thread.is_alive():
                raise RuntimeError("the record's writer ended before its queue was empty")
        self.check()

    def check(self) -> None:
        """Raise what the writer failed with, if it did."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Write what is left and end the thread."""
        self._entries.put(None)
        self._closing.set()
        self._hurry.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while batch := self._next_batch():
                patiently(partial(self._write, batch))
                for entry in batch:
                    if entry.after is not None:
                        entry.after()
        except Exception as error:  # noqa: BLE001 - kept, and raised where the tuning loop sees it
            self._error = error

    def _write(self, batch: list[Entry]) -> None:
        """Write a batch; to write it twice, where only the answer was lost, changes nothing."""
        with self._engine.begin() as connection:
            for entry in batch:
                if entry.statement is not None:
                    connection.execute(entry.statement, entry.values)

    def _next_batch(self) -> list[Entry]:
        """Everything in the queue, once something is there; empty when closed and drained."""
        first = self._entries.get()
        if first is None:
            return []
        if not self._closing.is_set():
            self._hurry.wait(timeout=BATCH_S)  # let a batch gather
        self._hurry.clear()
        batch = [first]
        while True:
            try:
                entry = self._entries.get_nowait()
            except queue.Empty:
                return batch
            if entry is None:  # come back for the end once this batch is written
                self._entries.put(None)
                return batch
            batch.append(entry)
