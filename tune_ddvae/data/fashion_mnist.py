"""Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): found or fetched, resized once, shared.

The four files are looked for in the folder that was given; if none was, in the cache of resized
images, in Debian's package and among earlier downloads, and at last fetched.

Images are resized from 28 to 32 pixels by PIL's bilinear filter on 8-bit values and dealt out by
data/seed *before* they are cached: each split is then a slice of one memory-mapped file (72 MB a
seed), and no process holds a copy of its own.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tune_ddvae.config import DataConfig
from tune_ddvae.data import cache
from tune_ddvae.data.dataset import Dataset, Split, checksum_of, permutation, split_sizes
from tune_ddvae.data.sources import (
    Source,
    find_given,
    given_dir,
    is_installed,
    read_earlier,
    read_found,
    read_given,
)

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
RAW_SIZE, SIZE = 28, 32  # pixels a side, as published and as used
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"

_TRAIN_STREAM, _TEST_STREAM = 0, 1
_LAYOUT = "fashion_mnist 32x32 bilinear, train test images, train test classes: 1"
_IMAGE_HEADER, _LABEL_HEADER = 16, 8  # bytes before an idx file's values

FASHION_MNIST = Source(
    title="Fashion-MNIST",
    num_train=60_000,
    num_test=10_000,
    sha256={
        TRAIN_IMAGES: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        TRAIN_LABELS: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        TEST_IMAGES: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        TEST_LABELS: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    subfolder="FashionMNIST/raw",
    package="dataset-fashion-mnist",
    system_dir=Path("/usr/share/datasets/fashion-mnist"),
    cache_name="fashion_mnist",
    # Plain http is all that the first one speaks; what arrives is verified in any case.
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
)


def prepare(
    config: DataConfig, data_dir: Path | None = None, source: Source = FASHION_MNIST
) -> Path:
    """The cached file of resized images, made if it is not there; safe to call from anywhere.

    Args:
        config: Only its seed matters here.
        data_dir: Folder with the four files; None: TUNE_DDVAE_DATA, and where that is unset too,
            wherever they are found.
        source: What to expect and where; tests have a small one.

    Raises:
        DataError: A file is missing or damaged; names it, where it was looked for and the mend.
    """
    given = given_dir(data_dir)
    # Read even where the cache would do: who names a folder wants to hear of its faults.
    contents = None if given is None else read_given(given, source)
    path = _cached_path(config, source)
    cache.ensure(
        path,
        _num_bytes(source),
        lambda: _resized(contents or read_found(source), config.seed, source),
    )
    return path


def place(data_dir: Path | None = None, source: Source = FASHION_MNIST) -> str:
    """Where ``prepare`` would take the files from.

    Raises:
        DataError: A folder was given and lacks files.
    """
    given = given_dir(data_dir)
    if given is not None:
        find_given(given, source)
        return str(given)
    return str(source.system_dir) if is_installed(source) else "a mirror, downloaded once"


def found(config: DataConfig, data_dir: Path | None = None, source: Source = FASHION_MNIST) -> str:
    """Where ``prepare`` has what it needs on this machine, verified; empty where it would fetch.

    Raises:
        DataError: A file is missing or damaged.
    """
    given = given_dir(data_dir)
    if given is not None:
        read_given(given, source)
        return str(given)
    path = _cached_path(config, source)
    if cache.is_intact(path, _num_bytes(source)):
        return str(path)
    if is_installed(source):
        read_found(source)
        return str(source.system_dir)
    earlier = read_earlier(source)
    return "" if earlier is None else str(earlier)


def files(data_dir: Path | None = None, source: Source = FASHION_MNIST) -> dict[str, bytes]:
    """The verified files as ``prepare`` takes them from this machine, by name; none where it fetches.

    Raises:
        DataError: A file is missing or damaged.
    """
    given = given_dir(data_dir)
    if given is not None:
        return read_given(given, source)
    if is_installed(source) or read_earlier(source) is not None:
        return read_found(source)
    return {}


def load(
    config: DataConfig, data_dir: Path | None = None, source: Source = FASHION_MNIST
) -> Dataset:
    """The data set, its images mapped from the cached file; prepared first if need be.

    Raises:
        DataError: As ``prepare``.
    """
    path = _cached_path(config, source)
    given = given_dir(data_dir)
    if given is not None:
        find_given(given, source)
    if not cache.is_intact(path, _num_bytes(source)):
        prepare(config, data_dir, source)
    images, classes = _mapped(path, source)
    train, validation, test = split_sizes(config)
    first_test = source.num_train

    def cut(start: int, stop: int) -> Split:
        return Split(
            torch.from_numpy(images[start:stop]),
            torch.from_numpy(classes[start:stop].astype(np.int64)),
        )

    return Dataset(
        name=config.name,
        train=cut(first_test - train, first_test),
        validation=cut(0, validation) if validation else None,
        test=cut(first_test, first_test + test),
        class_names=CLASS_NAMES,
        checksum=checksum(config, data_dir, source),
        pixel_max=255.0,
    )


def checksum(
    config: DataConfig, _data_dir: Path | None = None, source: Source = FASHION_MNIST
) -> str:
    """Hex digest of the data as used. Reads no file, since no other content is accepted."""
    return checksum_of(_content_key(config, source), *split_sizes(config))


def _orders(seed: int, source: Source) -> tuple[np.ndarray, np.ndarray]:
    return (
        permutation(source.num_train, seed, _TRAIN_STREAM),
        permutation(source.num_test, seed, _TEST_STREAM),
    )


def _content_key(config: DataConfig, source: Source) -> str:
    """Digest of all that the cached file follows from."""
    files = (TRAIN_IMAGES, TEST_IMAGES, TRAIN_LABELS, TEST_LABELS)
    orders = (order.astype("<i8") for order in _orders(config.seed, source))
    return checksum_of(_LAYOUT, *(source.sha256[name] for name in files), *orders)


def _cached_path(config: DataConfig, source: Source) -> Path:
    key = _content_key(config, source)[:16]
    return cache.cache_dir() / source.cache_name / f"{key}.bin"


def _num_bytes(source: Source) -> int:
    return (source.num_train + source.num_test) * (SIZE * SIZE + 1)


def _mapped(path: Path, source: Source) -> tuple[np.ndarray, np.ndarray]:
    num = source.num_train + source.num_test
    content = cache.open_shared(path)
    return content[:-num].reshape(num, 1, SIZE, SIZE), content[-num:]


def _resized(contents: Mapping[str, bytes], seed: int, source: Source) -> Iterator[np.ndarray]:
    """The cached file's parts: images for training, then test, then their classes, as dealt out."""
    train_order, test_order = _orders(seed, source)
    for name, order in ((TRAIN_IMAGES, train_order), (TEST_IMAGES, test_order)):
        raw = np.frombuffer(contents[name], np.uint8, offset=_IMAGE_HEADER)
        for image in raw.reshape(len(order), RAW_SIZE, RAW_SIZE)[order]:
            resized = Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            yield np.asarray(resized)
    for name, order in ((TRAIN_LABELS, train_order), (TEST_LABELS, test_order)):
        yield np.frombuffer(contents[name], np.uint8, offset=_LABEL_HEADER)[order]
