"""Digits: scikit-learn's bundled 8x8 images (UCI Optical Recognition of Handwritten Digits).

Always there, so that image models can be tried without any file. Resized to 16x16 by PIL's bilinear
filter in floating point, since 17 grey values are too few to round between; stored as float32 from
0 to 16.
"""

import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tune_ddvae.config import DATASETS, DataConfig
from tune_ddvae.data.dataset import Dataset, Split, checksum_of, permutation, split_sizes

SIZE = 16  # pixels a side
_NUM_TEST = DATASETS["digits"].max_test  # reserved, whatever part of it is used
_STREAM = 0


def load(config: DataConfig, _data_dir: Path | None = None) -> Dataset:
    """The data set; its test images are the same for every size of the other splits."""
    images, classes = _resized()
    train, validation, test = _indices(config)

    def take(index: np.ndarray) -> Split:
        return Split(torch.from_numpy(images[index]), torch.from_numpy(classes[index]))

    return Dataset(
        name=config.name,
        train=take(train),
        validation=take(validation) if len(validation) else None,
        test=take(test),
        class_names=tuple("0123456789"),
        checksum=checksum(config),
        pixel_max=16.0,
    )


def checksum(config: DataConfig, _data_dir: Path | None = None) -> str:
    """Hex digest of images, classes and splits as used."""
    images, classes = _raw()
    used = (index.astype("<i8") for index in _indices(config))
    return checksum_of(config.name, images, classes.astype("<i8"), *used)


def _indices(config: DataConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which images are for training, validation and test."""
    num_train, num_validation, num_test = split_sizes(config)
    order = permutation(len(_raw()[1]), config.seed, _STREAM)
    test, rest = order[:_NUM_TEST], order[_NUM_TEST:]
    return rest[len(rest) - num_train :], rest[:num_validation], test[:num_test]


@functools.cache
def _raw() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, 8, 8) as uint8 from 0 to 16, and classes (1797,)."""
    from sklearn.datasets import load_digits  # a second and more to import; needed for digits only

    bundled = load_digits()
    return bundled.images.astype(np.uint8), bundled.target.astype(np.int64)


@functools.cache
def _resized() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, 1, 16, 16) as float32 from 0 to 16, and classes; once per process."""
    images, classes = _raw()
    resized = [
        np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        for image in images.astype(np.float32)
    ]
    return np.stack(resized)[:, None], classes
