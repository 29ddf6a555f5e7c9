"""A study while it runs: who trains next, what a result means, when a trial has ended.

No Ray here: an engine asks for assignments and brings back reports, marks and losses. Everything that
is decided goes into the record in the order it was decided, so that another driver can go on from it.
"""

import time
import uuid
from dataclasses import dataclass
from functools import partial

from tune_ddvae.config import to_flat, with_overrides
from tune_ddvae.errors import StorageAwayError, StorageFullError, UnfitNodeError
from tune_ddvae.spec import StudySpec
from tune_ddvae.tuning.record.record import Record
from tune_ddvae.tuning.running.troubles import Troubles
from tune_ddvae.tuning.search import halving, ranking, sampling
from tune_ddvae.tuning.storage.place import Place, Remover
from tune_ddvae.tuning.trials import (
    Assignment,
    Checkpoint,
    Decision,
    Report,
    Row,
    State,
    Trial,
)

NEWEST_KEPT = 2  # checkpoints kept of each trial, beside the best epoch's
NO_FAULT_OF_THE_TRIAL = frozenset(
    kind.__name__ for kind in (StorageFullError, StorageAwayError, UnfitNodeError)
)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """How a study is run; none of it makes the study another one."""

    storage: Place  # the study's own; checkpoint paths are relative to it
    seed: int  # of the study
    trials: int | None  # how many in all; None: as many as the hours allow
    data_dir: str | None = None
    num_cpus: float = 1.0  # a trial
    data_checksum: str = ""  # that every worker's data must have
    num_gpus: float = 0.0  # a trial
    code: str = ""  # digest that every worker's code must have; empty where it is the driver's
    mark: str = ""  # file in the storage that every worker must see; empty where it surely does
    stall_s: float = 600.0  # without any batch finished
    loss_limit: int = 3  # workers lost before a trial fails


class LiveStudy:
    """The study's logic around its record. One thread calls it; others may read ``trials``."""

    def __init__(self, spec: StudySpec, record: Record, conditions: Conditions) -> None:
        self.spec = spec
        self.record = record
        self.conditions = conditions
        self.trials: dict[int, Trial] = {trial.number: trial for trial in record.trials()}
        self.notes: list[str] = []  # for the person watching
        self._reopen_failed()
        self.carried_over = sum(t.state is not State.UNFINISHED for t in self.trials.values())
        self.troubles = Troubles()
        self.remover = Remover(self.notes.append)
        self._attempts: dict[str, int] = {}  # in flight: attempt -> number
        self._failures: dict[str, tuple[str, str]] = {}  # attempt -> (kind, message)
        self._saving: set[str] = set()  # attempts
        self._metric, self._direction = next(iter(spec.rank_by.items()))
        for trial in list(self.trials.values()):
            self._settle(trial)

    # -- what there is to do ------------------------------------------------------------------

    @property
    def in_flight(self) -> frozenset[int]:
        """Numbers of the trials that are being trained now."""
        return frozenset(self._attempts.values())

    @property
    def saving(self) -> frozenset[str]:
        """Attempts whose latest report has been taken, and its checkpoint not yet."""
        return frozenset(self._saving)

    @property
    def is_complete(self) -> bool:
        """Whether every trial that was asked for has ended."""
        wanted = self.conditions.trials
        return (
            wanted is not None
            and len(self.trials) >= wanted
            and all(t.state is not State.UNFINISHED for t in self.trials.values())
        )

    @property
    def failed_in_vain(self) -> list[Trial]:
        """Trials that failed where none ended otherwise: the next start takes them up again.

        Data that are gone and a GPU without memory fail every trial, and are no trial's fault; they
        may be mended by then. One that diverged would do so again.
        """
        ended = [t for t in self.trials.values() if t.state is not State.UNFINISHED]
        if any(trial.state is not State.FAILED for trial in ended):
            return []
        return [trial for trial in ended if not trial.reason.startswith("DivergedError: ")]

    def next_assignment(self) -> Assignment | None:
        """The next trial to train: unfinished ones first, in order of number; None if there is none."""
        self.record.flush()
        for trial in sorted(self.trials.values(), key=lambda t: t.number):
            if trial.state is State.UNFINISHED and trial.number not in self.in_flight:
                self._settle(trial)
                if trial.state is State.UNFINISHED:
                    return self._hand_out(trial)
        wanted = self.conditions.trials
        if wanted is None or len(self.trials) < wanted:
            return self._hand_out(self._new_trial())
        return None

    # -- what comes back ----------------------------------------------------------------------

    def take(self, attempt: str, report: Report) -> bool:
        """Record a worker's report; whether its trial goes on. Taking one twice changes nothing."""
        trial = self.trials[self._attempts[attempt]]
        self.notes += [note for note in report.notes if note not in self.notes]
        if report.error_kind:
            failure = (report.error_kind, report.error)
            if report.error_kind == StorageAwayError.__name__ and attempt not in self._failures:
                # Now, since saving nothing there may lose its worker; whatever the network said.
                self.troubles.failed(report.error_kind, str(self.conditions.storage))
            if report.error_kind == UnfitNodeError.__name__ and attempt not in self._failures:
                self.troubles.unfit(report.error)
                self.notes.append(f"trial {trial.number} was placed in vain: {report.error}")
            self._failures[attempt] = failure
            return False
        self._saving.add(attempt)
        self.troubles.fit(str(report.facts.get("host", "")))
        if report.facts and dict(report.facts) != dict(trial.facts):
            trial.facts = dict(report.facts)
            self.record.update_trial(trial)
        row = trial.rows.get(report.epoch)
        if row is None:
            row = Row(report.epoch, time.time(), dict(report.metrics), dict(report.absent))
            row = self._decided(trial, row)
            trial.rows[report.epoch] = row
            self.record.add_row(trial.number, row)
            self.troubles.came_on(trial.number)
        return row.decision is None or row.decision.goes_on

    def take_checkpoint(self, attempt: str, epoch: int, path: str) -> None:
        """Record a whole checkpoint (path relative to the storage); let go of those not kept."""
        trial = self.trials[self._attempts[attempt]]
        self._saving.discard(attempt)
        if attempt in self._failures or epoch not in trial.rows:
            return  # saved after an error was reported: it counts for nothing
        mark = Checkpoint(epoch, path)
        trial.checkpoints.append(mark)
        self.record.add_checkpoint(trial.number, mark)
        for old in self._dispensable(trial):
            trial.checkpoints.remove(old)
            gone = self.conditions.storage / old.path
            self.record.drop_checkpoint(old.path, partial(self.remover.remove, gone))

    def end_attempt(self, attempt: str) -> None:
        """The worker has ended on its own terms: tell what became of its trial."""
        trial, failure = self._let_go(attempt)
        if failure is not None:
            if failure[0] in NO_FAULT_OF_THE_TRIAL:
                self._settle(trial)  # it goes on once there is space, or elsewhere
                return
            self._fail(trial, failure)
        else:
            self._settle(trial)

    def lose_attempt(self, attempt: str, reason: str, *, counts: bool = True) -> None:
        """The worker is gone: its trial is handed out again, up to a limit of losses that count."""
        self.record.check_held()  # first: what ends the study is no loss of a trial's
        trial, failure = self._let_go(attempt)
        self._settle(trial)
        if trial.state is not State.UNFINISHED:
            kept = [mark.epoch for mark in trial.checkpoints]
            if trial.last_epoch not in kept:
                newest = f"its newest is of epoch {max(kept)}" if kept else "it has none"
                self.notes.append(
                    f"trial {trial.number} lost its worker ({reason}) before its last checkpoint was "
                    f"whole: its results stand, {newest}"
                )
            return
        if failure is not None:  # it had said why it ends, and was lost while it saved
            if failure[0] not in NO_FAULT_OF_THE_TRIAL:
                self._fail(trial, failure)
            return
        trial.losses += counts
        limit = self.conditions.loss_limit
        if not counts:
            self.troubles.cut_off(trial.number, reason)
        if trial.losses > limit:
            self.troubles.lost_too_often(reason)
            self._end(trial, State.FAILED, f"worker lost {trial.losses} times; last: {reason}")
        else:
            self.record.update_trial(trial)
            self.notes.append(
                f"trial {trial.number} lost its worker ({reason}); it goes on from its last "
                f"checkpoint (loss {trial.losses} of at most {limit})"
            )

    # -- inside -------------------------------------------------------------------------------

    def _reopen_failed(self) -> None:
        """Take up again what failed in vain; samplers leave failures out, so nothing was learned."""
        failed = self.failed_in_vain
        for trial in failed:
            trial.state, trial.reason, trial.ended, trial.losses = State.UNFINISHED, "", None, 0
            self.record.reopen_trial(trial)
        if failed:
            numbers = ", ".join(str(trial.number) for trial in failed)
            self.notes.append(f"no trial had succeeded: those that failed ({numbers}) go on")

    def _let_go(self, attempt: str) -> tuple[Trial, tuple[str, str] | None]:
        """The trial of an attempt that is over, and what it had failed with by then."""
        self._saving.discard(attempt)
        return self.trials[self._attempts.pop(attempt)], self._failures.pop(attempt, None)

    def _fail(self, trial: Trial, failure: tuple[str, str]) -> None:
        kind, message = failure
        if kind == "DivergedError":
            self.troubles.went_well()
        else:
            self.troubles.failed(kind, message)
        self._end(trial, State.FAILED, f"{kind}: {message}")

    def _hand_out(self, trial: Trial) -> Assignment:
        attempt = uuid.uuid4().hex[:12]
        self._attempts[attempt] = trial.number
        if trial.started is None:
            trial.started = time.time()
            self.record.update_trial(trial)
        # Never newer than the last recorded row: epochs without a row are trained again.
        intact = [mark for mark in trial.checkpoints if mark.epoch <= trial.last_epoch]
        newest_first = sorted(intact, key=lambda mark: mark.epoch, reverse=True)
        return Assignment(
            number=trial.number,
            attempt=attempt,
            config=trial.config,
            checkpoints=tuple(mark.path for mark in newest_first),
            storage=str(self.conditions.storage),
            data_dir=self.conditions.data_dir,
            num_cpus=self.conditions.num_cpus,
            stall_s=self.conditions.stall_s,
            rungs=self.spec.rungs,
            data_checksum=self.conditions.data_checksum if self._has_studys_data(trial) else "",
            num_gpus=self.conditions.num_gpus,
            code=self.conditions.code,
            mark=self.conditions.mark,
        )

    def _has_studys_data(self, trial: Trial) -> bool:
        """Whether it trains on the study's own data: a setting may ask for others, or fewer."""
        base = to_flat(self.spec.base)
        return all(trial.config[key] == base[key] for key in base if key.startswith("data/"))

    def _new_trial(self) -> Trial:
        number = len(self.trials)
        seed = sampling.trial_seed(self.conditions.seed, number)
        setting, replicate = self.spec.planned(number) or (None, None)
        if setting is None:
            overrides = sampling.propose(
                self.spec, self.conditions.seed, number, self.trials.values()
            )
        else:
            overrides = dict(self.spec.published[setting])
            seed = seed if replicate is None else replicate
        config = to_flat(with_overrides(self.spec.base, {**overrides, "training/seed": seed}))
        params = sampling.searched_params(self.spec, config)
        trial = Trial(number, config, params, setting, replicate)
        self.record.add_trial(trial)
        self.trials[number] = trial
        return trial

    def _decided(self, trial: Trial, row: Row) -> Row:
        """The row with the decision that its rung, if it is one, leads to."""
        if row.epoch not in self.spec.rungs:
            return row
        value = self._ranked(row)
        others = [t.rows[row.epoch] for t in self.trials.values() if row.epoch in t.rows]
        before = [r for r in others if r.decision is not None]
        earlier = tuple(self._ranked(r) for r in sorted(before, key=lambda r: r.time))
        factor = self.spec.size.reduction_factor
        reason = self._collapse_at_rung(trial, row)
        goes_on = not reason and halving.goes_on(value, earlier, factor)
        return Row(
            row.epoch,
            row.time,
            row.metrics,
            row.absent,
            Decision(goes_on, value, earlier, reason),
        )

    def _ranked(self, row: Row) -> float | None:
        value = row.metrics.get(self._metric)
        return None if value is None else ranking.larger_is_better(value, self._direction)

    def _collapse_at_rung(self, trial: Trial, row: Row) -> str:
        """Why the trial has collapsed: no active unit here and at the rung before, epoch 1 apart."""
        before = [rung for rung in self.spec.rungs if 1 < rung < row.epoch]
        if not before or not _is_inactive(row):
            return ""
        last = trial.rows.get(before[-1])
        if last is None or not _is_inactive(last):
            return ""
        return f"collapsed: no active unit at epochs {last.epoch} and {row.epoch}"

    def _settle(self, trial: Trial) -> None:
        """Decide what the recorded rows leave undecided, and tell the trial if it is due."""
        if trial.state is not State.UNFINISHED:
            return
        for epoch, row in sorted(trial.rows.items()):
            if epoch in self.spec.rungs and row.decision is None:
                trial.rows[epoch] = decided = self._decided(trial, row)
                self.record.settle_row(trial.number, decided)
        for _, row in sorted(trial.rows.items()):
            if row.decision is not None and not row.decision.goes_on:
                state = State.COLLAPSED if row.decision.reason else State.STOPPED
                self._end(trial, state, row.decision.reason or f"stopped at rung {row.epoch}")
                return
        last = trial.rows.get(self.spec.base.training.epochs)
        if last is not None:
            self._end_at_full_length(trial, last)

    def _end_at_full_length(self, trial: Trial, last: Row) -> None:
        missing = [metric for metric in self.spec.rank_by if metric not in last.metrics]
        if missing:
            why = last.absent.get(missing[0], "not measured")
            self._end(trial, State.COLLAPSED, f"{missing[0]} is absent at the last epoch: {why}")
        elif _is_inactive(last):
            self._end(trial, State.COLLAPSED, "collapsed: no active unit at the last epoch")
        else:
            trial.values = tuple(last.metrics[metric] for metric in self.spec.rank_by)
            self._end(trial, State.COMPLETE, "")

    def _end(self, trial: Trial, state: State, reason: str) -> None:
        trial.reason, trial.ended = reason, time.time()
        trial.state = state  # last: who watches from another thread sees an end with its reason
        if state is not State.FAILED:
            self.troubles.went_well()
        self.record.end_trial(trial)

    def _dispensable(self, trial: Trial) -> list[Checkpoint]:
        """Checkpoints that are neither among the newest nor of the best epoch."""
        by_epoch = {mark.epoch: mark for mark in trial.checkpoints}  # a repeated epoch's newest
        kept = sorted(by_epoch)[-NEWEST_KEPT:]
        scored = {
            epoch: value
            for epoch in by_epoch
            if epoch in trial.rows and (value := self._ranked(trial.rows[epoch])) is not None
        }
        if scored:
            kept.append(max(scored, key=lambda epoch: (scored[epoch], -epoch)))
        return [
            mark
            for mark in trial.checkpoints
            if by_epoch[mark.epoch] is not mark or mark.epoch not in kept
        ]


def _is_inactive(row: Row) -> bool:
    return row.metrics.get("latent/active_units") == 0
