"""Every study of a storage or of a database, as its record has it; reads only.

A record that cannot be read is an entry that says so, so that one of them never hides the others.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

from sqlalchemy import Connection, Table, func, inspect, select

from tune_ddvae.config import Direction
from tune_ddvae.errors import RecordError, StorageError
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.record.lease import current_holders
from tune_ddvae.tuning.record.opening import FILE_NAME, FORMAT, looking, record_url
from tune_ddvae.tuning.record.postgresql import is_server, server_address
from tune_ddvae.tuning.record.tables import (
    ASKED,
    LEASES,
    PUT_BACK,
    ROWS,
    SESSIONS,
    STUDIES,
    TRIALS,
    mapping_from,
    trial_from,
    undamaged,
)
from tune_ddvae.tuning.search import ranking
from tune_ddvae.tuning.signals import exit_code_of
from tune_ddvae.tuning.storage.folders import TRIALS_FOLDER
from tune_ddvae.tuning.storage.lock import FILE_NAME as LOCK_NAME
from tune_ddvae.tuning.storage.lock import LAST_TIME, NOTE_NAME, Holder, holder_of
from tune_ddvae.tuning.storage.place import database_folder, place_at
from tune_ddvae.tuning.studies.listed import Listed, Standing, newest_first
from tune_ddvae.tuning.tracking.view import Outcome
from tune_ddvae.tuning.trials import State, Trial
from tune_ddvae.tuning.wording import shown

BEFORE_RECORD = frozenset((LOCK_NAME, NOTE_NAME))  # all that a study's folder holds before that
RANKED = "rank_by/"  # how the keys of a study's identity begin that say what it ranks by
BEGINNING = "it is just beginning"
STOP_FIRST = "Its driver lives: stop it before anything is put in the record's place"
SILENT = "its driver ended without a word: killed, or its machine went down"


def list_studies(
    storage: str, record: str | None = None, *, may_be_missing: bool = False
) -> list[Listed]:
    """Every study of a storage, or of a database on a server; what changed last comes first.

    Args:
        storage: Where studies are kept, or the folder of one.
        record: Address of the database, if the records are in one on a server.
        may_be_missing: Whether there need be no such storage.

    Raises:
        ConfigError: The storage is a bucket, and no database is named.
        RecordError: The database cannot be read.
        StorageError: There is no such storage.
    """
    if record is not None:
        found = list(_in_database(server_address(record), None))
    else:
        found = list(_in_storage(database_folder(place_at(storage)), may_be_missing))
    return newest_first(found)


def find_study(name: str, storage: str, record: str | None = None) -> Listed:
    """One study of a storage, or of a database on a server.

    One whose record cannot be read is found all the same while a driver holds it.

    Raises:
        RecordError: There is no such study (names those there are), or its record cannot be read.
        StorageError: There is no such storage.
    """
    studies = list_studies(storage, record)
    # One that has the very name comes before one that only its folder's name is known of.
    called = [study for study in studies if study.name == name]
    called += [study for study in studies if study.is_called(name)]
    if called:
        study = called[0]
        if study.standing is Standing.UNREADABLE and study.holder is None:
            raise RecordError(f"study {name!r} cannot be told anything of: {shown(study.why)}")
        return study
    where = f"storage {place_at(storage)}" if record is None else without_password(record)
    known = ", ".join(sorted(shown(study.name) for study in studies)) or "none"
    raise RecordError(
        f"unknown study {name!r} in {shown(where)}; there are: {known}. Name where it is with "
        "--storage, or with --record where its record is on a server"
    )


def folder_of(record: str) -> Path:
    """A study's folder, which its record lies in; without a name for a record on a server."""
    return Path() if is_server(record) else Path(record.removeprefix("sqlite:///")).parent


def _in_storage(storage: Path, may_be_missing: bool) -> Iterator[Listed]:
    try:
        folders = sorted(storage.iterdir())
        is_study = (storage / FILE_NAME).is_file()
    except OSError as error:
        if may_be_missing and isinstance(error, FileNotFoundError):
            return
        raise StorageError(
            f"no studies can be looked for in {storage} ({error.strerror}); name where they are kept "
            "with --storage"
        ) from error
    if is_study:
        yield from _in_folder(storage)
    for folder in folders:
        try:
            found = list(_beside_others(folder))
        except OSError as error:  # somebody else's, for one
            why = f"its folder {folder} cannot be looked into ({error.strerror or error})"
            found = [_unreadable(folder.name, record_url(folder), why, by_folder=True)]
        yield from found


def _beside_others(folder: Path) -> Iterator[Listed]:
    """What there is to a folder that lies in a storage: mostly one study, or none."""
    if (folder / FILE_NAME).is_file():
        yield from _in_folder(folder)
        return
    holder, url = holder_of(folder), record_url(folder)
    if (folder / TRIALS_FOLDER).is_dir():
        why = "its record is gone, its trials are not"
        yield _unreadable(folder.name, url, why, holder, by_folder=True)
    elif holder is not None and {path.name for path in folder.iterdir()} <= BEFORE_RECORD:
        yield _beginning(folder, holder)


def _in_folder(folder: Path) -> Iterator[Listed]:
    holder, url = holder_of(folder), record_url(folder)
    try:
        found = list(_in_database(url, holder))
    except (RecordError, UnicodeError) as error:  # a folder's name need not be text
        yield _unreadable(folder.name, url, str(error), holder, by_folder=True)
        return
    yield from found
    if not found and holder is not None:
        yield _beginning(folder, holder)
    elif not found:
        yield _unreadable(folder.name, url, "its record holds no study", by_folder=True)


def _beginning(folder: Path, holder: Holder) -> Listed:
    url = record_url(folder)
    return Listed(
        name=folder.name,
        is_named_by_folder=True,
        standing=Standing.RUNNING,
        record=url,
        storage=_storage(url),
        why=BEGINNING,
        changed=holder.started or None,
        holder=holder,
    )


def _in_database(url: str, holder: Holder | None) -> Iterator[Listed]:
    with looking(url) as connection:
        if connection is None:
            return
        tables = inspect(connection).get_table_names()
        if STUDIES.name not in tables:
            return
        holders = current_holders(connection) if LEASES.name in tables and is_server(url) else {}
        for row in connection.execute(select(STUDIES).order_by(STUDIES.c.created)).all():
            now = holders.get(row.study_id, holder)
            safely = partial(_undamaged, connection, f"study {row.name!r}", now)
            try:
                with safely(STUDIES):
                    found = _read(connection, row, url, now, tables)
            except RecordError as error:
                is_named = isinstance(row.name, str)
                name = row.name if is_named else folder_of(url).name or "?"
                found = _unreadable(name, url, str(error), now, by_folder=not is_named)
            yield found


def _undamaged(
    connection: Connection, which: str, holder: Holder | None, table: Table
) -> AbstractContextManager[None]:
    """As ``undamaged``; nothing is to be put in the place of what a driver has open."""
    advice = PUT_BACK if holder is None else STOP_FIRST
    return undamaged(connection.engine, table, which, advice)


def _unreadable(
    name: str, url: str, why: str, holder: Holder | None = None, *, by_folder: bool = False
) -> Listed:
    return Listed(
        name=name,
        is_named_by_folder=by_folder,
        standing=Standing.UNREADABLE,
        why=why if holder is None else f"{why}. It is held by {holder}",
        record=without_password(url),
        storage=_storage(url),
        holder=holder,
    )


def _storage(url: str) -> str:
    """What the study's folder lies in, which holds the record; empty for one on a server."""
    if is_server(url):
        return ""
    return str(folder_of(url).parent)


def _read(
    connection: Connection, row: Any, url: str, holder: Holder | None, tables: Sequence[str]
) -> Listed:
    safely = partial(_undamaged, connection, f"study {row.name!r}", holder)
    _text("name", row.name)
    identity, about = mapping_from(row.identity), mapping_from(row.about)
    if identity.get("record_format") != FORMAT:
        return _unreadable(
            row.name,
            url,
            f"recorded in format {identity.get('record_format')}, and this version reads {FORMAT}",
            holder,
        )
    rank_by = _rank_by(identity)
    trials = _trials(connection, row.study_id, holder)
    session = connection.execute(
        select(SESSIONS)
        .where(SESSIONS.c.study_id == row.study_id)
        .order_by(SESSIONS.c.started.desc())
        .limit(1)
    ).one_or_none()
    asked = _asked(connection, session) if ASKED.name in tables else None
    if asked is not None:
        with safely(ASKED):
            _whole("trials", asked.trials)
            _text("command", asked.command)
            _text("folder", asked.folder)
    with safely(TRIALS):
        best = ranking.pareto_set(trials, rank_by)
    changed = [_time("created", row.created)]
    with safely(TRIALS):
        changed += [_time("started", trial.started) for trial in trials]
        changed += [_time("ended", trial.ended) for trial in trials]
    with safely(ROWS):
        changed.append(_time("time", _newest_row(connection, row.study_id)))
    with safely(SESSIONS):
        changed.append(_time("seen", None if session is None else session.seen))
    if holder is not None:
        with safely(LEASES):
            _time("started", holder.started)
    counts = Counter(trial.state for trial in trials)
    standing, why = _standing(session, counts, None if asked is None else asked.trials)
    if holder is not None:
        standing, why = Standing.RUNNING, ""
    return Listed(
        name=row.name,
        standing=standing,
        why=why,
        record=without_password(url),
        storage=_storage(url),
        counts=dict(counts),
        asked=asked.trials if asked is not None else None,
        rank_by=rank_by,
        best=best[0].values[0] if best and best[0].values else None,
        front=len(best),
        changed=max(time for time in changed if time is not None),
        holder=holder,
        command=str(about.get("command", "")) if asked is None else asked.command,
        folder="" if asked is None else asked.folder,
    )


def _rank_by(identity: Mapping[str, Any]) -> dict[str, Direction]:
    ways = {
        key.removeprefix(RANKED): way for key, way in identity.items() if key.startswith(RANKED)
    }
    for metric, way in ways.items():
        if way not in get_args(Direction):
            raise ValueError(f"{RANKED}{metric} must be one of {get_args(Direction)}, got {way!r}")
    return {metric: cast("Direction", way) for metric, way in ways.items()}


def _trials(connection: Connection, study_id: str, holder: Holder | None) -> list[Trial]:
    """All trials, without their evaluations."""
    query = select(TRIALS).where(TRIALS.c.study_id == study_id).order_by(TRIALS.c.number)
    trials = []
    for row in connection.execute(query):
        with _undamaged(connection, f"trial {row.number}", holder, TRIALS):
            trial = trial_from(row)
            for value in trial.values or ():
                _figure("rank_values", value)
            trials.append(trial)
    return trials


def _asked(connection: Connection, session: Any) -> Any:
    """What the last driver was asked for; None where that is not recorded."""
    if session is None:
        return None
    query = select(ASKED).where(
        ASKED.c.study_id == session.study_id, ASKED.c.token == session.token
    )
    return connection.execute(query).one_or_none()


def _standing(session: Any, counts: Mapping[State, int], asked: int | None) -> tuple[Standing, str]:
    """How a study stands that no driver holds, and why."""
    ended_as = "" if session is None else str(session.ended_as)
    ended = sum(counts.values()) - counts.get(State.UNFINISHED, 0)
    # A driver that was killed after its last trial left no word, and nothing to do.
    is_done = ended_as == Outcome.COMPLETE or (asked is not None and ended >= asked)
    if is_done and not counts.get(State.UNFINISHED):
        return (Standing.COMPLETE if counts.get(State.COMPLETE) else Standing.NO_SUCCESS), ""
    if ended_as == Outcome.OUT_OF_TIME:
        return Standing.OUT_OF_TIME, ""
    if not ended_as or exit_code_of(ended_as) is not None:  # a signal's
        return Standing.INTERRUPTED, ended_as or SILENT
    return Standing.STOPPED, ended_as


def _newest_row(connection: Connection, study_id: str) -> Any:
    """When an evaluation was recorded last; words, where any of the times is damaged."""
    query = select(func.max(ROWS.c.time)).where(ROWS.c.study_id == study_id)
    return connection.execute(query).scalar_one()  # SQLite takes any word for more than any number


def _figure(column: str, value: Any) -> float:
    """A number as it is stored; SQLite keeps anything in any column."""
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"{column} must be a finite number, got {value!r}")
    return float(value)


def _time(column: str, value: Any) -> float | None:
    """A time as it is stored, such as a date can be made of; None where there is none."""
    if value is None:
        return None
    if not 0 <= (time := _figure(column, value)) <= LAST_TIME:
        raise ValueError(f"{column} must be seconds since 1970, got {value!r}")
    return time


def _whole(column: str, value: Any) -> None:
    if value is not None and (type(value) is not int or value < 0):
        raise ValueError(f"{column} must be a whole number, got {value!r}")


def _text(column: str, value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{column} must be text, got {value!r}")  # noqa: TRY004 - damage
