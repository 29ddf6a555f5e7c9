"""Finds study files: by name in ``search_spaces``, by path, or as a dotted module."""

import difflib
import importlib
import importlib.util
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
        return _from_path(Path(name).expanduser())
    if "." in name:
        return _from_module(name)
    near = difflib.get_close_matches(name, known_studies(), n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    raise ConfigError(
        f"unknown study {name!r}; known: {', '.join(known_studies())}{meant} "
        "A path to a .py file or a dotted module works too"
    )


def _from_path(path: Path) -> StudyFile:
    if not path.is_file():
        raise ConfigError(
            f"no study file at {path.absolute()}; known: {', '.join(known_studies())}"
        )
    found = importlib.util.spec_from_file_location(f"_study_{path.stem}", path)
    if found is None or found.loader is None:
        raise ConfigError(f"{path} must be a Python file")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (SyntaxError, ImportError, NameError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    return _study_in(module, path.stem, str(path.absolute()))


def _from_module(name: str) -> StudyFile:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"no study module {name!r}: {error}") from error
    return _study_in(module, name.rpartition(".")[2], str(module.__file__))


def _study_in(module: ModuleType, name: str, path: str) -> StudyFile:
    spec = getattr(module, "STUDY", None)
    if not isinstance(spec, StudySpec):
        raise ConfigError(f"{path} must define STUDY = StudySpec(...), got {spec!r}")
    return StudyFile(name=name, path=path, doc=module.__doc__ or "", spec=spec)
