"""Versions that the files of cluster/ state, and whether they are the ones that were run together.

Everything in them that looks like a version is found, and either is a pin that is compared, or is
named below as none.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Stated in one place each, since nothing else of the project knows them.
BASES = {
    "images' Python": "3.11.14",
    "images' PostgreSQL": "15.15",
    "google-api-python-client": "2.202.0",
    "machine image of AWS": "22.04",
    "machine image of Google": "cu129-ubuntu-2404-nvidia-580",
}
PINS = {  # what is pinned -> where it stands
    "ray": (r"rayproject/ray:(\S+?)-py\d+", r'rayVersion: "(.+?)"', r"\bRay (\d+\.\d+\.\d+)"),
    "Python": (r"rayproject/ray:\S+?-py(\d+)", r"\bpython(\d+\.\d+)\b", r"\bPython (\d+\.\d+)\b"),
    "tune-ddvae": (r"/tune-ddvae:(\d[\w.]*)",),
    "mlflow": (r"tune-ddvae-mlflow:(\d[\w.]*)", r"\bMLflow (\d+\.\d+\.\d+)"),
    "images' Python": (r"PYTHON_VERSION=(\S+)",),
    "images' PostgreSQL": (r"image: postgres:(\S+?)-bookworm",),
    "google-api-python-client": (r"google-api-python-client==(\S+)",),
    "machine image of AWS": (r"nvidia-driver-gpu-ubuntu-([\d.]+)/latest",),
    "machine image of Google": (r"global/images/family/common-(\S+)",),
}
NONE = (  # what looks like a version and is none
    r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b",  # an address
    r"\bnfsvers=4\.1\b",
    r"\b0\.\d+ USD\b",
    r"\bsleep[ (]0\.\d\b",
)
LOOKS_LIKE_ONE = re.compile(r"(?<![\w.])v?\d+\.\d+(?:\.\d+)*(?![\w.]*\w)|-py\d+")


@dataclass(frozen=True)
class Pin:
    """One version in one file."""

    file: str
    what: str
    version: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.version)


def find(folder: Path) -> list[Pin]:
    """All pins of a folder's files, in order."""
    found = [
        Pin(path.name, what, match[1], match.start(1))
        for path, text in _texts(folder)
        for what, patterns in PINS.items()
        for pattern in patterns
        for match in re.finditer(pattern, text)
    ]
    return sorted(found, key=lambda pin: (pin.file, pin.start))


def wanted(root: Path) -> dict[str, str]:
    """The version that each pin must have."""
    constraints = (root / "constraints.txt").read_text(encoding="utf-8")
    versions = dict(re.findall(r"^([\w.-]+)==(\S+)$", constraints, re.MULTILINE))
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python = re.search(r"\(Python (\d+\.\d+),", constraints)
    assert python, "constraints.txt names no Python"
    return {
        **BASES,
        "ray": versions["ray"],
        "mlflow": versions["mlflow"],
        "tune-ddvae": project["version"],
        "Python": python[1],
    }


def complaints(root: Path) -> list[str]:
    """What is wrong with the versions in ``root/cluster``; nothing if all is well."""
    versions = wanted(root)
    pins = find(root / "cluster")
    wrong = [
        f"{pin.file}: {pin.what} is {pin.version}, must be {versions[pin.what]}"
        for pin in pins
        if _plain(pin) != versions[pin.what]
    ]
    if not versions["images' Python"].startswith(versions["Python"] + "."):
        wrong.append(f"the images' Python is no {versions['Python']}")
    for what in BASES:
        places = [pin.file for pin in pins if pin.what == what]
        if len(places) != 1:
            wrong.append(f"{what} is stated in {places}: one place is enough")
    return wrong + _strangers(root / "cluster", pins)


def _plain(pin: Pin) -> str:
    """The version as everyone else writes it: image tags have Python's without its point."""
    is_tag = pin.what == "Python" and "." not in pin.version
    return f"{pin.version[0]}.{pin.version[1:]}" if is_tag else pin.version


def _strangers(folder: Path, pins: list[Pin]) -> list[str]:
    """Versions that no pattern above knows, so that nobody would compare them."""
    found: list[str] = []
    for path, text in _texts(folder):
        known = [(pin.start, pin.end) for pin in pins if pin.file == path.name]
        known += [match.span() for pattern in NONE for match in re.finditer(pattern, text)]
        found += [
            f"{path.name}: {match[0]} is a version that nothing is compared with"
            for match in LOOKS_LIKE_ONE.finditer(text)
            if not any(match.start() < end and start < match.end() for start, end in known)
        ]
    return found


def _texts(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.iterdir()):
        if path.is_file():
            yield path, path.read_text(encoding="utf-8")
