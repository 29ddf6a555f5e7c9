"""The study's durable memory: Optuna's tables for its tools, and ours for the whole truth.

Our tables are written first and are what a study is continued from; Optuna's mirror them (params,
states, values), so that optuna-dashboard opens the same database. A driver killed between the two
leaves a mirror that lags, which opening it again brings up to date. The database is an SQLite file in
the study's folder, or one on a PostgreSQL server, which may hold many studies.
"""

import json
import os
import socket
import time
from collections.abc import Callable

from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import (
    Engine,
    Update,
    delete,
    select,
    text,
    update,
)

from tune_ddvae.spec import StudySpec
from tune_ddvae.tuning.record.lease import Lease
from tune_ddvae.tuning.record.ledger import Ledger
from tune_ddvae.tuning.record.postgresql import patiently
from tune_ddvae.tuning.record.tables import (
    ASKED,
    CHECKPOINTS,
    ROWS,
    SENT,
    SESSIONS,
    TRIALS,
    decision_json,
    insert_new,
    row_from,
    trial_from,
    undamaged,
)
from tune_ddvae.tuning.search import sampling
from tune_ddvae.tuning.trials import Checkpoint, Row, State, Trial

# Optuna has no word for it: to its storage what has ended stays so.
_AGAIN = text(
    "UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE trial_id = :trial_id"
)


class Record(Ledger):
    """One study's record, open for one driver. All writes go through its ordered queue."""

    def __init__(
        self,
        storage: RDBStorage,
        study_id: str,
        optuna_study_id: int,
        spec: StudySpec,
        lease: Lease | None = None,  # of a record on a server
    ) -> None:
        super().__init__(storage.engine, study_id, lease)
        self._storage = storage
        self._optuna_study_id = optuna_study_id
        self._optuna_ids: dict[int, int] = {}
        self._spec = spec

    # -- reading ------------------------------------------------------------------------------

    def trials(self) -> list[Trial]:
        """Every trial with its rows and checkpoints, in order of number."""
        return patiently(lambda: read_trials(self.engine, self.study_id))

    def used_hours(self) -> float:
        """Hours that earlier drivers spent on this study."""
        query = select(SESSIONS.c.started, SESSIONS.c.seen).where(
            SESSIONS.c.study_id == self.study_id, SESSIONS.c.token != self.token
        )
        return float(sum(row.seen - row.started for row in self.read(query))) / 3600

    def checkpoint_paths(self) -> set[str]:
        """Paths of all checkpoints that the database names, whichever study's they are."""
        return {str(row.path) for row in self.read(select(CHECKPOINTS.c.path))}

    # -- writing ------------------------------------------------------------------------------

    def begin_session(self, trials: int | None = None, command: str = "", folder: str = "") -> None:
        """Note that this driver has started, and what it was asked for.

        Args:
            trials: How many in all; None: as many as the hours allow.
            command: That starts or continues the study, without passwords.
            folder: Where it was typed.
        """
        now = time.time()
        self._writer.put(
            insert_new(self.engine, ASKED),
            {
                "study_id": self.study_id,
                "token": self.token,
                "trials": trials,
                "command": command,
                "folder": folder,
            },
        )
        self._writer.put(
            insert_new(self.engine, SESSIONS),
            {
                "study_id": self.study_id,
                "token": self.token,
                "started": now,
                "seen": now,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "ended_as": "",
            },
        )

    def seen(self, ended_as: str = "") -> None:
        """Note that this driver is alive, or how it ended."""
        self._writer.put(
            update(SESSIONS)
            .where(SESSIONS.c.study_id == self.study_id, SESSIONS.c.token == self.token)
            .values(seen=time.time(), ended_as=_storable(ended_as))
        )

    def add_trial(self, trial: Trial) -> None:
        """Make a trial durable, in our table first and then in Optuna's, before anyone trains it."""
        self._writer.put(
            insert_new(self.engine, TRIALS),
            {
                "study_id": self.study_id,
                "number": trial.number,
                "config": json.dumps(dict(trial.config)),
                "params": None if trial.params is None else json.dumps(dict(trial.params)),
                "setting": trial.setting,
                "replicate": trial.replicate,
                "state": trial.state,
                "reason": _storable(trial.reason),
                "losses": trial.losses,
                "started": trial.started,
                "facts": json.dumps(dict(trial.facts)),
            },
        )
        self._writer.flush()
        self._mirror_trial(trial)

    def add_row(self, number: int, row: Row) -> None:
        """Queue one evaluation and the decision it led to, as one entry; the first of an epoch stays."""
        self._writer.put(
            insert_new(self.engine, ROWS),
            {
                "study_id": self.study_id,
                "number": number,
                "epoch": row.epoch,
                "time": row.time,
                "metrics": json.dumps(dict(row.metrics)),
                "absent": json.dumps(dict(row.absent)),
                "decision": decision_json(row.decision),
            },
        )

    def settle_row(self, number: int, row: Row) -> None:
        """Queue the decision of a row that was recorded without one."""
        self._writer.put(
            update(ROWS)
            .where(
                ROWS.c.study_id == self.study_id,
                ROWS.c.number == number,
                ROWS.c.epoch == row.epoch,
            )
            .values(decision=decision_json(row.decision))
        )

    def add_checkpoint(self, number: int, mark: Checkpoint) -> None:
        """Queue the mark of a whole checkpoint."""
        self._writer.put(
            insert_new(self.engine, CHECKPOINTS),
            {"study_id": self.study_id, "number": number, "epoch": mark.epoch, "path": mark.path},
        )

    def drop_checkpoint(self, path: str, after: Callable[[], None]) -> None:
        """Queue the end of a mark; the files may go once it is durable."""
        self._writer.put(
            delete(CHECKPOINTS).where(
                CHECKPOINTS.c.study_id == self.study_id, CHECKPOINTS.c.path == path
            ),
            after=after,
        )

    def update_trial(self, trial: Trial) -> None:
        """Queue a trial's losses, facts and start."""
        self._writer.put(
            self._update(trial).values(
                losses=trial.losses, facts=json.dumps(dict(trial.facts)), started=trial.started
            )
        )

    def end_trial(self, trial: Trial) -> None:
        """Make a trial's end durable, after every row that it rests on, and tell Optuna."""
        self._put_state(trial)
        self._writer.flush()
        self._mirror_end(trial)

    def reopen_trial(self, trial: Trial) -> None:
        """Make it durable that a failed trial is trained again, and have it shown so everywhere."""
        self._put_state(trial)
        shown = (SENT.c.study_id == self.study_id) & (SENT.c.number == trial.number)
        self._writer.put(update(SENT).where(shown).values(status=""))  # its runs say that it failed
        self._writer.flush()
        self._mirror_again(trial)

    def _put_state(self, trial: Trial) -> None:
        self._writer.put(
            self._update(trial).values(
                state=trial.state,
                reason=_storable(trial.reason),
                ended=trial.ended,
                losses=trial.losses,
                rank_values=None if trial.values is None else json.dumps(trial.values),
            )
        )

    # -- Optuna's tables ----------------------------------------------------------------------

    def catch_up_mirror(self, trials: list[Trial]) -> None:
        """Bring Optuna's tables to where ours are."""
        states = {trial.number: trial.state for trial in patiently(self._read_mirror)}
        for trial in trials:
            if trial.number not in self._optuna_ids:
                self._mirror_trial(trial)
            state = states.get(trial.number, TrialState.RUNNING)
            if trial.state is not State.UNFINISHED and state is TrialState.RUNNING:
                self._mirror_end(trial)
            elif trial.state is State.UNFINISHED and state is not TrialState.RUNNING:
                self._mirror_again(trial)

    def _read_mirror(self) -> list[FrozenTrial]:
        mirrored = self._storage.get_all_trials(self._optuna_study_id, deepcopy=False)
        self._optuna_ids = {trial.number: trial._trial_id for trial in mirrored}  # noqa: SLF001
        return mirrored

    def _mirror_trial(self, trial: Trial) -> None:
        running = Trial(trial.number, trial.config, trial.params)
        template = sampling.frozen_trial(self._spec, running)
        if trial.setting is not None:
            template.set_user_attr("setting", trial.setting)

        def create() -> None:
            self._optuna_ids[trial.number] = self._storage.create_new_trial(
                self._optuna_study_id, template_trial=template
            )

        def create_unless_there() -> None:  # only the answer may have been lost
            self._read_mirror()
            if trial.number not in self._optuna_ids:
                create()

        patiently(create, create_unless_there, give_up=self.check)

    def _mirror_end(self, trial: Trial) -> None:
        optuna_id = self._optuna_ids[trial.number]
        frozen = sampling.frozen_trial(self._spec, trial, sampling.constraints_of(trial) or None)

        def tell() -> None:
            for key, value in frozen.system_attrs.items():
                self._storage.set_trial_system_attr(optuna_id, key, value)
            self._storage.set_trial_state_values(optuna_id, frozen.state, frozen.values)

        def tell_unless_told() -> None:
            if not self._storage.get_trial(optuna_id).state.is_finished():
                tell()

        patiently(tell, tell_unless_told, give_up=self.check)

    def _mirror_again(self, trial: Trial) -> None:
        def tell() -> None:
            with self.engine.begin() as connection:
                connection.execute(_AGAIN, {"trial_id": self._optuna_ids[trial.number]})

        patiently(tell, give_up=self.check)

    def _update(self, trial: Trial) -> Update:
        return update(TRIALS).where(
            TRIALS.c.study_id == self.study_id, TRIALS.c.number == trial.number
        )


def read_trials(engine: Engine, study_id: str) -> list[Trial]:
    """Every trial of a study with its rows and checkpoints, in order of number.

    Raises:
        RecordError: Something stored is damaged; names the record, the trial and what to do.
    """
    trials: dict[int, Trial] = {}
    with engine.connect() as connection:
        for row in connection.execute(
            select(TRIALS).where(TRIALS.c.study_id == study_id).order_by(TRIALS.c.number)
        ):
            with undamaged(engine, TRIALS, f"trial {row.number}"):
                trials[row.number] = trial_from(row)
        for row in connection.execute(
            select(ROWS).where(ROWS.c.study_id == study_id).order_by(ROWS.c.number, ROWS.c.epoch)
        ):
            with undamaged(engine, ROWS, f"trial {row.number}, epoch {row.epoch}"):
                trials[row.number].rows[row.epoch] = row_from(row)
        for row in connection.execute(
            select(CHECKPOINTS)
            .where(CHECKPOINTS.c.study_id == study_id)
            .order_by(CHECKPOINTS.c.epoch)
        ):
            with undamaged(engine, CHECKPOINTS, f"trial {row.number}, {row.path}"):
                trials[row.number].checkpoints.append(Checkpoint(row.epoch, row.path))
    return list(trials.values())


def _storable(text: str) -> str:
    """The text without what databases refuse: NUL, and half of a surrogate pair."""
    return text.replace("\0", "?").encode("utf-8", "replace").decode("utf-8")
