"""What is known of a cluster's jobs, as plain data."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tune_ddvae.errors import ConfigError
from tune_ddvae.tuning.addresses import without_password

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"  # what Ray's own command line reads
METADATA = "tune_ddvae."  # how the keys of what we write to a job begin


@dataclass(frozen=True, kw_only=True)
class Cargo:
    """What a job says of the study that it runs; for everybody on the cluster to see."""

    study: str
    storage: str
    record: str = ""  # address of a database on a server; empty: a file in the storage
    words: tuple[str, ...] = ()  # of the study command, as where it was sent from

    def metadata(self) -> dict[str, str]:
        """The same in the form that Ray keeps."""
        return {
            f"{METADATA}study": self.study,
            f"{METADATA}storage": self.storage,
            f"{METADATA}record": self.record,
            f"{METADATA}words": json.dumps(self.words),
        }

    @property
    def place(self) -> tuple[str, str]:
        """What makes two studies the same: their name, and where their record is."""
        return (self.study, self.record or self.storage)


def cargo_of(metadata: Mapping[str, str]) -> Cargo | None:
    """What a job says of its study; None where it runs none of ours."""
    try:
        return Cargo(
            study=metadata[f"{METADATA}study"],
            storage=metadata[f"{METADATA}storage"],
            record=metadata[f"{METADATA}record"],
            words=tuple(map(str, json.loads(metadata[f"{METADATA}words"]))),
        )
    except (KeyError, ValueError, TypeError):
        return None


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job on the cluster, ours or somebody else's."""

    id: str
    status: str  # Ray's word
    cargo: Cargo | None = None  # None: not one of ours
    started: float | None = None  # seconds since 1970
    ended: float | None = None
    exit_code: int | None = None

    @property
    def place(self) -> tuple[str, str] | None:
        """Which study it runs; None if it is none of ours."""
        return None if self.cargo is None else self.cargo.place

    @property
    def is_live(self) -> bool:
        """Whether it is waiting or running, as far as the cluster knows."""
        return self.status in ("PENDING", "RUNNING")

    def to_json(self) -> dict[str, Any]:
        """What is told of it beside its study."""
        return {"id": self.id, "status": self.status, "exit_code": self.exit_code}


def jobs_of(jobs: Iterable[Job], place: tuple[str, str]) -> list[Job]:
    """Those that run the study which is kept there under that name, in the same order."""
    return [job for job in jobs if job.place == place]


def checked_address(address: str) -> str:
    """The address of a dashboard, as Ray's client takes it.

    Raises:
        ConfigError: It is none.
    """
    # urlsplit silently drops some of what nobody can see, and takes the rest for a part of a name.
    is_plain = address.isprintable() and " " not in address
    try:
        parts = urlsplit(address)
        is_one = (
            is_plain
            and parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
        )
        has_more = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
    except ValueError:  # a port that is no number
        is_one = False
    if not is_one or has_more:
        raise ConfigError(
            "a cluster's job server must be given as http://HEAD:8265, the address of its dashboard, got "
            f"{without_password(address)!r}"
        )
    return f"{parts.scheme}://{parts.netloc}"
