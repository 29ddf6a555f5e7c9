"""dSprites drawn from formulas: the grid of Matthey et al. (2017) without its archive.

A pixel (row i, column j) is on if its centre (i + .5, j + .5) lies inside the sprite, y pointing
down. A sprite's centre is at ``16 + 32 position`` on both axes, its sizes are multiplied by the
scale, and it is turned counter-clockwise as seen. The formulas' sizes were measured on published
frames: 320 of them are matched to within 60 of some 62,000 lit pixels.
"""

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Bool, Float64, UInt8

# Of each factor, the last changing fastest: shape, scale, orientation, position x, position y.
Sizes = tuple[int, int, int, int, int]
SIDE = 64  # pixels
# What is drawn. Another number for other pixels, since data sets are told apart by it.
GEOMETRY = 1

_HALF_SIDE = 9.6  # of the square
_SEMI_AXES = (12.77, 7.21)  # of the ellipse, the long one horizontal before it is turned
# The heart's radius at -90, -84 ... 90 degrees from +x upwards, linear between, mirrored in x.
_RADII = (
    *(9.13, 7.90, 7.14, 6.59, 6.31, 6.06, 5.95, 5.91, 5.91, 6.01, 6.16, 6.39, 6.67, 7.09, 7.53),
    *(8.14, 8.75, 9.40, 10.00, 10.53, 10.88, 11.18, 11.25, 11.24, 11.07, 10.74, 10.21, 9.41, 8.35),
    *(6.95, 5.11),
)
_STEP = 180.0 / (len(_RADII) - 1)  # degrees
_REACH = 14  # no sprite of scale 1 has a lit pixel farther from its centre: the square's corner

Plane = Float64[np.ndarray, "*points"]


def factor_values(sizes: Sizes) -> tuple[np.ndarray, ...]:
    """The values of each factor, as dSprites' ``latents_values`` has them.

    Shapes count from 1; scales go from .5 to 1, orientations from 0 to 2 pi, positions from 0 to 1,
    ends included: the first and last orientation are the same image.
    """
    shapes, scales, orientations, xs, ys = sizes
    return (
        np.arange(1.0, shapes + 1.0),
        np.linspace(0.5, 1.0, scales),
        np.linspace(0.0, 2.0 * np.pi, orientations),
        np.linspace(0.0, 1.0, xs),
        np.linspace(0.0, 1.0, ys),
    )


def draw(sizes: Sizes) -> Iterator[UInt8[np.ndarray, "images bytes"]]:
    """Every image of the grid in its order, bit-packed, a few at a time.

    Each part holds all positions of one shape, scale and orientation.
    """
    _, scales, angles, xs, ys = factor_values(sizes)
    if len(angles) > 1:
        angles[-1] = 0.0  # a full turn, which the sine is 2e-16 short of
    for shape, scale, angle in itertools.product(range(sizes[0]), scales, angles):
        sheet = draw_positions(shape, float(scale), float(angle), xs, ys)
        yield np.packbits(sheet.reshape(len(xs) * len(ys), SIDE * SIDE), axis=1)


def draw_positions(
    shape: int,
    scale: float,
    angle: float,
    xs: Float64[np.ndarray, " x"],
    ys: Float64[np.ndarray, " y"],
) -> Bool[np.ndarray, "x y row column"]:
    """One sprite at each pair of positions.

    Args:
        shape: 0 for the square, 1 for the ellipse, 2 for the heart.
        scale: From .5 to 1.
        angle: In radians, counter-clockwise as seen.
        xs: Horizontal positions, 0 to 1.
        ys: Vertical positions, 0 to 1, downwards.
    """
    cos, sin, is_inside = math.cos(angle), math.sin(angle), _IS_INSIDE[shape]
    reach = math.ceil(_REACH * scale) + 1
    lefts, dx = _window(xs, reach)
    tops, dy = _window(ys, reach)
    images = np.zeros((len(xs), len(ys), SIDE, SIDE), np.bool_)
    for at_x, left, along in zip(images, lefts, dx, strict=True):
        u = cos * along - sin * dy[..., None]
        v = sin * along + cos * dy[..., None]
        # Only the pixels near a sprite are asked: the others would be five of six.
        for image, top, window in zip(at_x, tops, is_inside(u, v, scale), strict=True):
            image[top : top + len(window), left : left + len(window)] = window
    return images


def _window(
    positions: Float64[np.ndarray, " num"], reach: int
) -> tuple[list[int], Float64[np.ndarray, "num pixel"]]:
    """First pixel of a window about each centre on one axis, and its pixels' distances from it."""
    centres = 16.0 + 32.0 * positions
    first = np.floor(centres) - reach
    pixels = first[:, None] + np.arange(2 * reach + 1)
    return first.astype(int).tolist(), pixels + 0.5 - centres[:, None]


def _in_square(u: Plane, v: Plane, scale: float) -> Bool[np.ndarray, "*points"]:
    inside: np.ndarray = np.maximum(np.abs(u), np.abs(v)) < _HALF_SIDE * scale
    return inside


def _in_ellipse(u: Plane, v: Plane, scale: float) -> Bool[np.ndarray, "*points"]:
    across, along = (axis * scale for axis in _SEMI_AXES)
    inside: np.ndarray = np.hypot(u / across, v / along) < 1.0
    return inside


def _in_heart(u: Plane, v: Plane, scale: float) -> Bool[np.ndarray, "*points"]:
    # v points down, the table's angles up.
    step = (np.degrees(np.arctan2(-v, np.abs(u))) + 90.0) / _STEP
    radius = np.interp(step, np.arange(len(_RADII)), _RADII)
    inside: np.ndarray = np.hypot(u, v) < scale * radius
    return inside


_IS_INSIDE: tuple[Callable[[Plane, Plane, float], Bool[np.ndarray, "*points"]], ...] = (
    _in_square,
    _in_ellipse,
    _in_heart,
)
