"""The files of a data set that is not bundled: looked for, verified, fetched at last.

Files count by what they hold once decompressed, so any gzip of them will do, or none: Debian's
package has the same content as upstream in other gzips.
"""

import gzip
import hashlib
import logging
import os
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tune_ddvae.data import cache
from tune_ddvae.errors import DataError

DATA_VARIABLE = "TUNE_DDVAE_DATA"
MIRROR_VARIABLE = "TUNE_DDVAE_MIRROR"

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a data set's files must hold, and where they may come from.

    Attributes:
        title: The data set's name in messages.
        num_train: Points for training and validation.
        num_test: Points for testing.
        sha256: Of each file's decompressed content, by name without .gz.
        subfolder: Where else in a given folder the files may lie: torchvision's habit.
        package: Debian's package of them.
        system_dir: Where that package lays them.
        cache_name: Its folder in the data cache.
        mirrors: Addresses that, followed by a name and .gz, serve them; tried in order.
    """

    title: str
    num_train: int
    num_test: int
    sha256: Mapping[str, str]
    subfolder: str
    package: str
    system_dir: Path
    cache_name: str
    mirrors: tuple[str, ...]


def given_dir(data_dir: Path | None) -> Path | None:
    """The folder that the user named, by option or by TUNE_DDVAE_DATA; None if neither."""
    given = data_dir or os.environ.get(DATA_VARIABLE)
    return Path(given).expanduser().absolute() if given else None


def _folders(folder: Path, source: Source) -> tuple[Path, Path]:
    return folder, folder / source.subfolder


def _find(folder: Path, source: Source) -> dict[str, Path]:
    """Those of the files that lie there, by name; plain ones before gzipped ones."""
    found: dict[str, Path] = {}
    places = _folders(folder, source)
    for name in source.sha256:
        for path in (place / (name + end) for end in ("", ".gz") for place in places):
            if path.is_file():
                found.setdefault(name, path)
    return found


def find_given(folder: Path, source: Source) -> dict[str, Path]:
    """The files in a folder that the user named, by name; quick, since none is read.

    Raises:
        DataError: Some are missing. The folder is refused, not passed over.
    """
    found = _find(folder, source)
    missing = [str(folder / f"{name}.gz") for name in source.sha256 if name not in found]
    if missing:
        places = _folders(folder, source)
        raise DataError(
            f"--data-dir (or {DATA_VARIABLE}) must hold the files of {source.title}; missing: "
            f"{', '.join(missing)}. They were looked for with and without .gz, in "
            f"{' and '.join(map(str, places))}. Put them there (Debian: apt-get install "
            f"{source.package}, then --data-dir {source.system_dir}) or give no folder"
        )
    return found


def read_given(folder: Path, source: Source) -> dict[str, bytes]:
    """The verified contents of the files in a folder that the user named.

    Raises:
        DataError: A file is missing or damaged.
    """
    mend = f"replace it, or give another --data-dir (or {DATA_VARIABLE}), or none"
    return _read_all(find_given(folder, source), mend, source)


def is_installed(source: Source) -> bool:
    """Whether Debian's package of it is there."""
    return len(_find(source.system_dir, source)) == len(source.sha256)


def read_found(source: Source) -> dict[str, bytes]:
    """The verified contents from Debian's package, else earlier downloads, else a mirror.

    Call it under the cache's lock, so that each file is fetched once.

    Raises:
        DataError: The package is damaged, or nothing can be fetched.
    """
    if is_installed(source):
        installed = _find(source.system_dir, source)
        mend = f"apt-get install --reinstall {source.package}, or give --data-dir"
        return _read_all(installed, mend, source)
    return {name: _downloaded(name, source) for name in source.sha256}


def read_earlier(source: Source) -> Path | None:
    """The folder of earlier downloads where all of them lie there intact, else None."""
    try:
        for name in source.sha256:
            _read(_download_path(name, source), source.sha256[name])
    except DataError:  # missing, or damaged: it would be fetched again
        return None
    return _download_path(name, source).parent


def _download_path(name: str, source: Source) -> Path:
    return cache.cache_dir() / source.cache_name / "downloads" / f"{name}.gz"


def _read_all(files: Mapping[str, Path], mend: str, source: Source) -> dict[str, bytes]:
    try:
        return {name: _read(path, source.sha256[name]) for name, path in files.items()}
    except DataError as error:
        raise DataError(f"{error}; {mend}") from error


def _read(path: Path, sha256: str) -> bytes:
    """The verified content, decompressed if it is gzipped, whatever its name says."""
    try:
        data = path.read_bytes()
        content = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(
            f"{path} is damaged or another file: its content has sha256 {found}, not {sha256}"
        )
    return content


def _downloaded(name: str, source: Source) -> bytes:
    """The content of one file, from an earlier download if that is intact, else fetched."""
    path = _download_path(name, source)
    if path.is_file():
        try:
            return _read(path, source.sha256[name])
        except DataError as error:
            _log.warning("%s; fetching it again", error)
    try:
        return fetch_checked(path, source.mirrors, lambda file: _read(file, source.sha256[name]))
    except DataError as error:
        raise DataError(
            f"{source.title} is not in {source.system_dir} or {path.parent}, and {error}. Run "
            f"apt-get install {source.package} (Debian, Ubuntu), or give a folder with its files "
            f"as --data-dir or {DATA_VARIABLE}, or a reachable {MIRROR_VARIABLE}"
        ) from error


def fetch_checked(path: Path, mirrors: Sequence[str], check: Callable[[Path], T]) -> T:
    """Download a file under its own name from the first address whose content passes the check.

    Args:
        path: Where it is to lie; nothing is left there but what passed.
        mirrors: Addresses that its name is added to; TUNE_DDVAE_MIRROR goes instead of them.
        check: Of the downloaded file; raises DataError where the content is wrong.

    Returns:
        What the check returned.

    Raises:
        DataError: No address serves it; names each that was tried, without passwords.
    """
    given = os.environ.get(MIRROR_VARIABLE)
    aside = path.with_name(path.name + ".part")
    tried = []
    for mirror in (given,) if given else mirrors:
        url = f"{mirror.rstrip('/')}/{path.name}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _fetch(url, aside)
            result = check(aside)
            aside.replace(path)
        # OSError covers everything requests raises, and DataError.
        except OSError as error:
            tried.append(_without_password(f"{url} ({error})"))
        else:
            return result
        finally:
            aside.unlink(missing_ok=True)
    raise DataError(f"could not be fetched: {'; '.join(tried)}")


def _fetch(url: str, path: Path) -> None:
    import pooch  # only here: most machines never fetch

    _log.info("fetching %s", _without_password(url))
    pooch.HTTPDownloader(chunk_size=1 << 20, timeout=30)(url, str(path), None)


def _without_password(text: str) -> str:
    return re.sub(r"//[^/\s@]*@", "//", text)
