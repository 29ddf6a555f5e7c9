"""What the driver alone talks to: the record's database and MLflow. Looked at; nothing is made."""

from pathlib import Path

from filelock import FileLock

from tune_ddvae.errors import DdvaeError
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.cluster.facts import Check, State
from tune_ddvae.tuning.cluster.storage_probe import PROBE
from tune_ddvae.tuning.record.postgresql import num_on_server, server_address
from tune_ddvae.tuning.storage import folders
from tune_ddvae.tuning.storage.place import Place, database_folder
from tune_ddvae.tuning.tracking.client import server_version, sqlite_path
from tune_ddvae.tuning.tracking.tracking import check_tracking
from tune_ddvae.tuning.wording import plural

ON_SERVER = "keep the record on a server: --record postgresql://USER:PASSWORD@HOST/DATABASE"


def record_of(place: Place, record: str | None, name: str, word: str) -> Check:
    """Whether a study's record can be kept: on a server that lets us in, or in a folder with locks.

    Args:
        place: The storage; a folder is there.
        record: Address of the database, if it is to be on a server.
        name: The study's; it need not exist.
        word: This look's own, for the name of a file that is written and taken away.
    """
    try:
        if record is not None:
            held = num_on_server(server_address(record), name)
            has = f", it has {held} {plural('trial', held)} of {name}" if held else ""
            return Check(State.GOOD, f"{without_password(record)} answers{has}")
        return _file_in(database_folder(place), word)
    except DdvaeError as error:
        mend = "" if record is None else "see to that server, or name another with --record"
        return Check(State.BAD, str(error), mend)


def _file_in(folder: Path, word: str) -> Check:
    lock = folder / f"{PROBE}{word}-lock"
    try:
        with FileLock(lock, timeout=0, fallback_to_soft=False):
            pass
    except (NotImplementedError, OSError) as error:
        words = f"{folder} takes no locks, and a record's file needs them ({error})"
        return Check(State.BAD, words, ON_SERVER)
    finally:
        lock.unlink(missing_ok=True)
    kind = folders.file_system(folder)
    if folders.takes_wal(folder):
        return Check(State.GOOD, f"a file in the study's folder, on {kind}")
    return Check(State.DOUBTFUL, f"a file in the study's folder, on {kind}: slow there", ON_SERVER)


def tracking_of(uri: str, experiment: str) -> Check:
    """Whether MLflow can be told of a study, and in which version it answers.

    Args:
        uri: Tracking address, absolute.
        experiment: MLflow's, as the study would have it.
    """
    shown = without_password(uri)
    try:
        warnings = check_tracking(uri, experiment)
    except DdvaeError as error:
        return Check(State.BAD, str(error))
    if warnings:
        return Check(
            State.DOUBTFUL,
            "; ".join(warnings),
            "start MLflow there, or name its right address with --tracking-uri; `python -m "
            "tune_ddvae.sync STUDY` sends what is missing in the end",
        )
    if sqlite_path(uri) is not None:
        return Check(State.GOOD, f"{shown}, a file on the driver's machine")
    version = server_version(uri)
    return Check(State.GOOD, f"{shown} answers{version and f', MLflow {version}'}")
