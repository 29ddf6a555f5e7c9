"""Pinwheel: four curved arms of points on a plane, as in the paper's clustering experiment.

A point of arm k is drawn as (r, t) = (1 + 0.3 e1, 0.1 e2), e1 and e2 standard normal, and turned
counter-clockwise by ``2 pi k / 4 + 0.25 exp(r)``. Training, validation and test points are three
draws of 400, from generators that follow from data/seed, never from a trial's seed.
"""

from pathlib import Path

import numpy as np
import torch

from tune_ddvae.config import DataConfig
from tune_ddvae.data.dataset import Dataset, Split, checksum_of, split_sizes
from tune_ddvae.errors import ConfigError

NUM_ARMS, POINTS_PER_ARM = 4, 100
RADIAL_STD, TANGENTIAL_STD, RATE = 0.3, 0.1, 0.25
_NUM_POINTS = NUM_ARMS * POINTS_PER_ARM


def load(config: DataConfig, _data_dir: Path | None = None) -> Dataset:
    """The three draws, each cut to the size that is asked for.

    Raises:
        ConfigError: A split is to hold more points than one draw has.
    """
    train, validation, test = (_split(points, arms) for points, arms in _draws(config))
    return Dataset(
        name=config.name,
        train=train,
        validation=validation if config.num_validation else None,
        test=test,
        class_names=tuple(f"arm {arm}" for arm in range(NUM_ARMS)),
        checksum=checksum(config),
    )


def checksum(config: DataConfig, _data_dir: Path | None = None) -> str:
    """Hex digest of the points as used.

    Rounded to 1e-6 first: machines differ in an exponential's last bit, and a study moved from one
    to another keeps its data.
    """
    points = [np.rint(points * 1e6).astype("<i8") for points, _ in _draws(config)]
    return checksum_of(config.name, *split_sizes(config), *points)


def draw(seed: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
    """400 points (400, 2) in float64 and their arms (400,), arms taking turns.

    Args:
        seed: data/seed.
        stream: 0 for training, 1 for validation, 2 for test points.
    """
    generator = np.random.default_rng((seed, stream))
    noise = generator.standard_normal((_NUM_POINTS, 2)) * (RADIAL_STD, TANGENTIAL_STD)
    radial, tangential = 1.0 + noise[:, 0], noise[:, 1]
    # In turns, so that the first n points of a draw are an even share of each arm.
    arms = np.arange(_NUM_POINTS) % NUM_ARMS
    angle = 2.0 * np.pi * arms / NUM_ARMS + RATE * np.exp(radial)
    cos, sin = np.cos(angle), np.sin(angle)
    points = np.stack((radial * cos - tangential * sin, radial * sin + tangential * cos), axis=1)
    return points, arms


def _draws(config: DataConfig) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training, validation and test points with their arms, each cut to its size."""
    cut = []
    for stream, num in enumerate(split_sizes(config)):
        if num > _NUM_POINTS:
            raise ConfigError(f"a pinwheel split must hold at most {_NUM_POINTS} points, got {num}")
        points, arms = draw(config.seed, stream)
        cut.append((points[:num], arms[:num]))
    return cut


def _split(points: np.ndarray, arms: np.ndarray) -> Split:
    return Split(torch.from_numpy(points.astype(np.float32)), torch.from_numpy(arms))
