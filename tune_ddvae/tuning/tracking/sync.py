"""Bring MLflow up to where the record is: only what lies beyond the marks is read and sent.

The record is the queue, so nothing is kept here that a crash could lose. A point's time is its row's
recorded time: sent twice, it is one point.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from tune_ddvae.config import Value
from tune_ddvae.errors import StudyLockedError, TrackingError
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.record.ledger import Ledger
from tune_ddvae.tuning.tracking import view
from tune_ddvae.tuning.tracking.backlog import (
    NO_ARTIFACT,
    STUDY,
    Backlog,
    Due,
    Mark,
    Summary,
)
from tune_ddvae.tuning.tracking.check import absolute_uri
from tune_ddvae.tuning.tracking.client import (
    METRICS_PER_BATCH,
    Server,
    is_gone,
    is_refusal,
    plain_message,
)
from tune_ddvae.tuning.tracking.inspection import (
    foreign_text,
    has_foreign_points,
    inspect,
    remove,
)
from tune_ddvae.tuning.tracking.view import Outcome
from tune_ddvae.tuning.trials import Row, Trial


class Sender:
    """Sends one study to one address and keeps the connection. One thread at a time uses it."""

    def __init__(
        self,
        record: Ledger,
        uri: str,
        experiment: str,
        *,
        notes: Callable[[str], None] = lambda _: None,
        extra: Mapping[str, Value] | None = None,
        may_go_on: Callable[[], bool] = lambda: True,
        restores: bool = False,  # runs that somebody deleted are made again, too
    ) -> None:
        self.address = without_password(uri)
        self.rows_sent = 0
        self.runs_sent: set[int] = set()  # numbers of the runs that were described or closed
        self._uri = absolute_uri(uri)
        self._experiment = experiment
        self._notes = notes
        self._may_go_on = may_go_on
        self._restores = restores
        self._backlog = Backlog(record, self._uri)
        self._server: Server | None = None
        self._refused: set[int] = set()  # trials that the server will not take, whatever we do
        self._artifacts_fail = False
        study = self._backlog.study
        self._study_tags = view.study_tags(study.name, study.identity, study.about, extra or {})
        self._rank_by = view.rank_by_of(study.identity)

    def note_address(self) -> None:
        """Let the record know of the address, before anything is there: ``sync`` looks for it."""
        self._backlog.note_address()

    def send(self, outcome: Outcome | None, reason: str = "") -> None:
        """Send what the record holds beyond the marks.

        Args:
            outcome: How the driver ended; None while it lives, and runs stay open.
            reason: Why it ended, for the study's run.

        Raises:
            Exception: What the server or the record failed with; what was taken until then is marked.
        """
        self._backlog.flush()  # else our own latest marks could not be read
        try:
            server = self._server = self._server or self._connect()
            parent = self._open_study(server, is_live=outcome is None)
            for due in self._backlog.due():
                if due.trial.number not in self._refused:
                    self._send_or_refuse(server, parent, due, outcome)
            if outcome is not None:
                self._close_study(server, parent, outcome, reason)
                self._put_right(server, outcome, reason)
        except Exception:
            self._server = None  # look again at what is there before going on
            raise

    def summary(self, outcome: Outcome | None, error: str = "") -> Summary:
        """How far the address has come, by the marks."""
        self._backlog.flush()
        marks = self._backlog.marks()
        study = marks.get(STUDY, Mark())
        shown = study.says.startswith(outcome or "running")
        runs = [
            due
            for due in self._backlog.due()
            if due.mark.says != view.trial_view(due.trial, outcome).mark
        ]
        return Summary(
            address=self.address,
            experiment=self._experiment,
            run_id=study.run_id,
            rows_left=self._backlog.num_rows(),
            runs_left=len(runs) + (not shown),
            artifacts_left=sum(mark.lacks_artifact for mark in marks.values()),
            error=error,
            rows_sent=self.rows_sent,
            runs_sent=len(self.runs_sent),
        )

    # -- the study's run ----------------------------------------------------------------------

    def _connect(self) -> Server:
        server = Server(self._uri, self._experiment, self._backlog.check_held)
        self._refuse_copy(server)
        marks = self._backlog.marks()
        study = marks.get(STUDY, Mark())
        if study.run_id and not server.holds(study.run_id):
            # Another database is behind the address now, or somebody deleted the run: start afresh.
            for number in marks:
                self._backlog.set_mark(number, Mark())
            self._backlog.flush()
        elif study.run_id:
            inspect(server, self._backlog, restores=self._restores, notes=self._note)
        return server

    def _refuse_copy(self, server: Server) -> None:
        """Leave a study alone that another record is shown by: the two would remove each other's runs.

        Raises:
            TrackingError: This record is a copy of one that lies where the study's run says.
        """
        if self._backlog.is_own:
            return
        for run in server.runs(view.study_identity(self._backlog.study.study_id)):
            folder = run.tags.get(view.FOLDER_TAG, "")
            if folder and self._backlog.lies_also_in(Path(folder)):
                raise TrackingError(
                    f"the study there must have one record, but it is that in {folder}, and this one in "
                    f"{self._backlog.study_folder()} is a copy: give this one another --tracking-uri, or "
                    "remove that one"
                )

    def _put_right(self, server: Server, outcome: Outcome, reason: str) -> None:
        """Look at what is there once all has been said, and mend what is not as it should be."""
        if not inspect(server, self._backlog, notes=self._note):
            return
        parent = self._open_study(server, is_live=False)
        for due in self._backlog.due():
            if due.trial.number not in self._refused:
                self._send_or_refuse(server, parent, due, outcome)
        self._close_study(server, parent, outcome, reason)

    def _open_study(self, server: Server, *, is_live: bool) -> str:
        """Id of the study's run: found or made, described, and running while the driver lives."""
        study, mark = self._backlog.study, self._backlog.study_mark()
        identity = view.study_identity(study.study_id)
        if not mark.run_id:
            found = server.find(identity)
            mark = Mark(found or self._made(server, study.name, identity, study.created))
            self._backlog.set_mark(STUDY, mark)
        shown = view.study_view(self._study_tags, None)
        if mark.status and (not is_live or mark.says == shown.mark):
            return mark.run_id
        is_stored = not mark.lacks_artifact
        if not mark.status or not is_stored:
            is_stored = self._store(server, mark.run_id, "study.json", study.identity)
        server.log(mark.run_id, params=view.study_params(study.identity), tags=shown.tags)
        server.set_status(mark.run_id, shown.status, None)
        self._backlog.set_mark(STUDY, _shown(mark, shown, is_stored))
        self.runs_sent.add(STUDY)
        return mark.run_id

    def _close_study(self, server: Server, run_id: str, outcome: Outcome, reason: str) -> None:
        """Show how the study ended and what came out of it."""
        self._backlog.flush()
        marks = self._backlog.marks()
        mark = marks.get(STUDY, Mark(run_id))
        run_ids = {number: mark.run_id for number, mark in marks.items()}
        tags, result = view.study_result(self._backlog.trials(), self._rank_by, run_ids)
        shown = view.study_view({**self._study_tags, **tags}, outcome, reason)
        if mark.says == shown.mark and (self._artifacts_fail or not mark.lacks_artifact):
            return
        files = {"result.json": result}
        if mark.lacks_artifact:
            files["study.json"] = dict(self._backlog.study.identity)
        is_stored = all(self._store(server, run_id, *file) for file in files.items())
        server.log(run_id, tags=shown.tags)
        server.set_status(run_id, shown.status, self._backlog.last_moment())
        self._backlog.set_mark(STUDY, _shown(mark, shown, is_stored))
        self.runs_sent.add(STUDY)

    # -- trials' runs -------------------------------------------------------------------------

    def _send_or_refuse(
        self, server: Server, parent: str, due: Due, outcome: Outcome | None
    ) -> None:
        """Send one trial; one that the server refuses does not keep the others waiting."""
        try:
            try:
                self._send_trial(server, parent, due, outcome)
            except Exception as error:
                known = due.mark.run_id
                if not (is_gone(error) or is_refusal(error)) or not known or server.holds(known):
                    raise
                # Somebody deleted the run: what is new is shown, from its beginning.
                self._send_trial(server, parent, Due(due.trial, Mark(), due.last_epoch), outcome)
        except Exception as error:
            if not is_refusal(error):
                raise
            self._refused.add(due.trial.number)
            self._notes(
                f"MLflow at {self.address} refuses trial {due.trial.number}, which is left out there: "
                f"{plain_message(error)}"
            )

    def _send_trial(self, server: Server, parent: str, due: Due, outcome: Outcome | None) -> None:
        trial, mark = due.trial, due.mark
        shown = view.trial_view(trial, outcome)
        is_new = not mark.status
        needs_artifact = is_new or (mark.lacks_artifact and not self._artifacts_fail)
        changes = mark.says != shown.mark
        if not (changes or needs_artifact or due.last_epoch > mark.epoch):
            return
        self._check_time()
        identity = view.trial_identity(self._backlog.study.study_id, trial.number)
        found = mark.run_id or self._found(server, trial.number, identity)
        tags = {**identity, view.PARENT_TAG: parent} if is_new else {}
        if is_new and found:
            tags["reason"] = ""  # of an end that it may have been taken up again after
        if not mark.run_id:
            started = trial.started or time.time()
            made = found or self._made(server, view.trial_name(trial), identity, started, tags)
            mark = Mark(made)
            self._backlog.set_mark(trial.number, mark)
        if changes and not shown.is_end:
            tags |= shown.tags
        if tags:
            server.log(mark.run_id, params=view.trial_params(trial) if is_new else {}, tags=tags)
        trial.rows = self._backlog.rows(trial.number, 0 if shown.is_end else mark.epoch)
        mark = self._send_rows(server, trial, mark)
        if changes and shown.is_end:
            self._end_trial(server, mark.run_id, trial, shown)
        elif changes and found:
            server.set_status(mark.run_id, shown.status, None)
        is_stored = not mark.lacks_artifact
        if needs_artifact:
            is_stored = self._store(server, mark.run_id, view.CONFIG_ARTIFACT, trial.config)
        if changes or needs_artifact:
            self._backlog.set_mark(trial.number, _shown(mark, shown, is_stored))
            self.runs_sent.add(trial.number)

    def _found(self, server: Server, number: int, identity: Mapping[str, str]) -> str | None:
        """The trial's run, if there is one without a mark; those with a copy's points are removed."""
        for run in server.runs(identity):
            if not self._backlog.is_own:  # nothing is removed from under a copy on another machine
                return run.run_id
            if not has_foreign_points(server, self._backlog, number, run):
                return run.run_id
            remove(server, self._backlog, run.run_id)
            self._note(foreign_text([number]))
        return None

    def _send_rows(self, server: Server, trial: Trial, mark: Mark) -> Mark:
        """Send the rows beyond the mark, which moves with every portion that was taken."""
        unsent = [row for epoch, row in sorted(trial.rows.items()) if epoch > mark.epoch]
        for portion in batches(unsent, METRICS_PER_BATCH):
            self._check_time()
            points = [point for row in portion for point in view.row_points(row)]
            tags: dict[str, str] = {}
            for row in portion:
                tags |= view.row_tags(row)
            server.log(mark.run_id, points, tags=tags)
            mark = Mark(mark.run_id, portion[-1].epoch, mark.status)
            self._backlog.set_mark(trial.number, mark)
            self.rows_sent += len(portion)
        return mark

    def _end_trial(self, server: Server, run_id: str, trial: Trial, shown: view.View) -> None:
        trial.checkpoints = self._backlog.checkpoints(trial.number)
        tags, points = view.trial_ending(trial, *next(iter(self._rank_by.items())))
        server.log(run_id, points, tags={**tags, **shown.tags})
        server.set_status(run_id, shown.status, view.last_moment(trial) or time.time())

    # -- inside -------------------------------------------------------------------------------

    def _made(
        self,
        server: Server,
        name: str,
        identity: Mapping[str, str],
        started: float,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """A new run, and the only one of its identity.

        Another may have been made while ours was: by a driver that goes on in our place because we
        were frozen, or by a request of our own that was believed lost. Who holds the record keeps his.
        """
        made = server.create(name, {**identity, **(tags or {})}, started)
        others = [run.run_id for run in server.runs(identity) if run.run_id != made]
        if others:
            try:
                self._backlog.check_held()
            except StudyLockedError:
                server.delete(made)
                raise
            for other in others:
                server.delete(other)
        self._backlog.check_held()  # else the other driver has found ours
        return made

    def _store(self, server: Server, run_id: str, name: str, facts: Mapping[str, object]) -> bool:
        """Store an artifact; where that fails metrics go on all the same, and it is said once."""
        if self._artifacts_fail:
            return False
        try:
            server.store(run_id, name, without_password(json.dumps(dict(facts), indent=1)))
        except Exception as error:  # noqa: BLE001 - a bucket has errors of any kind
            server.holds(run_id)  # raises where it is the server itself that is gone
            self._artifacts_fail = True
            self._notes(
                f"MLflow at {self.address} takes no artifacts ({plain_message(error)}); metrics, params "
                f"and tags go on, {name} and the like are sent at the next start"
            )
            return False
        return True

    def _note(self, what: str) -> None:
        self._notes(f"MLflow at {self.address}: {what}")

    def _check_time(self) -> None:
        if not self._may_go_on():
            raise TrackingError("the time for sending was over")


def sync(
    record: Ledger,
    uri: str,
    experiment: str,
    *,
    outcome: Outcome | None,
    reason: str = "",
    notes: Callable[[str], None] = lambda _: None,
    restores: bool = False,
) -> Summary:
    """Bring MLflow up to where the record is, once; what goes wrong there is in the summary.

    Args:
        record: The study's record, open.
        uri: Tracking address.
        experiment: MLflow's experiment, one per study file.
        outcome: How the study stands; None only while a driver trains it, and runs stay open.
        reason: Why the study ended, for its run.
        notes: Takes lines for the person watching.
        restores: Whether runs that somebody deleted in MLflow are made again.

    Raises:
        Exception: What the record itself failed with.
    """
    # The record knows the first start's command; a run that was described before shows the latest.
    backlog = Backlog(record, absolute_uri(uri))
    extra: dict[str, Value] = {"command": ""} if backlog.study_mark().status else {}
    folder = backlog.study_folder()
    if folder is not None:  # its storage may have been moved or copied since a driver told of it
        extra[view.FOLDER_TAG] = str(folder)
    sender = Sender(record, uri, experiment, notes=notes, extra=extra, restores=restores)
    error = ""
    try:
        sender.send(outcome, reason)
    except Exception as failure:  # noqa: BLE001 - told in the summary
        record.check()
        error = plain_message(failure)
    return sender.summary(outcome, error)


def batches(rows: Iterable[Row], limit: int) -> Iterator[list[Row]]:
    """Rows in portions of at most ``limit`` metrics; a row is never split."""
    portion: list[Row] = []
    size = 0
    for row in rows:
        if portion and size + len(row.metrics) > limit:
            yield portion
            portion, size = [], 0
        portion.append(row)
        size += len(row.metrics)
    if portion:
        yield portion


def _shown(mark: Mark, shown: view.View, is_stored: bool) -> Mark:
    return Mark(mark.run_id, mark.epoch, shown.mark + ("" if is_stored else NO_ARTIFACT))
