"""MLflow in the background: a picture of the record that a thread keeps up to date.

The tuning loop only ever wakes it. A server that is slow, dead or locked delays the picture and
nothing else: the record is the queue, and ``sync`` can send what is missing at any later time.
"""

import threading
import time
from collections.abc import Callable, Mapping

from tune_ddvae.config import Value
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.record.ledger import Ledger
from tune_ddvae.tuning.tracking.backlog import Summary
from tune_ddvae.tuning.tracking.check import absolute_uri, check_tracking, default_tracking_uri
from tune_ddvae.tuning.tracking.client import plain_message
from tune_ddvae.tuning.tracking.sync import Sender, sync
from tune_ddvae.tuning.tracking.view import Outcome

__all__ = [
    "Outcome",
    "Summary",
    "Tracker",
    "absolute_uri",
    "check_tracking",
    "default_tracking_uri",
    "sync",
    "without_password",
]

INTERVAL_S = 1.0  # between two looks at the record when nobody wakes us
SHORTEST_REST_S = 0.2
LONGEST_WAIT_S = 30.0  # between two tries at a server that does not answer


class Tracker:
    """Keeps MLflow up to date while a driver lives."""

    def __init__(
        self,
        record: Ledger,
        uri: str,
        experiment: str,
        notes: Callable[[str], None],
        extra: Mapping[str, Value] | None = None,
    ) -> None:
        """Start at once.

        Args:
            record: The study's record; it has to stay open until ``finish`` has returned.
            uri: Tracking address.
            experiment: MLflow's experiment, one per study file.
            notes: Takes lines for the person watching; called from the tracking thread.
            extra: Facts of this start for the study's tags, e.g. the command and the concurrency.
        """
        self._record = record
        self._notes = notes
        self._woken = threading.Event()
        self._ending = threading.Event()
        self._abandoned = threading.Event()
        self._outcome: Outcome | None = None
        self._reason = ""
        self._error = ""
        self._sender = Sender(
            record,
            uri,
            experiment,
            notes=notes,
            extra=extra,
            may_go_on=lambda: not self._abandoned.is_set(),
        )
        self._sender.note_address()
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that the record has something new; returns at once."""
        self._woken.set()

    def finish(self, outcome: Outcome, reason: str = "", timeout_s: float = 30.0) -> Summary:
        """Send what is left, close all runs, and say how far that came.

        One last try, bounded by ``timeout_s``; a server that has not taken everything by then is left.

        Raises:
            Exception: What the record itself failed with.
        """
        self._outcome, self._reason = outcome, reason
        self._ending.set()
        self._woken.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._abandoned.set()
            self._error = self._error or f"the server was too slow: {timeout_s:g} s were over"
        return self._sender.summary(outcome, self._error)

    def _run(self) -> None:
        failures = 0
        while True:
            is_last = self._ending.is_set()
            started = time.monotonic()
            try:
                self._sender.send(self._outcome if is_last else None, self._reason)
            except Exception as error:  # noqa: BLE001 - tracking never ends a study
                if self._record_failed() or self._abandoned.is_set():
                    return
                failures += 1
                self._warn(error, is_first=failures == 1)
            else:
                if failures:
                    self._notes(
                        f"MLflow at {self._sender.address} answers again; nothing is missing"
                    )
                failures, self._error = 0, ""
            if is_last:
                return
            self._rest(failures, time.monotonic() - started)

    def _rest(self, failures: int, worked_s: float) -> None:
        if failures:
            self._ending.wait(min(INTERVAL_S * 2.0 ** (failures - 1), LONGEST_WAIT_S))
            return
        # As long as it worked, so that tracking takes half of a core at most.
        self._ending.wait(max(worked_s, SHORTEST_REST_S))
        self._woken.wait(INTERVAL_S)
        self._woken.clear()

    def _warn(self, error: Exception, *, is_first: bool) -> None:
        self._error = plain_message(error)
        if is_first:
            self._notes(
                f"MLflow at {self._sender.address} cannot be brought up to date ({self._error}). "
                "Training goes on; what is missing is in the record and is sent as soon as it answers."
            )

    def _record_failed(self) -> bool:
        try:
            self._record.check_held()  # now: a file is looked at now and then only
        except Exception:  # noqa: BLE001 - the tuning loop raises it
            return True
        return False
