"""The record's own tables, beside Optuna's in one database; keyed by study, so many can share it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from sqlalchemy import Column, DateTime, Engine, Float, Integer, MetaData, String, Table, Text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import Insert

from tune_ddvae.errors import RecordError
from tune_ddvae.tuning.trials import Decision, Row, State, Trial

METADATA = MetaData()
PUT_BACK = "Put back a copy from before, or begin anew under another --name"


def _key() -> Column[str]:
    return Column("study_id", String(32), primary_key=True)


STUDIES = Table(
    "ddvae_studies",
    METADATA,
    _key(),
    Column("name", String(512), unique=True, nullable=False),
    Column("identity", Text, nullable=False),  # JSON: what makes the study itself
    Column("about", Text, nullable=False),  # JSON: versions, commit, seed, study file
    Column("created", Float, nullable=False),
)
TRIALS = Table(
    "ddvae_trials",
    METADATA,
    _key(),
    Column("number", Integer, primary_key=True),
    Column("config", Text, nullable=False),
    Column("params", Text),  # null: outside the search space
    Column("setting", String(256)),
    Column("replicate", Integer),
    Column("state", String(32), nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("rank_values", Text),
    Column("losses", Integer, nullable=False, default=0),
    Column("started", Float),
    Column("ended", Float),
    Column("facts", Text, nullable=False, default="{}"),
)
ROWS = Table(
    "ddvae_rows",
    METADATA,
    _key(),
    Column("number", Integer, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("time", Float, nullable=False),
    Column("metrics", Text, nullable=False),
    Column("absent", Text, nullable=False),
    Column("decision", Text),
)
CHECKPOINTS = Table(
    "ddvae_checkpoints",
    METADATA,
    _key(),
    Column("path", String(512), primary_key=True),
    Column("number", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
)
SESSIONS = Table(  # one per driver: what --hours has used up
    "ddvae_sessions",
    METADATA,
    _key(),
    Column("token", String(32), primary_key=True),
    Column("started", Float, nullable=False),
    Column("seen", Float, nullable=False),
    Column("host", String(256), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("ended_as", Text, nullable=False, default=""),
)
ASKED = Table(  # what each driver was asked for; missing in records of before there was this table
    "ddvae_asked",
    METADATA,
    _key(),
    Column("token", String(32), primary_key=True),
    Column("trials", Integer),  # in all; null: as many as the hours allow
    Column("command", Text, nullable=False),  # that starts or continues it, without passwords
    Column("folder", Text, nullable=False),  # where that was typed
)
SENT = Table(  # what a tracking server is known to hold; number -1 is the parent run
    "ddvae_sent",
    METADATA,
    _key(),
    Column("tracking", String(512), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("run_id", String(64), nullable=False),
    Column("epoch", Integer, nullable=False, default=0),
    Column("status", String(64), nullable=False, default=""),
)

LEASES = Table(  # on a server: the one driver that may write, until when by the server's clock
    "ddvae_leases",
    METADATA,
    _key(),
    Column("token", String(32), nullable=False),
    Column("host", String(256), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started", Float, nullable=False),
    Column("expiry", DateTime(timezone=True), nullable=False),
)
DRIVERS = (
    Table(  # on a server: the process that a lease's driver is, whatever comes to have its number
        "ddvae_drivers",
        METADATA,
        _key(),
        Column("token", String(32), nullable=False),  # of its lease
        Column("birth", Text, nullable=False),  # JSON
    )
)


def insert_new(engine: Engine, table: Table) -> Insert:
    """An insert that leaves a row of the same key as it is: the first one stays."""
    if engine.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def decision_json(decision: Decision | None) -> str | None:
    """A decision as the record stores it."""
    if decision is None:
        return None
    return json.dumps(
        {
            "goes_on": decision.goes_on,
            "value": decision.value,
            "earlier": list(decision.earlier),
            "reason": decision.reason,
        }
    )


def decision_from(text: str | None) -> Decision | None:
    """The decision that ``decision_json`` wrote."""
    if text is None:
        return None
    facts = mapping_from(text)
    return Decision(
        goes_on=facts["goes_on"],
        value=facts["value"],
        earlier=tuple(facts["earlier"]),
        reason=facts["reason"],
    )


def mapping_from(text: str) -> dict[str, Any]:
    """What a column of names and values holds.

    Raises:
        ValueError: It is not JSON, or not of that kind.
    """
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"{text!r} must be a JSON object")  # noqa: TRY004 - damage, whatever kind
    return found


def row_from(row: Any) -> Row:
    """One stored row of ``ROWS``."""
    return Row(
        epoch=row.epoch,
        time=row.time,
        metrics=mapping_from(row.metrics),
        absent=mapping_from(row.absent),
        decision=decision_from(row.decision),
    )


def trial_from(row: Any) -> Trial:
    """One stored row of ``TRIALS``, without its evaluations and checkpoints."""
    return Trial(
        number=row.number,
        config=mapping_from(row.config),
        params=None if row.params is None else mapping_from(row.params),
        setting=row.setting,
        replicate=row.replicate,
        state=State(row.state),
        reason=row.reason,
        values=None if row.rank_values is None else tuple(json.loads(row.rank_values)),
        losses=row.losses,
        started=row.started,
        ended=row.ended,
        facts=mapping_from(row.facts),
    )


@contextmanager
def undamaged(engine: Engine, table: Table, which: str, advice: str = PUT_BACK) -> Iterator[None]:
    """Refuse what is stored there where it cannot be what we wrote.

    Args:
        engine: Of the record.
        table: Where it is stored.
        which: Of its rows, in words.
        advice: What to do.

    Raises:
        RecordError: Names the record, the place in it and what to do.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(
            f"the record {place_of(engine)} is damaged: {which} in table {table.name} cannot be read "
            f"({type(error).__name__}: {error}). {advice}"
        ) from error


def place_of(engine: Engine) -> str:
    """Where the record is: its file, or its server's address without the password."""
    if engine.dialect.name != "sqlite":
        return str(engine.url)
    path = engine.url.database or ""
    return unquote(path.removeprefix("file:")) if path.startswith("file:") else path
