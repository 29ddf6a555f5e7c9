"""One training in MLflow: a run of its own, found again by its tag, sent as it goes.

Training never depends on it, nor waits for it: a thread sends, and what a server does not take stays in
the training's folder, and is sent at one of the next steps or by the same command again. A point sent
twice is one point, since its time is its row's.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from tune_ddvae.config import TrialConfig, Value, to_flat
from tune_ddvae.training.folder import TrainedRow, TrainingFolder
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.running.worker import protocol_facts
from tune_ddvae.tuning.tracking import view
from tune_ddvae.tuning.tracking.check import absolute_uri
from tune_ddvae.tuning.tracking.client import Server, plain_message
from tune_ddvae.tuning.tracking.names import value_text
from tune_ddvae.tuning.trials import Row

EXPERIMENT = "train"
ROLE = "training"
ID_TAG = "tune_ddvae.training_id"
PATIENCE_S = 60.0  # between two tries where a server does not answer
END_S = 30.0  # that the end of training waits for what has not been sent


class TrackedTraining:
    """Sends one training to one address, and returns when that is done.

    Args:
        uri: Tracking address.
        name: Of the run.
        folder: The training's.
        config: Its configuration, which becomes the run's params and an artifact.
        about: What it runs with and came from, as tags.
        tell: Takes lines for the person watching.
        clock: Seconds; for tests.
    """

    def __init__(
        self,
        uri: str,
        name: str,
        folder: TrainingFolder,
        config: TrialConfig,
        about: Mapping[str, str],
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = without_password(uri)
        self.run_id = ""  # once there is one
        self._uri = absolute_uri(uri)
        self._name = name
        self._folder = folder
        self._config = config
        self._about = about
        self._tell = tell
        self._clock = clock
        self._server: Server | None = None
        self._sent: set[int] = set()  # epochs, over this connection
        self._not_before = 0.0
        self._is_failing = False

    def send(self) -> bool:
        """Send all rows that have not been sent; whether the server has everything now.

        A server that fails is let alone for a while, and only the first failure in a row is told.
        """
        if self._clock() < self._not_before:
            return False
        return self._try(self._send_rows)

    def end(self, status: str, state: str, reason: str = "") -> bool:
        """Send what is left and close the run; whether that has worked.

        Args:
            status: MLflow's word for it.
            state: Ours.
            reason: Why it ended, if not by being finished.
        """

        def close(server: Server) -> None:
            tags = {"state": state, "last_epoch": str(self._folder.last_epoch)}
            if reason:
                tags["reason"] = reason
            checkpoints = self._folder.checkpoints()
            if checkpoints:
                tags["last_checkpoint"] = checkpoints[0].name
            self._send_rows(server)
            server.log(self.run_id, tags=tags)
            server.set_status(self.run_id, status, time.time())

        return self._try(close)

    def abandon(self, waited_s: float) -> None:
        """Say that nobody waits any longer, where no failure has been told; nothing is told later."""
        if not self._is_failing:
            self._tell(
                f"MLflow at {self.address} does not take this training (it was too slow: {waited_s:g} s "
                "were over); its metrics are kept in its folder and sent by the same command"
            )
        self._tell = lambda _: None

    def _try(self, say: Callable[[Server], None]) -> bool:
        try:
            if self._server is None:
                self._server = self._connect()
            say(self._server)
        except Exception as error:  # noqa: BLE001 - told, and tried again
            self._server = None  # look again at what is there before going on
            self._sent.clear()
            self._not_before = self._clock() + PATIENCE_S
            if not self._is_failing:
                self._tell(
                    f"MLflow at {self.address} does not take this training ({plain_message(error)}); it "
                    "goes on, its metrics are kept in its folder and sent as soon as that works"
                )
            self._is_failing = True
            return False
        if self._is_failing:
            self._tell(f"MLflow at {self.address} has everything now")
        self._is_failing = False
        return True

    def _connect(self) -> Server:
        """Connect, and find the run again or make it."""
        server = Server(self._uri, EXPERIMENT)
        identity = {ID_TAG: self._folder.training_id, view.ROLE_TAG: ROLE}
        found = server.find(identity)
        self.run_id = found or server.create(self._name, identity, self._folder.started)
        flat = to_flat(self._config)
        tags = {**self._about, **identity, view.FOLDER_TAG: str(self._folder.path)}
        tags["state"] = "running"
        params = {key: value_text(value) for key, value in flat.items()}
        if found is not None:
            tags["reason"] = ""  # it goes on
        server.log(self.run_id, params=params, tags=tags)
        if found is not None:
            server.set_status(self.run_id, view.RUNNING, None)
        self._store(server, json.dumps(flat, indent=1))
        return server

    def _store(self, server: Server, text: str) -> None:
        """Keep the configuration as an artifact; metrics go on where that fails."""
        try:
            server.store(self.run_id, view.CONFIG_ARTIFACT, text)
        except Exception as error:
            if not server.holds(self.run_id):  # raises where it is the server itself that is gone
                raise
            self._tell(
                f"MLflow at {self.address} takes no artifacts ({plain_message(error)}); metrics, params "
                "and tags go on"
            )

    def _send_rows(self, server: Server) -> None:
        rows = self._folder.rows.copy()  # at once, since training adds some meanwhile
        unsent = [row for epoch, row in sorted(rows.items()) if epoch not in self._sent]
        if not unsent:
            return
        points: list[view.Point] = []
        tags: dict[str, str] = {}
        for trained in unsent:
            row = Row(trained.epoch, trained.time, trained.metrics, trained.absent)
            points += view.row_points(row)
            tags |= view.row_tags(row)
            tags |= {key: value_text(v) for key, v in protocol_facts(trained.facts).items()}
        server.log(self.run_id, points, tags=tags)
        self._sent |= {trained.epoch for trained in unsent}


class TrackingThread:
    """Sends a training in the background: a slow or dead server delays it by nothing.

    Args:
        tracked: What is sent; only this thread speaks to its server.
    """

    def __init__(self, tracked: TrackedTraining) -> None:
        self._tracked = tracked
        self._woken = threading.Event()
        self._ending: tuple[str, str, str] | None = None
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something to send; returns at once."""
        self._woken.set()

    def finish(
        self, status: str, state: str, reason: str = "", timeout_s: float | None = None
    ) -> None:
        """Send what is left and close the run, but wait no longer than ``timeout_s`` (30 s).

        Args:
            status: MLflow's word for it.
            state: Ours.
            reason: Why it ended, if not by being finished.
            timeout_s: Seconds.
        """
        wait_s = END_S if timeout_s is None else timeout_s
        self._ending = (status, state, reason)
        self._woken.set()
        self._thread.join(wait_s)
        if self._thread.is_alive():
            self._tracked.abandon(wait_s)

    def _run(self) -> None:
        while True:
            self._woken.wait()
            self._woken.clear()
            ending = self._ending
            if ending is not None:
                self._tracked.end(*ending)
                return
            self._tracked.send()


def tags_of(facts: Mapping[str, Value]) -> dict[str, str]:
    """What a training runs with and came from, under the names that trials have them in MLflow."""
    tags = {key: value_text(value) for key, value in facts.items() if value not in ("", None)}
    return {"version" if key == "tune_ddvae" else key: text for key, text in tags.items()}


def history_of(rows: Iterable[TrainedRow]) -> dict[str, dict[int, float]]:
    """Value by epoch for each metric, as a tracked run has it."""
    history: dict[str, dict[int, float]] = {}
    for row in rows:
        for metric, value in row.metrics.items():
            history.setdefault(metric, {})[row.epoch] = value
    return history


def rungs_of(tags: Mapping[str, str]) -> tuple[int, ...]:
    """The rungs that a tracked trial came to: expensive metrics may have been measured at them."""
    epochs = (key.removeprefix("rung/") for key in tags if key.startswith("rung/"))
    return tuple(sorted(int(epoch) for epoch in epochs if epoch.isdecimal()))
