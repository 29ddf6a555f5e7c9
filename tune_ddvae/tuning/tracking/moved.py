"""An SQLite tracking database that was moved with its folder: let its artifacts be found beside it.

MLflow keeps absolute addresses of artifacts. Without this it would write new ones to where the folder
was before, and show none of the old.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

BUSY_S = 60.0
_COLUMNS = (("experiments", "artifact_location"), ("runs", "artifact_uri"))


def follow_move(database: Path, artifacts: str) -> None:
    """Correct the database's own artifact addresses where only their folder has moved.

    An address is corrected if nothing is left at the old place, and the folder of that name lies beside
    the database now; any other address is left alone.

    Args:
        database: The SQLite file.
        artifacts: Name of the folder beside it.
    """
    here = database.parent / artifacts
    if not database.is_file() or not here.is_dir():
        return
    with closing(sqlite3.connect(database, timeout=BUSY_S)) as connection:
        for before in _moved(connection, here):
            for table, column in _COLUMNS:
                connection.execute(
                    f"update {table} set {column} = ? || substr({column}, ?) "  # noqa: S608 - ours
                    f"where {column} = ? or substr({column}, 1, ?) = ?",
                    (here.as_uri(), len(before) + 1, before, len(before) + 1, f"{before}/"),
                )
        connection.commit()


def _moved(connection: sqlite3.Connection, here: Path) -> list[str]:
    """Artifact addresses of experiments that lay in a folder of this name which is there no longer."""
    try:
        rows = connection.execute("select artifact_location from experiments").fetchall()
    except sqlite3.DatabaseError:  # no tables yet, or no database
        return []
    found = {str(address) for (address,) in rows if address}
    return [address for address in sorted(found) if _lay_elsewhere(address, here)]


def _lay_elsewhere(address: str, here: Path) -> bool:
    parts = urlsplit(address)
    place = Path(unquote(parts.path))
    return parts.scheme == "file" and place.name == here.name and not place.exists()
