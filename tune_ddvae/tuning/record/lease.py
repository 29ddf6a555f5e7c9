"""One live driver per study on a server: a lease that runs out, and a fence around every write.

A driver that dies holds its study until the lease runs out, and no longer. One that was frozen past
its lease, or cut off, must not write beside the next one: each transaction reads the lease's row, and
keeps it from changing hands, before it commits. An advisory lock would not do: cut its connection, and
two drivers write. The server's clock alone decides, so that no other two need agree.
"""

import json
import os
import socket
import threading
import time
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import (
    Connection,
    DateTime,
    Engine,
    and_,
    delete,
    event,
    func,
    inspect,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from tune_ddvae.errors import StudyLockedError
from tune_ddvae.tuning.record import postgresql
from tune_ddvae.tuning.record.postgresql import plain_cause, private_engine
from tune_ddvae.tuning.record.tables import DRIVERS, LEASES, mapping_from
from tune_ddvae.tuning.storage.lock import Birth, Holder, birth_of, driver_text

RENEWALS = 6  # in the time that a lease lasts

_NOW = func.clock_timestamp(type_=DateTime(timezone=True))  # now() stands still in a transaction


class Lease:
    """Holds one study for one driver from the start until ``release``."""

    def __init__(self, url: str, study_id: str, token: str) -> None:
        """Take the lease.

        Args:
            url: Address of the record's server.
            study_id: The study.
            token: Of this driver; no other one has it.

        Raises:
            StudyLockedError: Another driver holds it; says which, since when, and how long still.
        """
        self._length_s = postgresql.LEASE_S
        self._engine = private_engine(url)
        self.token = token
        self._study = LEASES.c.study_id == study_id
        self._ours = and_(self._study, LEASES.c.token == token)
        self._renewed = _clock()
        self._take(study_id)
        self._lost: StudyLockedError | None = None
        self._releasing = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def fence(self, engine: Engine) -> None:
        """Let no transaction of an engine commit unless the lease is still held then."""
        event.listen(engine, "commit", self._check_held)

    def check(self) -> None:
        """Raise ``StudyLockedError`` if the lease is known to be lost."""
        if self._lost is not None:
            raise self._lost

    def check_clock(self) -> None:
        """As ``check``, and raise if this driver was away for as long as a lease lasts."""
        self.check()
        if _clock() - self._renewed > self._length_s:
            self._lost = self._loss(None)
            raise self._lost

    def release(self) -> None:
        """Let go of the study; where the server is gone the lease runs out by itself."""
        self._releasing.set()
        self._thread.join()
        try:
            with self._engine.begin() as connection:
                connection.execute(delete(LEASES).where(self._ours))
        except SQLAlchemyError:
            pass
        finally:
            self._engine.dispose()

    def _take(self, study_id: str) -> None:
        facts = {
            "token": self.token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": time.time(),
            "expiry": _NOW + timedelta(seconds=self._length_s),
        }
        take = (
            insert(LEASES)
            .values(study_id=study_id, **facts)
            .on_conflict_do_update(
                index_elements=[LEASES.c.study_id], set_=facts, where=LEASES.c.expiry <= _NOW
            )
            .returning(LEASES.c.token)
        )
        with self._engine.begin() as connection:
            if connection.execute(take).one_or_none() is None:
                raise StudyLockedError(
                    f"another driver holds this study: {_described(self._holder(connection))}. Wait "
                    "for it to end, or stop it; one that is dead or frozen loses the study when its "
                    "lease runs out. A copy under another --name may run beside it"
                )
            driver = {"token": self.token, "birth": json.dumps(birth_of(os.getpid()))}
            connection.execute(
                insert(DRIVERS)
                .values(study_id=study_id, **driver)
                .on_conflict_do_update(index_elements=[DRIVERS.c.study_id], set_=driver)
            )

    def _check_held(self, connection: Connection) -> None:
        """Raise unless the lease is held, and keep it from changing hands until the commit."""
        self.check()
        held = select(LEASES.c.token).where(self._ours, LEASES.c.expiry > _NOW)
        if connection.execute(held.with_for_update(read=True)).one_or_none() is None:
            self._lost = self._loss(self._holder(connection))
            raise self._lost

    def _keep(self) -> None:
        """Renew the lease until it is released or lost."""
        while not self._releasing.wait(self._length_s / RENEWALS):
            asked = _clock()
            try:
                self._renew()
                self._renewed = asked  # the server's clock gives it no less than that
            except StudyLockedError as error:
                self._lost = error
            except SQLAlchemyError as error:
                if _clock() - self._renewed > self._length_s:
                    self._lost = self._loss(None, plain_cause(getattr(error, "orig", error)))
            if self._lost is not None:
                return

    def _renew(self) -> None:
        # A lease that has run out stays so, taken or not: what was decided since would be void.
        renew = update(LEASES).where(self._ours, LEASES.c.expiry > _NOW)
        with self._engine.begin() as connection:
            done = connection.execute(renew.values(expiry=_NOW + timedelta(seconds=self._length_s)))
            if done.rowcount == 0:
                raise self._loss(self._holder(connection))

    def _holder(self, connection: Connection) -> "_Holder | None":
        left = func.extract("epoch", LEASES.c.expiry - _NOW).label("left_s")
        columns = (LEASES.c.token, LEASES.c.host, LEASES.c.pid, LEASES.c.started, left)
        row = connection.execute(select(*columns).where(self._study)).one_or_none()
        if row is None:
            return None
        return _Holder(row.token, row.host, row.pid, row.started, float(row.left_s))

    def _loss(self, holder: "_Holder | None", cause: str = "") -> StudyLockedError:
        taken = holder is not None and holder.token != self.token
        now = f". It is held now by {_described(holder)}" if taken else ""
        return StudyLockedError(
            "this driver has lost its hold on the study: it was frozen, or cut off from the record's "
            f"server, for more than {self._length_s:g} s{cause and f' ({cause})'}. It has written "
            f"nothing since, nothing recorded is lost, and the same command goes on{now}"
        )


def current_holders(connection: Connection) -> dict[str, Holder]:
    """The drivers that hold studies of a server now, by study id; reads only."""
    left = func.extract("epoch", LEASES.c.expiry - _NOW).label("left_s")
    columns = (LEASES.c.study_id, LEASES.c.token, LEASES.c.host, LEASES.c.pid, LEASES.c.started)
    held = connection.execute(select(*columns, left).where(LEASES.c.expiry > _NOW)).all()
    births: dict[str, Birth] = {}
    if inspect(connection).has_table(DRIVERS.name):  # missing from records of before it was written
        rows = connection.execute(select(DRIVERS.c.token, DRIVERS.c.birth))
        births = {row.token: _birth_from(row.birth) for row in rows}
    return {
        row.study_id: Holder(
            row.host, row.pid, row.started, births.get(row.token, {}), max(float(row.left_s), 0.0)
        )
        for row in held
    }


def _birth_from(text: str) -> Birth:
    try:
        return mapping_from(text)
    except ValueError:
        return {}  # damaged, hence unknown: whoever would end the process leaves it alone


@dataclass(frozen=True)
class _Holder:
    """The driver that a study's lease names."""

    token: str
    host: str
    pid: int
    started: float
    left_s: float  # until the lease runs out


def _clock() -> float:
    """Seconds that pass while the process is frozen, and where it can be told, the machine too."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


def _described(holder: _Holder | None) -> str:
    if holder is None:  # it let go at this very moment
        return "a driver that has just ended"
    text = driver_text(holder.host, holder.pid, holder.started)
    return f"{text}; its lease runs out in {max(holder.left_s, 0.0):.0f} s unless it is renewed"
