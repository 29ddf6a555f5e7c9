"""Ends what runs a study from outside, by the signal that it takes its time for, and waits for it."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from tune_ddvae import exit_codes
from tune_ddvae.errors import StudyLockedError
from tune_ddvae.tuning.jobs.holding import living
from tune_ddvae.tuning.jobs.jobs import Job
from tune_ddvae.tuning.jobs.order import STOP_S
from tune_ddvae.tuning.storage.lock import Holder, birth_of
from tune_ddvae.tuning.studies.finding import Found
from tune_ddvae.tuning.wording import duration

if TYPE_CHECKING:
    from tune_ddvae.tuning.jobs.server import JobServer

LOOK_EVERY_S = 0.3
GOES_ON = "what was recorded is kept, and resume goes on with it"


@dataclass(frozen=True)
class Ending:
    """What became of a driver that was to end.

    Attributes:
        text: For people.
        exit_code: COMPLETE if it has ended by itself, WORK_LEFT if it was killed or has not ended.
        has_ended: Whether it has, in either way.
    """

    text: str
    exit_code: int
    has_ended: bool = True


def stop(found: Found, record: str | None) -> Ending:
    """End a study's jobs, then the driver that holds it all the same; if it does not run, say so.

    Args:
        found: The study.
        record: Address of the database that its record is in, if that is on a server.

    Raises:
        JobError: The cluster does not answer.
        RecordError: The database cannot be read.
        StudyLockedError: Its driver cannot be reached from here, and no job was ended either; says
            where it is.
    """
    live = [job for job in found.jobs if job.is_live]
    asked = [] if found.server is None else [stop_job(found.server, job) for job in live]
    endings = [ending for ending in asked if ending is not None]
    if all(ending.has_ended for ending in endings):  # else it may be a job's that holds it
        endings += _stop_holder(found, record, after_jobs=bool(endings))
    if not endings:
        gone = f"job {live[0].id} had ended already" if live else "it does not run"
        if found.study is None:
            gone += ", as far as its jobs say: its record cannot be seen from here"
        return Ending(f"{gone}: {GOES_ON}", exit_codes.COMPLETE)
    text = "\n".join(ending.text for ending in endings)
    return Ending(text, max(ending.exit_code for ending in endings))


def _stop_holder(found: Found, record: str | None, *, after_jobs: bool) -> list[Ending]:
    """End the driver that holds a study though none of its jobs runs: it was started by hand."""

    def look() -> Holder | None:
        return found.holder(record)

    # One that Ray killed may hold the study still, by a lease that nobody renews.
    holder = living(look, lambda _: None) if after_jobs else look()
    if holder is None:
        return []
    at = "run this there, or with the --address of the cluster that it was sent to"
    try:
        return [stop_driver(holder, lambda: look() == holder, at)]
    except StudyLockedError as error:
        if not after_jobs:
            raise
        text = f"the study runs on, by a driver that is none of these jobs: {error}"
        return [Ending(text, exit_codes.WORK_LEFT, has_ended=False)]


def stop_job(server: "JobServer", job: Job) -> Ending | None:
    """Have the cluster end a job, and wait until it has; None if it had ended already.

    Raises:
        JobError: The cluster does not answer.
    """
    started = time.monotonic()
    if not server.stop(job.id):
        return None
    # Ray kills it after that time; and then needs a moment to say so.
    while (is_live := server.job(job.id).is_live) and _seconds(started) < STOP_S + 15:
        time.sleep(LOOK_EVERY_S)
    took = _seconds(started)
    if is_live:
        text = f"job {job.id} has not ended within {duration(took)}; it was asked to, and may still"
        return Ending(text, exit_codes.WORK_LEFT, has_ended=False)
    if took >= STOP_S:
        text = f"job {job.id} did not end within {STOP_S} s and was killed: {GOES_ON}"
        return Ending(text, exit_codes.WORK_LEFT)
    return Ending(f"job {job.id} ended within {duration(took)}: {GOES_ON}", exit_codes.COMPLETE)


def stop_driver(holder: Holder, is_held: Callable[[], bool], at: str) -> Ending:
    """Ask a driver on this host to end, and wait until it has let go of its study.

    One that is dead, but whose lease on a server has not run out yet, is told of and not waited for.

    Args:
        holder: The driver.
        is_held: Whether it still holds its study.
        at: What is said of where to do it instead.

    Raises:
        StudyLockedError: It is not on this host, is another user's, or may be another process; names it.
    """
    if not holder.is_here:
        raise StudyLockedError(f"the study is held by {holder}, and this is another host: {at}")
    started = time.monotonic()
    try:
        process = psutil.Process(holder.pid)
        is_there = _is_there(holder)
        if is_there:
            process.terminate()  # looks once more that it is not another by now
    except psutil.NoSuchProcess:
        is_there = False
    except psutil.AccessDenied as error:
        raise StudyLockedError(
            f"the study is held by {holder}, which is another user's: ask them to stop it"
        ) from error
    if not is_there and not holder.birth and is_held():
        raise StudyLockedError(
            f"the study is held by {holder}; whether process {holder.pid} of this host is still that "
            "one was not recorded, so it is left alone: look at it, and end it yourself with "
            f"kill -TERM {holder.pid}"
        )
    if not is_there and holder.left_s is not None and _is_dead(holder) and is_held():
        text = (
            f"{holder} is dead: its lease runs out by itself within "
            f"{math.ceil(holder.left_s)} s, and until then nobody else can hold the study: {GOES_ON}"
        )
        return Ending(text, exit_codes.COMPLETE)
    if not is_there and is_held():
        raise StudyLockedError(
            f"the study is held by {holder}, which cannot be seen from here (in a container?): {at}"
        )
    while (still := is_held()) and _seconds(started) < STOP_S:
        time.sleep(LOOK_EVERY_S)
    took = _seconds(started)
    if still:
        text = f"{holder} has not ended within {duration(took)}; it was asked to, and may still"
        return Ending(text, exit_codes.WORK_LEFT, has_ended=False)
    return Ending(f"{holder} ended within {duration(took)}: {GOES_ON}", exit_codes.COMPLETE)


def _is_there(holder: Holder) -> bool:
    """Whether its process is that one for sure, and not another of the same number."""
    return bool(holder.birth) and holder.birth == birth_of(holder.pid)


def _is_dead(holder: Holder) -> bool:
    """Whether its process has ended for sure, and is not only out of sight: in another container."""
    here = birth_of(os.getpid())
    if any(
        not here[key] or here[key] != holder.birth.get(key) for key in ("boot", "pid_namespace")
    ):
        return False
    try:
        os.kill(holder.pid, 0)  # does nothing but look
        return birth_of(holder.pid)["born"] != holder.birth.get("born")
    except ProcessLookupError:
        return True
    except (PermissionError, psutil.Error):  # somebody's process has that number
        return False


def _seconds(since: float) -> float:
    return time.monotonic() - since
