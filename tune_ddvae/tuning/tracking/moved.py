"""An SQLite tracking database moved or copied with its folder: let its artifacts be found beside it.

MLflow keeps absolute addresses of artifacts. Without this it would write new ones to where the folder
was before, and show none of the old; a copy's would be among the original's.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

BUSY_S = 60.0
_COLUMNS = (("experiments", "artifact_location"), ("runs", "artifact_uri"))


def follow_move(database: Path, artifacts: str) -> None:
    """Correct the database's own artifact addresses where their folder has moved or was copied.

    An address is corrected if the folder of that name lies beside the database now, and at the old
    place nothing is left, or a database of this name is beside it too: the one that this is a copy of.
    Any other address is left alone.

    Args:
        database: The SQLite file.
        artifacts: Name of the folder beside it.
    """
    here = database.parent / artifacts
    if not database.is_file() or not here.is_dir():
        return
    with closing(sqlite3.connect(database, timeout=BUSY_S)) as connection:
        for before in _moved(connection, here, database.name):
            for table, column in _COLUMNS:
                connection.execute(
                    f"update {table} set {column} = ? || substr({column}, ?) "  # noqa: S608 - ours
                    f"where {column} = ? or substr({column}, 1, ?) = ?",
                    (here.as_uri(), len(before) + 1, before, len(before) + 1, f"{before}/"),
                )
        connection.commit()


def _moved(connection: sqlite3.Connection, here: Path, database: str) -> list[str]:
    """Artifact addresses of experiments that lay in a folder of this name beside such a database."""
    try:
        rows = connection.execute("select artifact_location from experiments").fetchall()
    except sqlite3.DatabaseError:  # no tables yet, or no database
        return []
    found = {str(address) for (address,) in rows if address}
    return [address for address in sorted(found) if _lay_elsewhere(address, here, database)]


def _lay_elsewhere(address: str, here: Path, database: str) -> bool:
    parts = urlsplit(address)
    place = Path(unquote(parts.path))
    if parts.scheme != "file" or place.name != here.name:
        return False
    if not place.exists():
        return True
    return not place.samefile(here) and (place.parent / database).is_file()
