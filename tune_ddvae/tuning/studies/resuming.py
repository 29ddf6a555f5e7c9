"""Goes on with a study by the words of its last start: those of its last job, or of its record."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import tune_ddvae
from tune_ddvae.errors import RecordError
from tune_ddvae.tuning import provenance
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.studies.finding import Found
from tune_ddvae.tuning.studies.listed import Listed
from tune_ddvae.tuning.wording import shown

MODULE = "tune_ddvae.study"
PATHS = frozenset(("--storage", "--data-dir", "--tracking-uri"))
NO_PATHS = frozenset(("--set", "--only", "--name", "--address", "--submit", "--record"))
HIDDEN = "***"  # stands where an address had a password


def study_words(command: str) -> list[str]:
    """The words of a recorded study command, without the Python that ran it.

    Raises:
        RecordError: It is no such command, or a Slurm job's: the cluster that its study was told to
            join has ended with it.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if words[:1] == ["sbatch"]:
        raise RecordError(
            "the study ran as a Slurm job, which had a Ray cluster of its own: go on with it by "
            f"submitting that job again, in the folder where it was: {shown(command)}"
        )
    if words[1:3] != ["-m", MODULE] or len(words) == 3:
        raise RecordError(
            f"the study's record must name the command that goes on with it, got {command!r}: start "
            "tune_ddvae.study yourself, with the words that it was started with"
        )
    return words[3:]


def resumed_words(
    found: Found, *, record: str | None, tracking_uri: str | None, address: str | None
) -> list[str]:
    """The words of the study command that goes on with a study.

    Args:
        found: The study.
        record: Address of its database, whole, if that is on a server.
        tracking_uri: MLflow's address, whole, where the recorded one lacks its password.
        address: Of the job server that it is to be sent to, if it is to be sent.

    Raises:
        RecordError: Nothing says which; it was a Slurm job; or a password is missing.
    """
    changed: dict[str, str | None] = {"--tracking-uri": tracking_uri} if tracking_uri else {}
    if found.jobs:
        words = list(found.jobs[0].cargo.words) if found.jobs[0].cargo else []
    elif found.study is not None:
        words = study_words(found.study.command)
        changed |= _where(found.study, record)
    else:
        raise RecordError("the study's record cannot be seen from here")
    if address is not None:
        changed |= {"--submit": address, "--address": None}
    words = with_options(words, changed)
    hidden = [word for word in words if HIDDEN in word]
    if hidden:
        raise RecordError(
            f"the study was started with {hidden[0]}, and no password is kept: give the whole address "
            "with --record or --tracking-uri, or without any password where ~/.pgpass has it"
        )
    return words


def _where(study: Listed, record: str | None) -> dict[str, str | None]:
    """Where the study was found: it may have been moved since."""
    return {"--storage": study.storage} if study.storage else {"--record": record}


def with_options(words: Sequence[str], options: Mapping[str, str | None]) -> list[str]:
    """The words, with options of one value set anew; None takes one away."""
    kept: list[str] = []
    skips = False
    for word in words:
        if skips:
            skips = False
            continue
        name, equals, _ = word.partition("=")
        if name in options:
            skips = not equals
            continue
        kept.append(word)
    for name, value in options.items():
        kept += [] if value is None else [name, value]
    return kept


def become_study(words: Sequence[str], folder: str) -> NoReturn:
    """Become the study command, in the folder that it was typed in if that is still there.

    What lies there is not taken for our own code: that is what runs here.

    Raises:
        RecordError: The folder is gone, and the words name something in it.
    """
    is_gone = bool(folder) and not Path(folder).is_dir()
    within = _relative(words) if is_gone else ""
    if within:
        raise RecordError(
            f"the study was started in {shown(folder)}, which is gone, and {shown(within)} was a path "
            "from there: start tune_ddvae.study yourself, with the words that it was started with and "
            "the whole path"
        )
    paths = [str(Path(tune_ddvae.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    if folder and Path(folder).is_dir():
        os.chdir(folder)
        paths.append(folder)  # last: for a study that is named as a module there
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, "-P", "-m", MODULE, *words], environment)  # noqa: S606


def _relative(words: Sequence[str]) -> str:
    """The first of the words that names a file or folder by where it was typed; empty if none."""
    option = ""
    for word in words:
        name, _, value = word.partition("=")
        if not word.startswith("-"):
            name, value = option, word
        option = word
        if value and name not in NO_PATHS and _is_relative(value, of=name):
            return value
    return ""


def _is_relative(value: str, of: str) -> bool:
    kind, is_address, path = value.partition("://")
    if is_address:
        return kind.startswith("sqlite") and not path.startswith("//")  # sqlite:////absolute
    # The study itself may stand behind a flag; it is a path as the catalogue takes one for it.
    is_path = of in PATHS or value.endswith(".py") or "/" in value
    return is_path and not value.startswith(("/", "~"))


def command(words: Sequence[str]) -> str:
    """The study command as people type it, without passwords."""
    return provenance.command(MODULE, map(without_password, words))
