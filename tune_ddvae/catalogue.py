"""Finds study files: by name in ``search_spaces``, by path, or as a dotted module."""

import difflib
import importlib
import importlib.util
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import tune_ddvae
from tune_ddvae.errors import ConfigError
from tune_ddvae.spec import StudySpec

# Beside this package, in a checkout as in a wheel; never a folder of that name elsewhere on the path.
SEARCH_SPACES = Path(tune_ddvae.__file__).parent.parent / "search_spaces"


@dataclass(frozen=True)
class StudyFile:
    """One study as its file states it."""

    name: str
    path: str
    doc: str
    spec: StudySpec

    @property
    def question(self) -> str:
        """First line of the file's docstring: what the study asks."""
        return self.doc.strip().splitlines()[0] if self.doc.strip() else ""


def known_studies() -> list[str]:
    """Names that ``find_study`` takes without a path."""
    return sorted(path.stem for path in SEARCH_SPACES.glob("*.py") if not path.stem.startswith("_"))


def find_study(name: str) -> StudyFile:
    """The study file of that name, path or dotted module.

    Raises:
        ConfigError: There is none, it cannot be read, or what it states breaks a rule.
    """
    if name in known_studies():
        return _from_path(SEARCH_SPACES / f"{name}.py")
    if name.endswith(".py") or "/" in name:
        return _from_path(Path(name))
    if "." in name and all(part.isidentifier() for part in name.split(".")):
        return _from_module(name)
    near = difflib.get_close_matches(name, known_studies(), n=1)
    meant = f"; did you mean {near[0]}?" if near else "."
    raise ConfigError(
        f"unknown study {name!r}; known: {', '.join(known_studies())}{meant} "
        "A path to a .py file or a dotted module works too"
    )


def _from_path(path: Path) -> StudyFile:
    try:
        path = path.expanduser().absolute()
        is_there = path.is_file()
    except (OSError, RuntimeError) as error:  # no such home, a name too long, a closed folder
        raise ConfigError(f"no study file at {path}: {error}") from error
    if not is_there:
        raise ConfigError(f"no study file at {path}; known: {', '.join(known_studies())}")
    found = importlib.util.spec_from_file_location(f"_study_{path.stem}", path)
    if found is None or found.loader is None:
        raise ConfigError(f"{path} must be a Python file")
    module = importlib.util.module_from_spec(found)
    with _refusing(str(path)):
        found.loader.exec_module(module)
    return _study_in(module, path.stem, str(path))


def _from_module(name: str) -> StudyFile:
    with _refusing(f"study module {name!r}"):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # it is there, and misses another one
            module = None
    if module is None:
        raise ConfigError(f"there is no study module {name!r}")
    return _study_in(module, name.rpartition(".")[2], str(module.__file__))


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turn whatever a study file does while it is loaded, its own exit too, into a refusal.

    Raises:
        ConfigError: Names the file, the line and the error.
    """
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{what}{_line(error)}: {error}") from error
    except (Exception, SystemExit) as error:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        cause = ": ".join(filter(None, (type(error).__name__, " ".join(text.split()))))
        where = f"{what}{line}," if (line := _line(error)) else what
        raise ConfigError(f"{where} cannot be read: {cause}") from error


def _line(error: BaseException) -> str:
    """Where the study's code was when that happened, as far as it is known."""
    if isinstance(error, SyntaxError):
        return f", {Path(error.filename or '').name} line {error.lineno}" if error.lineno else ""
    calls = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not _is_loading(frame.f_code.co_filename)
    ]
    lines = [line for file, line in calls if file == calls[0][0]]
    return f", line {lines[-1]}" if lines else ""


def _is_loading(file: str) -> bool:
    return file in (__file__, importlib.__file__) or file.startswith("<frozen importlib")


def _study_in(module: ModuleType, name: str, path: str) -> StudyFile:
    spec = getattr(module, "STUDY", None)
    if not isinstance(spec, StudySpec):
        raise ConfigError(f"{path} must define STUDY = StudySpec(...), got {spec!r}")
    return StudyFile(name=name, path=path, doc=module.__doc__ or "", spec=spec)
