"""Principal variances of a data set, which the anisotropic prior follows."""

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from tune_ddvae.data import cache
from tune_ddvae.data.dataset import Dataset

# Up to so many training points all count: Fashion-MNIST's, of 1,024 pixels, take seconds.
ALL_POINTS = 60_000
# Of more, so many do: all of dSprites, of 4,096 pixels, would take minutes to change the ten largest
# variances by a percent.
SOME_POINTS = 10_000
_POINTS_AT_ONCE = 2_000


def principal_variances(dataset: Dataset, num: int) -> Float64[Tensor, " num"]:
    """The largest variances of the centred training data along its principal axes, largest first.

    Of the data as a model sees them, divided by the number of points less one. Where there are more
    than 60,000 training points, the first 10,000 stand for all; data/seed has put them in order.
    Computed once per machine and kept in the data cache: another number of threads would change the
    last bits.

    Args:
        dataset: Whose training points count.
        num: How many variances.

    Returns:
        As many, or one for each dimension of the data where those are fewer. Where the data do not vary
        they are zero, or what rounding leaves of that.

    Raises:
        DataError: The data cache cannot be used.
    """
    dims = _num_dims(dataset)
    # The checksum alone would do, were a data set not sometimes cut in memory.
    name = f"{dataset.name}-{dataset.checksum}-{len(dataset.train)}"
    path = cache.cache_dir() / "principal_variances" / f"{name}.bin"
    cache.ensure(path, dims * 8, lambda: [_all_variances(dataset)])
    return torch.from_numpy(cache.open_shared(path).view(np.float64)[:num].copy())


def _all_variances(dataset: Dataset) -> Float64[np.ndarray, " dim"]:
    """One for each dimension of the data, largest first."""
    num = len(dataset.train)
    num = num if num <= ALL_POINTS else SOME_POINTS
    # Sums of zeros and ones are exact in float32, and twice as fast.
    dtype = torch.float64 if dataset.packed_shape is None else torch.float32
    dims = _num_dims(dataset)
    total, products = torch.zeros(dims, dtype=dtype), torch.zeros(dims, dims, dtype=dtype)
    for rows in torch.split(torch.arange(num), _POINTS_AT_ONCE):
        points = dataset.to_float(dataset.train.gather(rows)).flatten(1).to(dtype)
        total += points.sum(0)
        products.addmm_(points.T, points)
    mean = total.double() / num
    covariance = products.double().addr_(mean, mean, alpha=-num) / max(num - 1, 1)
    varies = covariance.diagonal() > 0.0  # a quarter of dSprites' pixels never do: half the work
    found = torch.linalg.eigvalsh(covariance[varies][:, varies]).flip(0).clamp(min=0.0)
    return np.pad(found.numpy(), (0, dims - len(found)))


def _num_dims(dataset: Dataset) -> int:
    return dataset.to_float(dataset.train.head(1)).numel()
