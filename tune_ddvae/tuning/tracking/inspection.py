"""Is MLflow what the marks say? Runs made twice are removed, and what others changed is shown again.

Whoever holds the record decides which run is a trial's: the one in the mark. A driver that was frozen
or a request that was believed lost may have made another one, or opened a closed one again.
"""

from dataclasses import replace

from tune_ddvae.tuning.tracking import view
from tune_ddvae.tuning.tracking.backlog import STUDY, Backlog, Mark
from tune_ddvae.tuning.tracking.client import Listed, Server


def inspect(server: Server, backlog: Backlog, *, restores: bool = False) -> bool:
    """Compare the study's runs with the marks; whether anything is to be shown again.

    Args:
        server: Its experiment.
        backlog: The study's record and marks.
        restores: Whether runs that somebody deleted are to be made again too.
    """
    backlog.flush()
    marks = {number: mark for number, mark in backlog.marks().items() if mark.run_id}
    runs = {run.run_id: run for run in server.runs({view.STUDY_ID_TAG: backlog.study.study_id})}
    for run in runs.values():
        number = _number(run)
        mark = None if number is None else marks.get(number)
        if mark is not None and mark.run_id in runs and mark.run_id != run.run_id:
            server.delete(run.run_id)
    corrected = {
        number: new
        for number, mark in marks.items()
        if (new := _corrected(mark, runs.get(mark.run_id), restores=restores)) != mark
    }
    for number, mark in corrected.items():
        backlog.set_mark(number, mark)
    backlog.flush()
    return bool(corrected)


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


def _number(run: Listed) -> int | None:
    """Which trial's run it is; None where that cannot be told."""
    if run.tags.get(view.ROLE_TAG) == "study":
        return STUDY
    number = run.tags.get(view.TRIAL_TAG, "")
    return int(number) if number.isdecimal() else None
