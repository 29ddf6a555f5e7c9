"""The one place that imports MLflow, and only when something is really said to it.

Its client is used with an explicit address, never MLflow's global one, and kept short-tempered: our
own loop does the waiting and trying again.
"""

import logging
import os
import shlex
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from tune_ddvae.errors import TrackingError
from tune_ddvae.tuning import provenance
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.tracking.moved import follow_move
from tune_ddvae.tuning.tracking.names import (
    OLD_SERVER_LIMIT,
    PARAM_LIMIT,
    RUN_NAME_LIMIT,
    TAG_LIMIT,
    plain_key,
    shortened,
)
from tune_ddvae.tuning.tracking.view import RUNNING, Point

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS_FOLDER = "mlartifacts"  # beside an SQLite database
METRICS_PER_BATCH = 1000  # MLflow's limits for one request
TAGS_PER_BATCH = 100
RUNS_PER_PAGE = 1000
LOCK_S = 60.0  # a fresh database is made in some 4 s

ENVIRONMENT = {  # unless the user has set them
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a retried "create run" could make two
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class Listed:
    """A run as MLflow lists it."""

    run_id: str
    status: str
    tags: Mapping[str, str]
    metrics: Collection[str]  # names of those it has points of


class Server:
    """One experiment at one tracking address."""

    def __init__(
        self, uri: str, experiment: str, before_write: Callable[[], None] = lambda: None
    ) -> None:
        """Connect; make the database and the experiment where there is none yet.

        Args:
            uri: Tracking address.
            experiment: Its name.
            before_write: Called before anything is written to a run; may raise.

        Raises:
            TrackingError: The experiment was deleted; says how to get it back.
            Exception: Whatever keeps MLflow from answering.
        """
        self._before_write = before_write
        self._client = open_client(uri)
        self.experiment_id = self._open_experiment(uri, experiment)

    def find(self, tags: Mapping[str, str]) -> str | None:
        """The oldest run with all these tags."""
        return next((run.run_id for run in self.runs(tags)), None)

    def runs(self, tags: Mapping[str, str]) -> list[Listed]:
        """Every run with all these tags that nobody has deleted, oldest first."""
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found: list[Listed] = []
        page: str | None = None
        while True:
            runs = self._client.search_runs(
                [self.experiment_id],
                query,
                max_results=RUNS_PER_PAGE,
                order_by=["attributes.start_time ASC"],
                page_token=page,
            )
            found += [
                Listed(run.info.run_id, run.info.status, run.data.tags, list(run.data.metrics))
                for run in runs
            ]
            page = runs.token
            if not page:
                return found

    def points(self, run_id: str, key: str) -> list[Point]:
        """Every point of one of the run's metrics, by the name that MLflow has for it."""
        history = self._client.get_metric_history(run_id, key)
        return [Point(key, point.value, point.timestamp, point.step) for point in history]

    def holds(self, run_id: str) -> bool:
        """Whether the run is there, in this experiment and not deleted."""
        try:
            info = self._client.get_run(run_id).info
        except Exception as error:
            if is_gone(error):
                return False
            raise
        return info.lifecycle_stage == "active" and info.experiment_id == self.experiment_id

    def create(self, name: str, tags: Mapping[str, str], started: float) -> str:
        """A new running run; ``started`` in seconds since 1970."""
        self._before_write()
        run = self._client.create_run(
            self.experiment_id,
            start_time=round(started * 1000),
            tags={plain_key(key): shortened(value, TAG_LIMIT) for key, value in tags.items()},
            run_name=shortened(name, RUN_NAME_LIMIT),
        )
        return str(run.info.run_id)

    def delete(self, run_id: str) -> None:
        """Put the run where MLflow keeps what was deleted; one that is gone already stays so."""
        try:
            self._client.delete_run(run_id)
        except Exception:
            if self.holds(run_id):
                raise

    def log(
        self,
        run_id: str,
        points: Sequence[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Points, params and tags in one request, in several only beyond MLflow's limits.

        A server of an older version may refuse long values: they are then sent cut shorter.
        """
        params, tags = params or {}, tags or {}
        try:
            self._log(run_id, points, params, tags, PARAM_LIMIT, TAG_LIMIT)
        except Exception as error:
            texts = [*params.values(), *tags.values()]
            if not is_refusal(error) or all(len(text) <= OLD_SERVER_LIMIT for text in texts):
                raise
            self._log(run_id, points, params, tags, OLD_SERVER_LIMIT, OLD_SERVER_LIMIT)

    def set_status(self, run_id: str, status: str, ended: float | None) -> None:
        """Close the run, or open it again; ``ended`` in seconds since 1970."""
        self._before_write()
        if status == RUNNING:
            self._client.update_run(run_id, status=RUNNING)
        else:
            end_time = None if ended is None else round(ended * 1000)
            self._client.set_terminated(run_id, status, end_time)

    def store(self, run_id: str, name: str, text: str) -> None:
        """Keep a text as an artifact of the run."""
        self._before_write()
        self._client.log_text(run_id, text, name)

    def store_file(self, run_id: str, file: Path, folder: str) -> None:
        """Keep a file as an artifact of the run, in a folder of its artifacts."""
        self._before_write()
        self._client.log_artifact(run_id, str(file), folder)

    def _log(
        self,
        run_id: str,
        points: Sequence[Point],
        params: Mapping[str, str],
        tags: Mapping[str, str],
        param_limit: int,
        tag_limit: int,
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(plain_key(p.key), p.value, p.time_ms, p.step) for p in points]
        texts: list[Any] = [
            Param(plain_key(key), shortened(without_password(value), param_limit))
            for key, value in params.items()
        ]
        texts += [
            RunTag(plain_key(key), shortened(without_password(value), tag_limit))
            for key, value in tags.items()
        ]
        together = len(metrics) + len(texts) <= METRICS_PER_BATCH and len(texts) <= TAGS_PER_BATCH
        portions: Iterable[Sequence[Any]] = (
            [[*metrics, *texts]]
            if together
            else [*_portions(texts, TAGS_PER_BATCH), *_portions(metrics, METRICS_PER_BATCH)]
        )
        for portion in portions:
            self._before_write()
            self._client.log_batch(
                run_id,
                metrics=[entity for entity in portion if isinstance(entity, Metric)],
                params=[entity for entity in portion if isinstance(entity, Param)],
                tags=[entity for entity in portion if isinstance(entity, RunTag)],
                synchronous=True,
            )

    def _open_experiment(self, uri: str, name: str) -> str:
        found = find_experiment(self._client, uri, name)
        if found is not None:
            return found
        path = sqlite_path(uri)
        artifacts = None if path is None else (path.parent / ARTIFACTS_FOLDER).as_uri()
        try:
            return str(self._client.create_experiment(name, artifact_location=artifacts))
        except Exception:
            found = find_experiment(self._client, uri, name)
            if found is None:
                raise
            return found  # another study has just made it


def load_mlflow() -> "type[MlflowClient]":
    """MLflow's client class, made quiet; the first call takes some 2 s, all in the import."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    # Not before: MLflow sets its own levels at import. Errors reach our notes; its tables' upgrades
    # and tracebacks are of no use on the screen of a study.
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    return MlflowClient


def open_client(uri: str) -> "MlflowClient":
    """MLflow's client for that address; a fresh SQLite database is made by one process at a time.

    Raises:
        Exception: Whatever keeps MLflow from answering.
    """
    client_class = load_mlflow()
    path = sqlite_path(uri)
    if path is None:
        return client_class(tracking_uri=uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f"{path.name}.lock"), timeout=LOCK_S, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise
    except (NotImplementedError, OSError) as error:  # a file system without locks, or read-only
        logging.getLogger(__name__).debug("no lock beside %s: %s", path, error)
    try:
        follow_move(path, ARTIFACTS_FOLDER)
        return client_class(tracking_uri=uri)
    finally:
        lock.release()


def find_experiment(client: "MlflowClient", uri: str, name: str) -> str | None:
    """Id of the experiment of that name, None if there is none.

    Raises:
        TrackingError: It was deleted: MLflow keeps its name until it is restored or purged.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return None
    if experiment.lifecycle_stage != "active":
        address = without_password(uri)
        words = ["experiments", "restore", "--experiment-id", experiment.experiment_id]
        raise TrackingError(
            f"MLflow's experiment {name!r} at {address} must not be a deleted one: it is, and its name "
            f"stays taken. Restore it:\n  MLFLOW_TRACKING_URI={shlex.quote(address)} "
            f"{provenance.command('mlflow', words)}\n"
            "or name another tracking address with --tracking-uri."
        )
    return str(experiment.experiment_id)


def server_version(uri: str) -> str:
    """MLflow's version on a server, as it tells it; empty for a database, and where it tells none."""
    if not uri.startswith(("http://", "https://")):
        return ""
    load_mlflow()
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        creds = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
        answer = http_request(creds, "/version", "GET", max_retries=0)  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001 - it is only shown; whether it answers is asked elsewhere
        logging.getLogger(__name__).debug("no version of %s: %s", without_password(uri), error)
        return ""
    return shortened(answer.text.strip(), 40) if answer.status_code == 200 else ""


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite address, absolute; None for any other address."""
    scheme, _, rest = uri.partition("://")
    if scheme.split("+")[0] != "sqlite":
        return None
    return Path(rest.removeprefix("/").partition("?")[0]).absolute()


def is_gone(error: BaseException) -> bool:
    """Whether MLflow says that what was asked for does not exist."""
    return getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"


def is_refusal(error: BaseException) -> bool:
    """Whether MLflow has understood and says no: sending the same again would not help."""
    return getattr(error, "error_code", "") in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def plain_message(error: BaseException) -> str:
    """What went wrong, on one line, without MLflow's wrapping and without passwords."""
    root = error
    while (deeper := root.__cause__ or root.__context__) is not None:
        root = deeper
    told = root if isinstance(root, OSError | sqlite3.Error) else error
    lines = str(told).strip().splitlines() or [type(told).__name__]
    whole = " ".join(lines) if isinstance(told, TrackingError) else lines[0]
    return shortened(without_password(whole), 400)


def _portions(entities: Sequence[Any], limit: int) -> Iterable[Sequence[Any]]:
    return (entities[start : start + limit] for start in range(0, len(entities), limit))
