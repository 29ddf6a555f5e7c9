"""What MLflow shows of a study and its trials, as plain data. Pure: nothing here speaks to a server."""

import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tune_ddvae.config import Direction, Value
from tune_ddvae.tuning.search import ranking
from tune_ddvae.tuning.tracking.names import value_text
from tune_ddvae.tuning.trials import Row, State, Trial

STUDY_ID_TAG = "tune_ddvae.study_id"
ROLE_TAG = "tune_ddvae.role"  # "study" or "trial"
TRIAL_TAG = "tune_ddvae.trial"  # a trial's number
PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
FOLDER_TAG = "folder"  # on a study's run: what its trials' checkpoint paths are relative to
REPEATED = ("best/", "analysis/")  # begin the names of metrics that training did not measure itself
CONFIG_ARTIFACT = "config.json"  # a trial's whole configuration, unshortened

RUNNING, FINISHED, KILLED, FAILED = "RUNNING", "FINISHED", "KILLED", "FAILED"  # MLflow's own words


class Outcome(StrEnum):
    """How a driver's session ended."""

    COMPLETE = "complete"
    FAILED = "failed"  # none of the trials that ended succeeded
    INTERRUPTED = "interrupted"  # work is left
    OUT_OF_TIME = "out of time"  # work is left


_TRIAL_STATUS = {
    State.COMPLETE: FINISHED,
    State.STOPPED: KILLED,
    State.COLLAPSED: KILLED,
    State.FAILED: FAILED,
}
_STUDY_STATUS = {Outcome.COMPLETE: FINISHED, Outcome.FAILED: FAILED}
_STATUS_OF_WORD = {"running": RUNNING, State.COMPLETE: FINISHED, State.FAILED: FAILED}


@dataclass(frozen=True)
class Point:
    """One value of one metric; sent twice it is one point, since MLflow's key is all of it."""

    key: str
    value: float
    time_ms: int
    step: int


@dataclass(frozen=True)
class View:
    """How a run is to look: MLflow's status, its tags, and a mark that changes when they do."""

    status: str
    tags: Mapping[str, str]
    mark: str

    @property
    def is_end(self) -> bool:
        """Whether the run is closed."""
        return self.status != RUNNING


# -- trials ---------------------------------------------------------------------------------------


def trial_name(trial: Trial) -> str:
    """What the trial's run is called."""
    named = f"trial {trial.number}" + (f": {trial.setting}" if trial.setting else "")
    return named if trial.replicate is None else f"{named}, replicate {trial.replicate}"


def trial_identity(study_id: str, number: int) -> dict[str, str]:
    """The tags that a trial's run is found again by."""
    return {STUDY_ID_TAG: study_id, ROLE_TAG: "trial", TRIAL_TAG: str(number)}


def trial_view(trial: Trial, outcome: Outcome | None) -> View:
    """How the trial stands.

    Args:
        trial: Its facts and state; rows are not looked at.
        outcome: How the driver ended; None while it lives.
    """
    tags = {key: value_text(value) for key, value in trial.facts.items()}
    if "tune_ddvae" in tags:
        tags["version"] = tags.pop("tune_ddvae")
    tags["seed"] = str(trial.seed)
    tags["losses"] = str(trial.losses)
    if trial.setting:
        tags["setting"] = trial.setting
    if trial.replicate is not None:
        tags["replicate"] = str(trial.replicate)
    if trial.reason:
        tags["reason"] = trial.reason
    if trial.state is not State.UNFINISHED:
        # The record's own word, alone: it tells the query for what is due to leave this trial out.
        return View(_TRIAL_STATUS[trial.state], {**tags, "state": trial.state}, trial.state)
    if outcome is None:
        return _marked(RUNNING, tags, "running")
    cut = Outcome.OUT_OF_TIME if outcome is Outcome.OUT_OF_TIME else Outcome.INTERRUPTED
    return _marked(KILLED, tags, cut)


def trial_params(trial: Trial) -> dict[str, str]:
    """The whole configuration under its flat keys, as used."""
    return {key: value_text(value) for key, value in trial.config.items()}


def row_points(row: Row) -> list[Point]:
    """A row's metrics; anything that is not finite is left out."""
    time_ms = round(row.time * 1000)
    return [
        Point(key, float(value), time_ms, row.epoch)
        for key, value in row.metrics.items()
        if math.isfinite(value)
    ]


def row_tags(row: Row) -> dict[str, str]:
    """Why a metric has no value in this row, and what its rung decided."""
    tags = {f"absent/{key}": f"{why} (epoch {row.epoch})" for key, why in row.absent.items()}
    for key, value in row.metrics.items():
        if not math.isfinite(value):
            tags[f"absent/{key}"] = f"{value} is not finite (epoch {row.epoch})"
    if row.decision is not None:
        verdict = "goes on" if row.decision.goes_on else "stopped"
        value_of = "nothing" if row.decision.value is None else repr(row.decision.value)
        why = row.decision.reason or f"{value_of} against {len(row.decision.earlier)} earlier"
        tags[f"rung/{row.epoch}"] = f"{verdict}: {why}"
    return tags


def trial_ending(
    trial: Trial, metric: str, direction: Direction
) -> tuple[dict[str, str], list[Point]]:
    """Best and last epoch by the first metric of ``rank_by``, as tags and, once final, as a point.

    Args:
        trial: With all of its rows, and the checkpoints that are still kept.
        metric: First of ``rank_by``.
        direction: Which way is better.
    """
    tags: dict[str, str] = {}
    for row in trial.rows.values():  # decisions may have been settled after their row was sent
        tags.update(row_tags(row))
    if not trial.rows:
        return tags, []
    last = trial.rows[trial.last_epoch]
    tags["last_epoch"] = str(last.epoch)
    tags |= _checkpoint_tag("last_checkpoint", trial, last.epoch)
    if metric in last.metrics:
        tags["last_value"] = repr(last.metrics[metric])
    epoch = ranking.best_epoch(trial, metric, direction)
    if epoch is None:
        return tags, []
    best = trial.rows[epoch]
    tags |= {
        "best_metric": f"{metric} {direction}",
        "best_epoch": str(epoch),
        "best_value": repr(best.metrics[metric]),
    }
    tags |= _checkpoint_tag("best_checkpoint", trial, epoch)
    # An interrupted trial may still find a better epoch, and a point cannot be taken back.
    is_final = trial.state is not State.UNFINISHED
    point = Point(f"best/{metric}", best.metrics[metric], round(best.time * 1000), epoch)
    return tags, [point] if is_final and math.isfinite(point.value) else []


def last_moment(trial: Trial) -> float | None:
    """When the trial ended, or when it was last heard of; seconds since 1970."""
    if trial.ended is not None:
        return trial.ended
    return max((row.time for row in trial.rows.values()), default=trial.started)


# -- the study ------------------------------------------------------------------------------------


def study_identity(study_id: str) -> dict[str, str]:
    """The tags that the study's run is found again by."""
    return {STUDY_ID_TAG: study_id, ROLE_TAG: "study"}


def rank_by_of(identity: Mapping[str, Any]) -> dict[str, Direction]:
    """Metrics and directions that a recorded study ranks by, the first one first."""
    return {
        key.removeprefix("rank_by/"): way
        for key, way in identity.items()
        if key.startswith("rank_by/")
    }


def study_params(identity: Mapping[str, Any]) -> dict[str, str]:
    """The search space, one readable line for each searched key."""
    return {
        key.removeprefix("space/"): _range_text(json.loads(text))
        for key, text in identity.items()
        if key.startswith("space/")
    }


def study_tags(
    name: str, identity: Mapping[str, Any], about: Mapping[str, Value], extra: Mapping[str, Value]
) -> dict[str, str]:
    """What a colleague asks of a study: from what, how searched, how stopped, ranked by what."""
    facts: dict[str, Any] = {**about, **extra}
    tags = {key: value_text(value) for key, value in facts.items() if value not in ("", None)}
    if "tune_ddvae" in tags:
        tags["version"] = tags.pop("tune_ddvae")
    if "question" in tags:
        tags[NOTE_TAG] = tags["question"]
    tags["study"] = name
    tags["rank_by"] = ", ".join(f"{key} {way}" for key, way in rank_by_of(identity).items())
    for key in ("seed", "sampler", "startup_trials", "rungs", "data"):
        if key in identity:
            tags[key] = value_text(identity[key])
    if json.loads(identity.get("rungs", "[]")):
        factor = identity.get("reduction_factor", "?")
        tags["scheduler"] = f"successive halving: at each rung one trial in {factor} goes on"
    else:
        tags["scheduler"] = "none: no trial is stopped early"
    return tags


def study_view(tags: Mapping[str, str], outcome: Outcome | None, reason: str = "") -> View:
    """How the study stands; ``tags`` with its result, once there is one.

    While it runs and once it is complete its reason is empty, else it would keep that of an end before.
    """
    if outcome is None:
        return _marked(RUNNING, {**tags, "reason": ""}, "running")
    why = "" if outcome is Outcome.COMPLETE else reason
    return _marked(_STUDY_STATUS.get(outcome, KILLED), {**tags, "reason": why}, outcome)


def study_result(
    trials: Sequence[Trial], rank_by: Mapping[str, Direction], run_ids: Mapping[int, str]
) -> tuple[dict[str, str], dict[str, Any]]:
    """The best trial, or the Pareto set of a study that ranks by several metrics.

    Args:
        trials: All of them, with state and values.
        rank_by: What the study ranks by.
        run_ids: The trials' runs, by number.

    Returns:
        Tags, and the same unshortened as plain data.
    """
    counts = {state: sum(t.state is state for t in trials) for state in State}
    tags = {"trials": ", ".join(f"{num} {state}" for state, num in counts.items() if num)}
    front = [
        {
            "trial": trial.number,
            "run_id": run_ids.get(trial.number, ""),
            "setting": trial.setting,
            "values": dict(zip(rank_by, trial.values or (), strict=True)),
        }
        for trial in ranking.pareto_set(trials, rank_by)
    ]
    result = {"rank_by": dict(rank_by), "trials": front}
    if not front:
        return tags, result
    if len(rank_by) == 1:
        tags["best_trial"] = str(front[0]["trial"])
        tags["best_run_id"] = str(front[0]["run_id"])
        tags["best_values"] = json.dumps(front[0]["values"])
    else:
        tags["pareto_trials"] = ", ".join(str(member["trial"]) for member in front)
        tags["pareto_run_ids"] = ", ".join(str(member["run_id"]) for member in front)
        tags["pareto_values"] = json.dumps([member["values"] for member in front])
    return tags, result


def shown_by(mark: str) -> tuple[str, str]:
    """The word and MLflow's status that a run shows which was described as this mark says."""
    word = re.sub(r" [0-9a-f]{8}$", "", mark)
    return word, _STATUS_OF_WORD.get(word, KILLED)


# -- inside ---------------------------------------------------------------------------------------


def _marked(status: str, tags: Mapping[str, str], word: str) -> View:
    tags = {**tags, "state": word}
    digest = zlib.crc32(json.dumps(tags, sort_keys=True).encode())
    return View(status, tags, f"{word} {digest:08x}")


def _checkpoint_tag(key: str, trial: Trial, epoch: int) -> dict[str, str]:
    """Where the epoch's checkpoint is kept, relative to the study's folder."""
    kept = [mark.path for mark in trial.checkpoints if mark.epoch == epoch]
    return {key: kept[-1]} if kept else {}


def _range_text(distribution: Mapping[str, Any]) -> str:
    facts = distribution["attributes"]
    if "choices" in facts:
        return "one of " + ", ".join(value_text(choice) for choice in facts["choices"])
    text = f"{facts['low']} to {facts['high']}"
    if distribution["name"] == "IntDistribution":
        text += ", whole numbers"
    if facts.get("log"):
        text += ", log"
    if facts.get("step") not in (None, 1):
        text += f", in steps of {facts['step']}"
    return text
