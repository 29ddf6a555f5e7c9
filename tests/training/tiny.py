"""Configurations that train in a moment, and what two runs of one must share."""

import contextlib
import dataclasses
import io
import struct
import zipfile
from collections.abc import Iterator

import torch

from tune_ddvae.config import TrialConfig, from_flat
from tune_ddvae.data import Dataset, load
from tune_ddvae.training.trainer import Trainer

CPU = torch.device("cpu")
TINY = {
    "digits": {
        "data/name": "digits",
        "data/num_train": 200,
        "data/num_validation": 60,
        "data/num_test": 50,
        "model/latent_dim": 4,
        "model/width": 4,
        "prior/kind": "sparse",
        "objective/alpha": 10.0,
        "training/epochs": 3,
        "training/batch_size": 64,
        "metrics/iwae_num_samples": 4,
        "metrics/iwae_num_points": 20,
    },
    "pinwheel": {
        "data/name": "pinwheel",
        "data/num_train": 100,
        "data/num_validation": 100,
        "model/latent_dim": 2,
        "model/width": 10,
        "prior/kind": "clustered",
        "likelihood/kind": "normal",
        "objective/divergence": "inclusive_kl",
        "objective/alpha": 1.0,
        "training/epochs": 4,
        "training/evaluate_every": 2,
        "training/batch_size": 40,
        "metrics/iwae_num_samples": 4,
        "metrics/iwae_num_points": 20,
    },
}


def tiny(name="digits", **overrides) -> TrialConfig:
    """A configuration that trains in a moment; keys are written part__field."""
    changed = {key.replace("__", "/"): value for key, value in overrides.items()}
    return from_flat({**TINY[name], **changed})


def make_trainer(config: TrialConfig, dataset: Dataset | None = None, **kwargs) -> Trainer:
    return Trainer(config, load(config.data) if dataset is None else dataset, CPU, **kwargs)


def run(trainer: Trainer) -> list:
    """The results of all steps that are left, without what the clock adds."""
    results = []
    while not trainer.is_done:
        results.append(numbers(trainer.step()))
    return results


def numbers(result) -> dict:
    facts = dataclasses.asdict(result)
    facts["metrics"] = {k: v for k, v in facts["metrics"].items() if not k.endswith("seconds")}
    return facts


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: on tiny networks two wait for each other more than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def bit_flipped(data: bytes) -> bytes:
    """One bit turned in the middle of the largest tensor; between tensors there is padding."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    name_and_extra = struct.unpack("<HH", data[largest.header_offset + 26 :][:4])
    middle = largest.header_offset + 30 + sum(name_and_extra) + largest.file_size // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
