"""A recorded study and its picture in MLflow, with no driver there: send what is missing."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from tune_ddvae.errors import RecordError, TrackingError
from tune_ddvae.tuning.record.ledger import Ledger
from tune_ddvae.tuning.record.opening import open_ledger, record_url, recorded_names
from tune_ddvae.tuning.record.postgresql import is_server, server_address
from tune_ddvae.tuning.reporting.tracking import log_once
from tune_ddvae.tuning.storage.bucket import bucket_at, is_address
from tune_ddvae.tuning.storage.folders import absolute, slug
from tune_ddvae.tuning.storage.lock import sole_driver
from tune_ddvae.tuning.storage.place import Place, database_folder, tracking_folder
from tune_ddvae.tuning.tracking.backlog import Backlog, Summary, addresses
from tune_ddvae.tuning.tracking.check import absolute_uri, check_tracking, default_tracking_uri
from tune_ddvae.tuning.tracking.client import sqlite_path
from tune_ddvae.tuning.tracking.sync import sync
from tune_ddvae.tuning.tracking.view import Outcome
from tune_ddvae.tuning.trials import State

ENDED_SILENTLY = "its driver ended without a word: killed, or its machine went down"


def catch_up(
    name: str,
    *,
    storage: str,
    record: str | None,
    tracking_uri: str | None,
    notes: Callable[[str], None],
) -> list[Summary]:
    """Send MLflow what it lacks of a study that no driver holds; where, and how far that came.

    Args:
        name: The study's.
        storage: Where studies are kept.
        record: Address of a database on a server, if the record is there.
        tracking_uri: Where to; without it MLFLOW_TRACKING_URI, else every address that the study was
            ever shown at, else the database in the storage.
        notes: Takes lines for the person watching.

    Raises:
        ConfigError: The storage is a bucket, and no record is named.
        RecordError: There is no such study; names those there are.
        StudyLockedError: A driver holds it, and keeps MLflow up to date itself.
        TrackingError: The address cannot be used as it is.
    """
    place = bucket_at(storage) if is_address(storage) else absolute(storage)
    with _open(name, place, record) as ledger:
        given = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        uris = [absolute_uri(given)] if given else _known_addresses(ledger, tracking_folder(place))
        sent = []
        for uri in uris:
            backlog = Backlog(ledger, uri)
            experiment = str(backlog.study.about.get("experiment", name))
            check_tracking(uri, experiment)  # that it does not answer is in the summary
            outcome, reason = _outcome(backlog)
            sent.append(
                sync(
                    ledger,
                    uri,
                    experiment,
                    outcome=outcome,
                    reason=reason,
                    notes=notes,
                    restores=True,
                )
            )
            if sent[-1].is_whole:
                log_once(place / slug(name), ledger, uri, experiment, notes)
    return sent


@contextmanager
def _open(name: str, storage: Place, record: str | None) -> Iterator[Ledger]:
    """The study's record, held: nobody else may send at the same time, or runs would double."""
    url = (
        record_url(database_folder(storage) / slug(name))
        if record is None
        else server_address(record)
    )
    if not is_server(url) and name not in recorded_names(url):
        known = ", ".join(_names_below(database_folder(storage))) or "none"
        raise RecordError(
            f"unknown study {name!r} in storage {storage}; there are: {known}. Where the record is on "
            "a server, name it with --record"
        )
    with nullcontext() if is_server(url) else sole_driver(database_folder(storage) / slug(name)):
        ledger = open_ledger(url, name)
        try:
            yield ledger
        finally:
            ledger.close()


def _names_below(storage: Path) -> list[str]:
    places = sorted(storage.iterdir()) if storage.is_dir() else []
    return sorted(name for place in places for name in recorded_names(record_url(place)))


def _known_addresses(ledger: Ledger, storage: Path) -> list[str]:
    """Where the study was shown before, else the default.

    Raises:
        TrackingError: One of them needs its password, which the record does not keep.
    """
    known = addresses(ledger)
    for uri in known:
        if "***" in uri:
            raise TrackingError(
                f"the study is tracked at {uri}, and the record keeps no password: give the whole "
                "address with --tracking-uri"
            )
    there = [uri for uri in known if _may_be_there(uri)]
    return there or [default_tracking_uri(storage)]


def _may_be_there(uri: str) -> bool:
    """False for an SQLite file whose folder is gone: it was moved with the storage, or deleted."""
    path = sqlite_path(uri)
    return path is None or path.parent.is_dir()


def _outcome(backlog: Backlog) -> tuple[Outcome, str]:
    """How the study stands with nobody training it, and why."""
    ending = backlog.ending()
    states = [trial.state for trial in backlog.trials()]
    asked = backlog.num_asked()
    # A driver that was killed after its last trial left no word, and nothing to do.
    is_done = ending == Outcome.COMPLETE or (asked is not None and len(states) >= asked)
    if is_done and State.UNFINISHED not in states:
        return (Outcome.COMPLETE if State.COMPLETE in states else Outcome.FAILED), ""
    if ending == Outcome.OUT_OF_TIME:
        return Outcome.OUT_OF_TIME, ending
    return Outcome.INTERRUPTED, ending or ENDED_SILENTLY
