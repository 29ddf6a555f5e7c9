"""Where a study's files lie: a folder, or a bucket. A folder is a path, and is used as one.

A bucket cannot hold a database. A study that lies in one has its record on a server; where MLflow's
database is not named either, it is in ./studies on the driver's machine.
"""

import atexit
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tune_ddvae.errors import CheckpointError, ConfigError, StorageAwayError
from tune_ddvae.tuning.storage import bucket, folders
from tune_ddvae.tuning.storage.bucket import Bucket
from tune_ddvae.tuning.storage.folders import TEMPORARY

Place = Path | Bucket
PATIENCE_S = 600.0  # with a bucket that is away, before its trial gives its slot to another
RETRY_S = 5.0
REMOVALS = 4  # at once: each takes a bucket some tenths of a second


def place_at(address: str) -> Place:
    """The place that the user, or a tag, names; a folder is made absolute.

    Raises:
        StorageError: It is an address, and none of a bucket; or no study can be kept in a folder of
            such a path.
    """
    if bucket.is_address(address):
        return bucket.bucket_at(address)
    return folders.absolute(address)


def planned_place(address: str, record: str | None) -> Place:
    """Where studies are to be kept; checked as far as can be without making anything.

    Args:
        address: A folder or a bucket.
        record: Address of the database for the record, if it is to be on a server.

    Raises:
        ConfigError: A bucket without such a database.
        StorageError: It could not be made or written to, or does not answer.
    """
    if not bucket.is_address(address):
        return folders.planned_folder(address)
    place = bucket.bucket_at(address)
    if record is None:
        database_folder(place)
    bucket.reach(place)
    return place


def make_ready(study: Place) -> None:
    """Make what is above a study's own place, and probe it for writing.

    Raises:
        StorageError: It cannot be written to.
    """
    if isinstance(study, Bucket):
        bucket.probe(study)
    else:
        folders.storage_folder(study.parent)


def database_folder(place: Place) -> Path:
    """The place as a folder that may hold a study's record.

    Raises:
        ConfigError: It is a bucket.
    """
    if isinstance(place, Bucket):
        raise ConfigError(
            f"storage {place} is a bucket, and the record is a database, which no bucket can hold: name "
            "one on a server with --record postgresql://USER:PASSWORD@HOST/DATABASE"
        )
    return place


def tracking_folder(place: Place) -> Path:
    """The folder for MLflow's database, where no other address is given."""
    return Path("studies") if isinstance(place, Bucket) else place


def absolute(place: Place) -> Place:
    """The place, independent of the current folder."""
    return place if isinstance(place, Bucket) else place.absolute()


def free_bytes(place: Place) -> int | None:
    """Bytes free for us where the place lies, or is going to; None for a bucket, which has no end."""
    if isinstance(place, Bucket):
        return None
    return folders.free_bytes(folders.existing_parent(place))


def for_ray(place: Place) -> dict[str, Any]:
    """The place in the words of Ray's RunConfig."""
    if isinstance(place, Bucket):
        return {"storage_path": place.path, "storage_filesystem": bucket.file_system(place)}
    return {"storage_path": str(place)}


def below(path: str, place: Place) -> str:
    """A path of Ray's, relative to the place that it lies in."""
    above = place.path if isinstance(place, Bucket) else place
    return Path(path).relative_to(above).as_posix()


def wait_for(place: Place, on_wait: Callable[[], None]) -> None:
    """Return once the place can be used, which a folder always can; a bucket may be away for a while.

    One that is there and takes nothing is away too, or trials would be trained in vain.

    Args:
        place: Where.
        on_wait: Called now and then while it is waited for.

    Raises:
        StorageAwayError: It did not come back in time.
    """
    until = time.monotonic() + PATIENCE_S
    while isinstance(place, Bucket):
        try:
            bucket.probe(place)
        except StorageAwayError:
            if time.monotonic() > until:
                raise
        else:
            return
        on_wait()
        time.sleep(RETRY_S)


@contextmanager
def fetched(checkpoint: Place) -> Iterator[Path]:
    """The checkpoint's folder, or a copy of it here that is there as long as the context.

    Raises:
        CheckpointError: As raised inside, with the bucket's address in place of the copy's; or there
            is nothing in the bucket.
        StorageAwayError: The bucket does not answer.
    """
    if not isinstance(checkpoint, Bucket):
        yield checkpoint
        return
    with tempfile.TemporaryDirectory(prefix=TEMPORARY) as copy:
        try:
            bucket.download(checkpoint, Path(copy))
        except FileNotFoundError as error:
            raise CheckpointError(f"no checkpoint at {checkpoint}") from error
        try:
            yield Path(copy)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(copy, checkpoint.plain)) from error


def kept_copies(folders: Iterable[Bucket]) -> Path:
    """A folder here with copies of folders in a bucket, which lasts as long as this process.

    Raises:
        StorageAwayError: The bucket does not answer.
    """
    copies = Path(tempfile.mkdtemp(prefix=TEMPORARY))
    atexit.register(shutil.rmtree, copies, ignore_errors=True)
    for folder in folders:
        with suppress(FileNotFoundError):  # there is none, or it has been removed just now
            bucket.download(folder, copies / folder.name)
    return copies


@contextmanager
def working_copy(study: Place, part: str) -> Iterator[Path]:
    """The study's folder, or a stand-in for it here that holds one of its parts.

    What is changed in that part is in the bucket once the context has ended well.

    Raises:
        StorageAwayError: The bucket does not answer.
    """
    if not isinstance(study, Bucket):
        yield study
        return
    with tempfile.TemporaryDirectory(prefix=TEMPORARY) as name:
        copy = Path(name)
        with suppress(FileNotFoundError):  # there is none yet
            bucket.download(study / part, copy / part)
        before = _written(copy)
        yield copy
        if _written(copy) != before:
            bucket.delete(study / part)
            bucket.upload(copy / part, study / part)


def _written(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


class Remover:
    """Removes checkpoints that are not needed any more; that one cannot be is noted, and no more.

    Those in a bucket are removed beside everything else, since their record must not wait for that.
    The process ends only after the last of them.
    """

    def __init__(self, notes: Callable[[str], None]) -> None:
        self._notes = notes
        self._threads = ThreadPoolExecutor(REMOVALS, "removal")  # starts none before it needs one

    def remove(self, checkpoint: Place) -> None:
        """Remove a checkpoint's folder, now or soon."""
        if isinstance(checkpoint, Bucket):
            self._threads.submit(self._delete, checkpoint)
        else:
            shutil.rmtree(checkpoint, ignore_errors=True)

    def close(self) -> None:
        """Return once nothing is left to be removed."""
        self._threads.shutdown()

    def _delete(self, checkpoint: Bucket) -> None:
        try:
            bucket.delete(checkpoint)
        except Exception as error:  # noqa: BLE001 - noted: it takes space, and nothing else
            self._notes(f"a checkpoint that is not needed any more is left: {error}")
