"""Sees to it that a checkpoint that Ray copied into the storage is there, whole.

Ray copies with pyarrow's ``copy_files``, which only logs what closing a file in a bucket fails with. An
upload that is cut off once it has begun ends as if it had worked, so what came of it is looked at.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

CHUNK_BYTES = 8 * 2**20


def complete_copy(folder: Path, files: "FileSystem", copy: str) -> None:
    """Copy once more what a copy lacks, in a way that tells why it cannot be done.

    Args:
        folder: A local folder.
        files: What the storage lies on.
        copy: The folder's copy, as a path there.

    Raises:
        OSError: The storage does not answer, or does not take it.
    """
    from pyarrow.fs import FileSelector

    there = files.get_file_info(FileSelector(copy, allow_not_found=True))
    sizes = {info.base_name: info.size for info in there if info.is_file}
    for path in sorted(folder.iterdir()):
        if path.is_file() and sizes.get(path.name) != path.stat().st_size:
            with (
                path.open("rb") as source,
                files.open_output_stream(f"{copy}/{path.name}") as target,
            ):
                shutil.copyfileobj(source, target, CHUNK_BYTES)
