"""Is MLflow what the marks say? Runs made twice are removed, and what others changed is shown again.

Whoever holds the record decides which run is a trial's: the one in the mark. A driver that was frozen
or a request that was believed lost may have made another one, or opened a closed one again.

In the storage's own database a former copy of the record, or this one before a backup, may have left
trials or points: MLflow deletes no single point, so a run that holds any is deleted, and another one
shows what the record holds. Not so on a server, where a copy on another machine may be at work.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from tune_ddvae.tuning.tracking import view
from tune_ddvae.tuning.tracking.backlog import STUDY, Backlog, Mark
from tune_ddvae.tuning.tracking.client import Listed, Server
from tune_ddvae.tuning.tracking.names import plain_key
from tune_ddvae.tuning.trials import State

NO_TRIAL = -2  # of a run that says of no trial and of no study that it is its
_SAME = 1e-9  # relative: a database may round


def inspect(
    server: Server,
    backlog: Backlog,
    *,
    restores: bool = False,
    notes: Callable[[str], None] = lambda _: None,
) -> bool:
    """Compare the study's runs with marks and record; whether anything is to be shown again.

    Args:
        server: Its experiment.
        backlog: The study's record and marks.
        restores: Whether runs that somebody deleted are to be made again too, and the points of every
            run are looked at; else only those of trials that train, and of runs that are not as their
            marks say.
        notes: Takes a line on what was shown there and was not the record's.
    """
    backlog.flush()
    marks = {number: mark for number, mark in backlog.marks().items() if mark.run_id}
    runs = {run.run_id: run for run in server.runs({view.STUDY_ID_TAG: backlog.study.study_id})}
    for run in runs.values():
        mark = marks.get(_number(run))
        if mark is not None and mark.run_id in runs and mark.run_id != run.run_id:
            server.delete(run.run_id)
    corrected = {
        number: new
        for number, mark in marks.items()
        if (new := _corrected(mark, runs.get(mark.run_id), restores=restores)) != mark
    }
    foreign: dict[str, int] = {}
    if backlog.is_own:
        foreign = _foreign(server, backlog, marks, runs, None if restores else corrected.keys())
    shown = {mark.run_id: number for number, mark in marks.items()}
    corrected |= {shown[run_id]: Mark() for run_id in foreign if run_id in shown}
    if foreign and STUDY in marks:  # what it says of the best trial may be foreign too
        corrected.setdefault(STUDY, replace(marks[STUDY], status=""))
    for number, new in corrected.items():
        backlog.set_mark(number, new)
    backlog.flush()
    for run_id in foreign:
        remove(server, backlog, run_id)
    if foreign:
        notes(foreign_text(sorted(set(foreign.values()))))
    return bool(corrected)


def _foreign(
    server: Server,
    backlog: Backlog,
    marks: Mapping[int, Mark],
    runs: Mapping[str, Listed],
    changed: Collection[int] | None,
) -> dict[str, int]:
    """Runs that show what the record does not hold, with their trials' numbers.

    Args:
        server: Its experiment.
        backlog: The study's record.
        marks: Those with a run.
        runs: The study's.
        changed: Trials whose points are looked at beside those that train; None for all.
    """
    # Read after the runs: whoever makes one has recorded its trial before.
    trials = {trial.number: trial for trial in backlog.trials()}
    found = {
        run_id: number
        for run_id, run in runs.items()
        if (number := _number(run)) not in (NO_TRIAL, STUDY, *trials)
    }
    for number in trials.keys() & marks.keys():
        trains = trials[number].state is State.UNFINISHED
        run = runs.get(marks[number].run_id)
        if run is None or not (changed is None or trains or number in changed):
            continue
        if has_foreign_points(server, backlog, number, run):
            found[run.run_id] = number
    return found


def has_foreign_points(server: Server, backlog: Backlog, number: int, run: Listed) -> bool:
    """Whether the run of a trial has points of training that the record does not hold.

    One metric is looked at, the one that the record holds most of: a row's are sent together.
    """
    own = [point for row in backlog.rows(number, 0).values() for point in view.row_points(row)]
    if not own:
        return any(not key.startswith(view.REPEATED) for key in run.metrics)
    ((key, _),) = Counter(point.key for point in own).most_common(1)
    held = {point.step: point for point in own if point.key == key}
    shown = server.points(run.run_id, plain_key(key))
    return any(not _is_same(point, held.get(point.step)) for point in shown)


def remove(server: Server, backlog: Backlog, run_id: str) -> None:
    """Delete a run that shows what the record does not hold, while the study is surely ours."""
    backlog.check_held()
    server.delete(run_id)


def foreign_text(numbers: list[int]) -> str:
    """What to say where runs of these trials showed what the record does not hold."""
    return (
        f"runs of trials {', '.join(map(str, numbers))} held values that this study's record does not, "
        "of a copy of it or of before a backup: they are deleted there, and show the record's alone"
    )


def _is_same(point: view.Point, held: view.Point | None) -> bool:
    return (
        held is not None
        and point.time_ms == held.time_ms
        and math.isclose(point.value, held.value, rel_tol=_SAME)
    )


def _corrected(mark: Mark, run: Listed | None, *, restores: bool) -> Mark:
    """The mark, without what the run does not show (any more).

    A run that is not as the mark says may be one of before, from a backup: what was sent since is
    missing there, too. Sent twice, a point is one point.
    """
    if run is None:
        return Mark() if restores else mark
    word, status = view.shown_by(mark.says)
    if not mark.status or (run.status, run.tags.get("state")) == (status, word):
        return mark
    return replace(mark, epoch=0, status="")


def _number(run: Listed) -> int:
    """Which trial's run it is; ``NO_TRIAL`` where that cannot be told."""
    if run.tags.get(view.ROLE_TAG) == "study":
        return STUDY
    number = run.tags.get(view.TRIAL_TAG, "")
    return int(number) if number.isdecimal() else NO_TRIAL
