"""Codes on factor grids whose scores are known."""

import functools
import math
import pathlib

import numpy as np
import torch

SIZES = (3, 6, 40, 32, 32)
SMALL = (3, 6, 10, 8, 8)  # as many points as every fourth orientation and position leaves
GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "disentanglement.npz")
ENCODERS = ("aligned", "rotated", "mixed")


def factors(sizes):
    axes = [torch.arange(size, dtype=torch.float64) for size in sizes]
    return torch.cartesian_prod(*axes)


def spread(sizes):
    """Perfect codes: the factors themselves, each from -1/2 to 1/2."""
    return factors(sizes) / (torch.tensor(sizes) - 1) - 0.5


def normal(points, dims, seed=0):
    return torch.randn(points, dims, generator=generator(seed), dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@functools.cache
def golden_codes(encoder):
    """An encoder's codes on the whole grid, from its formula."""
    u = spread(SIZES)
    n = factors(SIZES).sum(1, keepdim=True)
    k = torch.arange(1, 11, dtype=torch.float64)
    matrix = {name: torch.from_numpy(GOLDEN[name]) for name in ("Q", "A")}
    if encoder == "aligned":
        return torch.cat([u, 0.02 * torch.sin(37 * n * k[:5])], 1).float()
    if encoder == "rotated":
        return torch.cat([u @ matrix["Q"], 0.3 * torch.sin(37 * n * k[:5])], 1).float()
    return (torch.tanh(2 * u @ matrix["A"]) + 0.2 * torch.sin(91 * n * k)).float()


def golden_rows():
    """Codes and factors of each encoder's stored rows."""
    return {
        encoder: (
            torch.from_numpy(GOLDEN[f"{encoder}_codes"]),
            torch.from_numpy(GOLDEN["factors"].astype(np.int64)),
        )
        for encoder in ENCODERS
    }


def num_points(sizes):
    return math.prod(sizes)
