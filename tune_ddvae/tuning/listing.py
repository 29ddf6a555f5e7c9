"""Every study of a storage or of a database, as its record has it; reads only.

A record that cannot be read is an entry that says so, so that one of them never hides the others.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, func, inspect, select

from tune_ddvae.config import Direction
from tune_ddvae.errors import RecordError, StorageError
from tune_ddvae.tuning import ranking
from tune_ddvae.tuning.lease import current_holders
from tune_ddvae.tuning.listed import Listed, Standing, newest_first
from tune_ddvae.tuning.lock import Holder, holder_of
from tune_ddvae.tuning.opening import FILE_NAME, FORMAT, looking, record_url
from tune_ddvae.tuning.place import database_folder, place_at
from tune_ddvae.tuning.postgresql import is_server, server_address
from tune_ddvae.tuning.signals import exit_code_of
from tune_ddvae.tuning.storage import TRIALS_FOLDER
from tune_ddvae.tuning.tables import (
    ASKED,
    LEASES,
    ROWS,
    SESSIONS,
    STUDIES,
    TRIALS,
    mapping_from,
    trial_from,
    undamaged,
)
from tune_ddvae.tuning.tracking_names import without_password
from tune_ddvae.tuning.tracking_view import Outcome
from tune_ddvae.tuning.trials import State, Trial

RANKED = "rank_by/"  # how the keys of a study's identity begin that say what it ranks by
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

    Raises:
        RecordError: There is no such study (names those there are), or its record cannot be read.
        StorageError: There is no such storage.
    """
    studies = list_studies(storage, record)
    for study in studies:
        if study.name == name:
            if study.standing is Standing.UNREADABLE:
                raise RecordError(f"study {name!r} cannot be told anything of: {study.why}")
            return study
    where = f"storage {place_at(storage)}" if record is None else without_password(record)
    known = ", ".join(sorted(study.name for study in studies)) or "none"
    raise RecordError(
        f"unknown study {name!r} in {where}; there are: {known}. Name where it is with --storage, or "
        "with --record where its record is on a server"
    )


def is_held(study: Listed, record: str | None) -> bool:
    """Whether the driver that held the study when it was listed holds it still.

    Args:
        study: As it was listed.
        record: Address of the database that it was listed from, if that is on a server.
    """
    if record is not None:
        return find_study(study.name, "", record).holder == study.holder
    return holder_of(Path(study.record.removeprefix("sqlite:///")).parent) == study.holder


def _in_storage(storage: Path, may_be_missing: bool) -> Iterator[Listed]:
    try:
        places = [storage, *sorted(storage.iterdir())]
    except OSError as error:
        if may_be_missing and isinstance(error, FileNotFoundError):
            return
        raise StorageError(
            f"no studies can be looked for in {storage} ({error.strerror}); name where they are kept "
            "with --storage"
        ) from error
    for folder in places:
        if (folder / FILE_NAME).is_file():
            yield from _in_folder(folder)
        elif folder != storage and (folder / TRIALS_FOLDER).is_dir():
            yield _unreadable(
                folder.name, record_url(folder), "its record is gone, its trials are not"
            )


def _in_folder(folder: Path) -> Iterator[Listed]:
    holder, url = holder_of(folder), record_url(folder)
    try:
        found = list(_in_database(url, holder))
    except RecordError as error:
        yield _unreadable(folder.name, url, str(error))
        return
    yield from found
    if not found and holder is not None:
        yield Listed(
            name=folder.name,
            standing=Standing.RUNNING,
            record=url,
            storage=_storage(url),
            why="it is just beginning",
            changed=holder.started or None,
            holder=holder,
        )
    elif not found:
        yield _unreadable(folder.name, url, "its record holds no study")


def _in_database(url: str, holder: Holder | None) -> Iterator[Listed]:
    with looking(url) as connection:
        if connection is None:
            return
        tables = inspect(connection).get_table_names()
        if STUDIES.name not in tables:
            return
        holders = current_holders(connection) if LEASES.name in tables and is_server(url) else {}
        for row in connection.execute(select(STUDIES).order_by(STUDIES.c.created)).all():
            try:
                yield _read(connection, row, url, holders.get(row.study_id, holder), tables)
            except RecordError as error:
                yield _unreadable(row.name, url, str(error))


def _unreadable(name: str, url: str, why: str) -> Listed:
    return Listed(
        name=name,
        standing=Standing.UNREADABLE,
        why=why,
        record=without_password(url),
        storage=_storage(url),
    )


def _storage(url: str) -> str:
    """What the study's folder lies in, which holds the record; empty for one on a server."""
    if is_server(url):
        return ""
    return str(Path(url.removeprefix("sqlite:///")).parent.parent)


def _read(
    connection: Connection, row: Any, url: str, holder: Holder | None, tables: Sequence[str]
) -> Listed:
    with undamaged(connection.engine, STUDIES, f"study {row.name!r}"):
        identity, about = mapping_from(row.identity), mapping_from(row.about)
    if identity.get("record_format") != FORMAT:
        return _unreadable(
            row.name,
            url,
            f"recorded in format {identity.get('record_format')}, and this version reads {FORMAT}",
        )
    rank_by = _rank_by(identity)
    trials = _trials(connection, row.study_id)
    session = connection.execute(
        select(SESSIONS)
        .where(SESSIONS.c.study_id == row.study_id)
        .order_by(SESSIONS.c.started.desc())
        .limit(1)
    ).one_or_none()
    asked = _asked(connection, session) if ASKED.name in tables else None
    with undamaged(connection.engine, TRIALS, f"study {row.name!r}"):
        best = ranking.pareto_set(trials, rank_by)
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
        changed=_changed(connection, row, session, trials),
        holder=holder,
        command=str(about.get("command", "")) if asked is None else asked.command,
        folder="" if asked is None else asked.folder,
    )


def _rank_by(identity: Mapping[str, Any]) -> dict[str, Direction]:
    return {
        key.removeprefix(RANKED): cast("Direction", way)
        for key, way in identity.items()
        if key.startswith(RANKED)
    }


def _trials(connection: Connection, study_id: str) -> list[Trial]:
    """All trials, without their evaluations."""
    query = select(TRIALS).where(TRIALS.c.study_id == study_id).order_by(TRIALS.c.number)
    trials = []
    for row in connection.execute(query):
        with undamaged(connection.engine, TRIALS, f"trial {row.number}"):
            trials.append(trial_from(row))
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


def _changed(connection: Connection, study: Any, session: Any, trials: Sequence[Trial]) -> float:
    """When anything of the study was recorded last."""
    newest = connection.execute(
        select(func.max(ROWS.c.time)).where(ROWS.c.study_id == study.study_id)
    ).scalar_one()
    times = [study.created, newest, None if session is None else session.seen]
    times += [time for trial in trials for time in (trial.started, trial.ended)]
    return float(max(time for time in times if time is not None))
