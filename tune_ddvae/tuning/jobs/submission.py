"""Sends a study to a cluster as a Ray job, once: what runs there already is left alone."""

import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_ddvae.errors import JobError
from tune_ddvae.tuning.cluster.shipping import Package
from tune_ddvae.tuning.jobs.holding import holder_at, living
from tune_ddvae.tuning.jobs.jobs import Job, jobs_of
from tune_ddvae.tuning.jobs.order import Order, package_json
from tune_ddvae.tuning.storage.folders import TEMPORARY, slug
from tune_ddvae.tuning.storage.lock import Holder

if TYPE_CHECKING:
    from tune_ddvae.tuning.jobs.server import JobServer

ATTEMPTS = 5  # at an id that nobody else takes at the same moment


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What became of an order.

    Attributes:
        job: The job that runs the study now; None where a driver that is no job does.
        package: What was sent; None where the study runs already, and nothing was.
        holder: That driver.
    """

    order: Order
    job: str | None
    package: Package | None
    holder: Holder | None = None

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "study": self.order.study,
            "job": self.job,
            "address": self.order.address,
            "sent": self.package is not None,
            "driver": None
            if self.holder is None
            else {"host": self.holder.host, "pid": self.holder.pid},
            "package": None if self.package is None else package_json(self.package),
            "command": self.order.command,
        }


def submit(order: Order, tell: Callable[[str], None] = lambda _: None) -> Sent:
    """Send a study, unless a job or a driver that runs it is there: then nothing is sent.

    A driver that was not sent is seen where this machine sees the study's storage or database.

    Args:
        order: The study.
        tell: Takes a line for people, where it has to be waited for whether a driver lives.

    Raises:
        ConfigError: It is too much.
        JobError: The cluster does not answer, or does not take it.
    """
    from tune_ddvae.tuning.jobs.server import JobServer  # Ray takes seconds to load

    server = JobServer(order.address)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY) as name:
        package = order.pack(Path(name))
        for _ in range(ATTEMPTS):
            jobs = server.jobs()
            running = _running(server, jobs_of(jobs, order.cargo.place))
            if running is not None:
                return Sent(order=order, job=running.id, package=None)
            holder = living(
                lambda: holder_at(order.study, order.storage, order.record),
                tell,
            )
            if holder is not None:
                return Sent(order=order, job=None, package=None, holder=holder)
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
