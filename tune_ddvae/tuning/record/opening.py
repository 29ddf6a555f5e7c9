"""Opening a record: made where there is none, refused where it is another study's, caught up.

The database is an SQLite file in the study's folder, or one on a PostgreSQL server.
"""

import json
import logging
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import Connection, Engine, create_engine, event, func, insert, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError

from tune_ddvae.config import Value
from tune_ddvae.errors import RecordError
from tune_ddvae.spec import StudySpec
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.record import postgresql
from tune_ddvae.tuning.record.file import check_whole, name_damage
from tune_ddvae.tuning.record.lease import Lease
from tune_ddvae.tuning.record.ledger import Ledger
from tune_ddvae.tuning.record.record import Record, read_trials
from tune_ddvae.tuning.record.tables import (
    METADATA,
    STUDIES,
    TRIALS,
    mapping_from,
    place_of,
    undamaged,
)
from tune_ddvae.tuning.search import sampling
from tune_ddvae.tuning.storage import folders
from tune_ddvae.tuning.storage.folders import TRIALS_FOLDER, slug
from tune_ddvae.tuning.trials import State

FORMAT = 2  # of the tables; a record of another format is refused
FILE_NAME = "record.db"
SQLITE_OPTIONS: Mapping[str, Any] = {"pool_pre_ping": True, "connect_args": {"timeout": 60}}
Identity = Mapping[str, Value]


def record_url(folder: Path) -> str:
    """Address of the SQLite record in a study's folder."""
    return f"sqlite:///{folder / FILE_NAME}"


def open_record(
    url: str, name: str, spec: StudySpec, identity: Identity, about: Mapping[str, Value]
) -> Record:
    """Open the record of study ``name``, or make it.

    Args:
        url: Database address.
        name: The study's name.
        spec: The study.
        identity: What makes the study itself; it must equal what the record was made with.
        about: Versions, commit, seed and the like, kept from the first start.

    Raises:
        RecordError: The record holds a different study under this name; shows the difference. Or it
            cannot be read, or its folder is another study's.
        StudyLockedError: Another driver holds the study on a server.
    """
    if not postgresql.is_server(url):
        _check_beside_trials(Path(url.removeprefix("sqlite:///")))
        _check_file(url)
    with postgresql.refusing(url), ExitStack() as undo:
        # Two drivers at one new database would make the same tables.
        with postgresql.alone_in_making(url) if postgresql.is_server(url) else nullcontext():
            database = _database(url)
            undo.callback(database.engine.dispose)
            study_id = _study_id(database, name, identity, about)
            lease = None
            if postgresql.is_server(url):
                lease = Lease(url, study_id, uuid.uuid4().hex)
                undo.callback(lease.release)
                lease.fence(database.engine)
            optuna_study_id = _optuna_study(database, name, spec)
        record = Record(database, study_id, optuna_study_id, spec, lease)
        record.catch_up_mirror(record.trials())
        undo.pop_all()
    return record


def open_ledger(url: str, name: str) -> Ledger:
    """Open the record of study ``name`` as it is, whatever its specification; makes nothing.

    Args:
        url: Database address.
        name: The study's name.

    Raises:
        RecordError: There is no such study (names those there are), or it cannot be read.
        StudyLockedError: A driver holds the study on a server.
    """
    names = recorded_names(url)
    if name not in names:
        known = ", ".join(sorted(names)) or "none"
        raise RecordError(f"unknown study {name!r} in {without_password(url)}; there are: {known}")
    if not postgresql.is_server(url):
        _check_file(url)
    with postgresql.refusing(url), ExitStack() as undo:
        engine = _engine(url)
        undo.callback(engine.dispose)
        with engine.connect() as connection:
            row = connection.execute(select(STUDIES).where(STUDIES.c.name == name)).one()
        with undamaged(engine, STUDIES, f"study {name!r}"):
            written_as = mapping_from(row.identity).get("record_format")
        if written_as != FORMAT:
            raise RecordError(
                f"study {name!r} is recorded in format {written_as}, and this version of tune_ddvae "
                f"reads format {FORMAT}: use the version that it was started with"
            )
        # Those that came after it was made; the lease needs them, too.
        with postgresql.alone_in_making(url) if postgresql.is_server(url) else nullcontext():
            METADATA.create_all(engine)
        lease = None
        if postgresql.is_server(url):
            lease = Lease(url, row.study_id, uuid.uuid4().hex)
            undo.callback(lease.release)
            lease.fence(engine)
        ledger = Ledger(engine, row.study_id, lease)
        undo.pop_all()
    return ledger


def recorded_names(url: str) -> list[str]:
    """Names of the studies in a database; none where there is no database yet.

    Raises:
        RecordError: It cannot be read.
    """
    with looking(url) as connection:
        return [] if connection is None else _names(connection)


def num_recorded(url: str, name: str) -> tuple[int, int]:
    """How many trials of study ``name`` have begun, and how many of them have ended; reads only.

    Raises:
        RecordError: The record cannot be read.
    """
    if name not in recorded_names(url):
        return 0, 0
    query = (
        select(func.count(), func.count().filter(TRIALS.c.state != State.UNFINISHED))
        .select_from(TRIALS.join(STUDIES, TRIALS.c.study_id == STUDIES.c.study_id))
        .where(STUDIES.c.name == name)
    )
    with looking(url) as connection:
        begun, ended = connection.execute(query).one() if connection is not None else (0, 0)
    return begun, ended


@contextmanager
def looking(url: str) -> Iterator[Connection | None]:
    """A connection to read by; None where there is no database yet."""
    if postgresql.is_server(url):
        with postgresql.refusing(url), postgresql.private_engine(url).connect() as connection:
            yield connection
    else:
        with _reading(Path(url.removeprefix("sqlite:///")).parent) as connection:
            yield connection


def _names(connection: Connection) -> list[str]:
    if not inspect(connection).has_table(STUDIES.name):
        return []
    return [str(name) for name in connection.execute(select(STUDIES.c.name)).scalars()]


def _engine(url: str) -> Engine:
    """An engine for a database that is there."""
    if postgresql.is_server(url):
        engine = create_engine(url, **postgresql.engine_options(url))
        postgresql.name_lost_connections(engine)
    else:
        engine = create_engine(url, **SQLITE_OPTIONS)
        _set_up_sqlite(engine, url)
    return engine


def _database(url: str) -> RDBStorage:
    """The database at an address, with Optuna's tables and ours in it."""
    if postgresql.is_server(url):
        database = RDBStorage(url, engine_kwargs=postgresql.engine_options(url))
        postgresql.name_lost_connections(database.engine)
    else:
        database = RDBStorage(url, engine_kwargs=dict(SQLITE_OPTIONS))
        _set_up_sqlite(database.engine, url)
    METADATA.create_all(database.engine)
    return database


def _study_id(
    database: RDBStorage, name: str, identity: Identity, about: Mapping[str, Value]
) -> str:
    """The study's id in our tables, entered there the first time; its identity is compared."""
    with database.engine.begin() as connection:
        study_id = _known(connection, name, identity)
        if study_id is not None:
            return study_id
        _check_alone(connection, name)
        if _known_to_optuna(database, name) is not None:
            raise _foreign(name)
        study_id = uuid.uuid4().hex
        connection.execute(
            insert(STUDIES),
            {
                "study_id": study_id,
                "name": name,
                "identity": json.dumps(_with_format(identity)),
                "about": json.dumps(dict(about)),
                "created": time.time(),
            },
        )
    return study_id


def check_recorded(folder: Path, name: str, identity: Identity) -> int:
    """How many trials of study ``name`` its folder holds already; reads only, and makes nothing.

    Raises:
        RecordError: Opening this record would be refused; says why in the same words.
    """
    _check_beside_trials(folder / FILE_NAME)
    with _reading(folder) as connection:
        if connection is None:
            return 0
        tables = inspect(connection).get_table_names()
        study_id = _known(connection, name, identity) if STUDIES.name in tables else None
        if study_id is not None:
            return len(read_trials(connection.engine, study_id))
        _check_alone(connection, name)
        optunas = text("SELECT 1 FROM studies WHERE study_name = :name")
        if "studies" in tables and connection.execute(optunas, {"name": name}).first() is not None:
            raise _foreign(name)
    return 0


@contextmanager
def _reading(folder: Path) -> Iterator[Connection | None]:
    """A connection that cannot write to a folder's record; None where there is no record.

    Raises:
        RecordError: It cannot be read; says where it is and why.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        yield None
        return
    _roll_back(path)
    engine = _file_engine(path, "ro")
    name_damage(engine)
    try:
        with engine.connect() as connection:
            yield connection
    except SQLAlchemyError as error:
        cause = postgresql.plain_cause(getattr(error, "orig", None) or error)
        raise RecordError(f"the record {path} cannot be read: {cause}") from error
    finally:
        engine.dispose()


def _file_engine(path: Path, mode: str) -> Engine:
    return create_engine(f"sqlite:///file:{quote(str(path))}?mode={mode}&uri=true")


def _roll_back(path: Path) -> None:
    """Let SQLite put back what a killed driver had half written: whoever may only read cannot.

    A live driver's journal is left alone; its locks tell.
    """
    if not path.with_name(f"{path.name}-journal").exists():
        return
    engine = _file_engine(path, "rw")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
    except SQLAlchemyError as error:  # whoever reads next meets it again, and says so
        logging.getLogger(__name__).debug("%s was not rolled back: %s", path, error)
    finally:
        engine.dispose()


def _known(connection: Connection, name: str, identity: Identity) -> str | None:
    """The study's id in our tables, None where it is not entered; its identity is compared."""
    row = connection.execute(select(STUDIES).where(STUDIES.c.name == name)).one_or_none()
    if row is None:
        return None
    with undamaged(connection.engine, STUDIES, f"study {name!r}"):
        known = mapping_from(row.identity)
    _check_identity(name, known, _with_format(identity))
    return str(row.study_id)


def _with_format(identity: Identity) -> Identity:
    return {**identity, "record_format": FORMAT}


def _foreign(name: str) -> RecordError:
    return RecordError(
        f"the database holds a study {name!r} that is another program's; give this one a --name of "
        "its own"
    )


def _check_file(url: str) -> None:
    """Refuse a file that is damaged anywhere, before anything is trained that it could not take."""
    with _reading(Path(url.removeprefix("sqlite:///")).parent) as connection:
        if connection is not None:
            check_whole(connection.engine)


def _check_beside_trials(path: Path) -> None:
    """Refuse to begin anew where trials are left and the record of them is not."""
    is_lost = not path.exists() or path.stat().st_size == 0
    trials = path.parent / TRIALS_FOLDER
    if is_lost and trials.is_dir() and any(trials.iterdir()):
        how = "is empty" if path.exists() else "is gone"
        raise RecordError(
            f"the record {path} {how}, but {trials} holds trials that it must name. Put back a copy "
            "of it, begin anew under another --name, or move that folder away"
        )


def _check_alone(connection: Connection, name: str) -> None:
    """Refuse a file that holds other studies and not this one: its folder was renamed or copied.

    A study begun there would not know the checkpoints beside it, and whose they are would be lost.
    """
    others = _names(connection)
    if connection.dialect.name == "sqlite" and others:
        held = ", ".join(repr(other) for other in others)
        place = Path(place_of(connection.engine)).parent
        raise RecordError(
            f"the record in {place} must be of study {name!r}, but it is of {held}: that folder was "
            f"renamed or copied. To go on with {others[0]!r}, give the folder its name "
            f"{slug(others[0])!r} back (a copy: under another --storage); to begin {name!r} anew, "
            "name another --storage, or another --name"
        )


def _known_to_optuna(database: RDBStorage, name: str) -> int | None:
    try:
        return database.get_study_id_from_name(name)
    except KeyError:
        return None


def _optuna_study(database: RDBStorage, name: str, spec: StudySpec) -> int:
    study_id = _known_to_optuna(database, name)
    if study_id is None:
        study_id = database.create_new_study(sampling.directions(spec), name)
        with warnings.catch_warnings():  # experimental, and only what a dashboard calls the values
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.load_study(study_name=name, storage=database)
            study.set_metric_names(list(spec.rank_by))
    return study_id


def _set_up_sqlite(engine: Engine, url: str) -> None:
    path = Path(url.removeprefix("sqlite:///"))
    mode = "WAL" if folders.takes_wal(path.parent) else "DELETE"

    def durable(connection, _record) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        connection.execute("PRAGMA synchronous = FULL")

    event.listen(engine, "connect", durable)
    name_damage(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA journal_mode = {mode}")
        connection.exec_driver_sql("PRAGMA synchronous = FULL")


def _check_identity(name: str, known: Identity, asked: Identity) -> None:
    keys = [key for key in {**known, **asked} if known.get(key) != asked.get(key)]
    if keys:
        lines = "\n".join(
            f"  {key}: {known.get(key, 'not there')} in the record, {asked.get(key, 'not there')} now"
            for key in keys
        )
        raise RecordError(
            f"study {name!r} is already recorded with a different specification:\n{lines}\n"
            "Continue it with the options it was started with, or give this one a --name of its own."
        )
