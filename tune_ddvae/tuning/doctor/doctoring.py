"""What a study would need, looked for before a study needs it.

Nothing is left behind: what is written into the storage is taken away again, data are not fetched, and
no server is told anything.
"""

import dataclasses
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_ddvae import data
from tune_ddvae.catalogue import StudyFile
from tune_ddvae.config import DATASETS, DataConfig
from tune_ddvae.data import placing
from tune_ddvae.data.sources import given_dir
from tune_ddvae.errors import ConfigError, DataError, ResourceError
from tune_ddvae.training.pace import num_parameters
from tune_ddvae.tuning.assemble import largest_model
from tune_ddvae.tuning.cluster import diagnosis, nodes
from tune_ddvae.tuning.cluster.diagnosis import Machine, Row, Wanted
from tune_ddvae.tuning.cluster.facts import Check, Need, State
from tune_ddvae.tuning.cluster.resources import (
    GIGABYTE,
    Available,
    View,
    may_come,
    num_held,
    trial_size,
)
from tune_ddvae.tuning.cluster.storage_probe import remove_probes
from tune_ddvae.tuning.doctor.rounds import Round, alone, round_of
from tune_ddvae.tuning.doctor.servers import record_of, tracking_of
from tune_ddvae.tuning.planning.plan import CHECKPOINTS_KEPT, checkpoint_bytes
from tune_ddvae.tuning.storage import disk
from tune_ddvae.tuning.storage.place import Place, place_at, tracking_folder
from tune_ddvae.tuning.tracking.tracking import absolute_uri, default_tracking_uri
from tune_ddvae.tuning.wording import plural

# Of memory, where nobody says: torch and Ray 0.8 GB, a small model and its data the rest.
TRIAL_BYTES = 1_000_000_000
NO_STUDY = "tune-ddvae-doctor"  # a name that no study and no experiment has


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the doctor is asked about; the options are those of a study."""

    file: StudyFile | None = None  # None: any study
    address: str | None = None
    storage: str = "./studies"
    record: str | None = None
    tracking_uri: str | None = None
    data_dir: str | None = None
    cpus_per_trial: float | None = None
    gpus_per_trial: float | None = None
    memory_per_trial: float | None = None  # GB


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    where: str  # a host, or "study" for what concerns all of them
    what: str
    check: Check


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What the doctor found."""

    subject: str
    driver: str  # its host, and the versions that the others are compared with
    storage: str
    rows: tuple[Row, ...]
    whole: Mapping[str, Check]  # what concerns no single machine

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All that is not as it should be, what keeps a study from running first."""
        every = [Finding("study", what, check) for what, check in self.whole.items()]
        every += [
            Finding(row.host, what, check)
            for row in self.rows
            for what, check in row.checks.items()
        ]
        return tuple(
            finding
            for state in (State.BAD, State.DOUBTFUL)
            for finding in every
            if finding.check.state is state
        )

    @property
    def can_run(self) -> bool:
        """Whether a study could run."""
        return not any(finding.check.state is State.BAD for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "subject": self.subject,
            "driver": self.driver,
            "storage": self.storage,
            "can_run": self.can_run,
            "machines": [{"host": row.host, "checks": _plain(row.checks)} for row in self.rows],
            "study": _plain(self.whole),
            "findings": [
                {"where": found.where, "what": found.what, **dataclasses.asdict(found.check)}
                for found in self.findings
            ],
        }


def examine(question: Question, tell: Callable[[str], None]) -> Examination:
    """Look at this machine, and at every node of the cluster where there is one.

    Args:
        question: About what.
        tell: Hears what is being waited for.

    Raises:
        DdvaeError: An option cannot be meant as it is.
    """
    place = place_at(question.storage)
    need = make_need(question, place)
    whole: dict[str, Check] = {}
    tell("looking at this machine")
    with _storage_there(place):
        try:
            driver = _look_here(need)
            found = alone(driver)
            if question.address is not None:
                try:
                    found = round_of(question.address, driver, need, tell)
                except ResourceError as error:
                    whole["cluster"] = Check(State.BAD, str(error))
            tell("asking the record's database and MLflow")
            name = NO_STUDY if question.file is None else question.file.name
            whole["record"] = _record(question, place, driver, need.probe)
            whole["tracking"] = tracking_of(_tracking_uri(question, place), name)
        finally:
            remove_probes(place, need.probe)
    trial, room = room_for_trials(question, found.view)
    if "cluster" not in whole:
        whole["trials"] = room
    wanted = Wanted(
        trial=trial,
        trial_memory=trial.memory_bytes or TRIAL_BYTES,
        storage_bytes=_needed(question, num_held(found.view, trial)),
        handed_over=_handed_over(need) if found.nodes else frozenset(),
    )
    return _examination(question, place, found, wanted, whole)


def _examination(
    question: Question, place: Place, found: Round, wanted: Wanted, whole: Mapping[str, Check]
) -> Examination:
    what = "any study" if question.file is None else f"study {question.file.name}"
    where = "this machine" if question.address is None else f"the cluster at {question.address}"
    return Examination(
        subject=f"{what} on {where}",
        driver=_described(found.driver),
        storage=str(place),
        rows=diagnosis.rows(found.driver, found.nodes, wanted),
        whole=whole,
    )


def make_need(question: Question, place: Place) -> Need:
    """What to look for on each machine.

    Raises:
        ConfigError: A folder is given for data that have none, or for no data in particular.
    """
    asked = None if question.data_dir is None else Path(question.data_dir)
    if question.file is None:
        if asked is not None:
            raise ConfigError(
                f"--data-dir is for the data of one STUDY: name that too, got {asked}"
            )
        configs = tuple(DataConfig(name=name) for name in DATASETS)
    else:
        configs = (question.file.spec.base.data,)
        data.check_dir(configs[0], asked)
    folder = given_dir(asked)
    return Need(
        data=configs,
        data_dir=None if folder is None else str(folder),
        is_driver=True,
        storage=place,
        probe=uuid.uuid4().hex[:12],
    )


def room_for_trials(question: Question, view: View) -> tuple[Available, Check]:
    """What one trial takes, and whether there is room for one."""
    cpus, gpus, memory = (
        question.cpus_per_trial,
        question.gpus_per_trial,
        question.memory_per_trial,
    )
    try:
        trial = trial_size(view, cpus_per_trial=cpus, gpus_per_trial=gpus, memory_per_trial=memory)
    except ResourceError as error:
        asked = Available(cpus or 1.0, gpus or 0.0, memory or 0.0)
        return asked, Check(State.BAD, str(error))
    held = num_held(view, trial)
    if held:
        words = f"{held} {plural('trial', held)} at once, each with {trial}"
        return trial, Check(State.GOOD, words)
    if may_come(view, trial):
        words = f"no node holds one yet ({trial}); the autoscaler adds one when a study waits"
        return trial, Check(State.GOOD, words)
    mend = "start its workers: `ray start --address=…` on each machine that is to train"
    return trial, Check(State.BAD, "no node of the cluster gives CPUs to trials", mend)


def _needed(question: Question, slots: int) -> int:
    """Bytes that the study must find free in the storage."""
    if question.file is None:
        return disk.RESERVE_BYTES
    spec = question.file.spec
    return disk.needs(
        checkpoint=checkpoint_bytes(spec.base, num_parameters(largest_model(spec))),
        num_new=spec.size.trials,
        kept=CHECKPOINTS_KEPT,
        slots=max(1, slots),
    ).least


def _handed_over(need: Need) -> frozenset[str]:
    """The data sets whose files this machine can give to one that lacks them."""
    folder = None if need.data_dir is None else Path(need.data_dir)
    given = set()
    for config in need.data:
        with suppress(DataError):  # damaged here: said of this machine
            if placing.pack(config, folder) is not None:
                given.add(config.name)
    return frozenset(given)


def _look_here(need: Need) -> Machine:
    facts = nodes.look(need)
    devices = facts.devices
    return Machine(
        host=facts.host,
        num_cpus=float(devices.num_cpus),
        num_gpus=float(len(devices.gpus)),
        memory_gb=nodes.total_memory() / GIGABYTE,
        facts=facts,
    )


def _record(question: Question, place: Place, driver: Machine, word: str) -> Check:
    writing = driver.facts.writing if driver.facts else None
    is_file = question.record is None and isinstance(place, Path)
    if is_file and writing is not None and writing.state is State.BAD:
        return Check(State.ABSENT, "a file in the storage")
    name = NO_STUDY if question.file is None else question.file.name
    return record_of(place, question.record, name, word)


def _tracking_uri(question: Question, place: Place) -> str:
    return absolute_uri(
        question.tracking_uri
        or os.environ.get("MLFLOW_TRACKING_URI")
        or default_tracking_uri(tracking_folder(place))
    )


def _described(driver: Machine) -> str:
    if driver.facts is None:
        return driver.host
    versions = ", ".join(f"{name} {told}" for name, told in driver.facts.versions.items() if told)
    return f"{driver.host}: {versions} ({driver.facts.digest[:8]})"


def _plain(checks: Mapping[str, Check]) -> dict[str, dict[str, str]]:
    return {what: dataclasses.asdict(check) for what, check in checks.items()}


@contextmanager
def _storage_there(place: Place) -> Iterator[None]:
    """The folder is there meanwhile, so that it can be tried from everywhere; a bucket is, or is not."""
    made: list[Path] = []
    if isinstance(place, Path):
        # One that cannot be made is told by the check that cannot write to it.
        with suppress(OSError):
            for folder in reversed((place, *place.parents)):
                if not folder.exists():
                    folder.mkdir()
                    made.append(folder)
    try:
        yield
    finally:
        for folder in reversed(made):
            with suppress(OSError):  # somebody has put something there since
                folder.rmdir()
