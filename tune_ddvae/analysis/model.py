"""A trained model from a checkpoint folder, with its data: what every analysis looks at."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tune_ddvae import data
from tune_ddvae.config import TrialConfig
from tune_ddvae.data import Dataset
from tune_ddvae.errors import CheckpointError
from tune_ddvae.models import VAE
from tune_ddvae.training import checkpoint
from tune_ddvae.training.device import choose_device
from tune_ddvae.training.trainer import new_vae


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model as it was at the end of an epoch.

    Attributes:
        config: Of its trial.
        dataset: The data that it was trained on, split as then.
        vae: In evaluation mode, on the device.
        epoch: Epochs trained.
        device: Where to compute.
        folder: Absolute folder of its checkpoint.
    """

    config: TrialConfig
    dataset: Dataset
    vae: VAE
    epoch: int
    device: torch.device
    folder: Path


@dataclass(frozen=True)
class Found:
    """The checkpoints at a place.

    Attributes:
        by_epoch: Their folders, earliest epoch first; of a repeated epoch the one written last.
        problems: Why others that lie there cannot be used.
    """

    by_epoch: Mapping[int, Path] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def at(self, epoch: int | None, whose: str) -> Path:
        """The folder of that epoch's checkpoint; None: of the last one's.

        Args:
            epoch: Which.
            whose: Begins the sentence that refuses an epoch, e.g. "run 1a2b".

        Raises:
            CheckpointError: There is none; lists those that there are.
        """
        if not self.by_epoch:
            told = "; ".join((f"{whose} has no checkpoint", *self.problems))
            raise CheckpointError(
                f"{told}; name a folder with {checkpoint.STATE_FILE} in it, or one that holds some"
            )
        chosen = max(self.by_epoch) if epoch is None else epoch
        if chosen not in self.by_epoch:
            raise CheckpointError(
                f"{whose} has no checkpoint of epoch {epoch}; it has those of epochs "
                f"{', '.join(map(str, self.by_epoch))}"
            )
        return self.by_epoch[chosen]


def find_checkpoints(*places: Path) -> Found:
    """What lies in these folders: each is a checkpoint's own, or one with checkpoints in it."""
    found: list[tuple[int, float, Path]] = []
    problems: list[str] = []
    for folder in (folder for place in places for folder in _checkpoints_in(place)):
        try:
            written = (folder / checkpoint.STATE_FILE).stat().st_mtime
            found.append((checkpoint.epoch_of(folder), written, folder))
        except OSError as error:  # ours too
            told = isinstance(error, CheckpointError)
            problems.append(str(error) if told else f"cannot read checkpoint {folder}: {error}")
    return Found({epoch: folder for epoch, _, folder in sorted(found)}, tuple(problems))


def open_checkpoint(
    folder: Path, data_dir: Path | None = None, device: torch.device | None = None
) -> TrainedModel:
    """The model in a checkpoint folder, by the configuration that is stored in it.

    Args:
        folder: Holds ``state.pt``.
        data_dir: Folder with the data set's files; None: wherever they are found.
        device: Where to compute; None: the first GPU, else the CPU.

    Raises:
        CheckpointError: There is no checkpoint, it is damaged, or the data here are not those that it
            was trained on; names the folder and the mend.
        DataError: The data are missing or damaged.
    """
    folder = folder.expanduser().absolute()
    device = choose_device() if device is None else device
    stored = checkpoint.read(folder, device)
    here = data.checksum(stored.config.data, data_dir)  # cheap, where loading may be minutes
    if here != stored.checksum:
        raise CheckpointError(
            f"checkpoint {folder} must be looked at with the data that it was trained on, but "
            f"{data.place(stored.config.data, data_dir)} gives other {stored.config.data.name} data "
            f"(checksum {here[:12]} here, {stored.checksum[:12]} there); name the folder of the right "
            "ones with --data-dir, or use the versions that it was trained with"
        )
    dataset = data.load(stored.config.data, data_dir)
    vae = new_vae(stored.config, dataset).to(device)
    try:
        vae.load_state_dict(stored.vae)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise checkpoint.damaged(folder, error) from error
    return TrainedModel(stored.config, dataset, vae.eval(), stored.epoch, device, folder)


def _checkpoints_in(place: Path) -> list[Path]:
    place = place.expanduser().absolute()
    if (place / checkpoint.STATE_FILE).exists():
        return [place]
    return [file.parent for file in sorted(place.glob(f"*/{checkpoint.STATE_FILE}"))]
