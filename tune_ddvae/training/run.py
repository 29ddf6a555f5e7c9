"""The loop that trains one configuration in its folder, and goes on where it stopped."""

import copy
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from tune_ddvae.errors import CheckpointError
from tune_ddvae.training import checkpoint
from tune_ddvae.training.folder import TrainedRow, TrainingFolder
from tune_ddvae.training.trainer import Trainer


@runtime_checkable
class Watcher(Protocol):
    """Who looks on while a configuration trains."""

    def on_start(self, epoch: int) -> None:
        """Training begins, or goes on, behind that epoch."""

    def on_batch(self) -> None:
        """A batch of training or evaluation, or a metric, is done."""

    def on_row(self, row: TrainedRow) -> None:
        """A step is done, its row on disk."""

    def on_note(self, note: str) -> None:
        """Something happened that a person should know."""


class _Stopped(Exception):
    """Unwinds a step between two batches."""


def train(
    folder: TrainingFolder,
    build: Callable[[Callable[[], None]], Trainer],
    watcher: Watcher,
    *,
    until: int,
    save_every: int = 1,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train up to an epoch, from the newest intact checkpoint in the folder.

    Wherever it ends, the last finished epoch has a checkpoint.

    Args:
        folder: Held by this process alone.
        build: Makes an untrained trainer that calls the function given to it after each batch.
        watcher: Told of everything.
        until: Epoch to train to.
        save_every: Epochs between two checkpoints; the last one is kept in any case.
        should_stop: Asked after each batch; a step that is under way is then given up.

    Returns:
        Whether it got there; else it was stopped.

    Raises:
        DivergedError: Training left the finite numbers.
        CheckpointError: A checkpoint cannot be written.
        StorageError: Metrics cannot be written, or a damaged checkpoint cannot be set aside.
    """

    def on_batch() -> None:
        watcher.on_batch()
        if should_stop():
            raise _Stopped

    trainer = _continued(folder, lambda: build(on_batch), watcher)
    watcher.on_start(trainer.epoch)
    unsaved: dict[str, Any] | None = None  # a finished epoch that has no checkpoint yet
    try:
        while trainer.epoch < until:
            before = trainer.epoch
            row = folder.add(trainer.step())
            if trainer.epoch >= until or trainer.epoch // save_every > before // save_every:
                unsaved = None
                folder.save(trainer)
            else:
                unsaved = copy.deepcopy(trainer.state_dict())
            watcher.on_row(row)
    except BaseException as ended:
        if unsaved is not None:
            trainer.load_state_dict(unsaved)
            folder.save(trainer)
        if not isinstance(ended, _Stopped):
            raise
        return False
    return True


def _continued(folder: TrainingFolder, build: Callable[[], Trainer], watcher: Watcher) -> Trainer:
    """A trainer that goes on from the newest intact checkpoint, or from the start.

    Newer ones, which are damaged, are set aside.
    """
    for path in folder.checkpoints():
        trainer = build()  # anew each time: a failed load may leave half a state behind
        try:
            checkpoint.load(trainer, path)
        except CheckpointError as error:
            aside = folder.set_aside(path)
            watcher.on_note(f"passed over a checkpoint: {error}; it lies in {aside} now")
        else:
            return trainer
    return build()
