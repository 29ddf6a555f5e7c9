"""Can this tracking address be used? Asked before anything is started, and answered quickly."""

import os
import queue
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from tune_ddvae.errors import TrackingError
from tune_ddvae.tuning import provenance
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.storage.folders import existing_parent
from tune_ddvae.tuning.tracking.client import (
    find_experiment,
    load_mlflow,
    open_client,
    plain_message,
    sqlite_path,
)

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SCHEMES = ("http", "https", *DATABASES)
DATABASE_NAME = "mlflow.db"
ANSWER_S = 10.0
LOCKED = ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED")  # MLflow's: 401 and 403


def default_tracking_uri(storage: Path) -> str:
    """The SQLite database in the storage folder; what lies in the current folder never matters."""
    return f"sqlite:///{storage.absolute() / DATABASE_NAME}"


def absolute_uri(uri: str) -> str:
    """The address with an SQLite file's path made absolute; any other address as it is."""
    path = sqlite_path(uri)
    if path is None:
        return uri
    scheme, _, rest = uri.partition("://")
    _, mark, options = rest.partition("?")
    return f"{scheme}:///{path}{mark}{options}"


def check_tracking(uri: str, experiment: str) -> list[str]:
    """Refuse an address that cannot work; return what to warn of.

    A server that does not answer, or not as MLflow does, is only warned of: training never depends on
    tracking. Nothing that is created stays, and a database that does not exist yet is not asked
    anything.

    Raises:
        TrackingError: A folder, an unknown kind of address, a file that is no database, one of
            another MLflow version or one that cannot be written, or a deleted experiment of that name;
            says what would do.
    """
    is_there = check_address(uri)
    path = sqlite_path(uri)
    if path is not None:
        _probe(path)
    return _ask(absolute_uri(uri), experiment) if is_there else []


def check_address(uri: str) -> bool:
    """Refuse an address that cannot work; whether there may be something behind it.

    Only an SQLite file can be known not to exist yet; a server is not asked.

    Raises:
        TrackingError: A folder, an unknown kind of address, one without a host, or a file that is no
            database.
    """
    parts = _split(uri)
    scheme = parts.scheme.partition("+")[0].lower()
    if scheme in ("", "file"):
        folder = Path(parts.path if scheme else uri).expanduser().absolute()
        raise TrackingError(
            f"a tracking address must name a server or a database: MLflow 3 keeps no runs in a plain "
            f"folder, got {uri!r}. Use sqlite:///{folder / DATABASE_NAME}"
        )
    if scheme not in SCHEMES or "://" not in uri:
        raise TrackingError(
            f"a tracking address must begin with {', '.join(f'{known}://' for known in SCHEMES)}, "
            f"got {without_password(uri)!r}"
        )
    if scheme == "sqlite":
        return _is_database(uri)
    if parts.netloc.count("@") > 1:
        raise TrackingError(
            "a tracking address must have one @, before its host; in a password write %40 for @"
        )
    if scheme in ("http", "https") and (not parts.hostname or "@" in parts.path):
        raise _misread()
    return True


def _split(uri: str) -> SplitResult:
    """The address in parts, with a port that is a number if it has any."""
    try:
        parts = urlsplit(uri)
        _ = parts.port if "://" in uri else None
    except ValueError:
        raise _misread() from None
    return parts


def _misread() -> TrackingError:
    """Shows nothing of the address: where it is cut wrongly, any part may be of the password."""
    return TrackingError(
        "a tracking address must name a host, and its port, if any, as a number: http://HOST:PORT; in a "
        "password write %2F for /, %3F for ? and %40 for @"
    )


def _is_database(uri: str) -> bool:
    """Whether the SQLite file is there already; refuses one that cannot be."""
    path = sqlite_path(uri)
    if path is None or path.name == ":memory:" or path.is_dir():
        raise TrackingError(
            f"an SQLite tracking address must name a file that stays, got {uri!r}: use "
            f"sqlite:////absolute/path/{DATABASE_NAME}"
        )
    place = next(place for place in (path, *path.parents) if place.exists())
    if not os.access(place, os.W_OK) or (place != path and not place.is_dir()):
        raise TrackingError(
            f"the tracking database {path} must be a file that can be written to, but {place} cannot: "
            "name another with --tracking-uri"
        )
    if place != path:
        return False
    with path.open("rb") as file:
        beginning = file.read(16)
    if beginning not in (b"", b"SQLite format 3\0"):
        raise TrackingError(
            f"the tracking database {path} must be an SQLite file, but it begins with {beginning!r}: "
            "name another with --tracking-uri"
        )
    return True


def _probe(path: Path) -> None:
    """Refuse an SQLite file that cannot be written, by trying: rights do not tell, least of all root's.

    SQLite keeps a journal beside its file, so the folder counts too.
    """
    place = existing_parent(path.parent)
    try:
        if path.exists():
            with path.open("r+b"):
                pass
        with tempfile.TemporaryDirectory(dir=place, prefix=".probe-"):
            pass
    except OSError as error:
        raise TrackingError(
            f"the tracking database {path} must be a file that can be written to, in a folder that can "
            f"be too, but that cannot be done in {place} ({error.strerror or error}): name another with "
            "--tracking-uri"
        ) from error


def _ask(uri: str, experiment: str) -> list[str]:
    """Look for the experiment, but not for long."""
    load_mlflow()  # slow on a busy machine, which says nothing about the server
    answer = _within(ANSWER_S, lambda: find_experiment(open_client(uri), uri, experiment))
    if answer is None:
        return []
    if isinstance(answer, TrackingError):
        raise answer
    address = without_password(uri)
    if "out-of-date database schema" in str(answer):
        raise TrackingError(
            f"the tracking database {address} must have the tables of the installed MLflow, but it is "
            "of another version. Copy it aside, then run: "
            + provenance.command("mlflow", ["db", "upgrade", address])
        ) from answer
    return [_warning(uri, answer)]


def _warning(uri: str, error: Exception) -> str:
    """What to say of a server that cannot be told of a study now: it is away, or it is another."""
    address = without_password(uri)
    cause = plain_message(error).partition(". Response body")[0]  # of a page, as likely as not
    if not _has_answered(uri, error):
        return (
            f"MLflow at {address} does not answer ({cause}). Training runs all the same; what is "
            "missing there is kept here and is sent as soon as it answers."
        )
    kept = "Training runs all the same; what is missing there is kept here"
    code = getattr(error, "error_code", "")
    if code in LOCKED:
        keys = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        return f"{address} answers, but lets nobody in without the right {keys} ({cause}). {kept}."
    if "error_code" in getattr(error, "json", {}):  # MLflow's own words
        return f"MLflow at {address} answers, but refuses ({cause}). {kept}."
    return f"{address} answers, but not as MLflow does ({cause}): is the address right? {kept}."


def _has_answered(uri: str, error: Exception) -> bool:
    """Whether a server was reached and MLflow's client judged what it said.

    Of one that is away, or whose proxy says so (502, 503, 504), the client tells in an error that it
    raises while it handles another.
    """
    is_server = uri.startswith(("http://", "https://"))
    return is_server and hasattr(error, "error_code") and error.__context__ is None


def _within(seconds: float, ask: Callable[[], object]) -> Exception | None:
    """The error that asking ended with; a ``TimeoutError`` where it has not ended in time."""
    answers: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            ask()
        except Exception as error:  # noqa: BLE001 - judged by the caller
            answers.put(error)
        else:
            answers.put(None)

    threading.Thread(target=run, name="tracking-check", daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return TimeoutError(f"no answer within {seconds:g} s")
