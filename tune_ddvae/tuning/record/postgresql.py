"""The record on a PostgreSQL server: which addresses, how it is reached, and what an outage means."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import URL, Engine, NullPool, create_engine, event, func, inspect, make_url, select
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from tune_ddvae.errors import ConfigError, RecordError, RecordLostError
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.record.tables import STUDIES, TRIALS

LEASE_S = 30.0  # how long a study stays held after its driver's last sign of life
PATIENCE_S = 30.0  # with a server that has gone, in the middle of a study
RETRY_S = 0.5
IDLE_SHARE = 3  # of a lease: how much sooner the server ends a transaction that nobody goes on with
DRIVER = "postgresql+psycopg2"  # named, since SQLAlchemy 2.1 takes plain "postgresql" for another
CREATION_KEY = 0x7464647661650001  # of the advisory lock: anything, but always the same
# libpq's own defaults wait for minutes on a host that has vanished.
REACHING = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # ms
}
Result = TypeVar("Result")


def is_server(url: str) -> bool:
    """Whether a record's address is a server's, and not that of a file."""
    return url.startswith("postgresql")


def server_address(url: str) -> str:
    """The address given to ``--record``, with the driver that we use in it.

    Raises:
        ConfigError: It is not one of a PostgreSQL database.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = URL.create("")
    if any(letter.isspace() for letter in url):
        raise ConfigError("--record must be an address without spaces; in a password write %20")
    if url.partition("://")[2].partition("?")[0].count("@") > 1:  # libpq would show what follows
        raise ConfigError("--record must have one @, before its host; in a password write %40")
    if parsed.drivername not in ("postgresql", DRIVER) or not parsed.database:
        raise ConfigError(
            "--record must be the address of a PostgreSQL database, "
            f"postgresql://USER:PASSWORD@HOST/DATABASE, got {without_password(url)}; without --record "
            "the record is a file in the study's folder"
        )
    return f"{DRIVER}://{url.partition('://')[2]}"


def engine_options(url: str) -> dict[str, Any]:
    """Options of an engine for a record's server; what the address itself sets goes before them."""
    query = make_url(url).query
    idle_ms = round(1000 * LEASE_S / IDLE_SHARE)
    given = query.get("options", "")
    options = f"{given} -c idle_in_transaction_session_timeout={idle_ms}".strip()
    reaching = {key: value for key, value in REACHING.items() if key not in query}
    return {
        "pool_pre_ping": True,
        # Waiting for a lease's row must see what the other driver made of it, and not fail.
        "isolation_level": "READ COMMITTED",
        "connect_args": {**reaching, "options": options},
    }


def private_engine(url: str) -> Engine:
    """An engine that keeps no connection open and that no fence stands around."""
    return create_engine(url, **engine_options(url), poolclass=NullPool)


def name_lost_connections(engine: Engine) -> None:
    """Let the engine raise ``RecordLostError`` where its server has gone.

    Optuna tries to create a trial five times after a database error, and would create a second one
    where only the answer to the first was lost: an error of another kind travels at once.
    """

    def lost(context: ExceptionContext) -> None:
        unreached = context.connection is None and isinstance(
            context.sqlalchemy_exception, OperationalError
        )
        if not context.is_pre_ping and (context.is_disconnect or unreached):
            raise RecordLostError(
                f"the record's server went away ({plain_cause(context.original_exception)}) and did "
                "not come back in time. What it has recorded is safe; once it answers, the same "
                "command goes on"
            )

    event.listen(engine, "handle_error", lost)


def patiently(
    call: Callable[[], Result],
    again: Callable[[], Result] | None = None,
    *,
    give_up: Callable[[], None] = lambda: None,
) -> Result:
    """The call's result, tried for some time while the server is away.

    Args:
        call: What is tried.
        again: What is tried from the second time on, where ``call`` may have been done although its
            answer was lost.
        give_up: Called before each new try; ends the patience by raising.

    Raises:
        RecordLostError: The server did not come back in time.
    """
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except RecordLostError:
            if time.monotonic() > until:
                raise
        time.sleep(RETRY_S)
        give_up()
        call = again or call


@contextmanager
def alone_in_making(url: str) -> Iterator[None]:
    """Let one driver at a time make tables and studies in a database; the others wait."""
    engine = private_engine(url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(select(func.pg_advisory_lock(CREATION_KEY)))
        yield  # the lock goes with the connection


def num_on_server(url: str, name: str) -> int:
    """How many trials of study ``name`` the server holds already; reads only, and makes nothing.

    Raises:
        RecordError: The server cannot be reached, or would not let us make our tables.
    """
    with refusing(url):
        engine = private_engine(url)
        with engine.connect() as connection:
            if inspect(connection).has_table(STUDIES.name):
                count = select(func.count()).select_from(TRIALS.join(STUDIES, _SAME_STUDY))
                return connection.execute(count.where(STUDIES.c.name == name)).scalar_one()
            schema, may_create, user = connection.execute(_RIGHTS).one()
    if not may_create:
        raise RecordError(
            f"{user} may not make tables in schema {schema} of the record {without_password(url)}; "
            f"let its owner GRANT CREATE ON SCHEMA {schema} TO {user}"
        )
    return 0


@contextmanager
def refusing(url: str) -> Iterator[None]:
    """Turn what a database fails with, while it is opened, into a refusal without a password.

    Raises:
        RecordError: The record cannot be opened; says why.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise RecordError(
            f"a record on a server needs the package {error.name}: pip install "
            "'tune-ddvae[postgresql]'"
        ) from error
    except SQLAlchemyError as error:
        cause = plain_cause(getattr(error, "orig", None) or error)
        raise RecordError(
            f"the record {without_password(url)} cannot be opened: {cause}"
        ) from error


def plain_cause(error: BaseException | None) -> str:
    """An error's message on one line, without passwords."""
    return without_password(" ".join(str(error).split()))


_SAME_STUDY = TRIALS.c.study_id == STUDIES.c.study_id
_RIGHTS = select(
    func.current_schema(),
    func.has_schema_privilege(func.current_schema(), "CREATE"),
    func.current_user(),
)
