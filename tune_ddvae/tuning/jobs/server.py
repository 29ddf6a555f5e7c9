"""A cluster's job server: asked over HTTP with time limits, and failing in our own words.

Ray's own client waits without limit, and lets the environment override the address that it is given.
"""

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from tune_ddvae.errors import JobError
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.cluster.entry import check_token_is_private
from tune_ddvae.tuning.jobs.jobs import ADDRESS_VARIABLE, Cargo, Job, cargo_of, checked_address

REACH_S = 5.0  # how long a head may take to take a connection
ANSWER_S = 10.0  # and to answer
WORK_S = 30.0  # the same where it has something to do
SETTLE_S = 4.0  # its job manager looks after its jobs once a second
QUIET_S = 15.0  # without news of a log before its head is asked whether it is there


class JobServer:
    """The job server at an address.

    Args:
        address: Of the cluster's dashboard, ``http://HEAD:8265``.

    Raises:
        ConfigError: That is no such address.
        JobError: Nothing answers there, or it does not let us in; says what would do. So does every
            method.
        ResourceError: Other accounts can read the token's file.
    """

    def __init__(self, address: str) -> None:
        self.address = checked_address(address)
        check_token_is_private()
        _be_quiet()
        with self._in_our_words(), _overridden(self.address):
            self._client = _Client(self.address)

    def jobs(self) -> list[Job]:
        """All jobs that were sent to the cluster, the newest first."""
        with self._in_our_words():
            found = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda job: job.started or 0.0, reverse=True)

    def job(self, job_id: str) -> Job:
        """One job as it stands now."""
        with self._in_our_words():
            return _job(self._client.get_job_info(job_id))

    def send(
        self,
        job_id: str,
        entrypoint: str,
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        cargo: Cargo | None = None,
    ) -> bool:
        """Send a job; False if there is one of that id already, and nothing was sent.

        Args:
            job_id: Its own.
            entrypoint: Shell command that it is.
            folder: What it works in, uploaded.
            environment: Variables of its processes.
            cargo: The study that it runs.
        """
        runtime_env: dict[str, Any] = {"env_vars": dict(environment or {})}
        if folder is not None:
            runtime_env["working_dir"] = str(folder)
        with self._in_our_words():
            try:
                self._client.submit_job(
                    submission_id=job_id,
                    entrypoint=entrypoint,
                    runtime_env=runtime_env,
                    metadata={} if cargo is None else cargo.metadata(),
                )
            except RuntimeError as error:
                if isinstance(error, JobError) or "already exists" not in str(error):
                    raise
                return False
        return True

    def settled(self, job: Job) -> Job:
        """A job that is said to be live, once the server has looked after it.

        A head that died and is back goes on saying RUNNING of the jobs that died with it, until its
        job manager is asked for something. Asking for a job of the same id does that, and starts
        nothing.
        """
        self.send(job.id, "true")
        until = time.monotonic() + SETTLE_S
        while (job := self.job(job.id)).is_live and time.monotonic() < until:
            time.sleep(0.5)
        return job

    def log(self, job_id: str) -> str:
        """All that a job has printed."""
        with self._in_our_words():
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, tell: Callable[[str], None]) -> None:
        """Pass on what a job has printed and prints, until it ends."""
        with self._in_our_words():
            asyncio.run(self._follow(job_id, tell))

    async def _follow(self, job_id: str, tell: Callable[[str], None]) -> None:
        news = aiter(self._client.tail_job_logs(job_id))
        while True:
            waiting = asyncio.ensure_future(anext(news, None))
            while not (await asyncio.wait({waiting}, timeout=QUIET_S))[0]:
                await asyncio.to_thread(self.job, job_id)  # raises where the head is gone
            try:
                text = waiting.result()
            except (aiohttp.ClientError, RuntimeError) as error:
                raise JobError(
                    f"the connection to {self.address} broke ({_last_line(error)}); what runs there goes "
                    "on as far as the cluster does"
                ) from error
            if text is None:
                return
            tell(text)

    def stop(self, job_id: str) -> bool:
        """Ask a job to end, which it takes its time for; False if it had ended."""
        with self._in_our_words():
            return bool(self._client.stop_job(job_id))

    @contextmanager
    def _in_our_words(self) -> Iterator[None]:
        """Turn what the server fails with into a message that says what would do."""
        try:
            yield
        except JobError:
            raise
        except AuthenticationError as error:  # raised where there should be a token and is none
            raise JobError(
                f"RAY_AUTH_MODE is token, and there is no token here for the cluster at {self.address}: "
                "set RAY_AUTH_TOKEN to it, or copy the head's ~/.ray/auth_token"
            ) from error
        except (RuntimeError, ValueError, TypeError, KeyError, requests.RequestException) as error:
            raise JobError(
                f"the job server at {self.address} does not do what it should: {_last_line(error)}. Is "
                "that the dashboard of a Ray cluster of this version?"
            ) from error


class _Client(JobSubmissionClient):
    """Ray's client, with limits on how long it waits."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        limit_s = ANSWER_S if method == "GET" else WORK_S
        address = str(self._address)
        try:
            return super()._do_request(method, endpoint, timeout=(REACH_S, limit_s), **options)
        except requests.Timeout as error:
            raise JobError(
                f"the cluster at {address} does not answer in time: its head is gone, frozen, or very "
                "busy. Once it answers, the same command does what it says"
            ) from error
        except requests.RequestException as error:
            speaks = _other_language(error)
            if speaks:
                raise JobError(
                    f"what answers at {address} {speaks}: the address must be that of a Ray "
                    "dashboard, with its scheme (http, unless a proxy before it has https) and its "
                    "port (8265 unless told otherwise; others of the head are no dashboard)"
                ) from error
            raise JobError(
                f"nothing answers at {address} ({_cause(error)}): is the head up, and the port of its "
                "dashboard (8265 unless told otherwise) to be reached from here?"
            ) from error
        except AuthenticationError as error:
            if any(key.lower() == "authorization" for key in self._headers):
                why = (
                    "refuses the token that is here: put the head's into RAY_AUTH_TOKEN, or into "
                    "~/.ray/auth_token"
                )
            else:
                why = (
                    "asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the token (or copy "
                    "the head's ~/.ray/auth_token)"
                )
            raise JobError(f"the cluster at {address} {why}") from error


@contextmanager
def _overridden(address: str) -> Iterator[None]:
    """Let Ray's client take its address: it would prefer the environment's to the one it is given."""
    before = os.environ.get(ADDRESS_VARIABLE)
    os.environ[ADDRESS_VARIABLE] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[ADDRESS_VARIABLE]
        else:
            os.environ[ADDRESS_VARIABLE] = before


def _be_quiet() -> None:
    """Keep Ray's client from telling of each upload."""
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.WARNING)


def _job(details: Any) -> Job:
    return Job(
        id=str(details.submission_id),
        status=str(details.status),
        cargo=cargo_of(details.metadata or {}),
        started=None if details.start_time is None else details.start_time / 1000,
        ended=None if details.end_time is None else details.end_time / 1000,
        exit_code=details.driver_exit_code,
    )


def _other_language(error: BaseException) -> str:
    """In what way something answers that is not spoken to as it expects; empty where nothing does."""
    chain = list(_chain(error))
    if any(isinstance(each, ssl.SSLCertVerificationError) for each in chain):
        return "has a certificate that is not trusted here"
    if any(isinstance(each, ssl.SSLError) for each in chain):
        return "does not speak https"
    if any(
        isinstance(each, HTTPException) and not isinstance(each, ConnectionError) for each in chain
    ):
        return "does not speak http"
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _cause(error: BaseException) -> str:
    """The innermost reason of a failed connection."""
    innermost = list(_chain(error))[-1]
    return _last_line(OSError(getattr(innermost, "strerror", None) or innermost))


def _last_line(error: BaseException) -> str:
    """What an error, or the server's own traceback in it, says in the end."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    lines = [line.rstrip(".") for line in lines if line.strip(".")]
    return without_password(lines[-1] if lines else type(error).__name__)
