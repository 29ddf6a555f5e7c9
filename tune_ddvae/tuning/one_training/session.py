"""One training from request to result: checked, trained, shown, tracked, and compared if asked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from tune_ddvae import data, exit_codes
from tune_ddvae.config import TrialConfig, Value, to_flat
from tune_ddvae.data import Dataset
from tune_ddvae.errors import DdvaeError
from tune_ddvae.training.device import choose_device, set_threads
from tune_ddvae.training.folder import (
    TrainedRow,
    TrainingFolder,
    check_folder,
    make_folder,
    open_folder,
)
from tune_ddvae.training.run import train
from tune_ddvae.training.trainer import Trainer
from tune_ddvae.tuning import provenance
from tune_ddvae.tuning.one_training.comparison import CONDITIONS, Comparison, compared
from tune_ddvae.tuning.one_training.screen import TrainingScreen, final_table, header_lines
from tune_ddvae.tuning.one_training.tracked_training import (
    EXPERIMENT,
    TrackedTraining,
    TrackingThread,
    history_of,
    rungs_of,
    tags_of,
)
from tune_ddvae.tuning.running.worker import training_facts
from tune_ddvae.tuning.signals import StopSwitch, exit_code_of, signals_stop
from tune_ddvae.tuning.storage import disk
from tune_ddvae.tuning.storage.lock import sole_driver
from tune_ddvae.tuning.tracking import view
from tune_ddvae.tuning.tracking.check import absolute_uri, check_tracking
from tune_ddvae.tuning.tracking.tracked_run import TrackedRun
from tune_ddvae.tuning.wording import plural

COMPLETE, INTERRUPTED, FAILED = "complete", "interrupted", "failed"
AT_ONCE_S = 2.0  # that tracking may take where the user has asked for the end twice


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be trained, and how.

    Attributes:
        name: What it is called.
        config: All that its numbers follow from.
        folder: Its own, absolute.
        command: That goes on with it.
        setting: The published setting that it is, if it is one.
        original: A tracked training that it repeats, and is compared with.
        data_dir: Folder with the data set's files; None: wherever they are found.
        tracking_uri: Where to log it, if anywhere.
        save_every: Epochs between two checkpoints.
        is_evaluated: Whether metrics are measured.
        may_use_gpu: Whether a GPU is used where there is one.
    """

    name: str
    config: TrialConfig
    folder: Path
    command: str
    setting: str = ""
    original: TrackedRun | None = None
    data_dir: Path | None = None
    tracking_uri: str | None = None
    save_every: int = 1
    is_evaluated: bool = True
    may_use_gpu: bool = True

    @property
    def until(self) -> int:
        """Epoch to train to: as far as the original came."""
        return self.original.last_epoch if self.original else self.config.training.epochs


@dataclass(frozen=True)
class Ended:
    """What became of a training.

    Attributes:
        exit_code: Of the command.
        note: What is to be said last.
        result: Everything as plain data.
    """

    exit_code: int
    note: str
    result: dict[str, Any]


def run_training(request: Request, console: Console) -> Ended:
    """Train, and say how it went.

    Raises:
        DdvaeError: Something asked for is wrong or missing; nothing was created.
    """
    config, data_dir = request.config, request.data_dir
    data.check_dir(config.data, data_dir)
    origin = data.place(config.data, data_dir)
    checksum = data.checksum(config.data, data_dir)
    device = choose_device() if request.may_use_gpu else torch.device("cpu")
    threads = set_threads(_threads(request))
    facts = {**provenance.versions(), **training_facts(config, device, threads), "data": checksum}
    facts |= {"data_origin": origin, "command": request.command, "setting": request.setting}
    tags = tags_of(facts)
    identity: dict[str, Value] = {**to_flat(config), "checksum of the data": checksum}
    identity["--skip-test"] = not request.is_evaluated  # else the other one would lack metrics
    if request.original is not None:  # what is compared was made by one version on one machine
        identity |= {key: tags.get(key) for key in (*CONDITIONS, "commit")}
    check_folder(request.folder, identity)
    if request.tracking_uri is not None:
        for warning in check_tracking(absolute_uri(request.tracking_uri), EXPERIMENT):
            console.print(Text(f"warning: {warning}"), soft_wrap=True)
    with console.status("making the data ready"):
        data.prepare(config.data, data_dir)
    make_folder(request.folder)  # last: what is refused leaves no folder behind
    with sole_driver(request.folder, "training", "use a local --save-dir"):
        folder = open_folder(request.folder, identity)
        if request.original is not None and folder.last_epoch >= request.until:
            folder.clear()  # asked to repeat it: an answer of before is none
        for line in (f"Training {request.name}", *header_lines(config, facts)):
            console.print(Text(line), soft_wrap=True)
        console.print(Text(f"{'folder':11}  {folder.path}"), soft_wrap=True)
        with console.status("loading the data"):
            dataset = data.load(config.data, data_dir)
        return _run(request, folder, dataset, device, tags, console)


def _run(
    request: Request,
    folder: TrainingFolder,
    dataset: Dataset,
    device: torch.device,
    tags: dict[str, str],
    console: Console,
) -> Ended:
    """Train in the folder, which is ours, and compare with the original if there is one."""
    every, until = request.config.training.evaluate_every, request.until
    screen = TrainingScreen(console, folder.rows, until=until, every=every)
    tracked = None
    if request.tracking_uri is not None:
        tracked = TrackedTraining(
            request.tracking_uri, request.name, folder, request.config, tags, screen.on_note
        )
    watcher = _Watcher(screen, None if tracked is None else TrackingThread(tracked))
    build = partial(
        Trainer,
        request.config,
        dataset,
        device,
        rungs=rungs_of(request.original.tags) if request.original else (),
        is_evaluated=request.is_evaluated,
    )
    outcome, reason, code = _watched(request, folder, build, watcher)
    result = _result(request, folder, tracked, outcome)
    if outcome != COMPLETE:
        return Ended(code, _unfinished_text(request, folder, outcome, reason), result)
    console.print(final_table(folder.rows[until], request.config))
    was_finished = watcher.started_at >= until
    notes = [_finished_text(folder, until, was_finished=was_finished)]
    if request.original is not None:
        found = _compared(request.original, folder, until, tags)
        notes += [f"compared with {request.original}", *(f"  {line}" for line in found.lines())]
        result["comparison"] = {"run_id": request.original.run_id, **found.to_json()}
        code = exit_codes.COMPLETE if found.is_same else exit_codes.NO_SUCCESS
    return Ended(code, "\n".join(notes), result)


def _watched(
    request: Request,
    folder: TrainingFolder,
    build: Callable[..., Trainer],
    watcher: "_Watcher",
) -> tuple[str, str, int]:
    """Train, shown and tracked, deaf to signals but at the end of a batch.

    Returns:
        How it ended, why, and the command's exit code.
    """
    switch, thread = StopSwitch(), watcher.thread
    with signals_stop(switch):
        try:
            with watcher.screen:
                is_done = train(
                    folder,
                    lambda on_batch: build(on_batch=on_batch),
                    watcher,
                    until=request.until,
                    save_every=request.save_every,
                    should_stop=switch.is_set,
                )
        except DdvaeError as error:
            if disk.is_full(error):  # no fault of the training's
                _close(thread, view.KILLED, INTERRUPTED, str(error))
                return INTERRUPTED, str(error), exit_codes.WORK_LEFT
            _close(thread, view.FAILED, FAILED, f"{type(error).__name__}: {error}")
            return FAILED, str(error), exit_codes.NO_SUCCESS
        except SystemExit:  # a second signal
            _close(thread, view.KILLED, INTERRUPTED, switch.reason, AT_ONCE_S)
            raise
        except BaseException as error:
            _close(thread, view.FAILED, FAILED, f"{type(error).__name__}: {error}")
            raise
        if is_done:
            _close(thread, view.FINISHED, COMPLETE)
            return COMPLETE, "", exit_codes.COMPLETE
        code = exit_code_of(switch.reason)
        _close(thread, view.KILLED, INTERRUPTED, switch.reason)
        return INTERRUPTED, switch.reason, exit_codes.INTERRUPTED if code is None else code


def _close(
    thread: TrackingThread | None,
    status: str,
    state: str,
    reason: str = "",
    timeout_s: float | None = None,
) -> None:
    if thread is not None:
        thread.finish(status, state, reason, timeout_s)


def _compared(
    original: TrackedRun, folder: TrainingFolder, until: int, tags: Mapping[str, str]
) -> Comparison:
    rows = (row for epoch, row in folder.rows.items() if epoch <= until)
    return compared(original.history, history_of(rows), original.tags, tags)


def _result(
    request: Request, folder: TrainingFolder, tracked: TrackedTraining | None, outcome: str
) -> dict[str, Any]:
    last = folder.rows.get(folder.last_epoch)
    checkpoints = folder.checkpoints()
    return {
        "outcome": outcome,
        "name": request.name,
        "setting": request.setting or None,
        "folder": str(folder.path),
        "checkpoint": str(checkpoints[0]) if checkpoints else None,
        "epochs": folder.last_epoch,
        "metrics": {} if last is None else dict(last.metrics),
        "absent": {} if last is None else dict(last.absent),
        "tracking": None if tracked is None else {"uri": tracked.address, "run_id": tracked.run_id},
        "config": to_flat(request.config),
    }


def _finished_text(folder: TrainingFolder, until: int, *, was_finished: bool) -> str:
    already = "already finished" if was_finished else "finished"
    return f"{already}: {until} {plural('epoch', until)}, checkpoint {folder.checkpoints()[0]}"


def _unfinished_text(request: Request, folder: TrainingFolder, outcome: str, reason: str) -> str:
    if outcome == FAILED:
        return f"failed: {reason}"
    epoch = folder.kept_epoch
    kept = f"epoch {epoch} of {request.until} is kept" if epoch else "no epoch was finished"
    return f"{reason}: {kept}; to go on:\n  {request.command}"


def _threads(request: Request) -> int:
    """As many as the original was computed with: another number gives other last digits."""
    tagged = request.original.tags.get("threads", "") if request.original else ""
    return int(tagged) if tagged.isdecimal() and int(tagged) > 0 else torch.get_num_threads()


@dataclass
class _Watcher:
    """Passes everything on to the screen, and wakes tracking where there is something to send."""

    screen: TrainingScreen
    thread: TrackingThread | None
    started_at: int = 0  # epoch of the checkpoint that could be loaded

    def on_start(self, epoch: int) -> None:
        self.started_at = epoch
        self.screen.on_start(epoch)
        self._wake()

    def on_batch(self) -> None:
        self.screen.on_batch()

    def on_row(self, row: TrainedRow) -> None:
        self.screen.on_row(row)
        self._wake()

    def on_note(self, note: str) -> None:
        self.screen.on_note(note)

    def _wake(self) -> None:
        if self.thread is not None:
            self.thread.wake()
