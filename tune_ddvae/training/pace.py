"""How large a configuration's model is, and roughly how long an epoch will take: from a few batches."""

import math
import time
from dataclasses import dataclass

import torch

from tune_ddvae.config import DATASETS, TrialConfig
from tune_ddvae.metrics.streams import stream
from tune_ddvae.models.vae import VAE, make_vae
from tune_ddvae.objectives.elbo import elbo

_BATCHES = 3
_EVALUATION_SHARE = 0.15  # of an epoch's time: what the metrics may take


@dataclass(frozen=True)
class Pace:
    """A rough measure of one trial on this machine."""

    num_parameters: int
    seconds_per_epoch: float


def measure_pace(config: TrialConfig, device: torch.device) -> Pace:
    """Train a few batches of noise in the configuration's shapes; its data are not read."""
    vae = _vae(config).to(device)
    images = config.training.images_per_epoch or config.data.train_size
    batch_size = min(config.training.batch_size, images)
    generator = stream(0, "pace", device)
    shape = (batch_size, *DATASETS[config.data.name].shape)
    inputs = torch.rand(shape, generator=generator, device=device)
    seconds = []
    for _ in range(_BATCHES):  # the first one also warms up
        start = time.perf_counter()
        total = elbo(vae, inputs, config.objective, generator).total
        torch.autograd.backward(total)
        total.item()  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    batches = math.ceil(images / batch_size)
    return Pace(
        num_parameters=_size(vae),
        seconds_per_epoch=min(seconds) * batches * (1 + _EVALUATION_SHARE),
    )


def num_parameters(config: TrialConfig) -> int:
    """How many numbers the configuration's model learns."""
    return _size(_vae(config))


def _vae(config: TrialConfig) -> VAE:
    # Equal variances take as long as those of the data, which the anisotropic prior would follow.
    variances = torch.ones(config.model.latent_dim, dtype=torch.float64)
    return make_vae(config, stream(0, "pace"), variances)


def _size(vae: VAE) -> int:
    return sum(parameter.numel() for parameter in vae.parameters())
