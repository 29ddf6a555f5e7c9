"""The tracking database that belongs to a study's storage: it goes along where that is moved or copied.

The record names it without its folder. By its absolute path a copied record would go on writing to
the database of the study that it was copied from.
"""

import logging
from pathlib import Path

from sqlalchemy import select

from tune_ddvae.errors import RecordError
from tune_ddvae.tuning.record.ledger import Ledger
from tune_ddvae.tuning.record.opening import FILE_NAME, looking, record_url
from tune_ddvae.tuning.record.tables import STUDIES, place_of
from tune_ddvae.tuning.tracking.check import DATABASE_NAME, default_tracking_uri
from tune_ddvae.tuning.tracking.client import sqlite_path

OWN = f"sqlite:///{DATABASE_NAME}"  # in the record: the one in the storage, wherever that lies


def study_folder(record: Ledger) -> Path | None:
    """The study's own folder, if its record lies there; None where that is on a server."""
    if record.engine.dialect.name != "sqlite":
        return None
    return Path(place_of(record.engine)).absolute().parent


def recorded_as(record: Ledger, uri: str) -> str:
    """What the record calls a tracking address, which is absolute."""
    folder = study_folder(record)
    return OWN if folder is not None and _is_own(sqlite_path(uri), folder) else uri


def address_now(record: Ledger, recorded: str) -> str:
    """The tracking address that is meant by what the record calls it.

    Records of before there was a name for it hold the absolute path, maybe of a place before: there a
    record of the same study lies beside it.
    """
    folder = study_folder(record)
    if folder is None:
        return recorded
    path = sqlite_path(recorded)
    is_former = (
        path is not None
        and path.name == DATABASE_NAME
        and lies_also_in(path.parent / folder.name, record)
    )
    if recorded == OWN or _is_own(path, folder) or is_former:
        return default_tracking_uri(folder.parent)
    return recorded


def lies_also_in(folder: Path, record: Ledger) -> bool:
    """Whether another record of this very study is in that folder: one of them is a copy."""
    own = study_folder(record)
    other = folder / FILE_NAME
    try:
        if own is None or not other.is_file() or other.samefile(own / FILE_NAME):
            return False
        query = select(STUDIES.c.study_id)
        with looking(record_url(folder)) as connection:
            found = [] if connection is None else list(connection.execute(query).scalars())
    except (OSError, RecordError) as error:  # of no use to anybody, so no second one either
        logging.getLogger(__name__).debug("no record in %s: %s", folder, error)
        return False
    return record.study_id in found


def _is_own(path: Path | None, folder: Path) -> bool:
    return path is not None and path.resolve() == (folder.parent / DATABASE_NAME).resolve()
