"""Which driver holds a study, job or not, as far as that can be seen from here; changes nothing."""

import math
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import inspect, select

from tune_ddvae.errors import RecordError
from tune_ddvae.tuning.record.lease import current_holders
from tune_ddvae.tuning.record.opening import looking
from tune_ddvae.tuning.record.postgresql import server_address
from tune_ddvae.tuning.record.tables import LEASES, STUDIES
from tune_ddvae.tuning.storage.folders import slug
from tune_ddvae.tuning.storage.lock import Holder, holder_of

LOOK_EVERY_S = 0.5
CLOCKS_S = 1.0  # of a lease, between two looks at it: more is a renewal


def holder_at(study: str, storage: str, record: str = "") -> Holder | None:
    """The driver that holds a study; None where nobody does, or that cannot be seen from here.

    Args:
        study: Its name.
        storage: Where it is kept.
        record: Address of the database that its record is in, if that is on a server.
    """
    if not record:
        return holder_of(Path(storage) / slug(study))
    try:
        return holder_in(record, study)
    except RecordError:  # only the cluster reaches it, or has its password
        return None


def holder_in(record: str, study: str) -> Holder | None:
    """The driver that holds a study whose record is in a database on a server; None: nobody does.

    Args:
        record: Address of the database.
        study: Its name.

    Raises:
        RecordError: The database cannot be read, so nobody knows.
    """
    with looking(server_address(record)) as connection:
        tables = [] if connection is None else inspect(connection).get_table_names()
        if connection is None or not {STUDIES.name, LEASES.name} <= {*tables}:
            return None
        ids = connection.execute(select(STUDIES.c.study_id).where(STUDIES.c.name == study))
        holders = current_holders(connection)
        return next((holders[key] for key in ids.scalars() if key in holders), None)


def living(look: Callable[[], Holder | None], tell: Callable[[str], None]) -> Holder | None:
    """The driver that holds a study and lives; None where nobody does, or does any more.

    A driver that died holds its study until its lease runs out, and whether it died cannot be seen
    from another host: a lease is waited for until it is renewed, or nobody has it.

    Args:
        look: Says who holds the study now.
        tell: Takes a line for people, where there is something to wait for.
    """
    holder = first = look()
    if first is None or first.left_s is None:  # the system itself frees what a dead driver held
        return first
    tell(
        f"the study is held by {first}: waiting to see whether that renews its lease, which runs out "
        f"within {math.ceil(first.left_s)} s if it is dead"
    )
    started = time.monotonic()
    while holder == first and holder.left_s is not None:
        unrenewed_s = first.left_s - (time.monotonic() - started)
        if holder.left_s > unrenewed_s + CLOCKS_S:
            break
        time.sleep(LOOK_EVERY_S)
        holder = look()
    return holder
