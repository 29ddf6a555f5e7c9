"""What has happened to a study since one last asked: starts, ends, notes, new best trials."""

from collections.abc import Iterator, Sequence

from tune_ddvae.spec import StudySpec
from tune_ddvae.tuning.running.live import LiveStudy
from tune_ddvae.tuning.search import ranking
from tune_ddvae.tuning.trials import State, Trial
from tune_ddvae.tuning.wording import measured_text, params_text, plural


class Best:
    """The Pareto set so far; a trial is compared with it once, when it is complete."""

    def __init__(self, spec: StudySpec) -> None:
        self._rank_by = spec.rank_by
        self._seen: set[int] = set()
        self._front: list[Trial] = []

    def take(self, trials: Sequence[Trial]) -> list[Trial]:
        """The set after these trials, best in the first metric first."""
        new = [t for t in trials if t.state is State.COMPLETE and t.number not in self._seen]
        if new:
            self._seen.update(trial.number for trial in new)
            self._front = ranking.pareto_set([*self._front, *new], self._rank_by)
        return self._front


class News:
    """Tells each thing that happens to a study once."""

    def __init__(self, study: LiveStudy, best: Best) -> None:
        self._study = study
        self._best = best
        self._num_notes = 0
        self._training: set[int] = set()
        self._ended = {n for n, t in study.trials.items() if t.state is not State.UNFINISHED}
        self._epochs_before = {n: t.last_epoch for n, t in study.trials.items()}

    def lines(self, *, brief: bool) -> Iterator[str]:
        """What has happened since the last call; brief: only what a table does not show."""
        trials = list(self._study.trials.values())
        in_flight = self._study.in_flight
        for trial in trials:
            if trial.number in self._ended:
                continue
            has_ended = trial.state is not State.UNFINISHED
            is_new = trial.number not in self._training
            if is_new and (has_ended or trial.number in in_flight):
                self._training.add(trial.number)
                if not brief:
                    yield self._started(trial)
            if has_ended:
                self._ended.add(trial.number)
                if not brief or trial.state is State.FAILED:
                    yield self._end(trial, self._best.take(trials))
        notes = self._study.notes[self._num_notes :]
        self._num_notes += len(notes)
        yield from (f"note: {note}" for note in notes)

    def _started(self, trial: Trial) -> str:
        params = params_text(self._study.spec, trial.config)
        name = ": ".join(filter(None, (trial.label, params)))
        epoch = self._epochs_before.get(trial.number, 0)
        how = f"goes on after epoch {epoch}" if epoch else "started"
        return f"trial {trial.number} {how}: {name}"

    def _end(self, trial: Trial, best: Sequence[Trial]) -> str:
        spec = self._study.spec
        epochs = f"{trial.last_epoch} {plural('epoch', trial.last_epoch)}"
        text = f"trial {trial.number} {trial.state} after {epochs}"
        values = measured_text(spec, trial.latest_row)
        if values:
            text += f": {values}"
        if trial.state in (State.FAILED, State.COLLAPSED):
            text += f"; {' '.join(trial.reason.split())}"
        if any(trial.number == other.number for other in best):
            text += " (best so far)" if len(spec.rank_by) == 1 else " (in the Pareto set so far)"
        return text
