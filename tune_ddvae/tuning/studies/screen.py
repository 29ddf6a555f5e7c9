"""The list of studies as a table, and what each of them has to say beside it."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tune_ddvae.tuning.studies.listed import Listed, Standing
from tune_ddvae.tuning.wording import duration, figure, short_names, shown

STYLES = {  # beside words
    Standing.RUNNING: "cyan",
    Standing.COMPLETE: "green",
    Standing.NO_SUCCESS: "red",
    Standing.STOPPED: "red",
    Standing.UNREADABLE: "red",
}
NONE = "–"


def show(
    studies: Sequence[Listed], where: str, console: Console, *, now: float | None = None
) -> None:
    """Print the list; reasons stay on one line each, so that they can be copied.

    Args:
        studies: In the order that they are shown in.
        where: What was looked at.
        console: Where people read.
        now: Seconds since 1970; for tests.
    """
    if not studies:
        console.print(Text(f"no study in {shown(where)}"), soft_wrap=True)
        return
    console.print(Text(f"Studies in {shown(where)}", style="bold"), soft_wrap=True)
    console.print(table(studies, time.time() if now is None else now))
    reasons = [study for study in studies if study.why]
    if reasons:
        console.print()
    for study in reasons:
        why = shown(" ".join(study.why.split()))
        console.print(Text(f"{shown(study.name)}: {why}"), soft_wrap=True)


def table(studies: Sequence[Listed], now: float) -> Table:
    """One line for each study.

    Args:
        studies: In the order that they are shown in.
        now: Seconds since 1970.
    """
    has_jobs = any(study.job is not None for study in studies)
    rows = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    rows.add_column("study", overflow="fold")
    rows.add_column("state", no_wrap=True)
    rows.add_column("trials", no_wrap=True, justify="right")
    rows.add_column("best", overflow="fold")
    rows.add_column("last change", no_wrap=True)
    if has_jobs:
        rows.add_column("job", overflow="fold")
    for study in studies:
        cells = [
            Text(shown(study.name)),
            Text(study.standing, style=STYLES.get(study.standing, "")),
            Text(_trials_text(study)),
            Text(_best_text(study)),
            Text(_changed_text(study, now)),
        ]
        if has_jobs:
            cells.append(Text(_job_text(study)))
        rows.add_row(*cells)
    return rows


def _trials_text(study: Listed) -> str:
    if study.standing in (Standing.UNREADABLE, Standing.UNSEEN, Standing.UNRECORDED):
        return NONE
    if study.asked is None:
        return str(study.num_ended)
    return f"{study.num_ended} of {max(study.asked, sum(study.counts.values()))}"


def _best_text(study: Listed) -> str:
    if study.best is None:
        return NONE
    if len(study.rank_by) > 1:
        return f"front of {study.front}"
    (name,) = short_names(study.rank_by).values()
    return f"{shown(name)} {figure(study.best)}"


def _changed_text(study: Listed, now: float) -> str:
    if study.changed is None:
        return NONE
    seconds = max(now - study.changed, 0.0)
    unit = next((unit for unit in (86_400, 3_600, 60) if seconds >= unit), 1)
    return f"{duration(seconds // unit * unit)} ago"


def _job_text(study: Listed) -> str:
    return NONE if study.job is None else shown(f"{study.job.id} {study.job.status}")
