"""New configurations, proposed by Optuna as a pure function of (study seed, number, record).

The sampler never sees the real storage: each question is asked in a fresh in-memory study filled
with what the sampler is meant to know. So a killed driver leaves no half-asked trial, and the same
record always gives the same answer.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from tune_ddvae.config import Value
from tune_ddvae.spec import Choice, Space, StudySpec, flat_space
from tune_ddvae.tuning.trials import State, Trial

COLLAPSED = 1_000.0  # constraint of a collapsed trial, above any merit of a stopped one
_OPTUNA_DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
_OPTUNA_STATES = {
    State.UNFINISHED: TrialState.RUNNING,
    State.COMPLETE: TrialState.COMPLETE,
    State.STOPPED: TrialState.PRUNED,
    State.COLLAPSED: TrialState.PRUNED,
    State.FAILED: TrialState.FAIL,
}


def trial_seed(study_seed: int, number: int) -> int:
    """Seed of trial ``number``'s training."""
    return _derived_seed(study_seed, number, purpose=0)


def propose(
    spec: StudySpec, study_seed: int, number: int, trials: Iterable[Trial]
) -> dict[str, Value]:
    """Params of trial ``number``, drawn by the study's sampler from what the others showed."""
    seed = _derived_seed(study_seed, number, purpose=1)
    sampler: optuna.samplers.BaseSampler
    if spec.sampler == "random":
        sampler = optuna.samplers.RandomSampler(seed=seed)
    else:
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=spec.size.startup_trials, seed=seed, constant_liar=True
        )
    study = optuna.create_study(
        directions=directions(spec),
        sampler=sampler,
        storage=optuna.storages.InMemoryStorage(),
    )
    known = [trial for trial in trials if trial.params is not None]
    study.add_trials([_as_shown(spec, trial, known) for trial in known])
    return _ask(study.ask(), spec.space)


def directions(spec: StudySpec) -> list[StudyDirection]:
    """Directions of ``rank_by`` in Optuna's words."""
    return [_OPTUNA_DIRECTIONS[way] for way in spec.rank_by.values()]


def searched_params(spec: StudySpec, config: Mapping[str, Value]) -> dict[str, Value] | None:
    """The searched part of a configuration, or None where it lies outside the search space."""
    params: dict[str, Value] = {}
    for key, dist in spec.space.items():
        value = config[key]
        if isinstance(dist, Choice):
            if value not in dist.options:
                return None
            params[key] = value
            inner = dist.options[str(value)]
            if not all(_holds(d, config[k]) for k, d in inner.items()):
                return None
            params.update({k: config[k] for k in inner})
        elif _holds(dist, value):
            params[key] = value
        else:
            return None
    return params


def frozen_trial(
    spec: StudySpec, trial: Trial, constraints: dict[str, float] | None = None
) -> FrozenTrial:
    """The trial in Optuna's words: COMPLETE only at full length, PRUNED when stopped early."""
    space = flat_space(spec.space)
    params = dict(trial.params or {})
    return create_trial(
        state=_OPTUNA_STATES[trial.state],
        values=trial.values if trial.state is State.COMPLETE else None,
        params=params,
        distributions={key: space[key] for key in params},
        constraints=constraints,
    )


def constraints_of(trial: Trial) -> dict[str, float]:
    """What Optuna's storage is told of a finished trial: above zero where it collapsed."""
    return {"collapsed": COLLAPSED} if trial.state is State.COLLAPSED else {}


def merit(spec: StudySpec, trial: Trial, trials: Sequence[Trial]) -> float:
    """How far a stopped trial fell short: rungs missing, and the share ranked before it there.

    TPE fills its good group with pruned trials in order of number whatever they are worth; shown as a
    broken constraint of this size, the best of them come first.
    """
    rung = max((epoch for epoch, row in trial.rows.items() if row.decision), default=0)
    missing = sum(1 for epoch in spec.rungs if epoch >= rung)
    decision = trial.rows[rung].decision if rung else None
    if decision is None:
        return float(missing + 1)
    there = [t.rows[rung].decision for t in trials if rung in t.rows]
    values = [d.value for d in there if d is not None]
    ahead = [v for v in values if v is not None and (decision.value is None or v > decision.value)]
    return missing + len(ahead) / max(len(values), 1)


def _as_shown(spec: StudySpec, trial: Trial, known: Sequence[Trial]) -> FrozenTrial:
    constraints = constraints_of(trial)
    if trial.state is State.STOPPED:
        constraints["stopped"] = merit(spec, trial, known)
    return frozen_trial(spec, trial, constraints or None)


def _ask(trial: optuna.Trial, space: Space) -> dict[str, Value]:
    params: dict[str, Value] = {}
    for key, dist in space.items():
        if isinstance(dist, Choice):
            option = _suggest(trial, key, CategoricalDistribution(tuple(dist.options)))
            params[key] = option
            inner = dist.options[str(option)]
            params.update({k: _suggest(trial, k, d) for k, d in inner.items()})
        else:
            params[key] = _suggest(trial, key, dist)
    return params


def _suggest(trial: optuna.Trial, key: str, dist: BaseDistribution) -> Value:
    if isinstance(dist, FloatDistribution):
        return trial.suggest_float(key, dist.low, dist.high, step=dist.step, log=dist.log)
    if isinstance(dist, IntDistribution):
        return trial.suggest_int(key, dist.low, dist.high, step=dist.step, log=dist.log)
    if isinstance(dist, CategoricalDistribution):
        return trial.suggest_categorical(key, dist.choices)
    raise TypeError(f"unknown kind of distribution under {key}: {dist!r}")


def _holds(dist: BaseDistribution, value: Value) -> bool:
    if isinstance(dist, CategoricalDistribution):
        return value in dist.choices
    if isinstance(dist, FloatDistribution | IntDistribution) and isinstance(value, int | float):
        steps = (value - dist.low) / dist.step if dist.step else 0.0
        return dist.low <= value <= dist.high and abs(steps - round(steps)) < 1e-8
    return False


def _derived_seed(study_seed: int, number: int, purpose: int) -> int:
    sequence = np.random.SeedSequence([study_seed, number, purpose])
    return int(sequence.generate_state(1, np.uint32)[0])
