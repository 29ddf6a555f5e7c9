"""What the machines of a cluster are sent: our two packages as Python needs them, and nothing else.

No data, results, databases, version control or caches: only source files count. Every worker then
imports the driver's version, whatever lies on its own disk.
"""

import functools
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import tune_ddvae
from tune_ddvae.catalogue import SEARCH_SPACES
from tune_ddvae.errors import ConfigError
from tune_ddvae.tuning.wording import file_size

LIMIT_BYTES = 20_000_000  # our own source takes about 1; Ray's own limit for a job is 100 MiB
LARGEST_SHOWN = 3
_MARKER = "py.typed"


@dataclass(frozen=True)
class Package:
    """What was laid into a folder to be sent.

    Attributes:
        files: Bytes by path relative to the folder, with forward slashes.
    """

    files: Mapping[str, int]

    @property
    def bytes(self) -> int:
        """Of all files together, unpacked."""
        return sum(self.files.values())

    def largest(self, num: int = LARGEST_SHOWN) -> list[str]:
        """The largest files, each with its size, largest first."""
        sized = sorted(self.files.items(), key=lambda item: (-item[1], item[0]))
        return [f"{path} ({file_size(size)})" for path, size in sized[:num]]


def stage(
    folder: Path,
    extra_files: Mapping[str, Path] | None = None,
    *,
    limit_bytes: int = LIMIT_BYTES,
) -> Package:
    """Copy our packages, as this process runs them, into a folder that is to be sent.

    Works from any current directory, in a checkout as in an installed wheel.

    Args:
        folder: An empty one.
        extra_files: What else goes along, such as a study file from elsewhere: file by the path
            relative to ``folder`` that it is to have.
        limit_bytes: Most that may be sent.

    Raises:
        ConfigError: It is more than that; names the largest files. Or an extra file would lie outside
            the folder or in the place of one of ours, or cannot be read. Nothing has been copied.
    """
    sources = _sources()
    for name, path in (extra_files or {}).items():
        _check_extra(name, path, sources)
        sources[name] = path
    package = Package({name: path.stat().st_size for name, path in sources.items()})
    if package.bytes > limit_bytes:
        raise ConfigError(
            f"what is sent to a cluster must have at most {file_size(limit_bytes)}, got "
            f"{file_size(package.bytes)}; largest: {', '.join(package.largest())}. Move what is no "
            "source code out of these folders"
        )
    for name, path in sources.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return package


@functools.cache
def digest() -> str:
    """What tells this process's version of tune_ddvae from any other: a hash of its source files."""
    total = hashlib.sha256()
    for name, path in sorted(_source_files(Path(tune_ddvae.__file__).parent)):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{name} {content}\n".encode())
    return total.hexdigest()


def _sources() -> dict[str, Path]:
    """Source file by its path below the folder that both packages lie in."""
    folders = (Path(tune_ddvae.__file__).parent, SEARCH_SPACES)
    return dict(found for folder in folders for found in _source_files(folder))


def _source_files(package: Path) -> Iterator[tuple[str, Path]]:
    for folder, inner, files in os.walk(package):
        # Python imports nothing from folders of other names: caches, version control, results.
        inner[:] = sorted(name for name in inner if name.isidentifier() and name != "__pycache__")
        for file in sorted(files):
            path = Path(folder, file)
            if (path.suffix == ".py" or file == _MARKER) and path.is_file():
                yield path.relative_to(package.parent).as_posix(), path


def _check_extra(name: str, path: Path, ours: Mapping[str, Path]) -> None:
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or not place.parts or name in ours:
        raise ConfigError(
            f"{path} must be sent under a relative path that none of our own files has, got {name!r}"
        )
    if not path.is_file():
        raise ConfigError(f"{path} is to be sent to the cluster, and there is no such file")
