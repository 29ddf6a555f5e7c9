"""Finds the study that a name means: among a cluster's jobs, in a storage, or in a database."""

import shlex
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from tune_ddvae.errors import ConfigError, JobError
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.jobs.holding import holder_at, holder_in
from tune_ddvae.tuning.jobs.jobs import Job, jobs_of
from tune_ddvae.tuning.record.postgresql import server_address
from tune_ddvae.tuning.storage.lock import Holder, holder_of
from tune_ddvae.tuning.storage.place import place_at
from tune_ddvae.tuning.studies.listed import Listed, Standing
from tune_ddvae.tuning.studies.listing import find_study, folder_of, list_studies
from tune_ddvae.tuning.wording import shown

if TYPE_CHECKING:
    from tune_ddvae.tuning.jobs.server import JobServer


@dataclass(frozen=True, kw_only=True)
class Found:
    """A study, as far as it can be seen from here.

    Attributes:
        study: What its record says; None where that cannot be seen.
        jobs: Those that ran it, the newest first.
        server: The cluster that was asked.
    """

    study: Listed | None
    jobs: tuple[Job, ...] = ()
    server: "JobServer | None" = None

    def holder(self, record: str | None) -> Holder | None:
        """The driver that holds the study now, job or not; None where none is seen from here.

        Args:
            record: Address of the database that its record is in, if that is on a server.

        Raises:
            RecordError: The database cannot be read by now.
        """
        if self.study is not None:
            if record is not None:
                return holder_in(record, self.study.name)
            return holder_of(folder_of(self.study.record))
        cargo = self.jobs[0].cargo if self.jobs else None
        return None if cargo is None else holder_at(cargo.study, cargo.storage, cargo.record)


def find(
    name: str,
    *,
    storage: str,
    record: str | None = None,
    address: str | None = None,
    anywhere: bool = False,
) -> Found:
    """The study of that name.

    Args:
        name: Its name.
        storage: Where it is kept.
        record: Address of the database that its record is in, if that is on a server.
        address: Of a cluster's job server. If a job there runs the study, or ran it, that one is meant.
        anywhere: Whether jobs count wherever they keep the study, and not in this storage alone.

    Raises:
        ConfigError: Jobs keep studies of that name in several places.
        JobError: The cluster does not answer, or knows no such study, and neither does the storage.
        RecordError: There is no such study, or its record cannot be read.
        StorageError: There is no such storage.
    """
    if address is None:
        return Found(study=find_study(name, storage, record))
    from tune_ddvae.tuning.jobs.server import JobServer  # Ray takes seconds to load

    server = JobServer(address)
    named = [job for job in server.jobs() if job.cargo is not None and job.cargo.study == name]
    here = (name, str(place_at(storage)) if record is None else _plain(record))
    jobs = named if anywhere and record is None else jobs_of(named, here)
    places = {job.place for job in jobs} or {here}
    if len(places) > 1:
        known = " and ".join(sorted(shown(place[1]) for place in places if place is not None))
        raise ConfigError(
            f"the cluster at {address} ran studies {name!r} in several places, {known}: name the one "
            "that is meant with --storage or --record"
        )
    listed = list_studies(storage, record, may_be_missing=True)
    study = next((study for study in listed if study.place in places), None)
    if study is None:  # one that only its folder's name is known of
        where = {place[1] for place in places if place is not None}
        called = (study for study in listed if study.is_called(name))
        study = next((study for study in called if study.place[1] in where), None)
    if not jobs and study is None:
        raise JobError(
            f"the cluster at {address} has no job of a study {name!r}, and there is none in "
            f"{shown(here[1])}: name where it is kept with --storage or --record, or send it with "
            "tune_ddvae.study --submit"
        )
    return Found(study=study, jobs=tuple(jobs), server=server)


def where_it_prints(found: Found) -> list[str]:
    """Where to look for what a study prints that no job runs; it prints to where it was started."""
    study = found.study
    if study is None:
        return ["its record cannot be seen from here"]
    driver = "no driver holds it" if study.holder is None else f"its driver is {study.holder}"
    where = "it prints to the terminal, or the log of the queue, that it was started in"
    lines = [f"study {study.name} is no job of a cluster that was asked: {where}; {driver}"]
    sent_to = _sent_to(study.command)
    if sent_to and found.server is None:
        place = ["--storage", study.storage] if study.storage else ["--record", study.record]
        logs = f"studies {shlex.join(['logs', study.name, *place, '--address', sent_to])}"
        lines = [f"study {study.name} was sent to a cluster as a job: {logs}; {driver}"]
    if study.command:
        lines.append(f"started by: {study.command}")
    if study.folder:
        lines.append(f"in: {study.folder}")
    if study.standing is Standing.UNREADABLE:
        lines.append(f"unreadable: {study.why}")
    return [shown(line) for line in (*lines, f"record: {study.record}")]


def _sent_to(command: str) -> str:
    """The cluster that a study command sends its study to; empty where it does not."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    for word, following in pairwise((*words, "")):
        name, equals, value = word.partition("=")
        if name == "--submit":
            return value if equals else following
    return ""


def _plain(record: str) -> str:
    """A database's address as it is listed."""
    return without_password(server_address(record))
