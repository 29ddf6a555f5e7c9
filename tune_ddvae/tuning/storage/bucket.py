"""A place in a bucket, such as ``s3://bucket/studies``, and what is done there.

It is reached through pyarrow, as Ray reaches it: credentials and AWS_ENDPOINT_URL come from the
environment, and a server of one's own may be named in the address, which keeps its options at its end.
"""

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from tune_ddvae.errors import DdvaeError, StorageAwayError, StorageError
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.storage.arrival import CHUNK_BYTES

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEMES = ("s3", "gs")
ATTEMPTS = 3  # each of some 3 s where a server takes connections and says nothing
ATTEMPTS_TO_REACH = 2  # while somebody waits to be told
GOOGLES_LIMIT_S = 10  # its own is a quarter of an hour
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
}
_ADDRESS = re.compile(
    r"(?P<scheme>[A-Za-z][\w+.-]*)://(?P<path>[^?]*)\??(?P<options>.*)", re.DOTALL
)
# What hardly anybody calls a folder, such as s3:/mine or s3//mine: an address with a slip in it.
_MISTYPED = re.compile(r"\s*([A-Za-z][\w+.-]+:/|(s3|gs|file)(:|//)).*", re.DOTALL | re.IGNORECASE)
_PART = re.compile(r"[\w.=+-]+", re.ASCII)
_SAID = re.compile(r"AWS Error \w+ during|google::cloud::Status\(|Bucket '.*' not found")
_REQUEST = re.compile(r" \(Request ID: .*?\)")


@dataclass(frozen=True)
class Bucket:
    """A place in a bucket; ``/`` leads to what lies below it, as it does with paths.

    Attributes:
        scheme: One of ``SCHEMES``.
        path: The bucket's name, and what lies below it.
        options: Of the address, such as ``region=eu-west-1``.
    """

    scheme: str
    path: str
    options: str = ""

    def __truediv__(self, below: str) -> "Bucket":
        """What lies below."""
        return replace(self, path=f"{self.path}/{below}")

    def __str__(self) -> str:
        """Its address."""
        return self.plain + (f"?{self.options}" if self.options else "")

    @property
    def plain(self) -> str:
        """Its address without options, as the beginning of those of what lies below."""
        return f"{self.scheme}://{self.path}"

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> "Bucket":
        """What it lies in; the whole bucket lies in itself."""
        return replace(self, path=self.path.rpartition("/")[0] or self.path)

    @property
    def root(self) -> "Bucket":
        """The whole bucket."""
        return replace(self, path=self.path.partition("/")[0])


def is_address(text: str) -> bool:
    """Whether it is an address, if only one that is mistyped, and not a folder's path."""
    return _ADDRESS.fullmatch(text) is not None or _MISTYPED.fullmatch(text) is not None


def bucket_at(address: str) -> Bucket:
    """The place that an address names.

    Raises:
        StorageError: It is not an address of a bucket that could be used.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        shown = re.sub(r".*@", "***@", without_password(address), flags=re.DOTALL)
        raise StorageError(
            f"storage must be a folder or a bucket, {_choices()}, got {shown}; a path that looks "
            "like an address must begin with / or ./"
        )
    scheme = found["scheme"].lower()
    if scheme not in SCHEMES:
        raise StorageError(
            f"storage must be a folder or a bucket, {_choices()}, got {without_password(address)}"
            + ("; give the folder's path" if scheme == "file" else "")
        )
    parts = [part for part in found["path"].split("/") if part]
    is_secret = without_password(address) != address
    if not parts or "#" in address or is_secret or not all(map(_is_plain, parts)):
        raise StorageError(
            f"storage must be {scheme}://BUCKET/FOLDER, without credentials in it, its names of letters, "
            f"digits and . _ = + -, got {without_password(address)}; credentials come from "
            f"{CREDENTIALS[scheme]}"
        )
    return Bucket(scheme, "/".join(parts), found["options"])


def _choices() -> str:
    return " or ".join(f"{scheme}://…" for scheme in SCHEMES)


def _is_plain(part: str) -> bool:
    return _PART.fullmatch(part) is not None and part not in (".", "..")


def file_system(bucket: Bucket, attempts: int | None = None) -> "FileSystem":
    """The bucket as pyarrow sees it, which gives up sooner here than by default.

    Args:
        bucket: Or any place in it.
        attempts: How often each thing is tried; None: ``ATTEMPTS``.

    Raises:
        StorageError: pyarrow does not know the address's options.
        StorageAwayError: The bucket's region cannot be asked for.
    """
    with answering(bucket):
        return _file_system(bucket.root, attempts or ATTEMPTS)


@cache
def _file_system(root: Bucket, attempts: int) -> "FileSystem":
    from pyarrow.fs import AwsStandardS3RetryStrategy, FileSystem, S3FileSystem

    if root.scheme == "gs" and "retry_limit_seconds" not in root.options:
        limit = f"retry_limit_seconds={GOOGLES_LIMIT_S}"
        root = replace(root, options=f"{root.options}&{limit}" if root.options else limit)
    try:
        files, _ = FileSystem.from_uri(str(root))
    except ValueError as error:
        raise StorageError(
            f"storage {root} must be an address that can be used: {error}"
        ) from error
    if isinstance(files, S3FileSystem):
        # An address cannot say how often to try; what it does say is kept, as pickling keeps it.
        _, (options,) = files.__reduce__()
        strategy = AwsStandardS3RetryStrategy(max_attempts=attempts)
        return S3FileSystem(**{**options, "retry_strategy": strategy})
    return files


@contextmanager
def answering(bucket: Bucket) -> Iterator[None]:
    """Tell a bucket that does not answer, or refuses, from files that are not there.

    Raises:
        StorageAwayError: It does not answer, or refuses; names it, the cause and the mend.
    """
    try:
        yield
    except OSError as error:
        # With a number it is this machine's own, or that of a file that is not there.
        if isinstance(error, DdvaeError) or error.errno is not None:
            raise
        raise _away(bucket, str(error)) from error


def _away(bucket: Bucket, why: str) -> StorageAwayError:
    cause = _REQUEST.sub("", " ".join(without_password(why).split()))
    return StorageAwayError(
        f"storage {bucket} cannot be used: {cause}. Look at the address (?endpoint_override=HOST:PORT"
        f"&scheme=http names a server of your own), at the credentials ({CREDENTIALS[bucket.scheme]}) "
        "and at the network, or name another with --storage"
    )


def says_away(text: str) -> bool:
    """Whether a message speaks of a bucket that did not answer, or refused."""
    return _SAID.search(text) is not None


def reach(bucket: Bucket) -> None:
    """Ask whether the bucket is there; makes nothing.

    Raises:
        StorageAwayError: It is not, or does not answer, or may not be looked at.
    """
    with answering(bucket):
        name = bucket.root.path
        if _is_missing(file_system(bucket, ATTEMPTS_TO_REACH).get_file_info(name)):
            raise _away(bucket, f"there is no bucket {name!r}")


def _is_missing(info: object) -> bool:
    from pyarrow.fs import FileType

    return bool(getattr(info, "type", None) == FileType.NotFound)


def probe(bucket: Bucket) -> None:
    """Write a small file there, read it back and delete it.

    Raises:
        StorageAwayError: One of the three is not possible.
    """
    path, written = f"{bucket.path}/.probe-{uuid.uuid4().hex}", b"probe"
    with answering(bucket):
        files = file_system(bucket)
        with files.open_output_stream(path) as file:
            file.write(written)
        with files.open_input_stream(path) as file:
            read = file.read()
        files.delete_file(path)
    if read != written:
        raise _away(bucket, f"it gives back {read!r} where {written!r} was written")


def names_in(bucket: Bucket) -> list[str]:
    """Names of what lies directly below; none where there is nothing.

    Raises:
        StorageAwayError: The bucket does not answer.
    """
    from pyarrow.fs import FileSelector

    with answering(bucket):
        selector = FileSelector(bucket.path, allow_not_found=True)
        return sorted(info.base_name for info in file_system(bucket).get_file_info(selector))


def download(bucket: Bucket, folder: Path) -> None:
    """Copy all that lies below into a local folder, with the times at which it was written.

    Raises:
        FileNotFoundError: Nothing lies there.
        StorageAwayError: The bucket does not answer.
    """
    from pyarrow.fs import FileSelector

    with answering(bucket):
        files = file_system(bucket)
        for info in files.get_file_info(FileSelector(bucket.path, recursive=True)):
            below = PurePosixPath(info.path).relative_to(bucket.path)
            if not info.is_file:
                continue
            if ".." in below.parts:
                raise StorageError(f"storage {bucket} holds {info.path}, which no folder can hold")
            target = folder / below
            target.parent.mkdir(parents=True, exist_ok=True)
            # Not by pyarrow's copy_files, which keeps quiet about what closing a file fails with.
            with files.open_input_stream(info.path) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, CHUNK_BYTES)
            written = info.mtime.timestamp()
            os.utime(target, (written, written))


def upload(folder: Path, bucket: Bucket) -> None:
    """Copy all files below a local folder, in the order in which they were written.

    Raises:
        StorageAwayError: The bucket does not answer.
    """
    local = [path for path in folder.rglob("*") if path.is_file()]
    with answering(bucket):
        files = file_system(bucket)
        for path in sorted(local, key=lambda path: path.stat().st_mtime_ns):
            below = path.relative_to(folder).as_posix()
            with files.open_output_stream(f"{bucket.path}/{below}") as file:
                file.write(path.read_bytes())


def delete(bucket: Bucket) -> None:
    """Remove all that lies there; that there is nothing is no fault.

    Raises:
        StorageAwayError: The bucket does not answer.
    """
    with answering(bucket):
        try:
            file_system(bucket).delete_dir(bucket.path)
        except FileNotFoundError:
            return
