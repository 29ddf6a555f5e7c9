"""What is sent to a cluster to have a study run there: our code, its file and the command, no more.

The job runs the study command on the head. Whatever it says of itself, everybody who may look at the
cluster's jobs can read: no password goes along.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_ddvae.catalogue import SEARCH_SPACES, StudyFile, known_studies
from tune_ddvae.errors import ConfigError, StorageError
from tune_ddvae.tuning import provenance
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.cluster.shipping import Package, stage
from tune_ddvae.tuning.jobs.jobs import Cargo, checked_address
from tune_ddvae.tuning.record.postgresql import server_address
from tune_ddvae.tuning.storage import bucket
from tune_ddvae.tuning.storage.folders import TEMPORARY, absolute, check_name
from tune_ddvae.tuning.storage.place import database_folder
from tune_ddvae.tuning.tracking.check import absolute_uri, check_address
from tune_ddvae.tuning.tracking.client import sqlite_path

STOP_S = 60  # how long a job that is asked to end may take before Ray kills it
SENT_FOLDER = "study_file"  # of a study's own file, in what is sent
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
# Ray's own Python need not be the first on the head's path.
PYTHON = ("python3", "-m", "tune_ddvae.tuning.jobs.ray_python")
LOADING_S = 60.0  # most that a study file may take to be read
_LOADING = """
import sys
from tune_ddvae.catalogue import find_study
from tune_ddvae.errors import ConfigError
try:
    find_study(sys.argv[1])
except ConfigError as error:
    sys.exit(" ".join(str(error).split()))
"""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A study as it is to be sent, checked as far as can be from here."""

    study: str  # the name that it is kept under
    file: StudyFile
    options: tuple[str, ...]  # of the study command
    storage: str
    record: str  # address of a database on a server; empty: a file in the storage
    environment: Mapping[str, str]  # what goes along of ours
    address: str  # of the job server

    @property
    def is_ours(self) -> bool:
        """Whether the study's file goes along with our own code."""
        is_there = Path(self.file.path).parent == SEARCH_SPACES
        return is_there and self.file.name in known_studies()

    @property
    def entrypoint(self) -> str:
        """The shell command that the job is."""
        name = self.file.name if self.is_ours else self._sent_file
        return shlex.join((*PYTHON, "tune_ddvae.study", name, *self.options, "--address", "auto"))

    @property
    def cargo(self) -> Cargo:
        """What the job says of it."""
        name = self.file.name if self.is_ours else self.file.path
        return Cargo(
            study=self.study,
            storage=self.storage,
            record=self.record,
            words=(name, *self.options),
        )

    @property
    def command(self) -> str:
        """What sends it again from here, and so continues it."""
        words = (*self.cargo.words, "--submit", self.address)
        return provenance.command("tune_ddvae.study", words)

    @property
    def job_environment(self) -> dict[str, str]:
        """Variables of the job's processes."""
        return {
            **self.environment,
            "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S),
            provenance.SUBMITTED_AS: self.command,
            provenance.SUBMITTED_COMMIT: provenance.commit(),
        }

    @property
    def _sent_file(self) -> str:
        return f"{SENT_FOLDER}/{self.file.name}.py"

    def weigh(self) -> Package:
        """What would be sent.

        Raises:
            ConfigError: As ``pack``.
        """
        with tempfile.TemporaryDirectory(prefix=TEMPORARY) as folder:
            return self.pack(Path(folder))

    def pack(self, folder: Path) -> Package:
        """Lay what is sent into an empty folder.

        Raises:
            ConfigError: It is too much, or the study's file is gone.
        """
        return stage(folder, {} if self.is_ours else {self._sent_file: Path(self.file.path)})

    def check_file(self) -> None:
        """Read the study's file as the job will: from what is sent, with what is installed.

        Raises:
            ConfigError: It needs what lies elsewhere here; or as ``pack``.
        """
        if self.is_ours:
            return
        with tempfile.TemporaryDirectory(prefix=TEMPORARY) as folder:
            self.pack(Path(folder))
            said = _fault_in(self._sent_file, folder)
        if said is not None:
            name = str(Path(folder, self._sent_file))
            raise ConfigError(
                f"the job would have no more than our own code, the study file {self.file.path} by "
                "itself and what is installed on the machines, and could not load it: "
                f"{said.replace(name, Path(name).name)}. Put what it needs into the study file, or into "
                "a package that is installed on all of them"
            )


def make_order(
    file: StudyFile,
    study: str,
    options: Sequence[str],
    *,
    submit: str,
    storage: str,
    record: str | None = None,
    tracking_uri: str | None = None,
    data_dir: str | None = None,
    address: str | None = None,
) -> Order:
    """A study as it is to be sent; what only the cluster can know is checked there.

    Args:
        file: The study's.
        study: The name that it is kept under.
        options: Of the study command, as they were given, without those about sending.
        submit: Address of the job server.
        storage: One of those options, or its default; so are the following.
        record: Address of a database on a server.
        tracking_uri: MLflow's.
        data_dir: Where the data set's files are.
        address: Of a cluster to join.

    Raises:
        ConfigError: One of them would not mean there what it means here, or holds a password.
        StorageError: The storage can be no place that all nodes see.
        TrackingError: The tracking address cannot be used.
    """
    server = checked_address(submit)
    check_name(study)
    if address is not None:
        raise ConfigError(
            f"--submit sends the study to a cluster, which it joins there; got --address {address} too"
        )
    place = _storage(storage, record)
    environment = _environment(tracking_uri)
    if bucket.is_address(place) and tracking_uri is None and TRACKING_VARIABLE not in environment:
        raise ConfigError(
            f"storage {place} is a bucket, which cannot hold MLflow's database, and the job's own folder "
            f"is deleted with it: name a server that the cluster reaches with --tracking-uri or "
            f"{TRACKING_VARIABLE}, or a file by its whole path on the head with --tracking-uri"
        )
    database = "" if record is None else server_address(record)
    _check_no_password("--record", database, "~/.pgpass")
    if data_dir is not None and not Path(data_dir).is_absolute():
        raise ConfigError(
            f"--data-dir must be a whole path on the cluster's nodes with --submit, got {data_dir}"
        )
    order = Order(
        study=study,
        file=file,
        options=tuple(options),
        storage=place,
        record=database,
        environment=environment,
        address=server,
    )
    order.check_file()
    return order


def _fault_in(file: str, folder: str) -> str | None:
    """Why a study file cannot be loaded in a folder that holds all that is sent; None if it can."""
    ours = ("PYTHONPATH", "PYTHONSAFEPATH")  # of this shell, and not of the job's
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    try:
        done = subprocess.run(  # noqa: S603 - our own Python, without a shell
            [sys.executable, "-c", _LOADING, file],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            errors="replace",
            timeout=LOADING_S,
        )
    except subprocess.TimeoutExpired:
        return f"it takes more than {LOADING_S:g} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()  # before the last, what the file itself says
    return lines[-1] if lines else f"it ends Python with exit code {done.returncode}"


def _storage(storage: str, record: str | None) -> str:
    """The place as the driver will write it."""
    if bucket.is_address(storage):
        place = bucket.bucket_at(storage)
        if record is None:
            database_folder(place)  # says what a bucket needs
        return str(place)
    if not Path(storage).is_absolute():
        raise StorageError(
            f"--storage must be a whole path that every node of the cluster sees, with --submit, got "
            f"{storage!r}: name a folder that they share, or a bucket with --record"
        )
    return str(absolute(storage))


def _check_no_password(what: str, address: str, elsewhere: str) -> None:
    if without_password(address) != address:
        raise ConfigError(
            f"{what} {without_password(address)} holds a password, which everybody who may look at the "
            f"cluster's jobs could read: write it into {elsewhere} of the account on the head, and leave "
            "it out here"
        )


def _environment(tracking_uri: str | None) -> dict[str, str]:
    """What goes along of our environment; where this machine has its data means nothing there."""
    environment = {}
    given = os.environ.get(TRACKING_VARIABLE)
    if tracking_uri is not None:
        _check_tracking("--tracking-uri", tracking_uri)
    elif given and sqlite_path(given) is None:  # a file of this machine's is not one of the head's
        _check_tracking(TRACKING_VARIABLE, given)
        environment[TRACKING_VARIABLE] = given
    return environment


def _check_tracking(what: str, uri: str) -> None:
    path = sqlite_path(uri)
    if path is None:
        check_address(uri)
    elif absolute_uri(uri) != uri:
        raise ConfigError(
            f"{what} must name a file by its whole path with --submit, got {uri}: the job works in a "
            "folder that is deleted with it"
        )
    _check_no_password(what, uri, "~/.mlflow/credentials (a database's into ~/.pgpass)")


def plan_json(order: Order, package: Package) -> dict[str, Any]:
    """What would be sent, as plain data."""
    return {
        "study": order.study,
        "address": order.address,
        "storage": order.storage,
        "record": order.record,
        "entrypoint": order.entrypoint,
        "environment": order.job_environment,
        "package": package_json(package),
        "command": order.command,
    }


def package_json(package: Package) -> dict[str, Any]:
    """How much that is, as plain data."""
    return {"files": len(package.files), "bytes": package.bytes, "largest": package.largest()}
