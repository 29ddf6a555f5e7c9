"""Run a module with the Python that Ray runs on: ``python3 -m tune_ddvae.tuning.jobs.ray_python M …``.

A submitted job is a shell command on the head, started by a worker of Ray's. Where Ray was started by
its whole path, as over ssh, the ``python3`` of that shell is the system's, which knows none of our
packages. Needs nothing but the standard library, and Linux; elsewhere ``python3`` must be the right one.
"""

import os
import re
import sys
from pathlib import Path

_PROCESSES = Path("/proc")
_LIBRARY = re.compile(
    r" (/\S.*)/lib(?:64)?/python3[.\d]*/[a-z]+-packages/ray/_raylet\.so$", re.MULTILINE
)
_GENERATIONS = 5  # a shell or two lie between a worker and what it starts


def interpreter(processes: Path = _PROCESSES) -> str:
    """Path of the Python that the nearest process above this one runs Ray on; else our own.

    Args:
        processes: What the system shows of all processes, by id.
    """
    process = os.getpid()
    for _ in range(_GENERATIONS):
        try:
            stat = (processes / str(process) / "stat").read_text(encoding="utf-8", errors="replace")
            process = int(stat.rpartition(")")[2].split()[1])
            maps = (processes / str(process) / "maps").read_text(encoding="utf-8", errors="replace")
        except (OSError, ValueError, IndexError):
            break
        found = _LIBRARY.search(maps)
        if found is not None:
            # Its environment's own; where Ray lies in a user's or the system's packages, there is none.
            mine = Path(found[1], "bin", "python3")
            return (
                str(mine) if mine.exists() else str((processes / str(process) / "exe").readlink())
            )
    return sys.executable


if __name__ == "__main__":
    python = interpreter()
    os.execv(python, [python, "-m", *sys.argv[1:]])  # noqa: S606 - no shell
