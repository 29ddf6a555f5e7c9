"""Whether a checkpoint that Ray copied into the storage is there, whole.

Ray copies with pyarrow's ``copy_files``, which only logs what closing a file fails with. An upload that
is cut off once it has begun ends as if it had worked, so what came of it is looked at.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tune_ddvae.errors import StorageAwayError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_SAID = "did not arrive whole in the storage"


def file_sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file that lies directly in a local folder, by its name."""
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def check_arrived(files: "FileSystem", folder: str, sizes: Mapping[str, int]) -> None:
    """Refuse a copy of which anything is missing.

    Args:
        files: What the storage lies on.
        folder: The copy, as a path there.
        sizes: Of what was copied.

    Raises:
        OSError: The storage does not answer.
        StorageAwayError: Something is missing; names it.
    """
    from pyarrow.fs import FileSelector

    there = files.get_file_info(FileSelector(folder, allow_not_found=True))
    arrived = {info.base_name: info.size for info in there if info.is_file}
    missing = [
        f"{name} {arrived.get(name, 0)} of {size} bytes"
        for name, size in sorted(sizes.items())
        if arrived.get(name) != size
    ]
    if missing:
        raise StorageAwayError(f"a checkpoint {_SAID}: {', '.join(missing)} in {folder}")


def says_cut_off(text: str) -> bool:
    """Whether a message speaks of a copy that did not arrive."""
    return _SAID in text
