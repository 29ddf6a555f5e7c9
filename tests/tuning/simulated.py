"""A study without Ray and without training: every number follows from (config, epoch).

A driver can be killed between any two things that it does: what its queue still holds is then lost,
and another driver opens the same record.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from optuna.distributions import FloatDistribution

from tune_ddvae.config import (
    DataConfig,
    ModelConfig,
    PriorConfig,
    TrainingConfig,
    TrialConfig,
    to_flat,
)
from tune_ddvae.spec import Choice, StudySize, StudySpec
from tune_ddvae.tuning.record.opening import open_record, record_url
from tune_ddvae.tuning.record.record import Record
from tune_ddvae.tuning.running.live import Conditions, LiveStudy
from tune_ddvae.tuning.trials import Assignment, Report, Trial


class Killed(BaseException):
    """The driver is gone."""


def make_spec(
    *, epochs: int = 27, first_rung: int | None = 1, startup_trials: int = 5, **changes
) -> StudySpec:
    size = StudySize(trials=15, first_rung=first_rung, startup_trials=startup_trials)
    facts = {
        "rank_by": {"sparsity/hoyer": "max", "log_likelihood/iwae": "max"},
        "base": TrialConfig(
            data=DataConfig(name="digits", num_validation=250),
            model=ModelConfig(latent_dim=8),
            prior=PriorConfig(kind="normal"),
            training=TrainingConfig(epochs=epochs, batch_size=100),
        ),
        "space": {
            "objective/beta": FloatDistribution(0.1, 5.0, log=True),
            "prior/kind": Choice(
                {
                    "normal": {},
                    "sparse": {"prior/gamma": FloatDistribution(0.5, 0.95)},
                }
            ),
        },
        "size": size,
        "quick": size,
        "published": {"plain": {"objective/beta": 1.0}, "outside": {"objective/beta": 0.0}},
        "first": ("plain", "outside"),
    }
    return StudySpec(**{**facts, **changes})


def metrics_at(config: dict, epoch: int) -> dict[str, float]:
    """Smooth in beta, with noise that follows from the configuration."""
    text = json.dumps([sorted(config.items()), epoch], default=str)
    noise = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32
    beta = config["objective/beta"]
    return {
        "sparsity/hoyer": 0.2 + 0.1 * beta * epoch / (epoch + 3) + 0.02 * noise,
        "log_likelihood/iwae": -10.0 * beta - 30.0 / epoch + noise,
        "latent/active_units": 8.0,
        "training/seconds": 1.0,
    }


def open_study(
    folder: Path,
    spec: StudySpec,
    *,
    trials: int = 15,
    seed: int = 0,
    name: str = "simulated",
    url: str | None = None,
) -> LiveStudy:
    identity = {**spec.identity(), "seed": seed}
    record = open_record(url or record_url(folder), name, spec, identity, {})
    return LiveStudy(spec, record, Conditions(storage=folder, seed=seed, trials=trials))


def drive(study: LiveStudy, measure: Callable[[dict, int], dict[str, float]] = metrics_at) -> None:
    """Train trials one after the other until there is nothing left to do."""
    while (assignment := study.next_assignment()) is not None:
        train(study, assignment, measure)


def train(study: LiveStudy, assignment: Assignment, measure=metrics_at) -> None:
    last = study.spec.base.training.epochs
    epoch = 0
    for path in assignment.checkpoints:
        folder = Path(assignment.storage) / path
        if folder.is_dir():
            epoch = int((folder / "epoch").read_text())
            break
    goes_on = True
    while goes_on and epoch < last:
        epoch += 1
        metrics = measure(dict(assignment.config), epoch)
        report = Report(epoch, metrics, is_last=epoch == last)
        goes_on = study.take(assignment.attempt, report)
        path = f"trials/{assignment.number:05d}-{assignment.attempt}/checkpoint_{epoch}"
        folder = Path(assignment.storage) / path
        folder.mkdir(parents=True)
        (folder / "epoch").write_text(str(epoch))
        study.take_checkpoint(assignment.attempt, epoch, path)
    study.end_attempt(assignment.attempt)


def kill_after(record: Record, steps: int) -> None:
    """Let this driver do so many more things with its record, then kill it in the next."""
    left = [steps]

    def counted(method):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                record._writer._engine = None  # the writer dies with what its queue still holds
                raise Killed
            return method(*args, **kwargs)

        return call

    for owner, names in (
        (record._writer, ("put", "flush")),
        (record, ("_mirror_trial", "_mirror_end")),
        (record._storage, ("create_new_trial", "set_trial_state_values")),
    ):
        for name in names:
            setattr(owner, name, counted(getattr(owner, name)))


def outcome(trials: dict[int, Trial]) -> list:
    """What an undisturbed and a killed study must have in common: all but times and places."""
    return [
        (
            trial.number,
            dict(trial.config),
            trial.params,
            trial.setting,
            trial.state,
            trial.reason,
            trial.values,
            [(epoch, dict(row.metrics), row.decision) for epoch, row in sorted(trial.rows.items())],
        )
        for _, trial in sorted(trials.items())
    ]


def flat_base() -> dict:
    return to_flat(make_spec().base)
