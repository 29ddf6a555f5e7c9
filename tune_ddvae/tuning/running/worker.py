"""One assignment at a time, trained and reported; needs no Ray, so it is tested without.

Our own errors do not leave it: they come back as a last report, since an error that Ray sees is taken
for a lost worker. The one exception is a checkpoint that cannot be saved: only so is it not announced.
"""

import faulthandler
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

import tune_ddvae
from tune_ddvae.config import TrialConfig, Value, from_flat
from tune_ddvae.data import Dataset, load
from tune_ddvae.data.placing import Parcel, settle
from tune_ddvae.errors import CheckpointError, DdvaeError, StorageFullError, UnfitNodeError
from tune_ddvae.training import checkpoint
from tune_ddvae.training.device import choose_device, set_threads
from tune_ddvae.training.trainer import Trainer
from tune_ddvae.tuning.cluster.fitness import check_node
from tune_ddvae.tuning.running.last_words import LastWords
from tune_ddvae.tuning.storage import disk
from tune_ddvae.tuning.storage.folders import TRIALS_FOLDER, attempt_name
from tune_ddvae.tuning.storage.place import Place, fetched, place_at, wait_for
from tune_ddvae.tuning.trials import Assignment, Report


class Worker:
    """Trains the trial that it was last given."""

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._epoch = 0
        self._error: Exception | None = None
        self._notes: tuple[str, ...] = ()
        self._facts: dict[str, Value] = {}
        self._last_words = LastWords()
        self._watchdog: Watchdog | None = None

    def assign(self, assignment: Assignment, fetch: Callable[[], Parcel] | None = None) -> None:
        """Build everything anew for this assignment and go on from its last intact checkpoint.

        Args:
            assignment: What to train.
            fetch: Brings the data's files, should this machine lack them; None if nothing does.
        """
        self._trainer, self._error, self._notes, self._epoch = None, None, (), 0
        self._watchdog = None
        self._facts = {"host": platform.node()}
        storage = place_at(assignment.storage)
        name = attempt_name(assignment.number, assignment.attempt)
        try:
            check_node(assignment)  # first: what is written to a folder that is not shared is lost
        except Exception as error:  # noqa: BLE001 - reported by the next step
            self._error = error
            return
        self._last_words.open(storage / TRIALS_FOLDER / name)
        self._watchdog = watchdog = Watchdog(assignment.stall_s, self._last_words.handle)
        try:
            watchdog()
            threads = set_threads(assignment.num_cpus)
            config = from_flat(assignment.config)
            device = choose_device()
            self._facts = training_facts(config, device, threads)
            given = None if assignment.data_dir is None else Path(assignment.data_dir)
            data_dir = settle(config.data, given, assignment.data_checksum, fetch)
            dataset = load(config.data, data_dir)
            _check_data(dataset, assignment.data_checksum)
            self._facts["data"] = dataset.checksum
            if dataset.origin:
                self._facts["data_origin"] = dataset.origin
            build = partial(
                Trainer, config, dataset, device, on_batch=watchdog, rungs=assignment.rungs
            )
            wait_for(storage, watchdog)
            self._trainer = self._continued(build, assignment, storage)
            self._epoch = self._trainer.epoch
        except Exception as error:  # noqa: BLE001 - reported by the next step
            self._error = error
        finally:
            watchdog.rest()

    def watched(self) -> AbstractContextManager[None]:
        """While it lasts, this process ends when nothing is finished for too long."""
        return nullcontext() if self._watchdog is None else self._watchdog

    def step(self) -> Report:
        """Train to the next evaluation; an error becomes a last report that names it."""
        if self._error is None and self._trainer is not None:
            try:
                with self.watched():
                    result = self._trainer.step()
            except Exception as error:  # noqa: BLE001 - reported just below
                self._error = error
            else:
                self._epoch = result.epoch
                return Report(
                    epoch=result.epoch,
                    metrics=result.metrics,
                    absent=result.absent,
                    facts={**self._facts, **protocol_facts(result.facts)},
                    notes=self._notes,
                    is_last=self._trainer.is_done,
                )
        problem = self._error or RuntimeError("step was called before any assignment")
        kind = StorageFullError if disk.is_full(problem) else type(problem)
        return Report(
            epoch=self._epoch,
            facts=self._facts,
            notes=self._notes,
            error_kind=kind.__name__,
            error=_described(problem),
            is_last=True,
        )

    def save(self, folder: Path) -> None:
        """Write a checkpoint into the folder; after an error a note, which counts for nothing.

        Raises:
            CheckpointError: It cannot be written. Ray then counts this worker as lost, and announces no
                checkpoint that is not there; after the last epoch no step would come to report it.
        """
        if self._error is None and self._trainer is not None:
            checkpoint.save(self._trainer, folder)
        if self._error is not None:
            with suppress(OSError):  # where the disk is full
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "no-checkpoint.txt").write_text(_described(self._error), encoding="utf-8")

    def _continued(
        self, build: Callable[[], Trainer], assignment: Assignment, storage: Place
    ) -> Trainer:
        """A trainer that goes on from the newest intact checkpoint, or from the start."""
        for path in assignment.checkpoints:
            trainer = build()  # anew each time: a failed load may leave half a state behind
            try:
                with fetched(storage / path) as folder:
                    checkpoint.load(trainer, folder)
            except CheckpointError as error:
                note = f"trial {assignment.number} passed over a checkpoint: {error}"
                self._notes = (*self._notes, note)
            else:
                return trainer
        return build()


class Watchdog:
    """Ends this process when no batch finishes for too long; it is then a lost worker.

    Not by the step: a full epoch may take half an hour. It watches from a first call until ``rest``, or
    as long as it is entered as a context.
    """

    def __init__(self, stall_s: float, handle: int = 2) -> None:
        self._stall_s = stall_s
        self._handle = handle  # where it says what was being done
        self._armed = -math.inf

    def __enter__(self) -> None:
        self()

    def __exit__(self, *exc_info: object) -> None:
        self.rest()

    def __call__(self) -> None:
        """Note that something has been finished; cheap enough to call for every batch."""
        now = time.monotonic()
        if now - self._armed >= 1.0:
            self._armed = now
            faulthandler.dump_traceback_later(self._stall_s, exit=True, file=self._handle)

    def rest(self) -> None:
        """Stop watching until the next call, which watches anew however soon it comes."""
        self._armed = -math.inf
        faulthandler.cancel_dump_traceback_later()


def training_facts(config: TrialConfig, device: torch.device, threads: int) -> dict[str, Value]:
    """What this training really runs with, as a colleague would want to read it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": str(device),
        "device_name": name,
        "threads": threads,
        "host": platform.node(),
        "pid": os.getpid(),
        "torch": torch.__version__,
        "tune_ddvae": tune_ddvae.__version__,
        "prior": config.prior.kind,
        "likelihood": config.likelihood.kind,
        "seed": config.training.seed,
        "measured_on": "validation" if config.has_validation else "test",
    }


def protocol_facts(facts: Mapping[str, Any]) -> dict[str, Value]:
    """How each score was measured, as one line beside it."""
    return {
        f"protocol/{name}": ", ".join(f"{key} {value}" for key, value in fact.items())
        if isinstance(fact, Mapping)
        else str(fact)
        for name, fact in facts.items()
    }


def _check_data(dataset: Dataset, wanted: str) -> None:
    """Refuse data other than the study's: archives and drawings must not mix, on no machine."""
    if wanted and dataset.checksum != wanted:
        raise UnfitNodeError(
            f"{platform.node()} has other {dataset.name} data: their checksum is "
            f"{dataset.checksum[:16]}, the study's {wanted[:16]}; put the same files on every machine, "
            "or take away those that came since the study began"
        )


def _described(error: Exception) -> str:
    if isinstance(error, DdvaeError):
        return str(error)
    where = ""
    trace = error.__traceback__
    while trace is not None:  # innermost frame: a bug of ours should say where it is
        where = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"
        trace = trace.tb_next
    return f"{error}{where}"
