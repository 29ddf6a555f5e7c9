"""From options to a request: every check that can refuse runs here, before anything is created."""

import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from tune_ddvae import data
from tune_ddvae.catalogue import StudyFile
from tune_ddvae.config import TrialConfig, Value, with_overrides
from tune_ddvae.data.sources import given_dir
from tune_ddvae.errors import ConfigError, StorageError
from tune_ddvae.spec import StudySpec, ends, flat_space
from tune_ddvae.training.device import choose_device, set_threads
from tune_ddvae.training.pace import measure_pace, num_parameters
from tune_ddvae.tuning import provenance
from tune_ddvae.tuning.cluster.cluster import Looker, check_sockets, join_cluster
from tune_ddvae.tuning.cluster.preflight import (
    check_storage,
    check_versions,
    place_data,
    trial_nodes,
)
from tune_ddvae.tuning.cluster.resources import Slots, local_resources, make_slots, trial_size
from tune_ddvae.tuning.cluster.slots import ClusterSlots, cluster_wait_s, settled
from tune_ddvae.tuning.planning.plan import CHECKPOINTS_KEPT, Plan, checkpoint_bytes
from tune_ddvae.tuning.record.opening import check_recorded, num_recorded, record_url
from tune_ddvae.tuning.record.postgresql import is_server, num_on_server, server_address
from tune_ddvae.tuning.running.last_words import STALL_VARIABLE
from tune_ddvae.tuning.session import Request
from tune_ddvae.tuning.storage import disk
from tune_ddvae.tuning.storage.folders import check_name, slug
from tune_ddvae.tuning.storage.lock import check_free
from tune_ddvae.tuning.storage.place import (
    Place,
    database_folder,
    free_bytes,
    make_ready,
    planned_place,
    tracking_folder,
)
from tune_ddvae.tuning.tracking.tracking import (
    absolute_uri,
    check_tracking,
    default_tracking_uri,
    without_password,
)
from tune_ddvae.tuning.wording import plural


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks of a run; none of it makes the study another one but the seed."""

    name: str
    seed: int
    hours: float | None
    max_concurrent: int | None
    cpus_per_trial: float | None
    gpus_per_trial: float | None
    memory_per_trial: float | None  # GB
    storage: str
    record: str | None  # address of a database on a server
    tracking_uri: str | None
    data_dir: str | None
    address: str | None
    words: Sequence[str]  # of the command line, to show how to go on
    report: bool = True  # once the study is complete


def make_request(file: StudyFile, spec: StudySpec, options: Options, console: Console) -> Request:
    """The study as it is to be run, with everything checked and data made ready.

    Raises:
        DdvaeError: Something asked for is wrong or missing; names it and the mend.
    """
    if options.address and options.record is None:
        check_free(database_folder(_folder(options)))  # joining a cluster takes up to a minute
    request = _checked(file, spec, options, console)
    with console.status("making the data ready"):
        data.prepare(spec.base.data, _path(options.data_dir))
    if not request.is_joined:
        make_ready(request.folder)  # last: what is refused leaves no folder behind
        return request
    on = trial_nodes(request.slots.now().trial)
    with console.status(f"asking {len(on)} {plural('node', len(on))} whether all can take part"):
        check_versions(on, needs_gpu=request.slots.num_gpus > 0)
        files = place_data(spec.base.data, request.data_dir, request.data_checksum, on)
        with _undone(request.folder):
            make_ready(request.folder)
            check_storage(request.folder.parent, on)
    return dataclasses.replace(request, files=files)


@contextmanager
def _undone(study: Place) -> Iterator[None]:
    """Take the storage's folder away again where it was made for nothing."""
    was_there = not isinstance(study, Path) or study.parent.exists()
    try:
        yield
    except StorageError:
        if not was_there and isinstance(study, Path):
            with suppress(OSError):  # there is something in it, or it could not even be made
                study.parent.rmdir()
        raise


def _checked(file: StudyFile, spec: StudySpec, options: Options, console: Console) -> Request:
    """Everything that can be checked without making anything."""
    folder = _folder(options)
    slots = _slots(options, console)
    given = given_dir(_path(options.data_dir))
    data.place(spec.base.data, _path(options.data_dir))
    record = (
        record_url(database_folder(folder))
        if options.record is None
        else server_address(options.record)
    )
    if is_server(record):
        num_on_server(record, options.name)  # it answers, and would have us
    tracking_uri = absolute_uri(
        options.tracking_uri
        or os.environ.get("MLFLOW_TRACKING_URI")
        or default_tracking_uri(tracking_folder(folder.parent))
    )
    for warning in check_tracking(tracking_uri, file.name):
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)
    needed = _needs(spec, slots, record, options.name)
    if needed is not None and (warning := disk.check_space(folder, needed)):
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)
    return Request(
        name=options.name,
        experiment=file.name,
        question=file.question,
        spec=spec,
        folder=folder,
        record=record,
        tracking_uri=tracking_uri,
        data_checksum=data.checksum(spec.base.data, _path(options.data_dir)),
        command=os.environ.get(provenance.SUBMITTED_AS)
        or provenance.command("tune_ddvae.study", map(without_password, options.words)),
        seed=options.seed,
        trials=spec.size.trials,
        hours=options.hours,
        slots=slots,
        data_dir=None if given is None else str(given),
        stall_s=_stall_s(),
        working_bytes=disk.RESERVE_BYTES if needed is None else needed.working,
        report=options.report,
    )


def _folder(options: Options) -> Place:
    check_name(options.name)
    if not options.storage.strip():
        raise ConfigError("--storage must name a folder, got nothing")
    return planned_place(options.storage, options.record) / slug(options.name)


def _stall_s() -> float:
    """How long a worker may go without finishing a batch, in seconds; ten minutes unless set."""
    text = os.environ.get(STALL_VARIABLE, "600")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{STALL_VARIABLE} must be a number of seconds above 0, got {text!r}")
    return seconds


def _needs(
    spec: StudySpec, slots: Slots | ClusterSlots, record: str, name: str
) -> disk.Needs | None:
    """What the study still needs of the disk; None where nothing is left to train."""
    begun, ended = num_recorded(record, name)
    trials = spec.size.trials
    if trials is not None and ended >= trials:
        return None
    return disk.needs(
        checkpoint=checkpoint_bytes(spec.base, num_parameters(largest_model(spec))),
        num_new=None if trials is None else max(trials - begun, 0),
        kept=CHECKPOINTS_KEPT,
        slots=slots.concurrent,
    )


def _slots(options: Options, console: Console) -> Slots | ClusterSlots:
    """What a trial takes and how many run at once; a cluster is joined to know it."""
    most, memory = options.max_concurrent, options.memory_per_trial
    cpus, gpus = options.cpus_per_trial, options.gpus_per_trial
    if not options.address:
        check_sockets()
        return make_slots(
            local_resources(),
            max_concurrent=most,
            cpus_per_trial=cpus,
            gpus_per_trial=gpus,
            memory_per_trial=memory,
        )
    wait_s = cluster_wait_s()
    join_cluster(options.address)
    look = Looker()
    view = settled(look, partial(console.print, markup=False, soft_wrap=True), wait_s)
    trial = trial_size(
        view,
        max_concurrent=most,
        cpus_per_trial=cpus,
        gpus_per_trial=gpus,
        memory_per_trial=memory,
    )
    return ClusterSlots(trial, look, max_concurrent=most)


def _path(folder: str | None) -> Path | None:
    return None if folder is None else Path(folder)


def make_plan(file: StudyFile, spec: StudySpec, options: Options, console: Console) -> Plan:
    """All that a run would do, checked as far as it can be without creating anything.

    Raises:
        DdvaeError: As ``make_request``.
    """
    request = _checked(file, spec, options, console)
    largest = largest_model(spec)
    set_threads(request.slots.num_cpus)
    pace = measure_pace(largest, choose_device())
    return Plan(
        name=request.name,
        study_file=file.path,
        doc=file.doc,
        spec=spec,
        trials=request.trials,
        hours=request.hours,
        seed=request.seed,
        num_recorded=(
            num_on_server(request.record, request.name)
            if is_server(request.record)
            else check_recorded(database_folder(request.folder), request.name, request.identity())
        ),
        slots=request.slots.now(),
        data_place=data.place(spec.base.data, _path(options.data_dir)),
        folder=request.folder,
        record=request.record,
        tracking=request.tracking_uri,
        free_bytes=free_bytes(request.folder),
        num_parameters=pace.num_parameters,
        seconds_per_epoch=pace.seconds_per_epoch,
    )


def largest_model(spec: StudySpec) -> TrialConfig:
    """The base configuration with the largest networks and all terms of the objective in use."""
    searched = flat_space(spec.space)
    largest: dict[str, Value] = {
        key: ends(searched[key])[-1]
        for key in ("model/latent_dim", "model/width", "objective/alpha")
        if key in searched
    }
    return with_overrides(spec.base, largest)
