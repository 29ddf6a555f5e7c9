"""What a study would do and what it would take, before anything is created."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, distribution_to_json

from tune_ddvae.config import TrialConfig, to_flat
from tune_ddvae.spec import Choice, Space, StudySpec
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.cluster.resources import Slots
from tune_ddvae.tuning.planning.forecast import expected_epochs
from tune_ddvae.tuning.storage.place import Place
from tune_ddvae.tuning.wording import first_line, measured_on

CHECKPOINTS_KEPT = 3  # of each trial: the two newest and the best epoch's
BYTES_PER_FLOAT = 4
CHECKPOINT_BYTES = 40_000  # beside its numbers: names, generators, configuration
START_UP_S = 10.0  # of Ray and its first workers


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One start of a study, decided in every detail."""

    name: str
    study_file: str
    doc: str  # of the study file; its first line is shown
    spec: StudySpec  # at its size, with its pins
    trials: int | None  # in all; None: as many as the hours allow
    hours: float | None = None  # budget, over all starts
    seed: int = 0  # of the study
    num_recorded: int = 0  # trials that the record already holds
    slots: Slots
    data_place: str  # where the data was found, or will come from
    folder: Place  # of the study, absolute
    record: str  # address
    tracking: str  # address
    free_bytes: int | None  # where the folder lies; None for a bucket, which has no end
    num_parameters: int  # of the largest model in the search space
    seconds_per_epoch: float | None = None  # of one trial, evaluation included; None: unknown

    @property
    def epochs(self) -> int:
        """Epochs of a trial that nobody stops."""
        return self.spec.base.training.epochs

    @property
    def disk_bytes(self) -> int | None:
        """Most that the checkpoints take; None without a number of trials."""
        if self.trials is None:
            return None
        checkpoint = checkpoint_bytes(self.spec.base, self.num_parameters)
        return self.trials * CHECKPOINTS_KEPT * checkpoint

    @property
    def num_new(self) -> int | None:
        """Trials that are still to be begun; None without a number of trials."""
        return None if self.trials is None else max(self.trials - self.num_recorded, 0)

    @property
    def expected_epochs(self) -> float | None:
        """Epochs that the new trials train together; None without a number of trials.

        What halving lets through of them depends on how many have reached the rungs before.
        """
        if self.num_new is None:
            return None
        before = expected_epochs(self.spec, self.num_recorded)
        return expected_epochs(self.spec, self.num_recorded + self.num_new) - before

    @property
    def seconds(self) -> float | None:
        """Rough time from the command's start to the last new trial's end; None where unknown."""
        epochs, num_new = self.expected_epochs, self.num_new
        if epochs is None or num_new is None or self.seconds_per_epoch is None:
            return None
        if num_new == 0:
            return START_UP_S
        one_trial = self.epochs * self.seconds_per_epoch  # nothing is quicker than its longest
        together = epochs * self.seconds_per_epoch / min(self.slots.concurrent, num_new)
        return START_UP_S + max(together, one_trial)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data; every value unrounded."""
        return {
            "name": self.name,
            "study_file": self.study_file,
            "doc": first_line(self.doc),
            "rank_by": dict(self.spec.rank_by),
            "measured_on": measured_on(self.spec.base),
            "base": to_flat(self.spec.base),
            "space": {
                row.key: {**json.loads(distribution_to_json(row.dist)), "under": dict(row.under)}
                for row in space_rows(self.spec.space)
            },
            "first": {name: dict(self.spec.published[name]) for name in self.spec.first},
            "trials": self.trials,
            "hours": self.hours,
            "num_recorded": self.num_recorded,
            "epochs": self.epochs,
            "rungs": list(self.spec.rungs),
            "reduction_factor": self.spec.size.reduction_factor,
            "sampler": self.spec.sampler,
            "startup_trials": self.spec.size.startup_trials,
            "seed": self.seed,
            "slots": dataclasses.asdict(self.slots),
            "data": self.data_place,
            "folder": str(self.folder),
            "record": without_password(self.record),
            "tracking": without_password(self.tracking),
            "free_bytes": self.free_bytes,
            "disk_bytes": self.disk_bytes,
            "num_parameters": self.num_parameters,
            "expected_epochs": self.expected_epochs,
            "seconds_per_epoch": self.seconds_per_epoch,
            "seconds": self.seconds,
        }


def checkpoint_bytes(config: TrialConfig, num_parameters: int) -> int:
    """Bytes of a checkpoint: a weight and Adam's two moments a parameter, three with AMSGrad."""
    floats = 4 if config.optimiser.amsgrad else 3
    return CHECKPOINT_BYTES + floats * BYTES_PER_FLOAT * num_parameters


@dataclass(frozen=True)
class SpaceRow:
    """What may vary under one key."""

    key: str
    dist: BaseDistribution
    under: Mapping[str, tuple[str, ...]]  # choice -> options that the key has a meaning under


def space_rows(space: Space) -> list[SpaceRow]:
    """Every key of a search space once, each choice before what it makes meaningful."""
    rows: dict[str, SpaceRow] = {}
    for key, dist in space.items():
        if not isinstance(dist, Choice):
            rows[key] = SpaceRow(key, dist, {})
            continue
        rows[key] = SpaceRow(key, CategoricalDistribution(tuple(dist.options)), {})
        for option, ranges in dist.options.items():
            for inner, inner_dist in ranges.items():
                before = rows[inner].under.get(key, ()) if inner in rows else ()
                rows[inner] = SpaceRow(inner, inner_dist, {key: (*before, option)})
    return list(rows.values())
