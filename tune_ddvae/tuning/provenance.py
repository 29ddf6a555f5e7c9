"""Where a study came from: versions, commit, command. Logged, never compared."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import tune_ddvae
from tune_ddvae.config import Value

PACKAGES = ("torch", "ray", "optuna", "mlflow", "numpy")
# What a submitted job knows of where it was sent from: the command, and the code's commit.
SUBMITTED_AS = "TUNE_DDVAE_SUBMITTED_AS"
SUBMITTED_COMMIT = "TUNE_DDVAE_SUBMITTED_COMMIT"


def versions() -> dict[str, Value]:
    """Versions of this project and of what its numbers rest on, and the commit where there is one."""
    facts: dict[str, Value] = {"tune_ddvae": tune_ddvae.__version__}
    facts.update({name: version(name) for name in PACKAGES})
    facts["commit"] = commit()
    return facts


def commit() -> str:
    """Commit of the checkout that this package runs from, marked if it was changed; else empty."""
    root = Path(tune_ddvae.__file__).parent.parent
    if not (root / ".git").exists():
        return os.environ.get(SUBMITTED_COMMIT, "")
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{head}+changes" if head and changed else head


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - fixed words, no shell
            ["git", "-C", str(root), *words],  # noqa: S607 - the user's own git
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def command(module: str, words: Iterable[str]) -> str:
    """A shell command that runs a module with this very Python, to be copied as it is."""
    return shlex.join([_python(), "-m", module, *words])


def _python() -> str:
    found = shutil.which("python")
    if found is not None and Path(found).absolute() == Path(sys.executable).absolute():
        return "python"
    relative = os.path.relpath(sys.executable)
    return sys.executable if relative.startswith("..") else relative
