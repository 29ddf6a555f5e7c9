"""Sends a study to a cluster as a Ray job, once: what runs there already is left alone."""

import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_ddvae.errors import JobError
from tune_ddvae.tuning.cluster.shipping import Package
from tune_ddvae.tuning.jobs.jobs import Job, jobs_of
from tune_ddvae.tuning.jobs.order import PREFIX, Order, package_json
from tune_ddvae.tuning.storage.folders import slug

if TYPE_CHECKING:
    from tune_ddvae.tuning.jobs.server import JobServer

ATTEMPTS = 5  # at an id that nobody else takes at the same moment


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What became of an order.

    Attributes:
        job: The job that runs the study now.
        package: What was sent; None where the job was there already, and nothing was.
    """

    order: Order
    job: str
    package: Package | None

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "study": self.order.study,
            "job": self.job,
            "address": self.order.address,
            "sent": self.package is not None,
            "package": None if self.package is None else package_json(self.package),
            "command": self.order.command,
        }


def submit(order: Order) -> Sent:
    """Send a study, unless a job that runs it is there: then nothing is sent.

    Raises:
        ConfigError: It is too much.
        JobError: The cluster does not answer, or does not take it.
    """
    from tune_ddvae.tuning.jobs.server import JobServer  # Ray takes seconds to load

    server = JobServer(order.address)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        package = order.pack(Path(name))
        for _ in range(ATTEMPTS):
            jobs = server.jobs()
            running = _running(server, jobs_of(jobs, order.cargo.place))
            if running is not None:
                return Sent(order=order, job=running.id, package=None)
            job_id = next_id(order.study, jobs)
            if server.send(
                job_id,
                order.entrypoint,
                folder=Path(name),
                environment=order.job_environment,
                cargo=order.cargo,
            ):
                return Sent(order=order, job=job_id, package=package)
            # Somebody took that id at the same moment, perhaps for the same study.
    raise JobError(
        f"the cluster at {order.address} took none of {ATTEMPTS} ids for study {order.study!r}, each of "
        "them taken at the same moment by another job: try again"
    )


def _running(server: "JobServer", jobs: Iterable[Job]) -> Job | None:
    """The first of these jobs that is really there, and not only said to be."""
    settled = (server.settled(job) for job in jobs if job.is_live)
    return next((job for job in settled if job.is_live), None)


def next_id(study: str, jobs: Iterable[Job]) -> str:
    """An id for a job that runs the study, which none of these jobs has."""
    stem = slug(study)
    numbers = [
        int(found[1])
        for job in jobs
        if (found := re.fullmatch(rf"{re.escape(stem)}-(\d+)", job.id))
    ]
    return f"{stem}-{max(numbers, default=0) + 1}"
