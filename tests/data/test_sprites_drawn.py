import hashlib
import math

import numpy as np
import pytest

from tune_ddvae.data import sprites_drawn
from tune_ddvae.data.sprites_drawn import draw, draw_positions, factor_values

SQUARE, ELLIPSE, HEART = SHAPES = range(3)
FULL = (3, 6, 40, 32, 32)
CENTRE = np.array([0.5])  # of the image, 32 pixels from each side


def centred(shape: int, scale: float = 1.0, angle: float = 0.0) -> np.ndarray:
    return draw_positions(shape, scale, angle, CENTRE, CENTRE)[0, 0]


def lit_rows_and_columns(image: np.ndarray) -> tuple[list[int], list[int]]:
    rows, columns = np.nonzero(image)
    return [rows.min(), rows.max()], [columns.min(), columns.max()]


def is_lit(shape: int, scale: float, angle: float, across: float, up: float) -> bool:
    """Whether that far from its centre a sprite is white, by another way than the product's.

    The point is turned back in polar coordinates, and the square is measured along the ray.
    """
    distance, direction = math.hypot(across, up) / scale, math.atan2(up, across) - angle
    cos, sin = math.cos(direction), math.sin(direction)
    if shape == SQUARE:
        return distance < 9.6 / max(abs(cos), abs(sin))
    if shape == ELLIPSE:
        return distance < 1.0 / math.sqrt((cos / 12.77) ** 2 + (sin / 7.21) ** 2)
    degrees = math.degrees(math.asin(sin))  # the mirror in x is the sine's own
    table = {-90 + 6 * step: radius for step, radius in enumerate(sprites_drawn._RADII)}
    below = min(6 * math.floor(degrees / 6), 84)
    weight = (degrees - below) / 6
    return distance < (1 - weight) * table[below] + weight * table[below + 6]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("scale", "angle", "x", "y"), [(0.7, 1.9, 3, 30), (1.0, 5.5, 31, 0)])
def test_pixel_is_lit_where_its_centre_lies_inside_the_sprite(shape, scale, angle, x, y):
    image = draw_positions(shape, scale, angle, np.array([x / 31]), np.array([y / 31]))[0, 0]
    expected = [
        [
            is_lit(shape, scale, angle, j + 0.5 - 16 - 32 * x / 31, 16 + 32 * y / 31 - i - 0.5)
            for j in range(64)
        ]
        for i in range(64)
    ]
    np.testing.assert_array_equal(image, expected)


def test_square_has_the_pixels_that_a_ruler_gives():
    image = centred(SQUARE)
    assert lit_rows_and_columns(image) == ([22, 41], [22, 41])  # 9.5 from the centre, not 10.5
    assert image.sum() == 20 * 20
    assert centred(SQUARE, scale=0.5).sum() == 10 * 10


def test_ellipse_lies_on_its_side_before_it_is_turned():
    assert lit_rows_and_columns(centred(ELLIPSE)) == ([25, 38], [19, 44])
    assert centred(ELLIPSE).sum() == pytest.approx(math.pi * 12.77 * 7.21, rel=0.02)


def test_heart_has_its_notch_above_and_its_tip_below():
    image = centred(HEART)
    np.testing.assert_array_equal(image, image[:, ::-1])
    # By the table: it reaches 9.3 up, 9.6 to both sides and, half a pixel from the tip, 8 down.
    assert lit_rows_and_columns(image) == ([23, 39], [22, 41])
    middle = np.flatnonzero(image[:, 32])
    assert [middle.min(), middle.max()] == [26, 39]
    assert np.flatnonzero(image[:, 36]).min() < middle.min()
    assert image[:32].sum() > 1.5 * image[32:].sum()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_quarter_turn_turns_the_image_counter_clockwise(shape):
    turned = centred(shape, angle=0.3 + math.pi / 2)
    np.testing.assert_array_equal(turned, np.rot90(centred(shape, angle=0.3)))


@pytest.mark.parametrize("shape", SHAPES)
def test_area_grows_with_the_square_of_the_scale(shape):
    areas = [centred(shape, scale, angle=0.3).sum() for scale in (0.5, 0.75, 1.0)]
    assert areas[1] / areas[2] == pytest.approx(0.75**2, abs=0.05)
    assert areas[0] / areas[2] == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("shape", SHAPES)
def test_position_moves_the_sprite_right_and_down(shape):
    ends = np.array([0.0, 1.0])
    images = draw_positions(shape, 0.8, 0.4, ends, ends)
    for x, y in np.ndindex(2, 2):
        np.testing.assert_array_equal(
            images[x, y], np.roll(images[0, 0], (32 * y, 32 * x), axis=(0, 1))
        )
    rows, columns = np.nonzero(draw_positions(SQUARE, 1.0, 0.4, ends[:1], ends[1:])[0, 0])
    assert (rows.mean(), columns.mean()) == (
        pytest.approx(47.5, abs=0.2),
        pytest.approx(15.5, abs=0.2),
    )


def test_images_lie_in_the_order_of_the_grid():
    sizes = (3, 2, 4, 3, 5)
    images = np.unpackbits(np.concatenate(list(draw(sizes))), axis=1).reshape(-1, 64, 64)
    assert len(images) == math.prod(sizes)
    _, scales, angles, xs, ys = factor_values(sizes)
    for index in (0, 7, 101, 222, 359):
        shape, scale, angle, x, y = np.unravel_index(index, sizes)
        sprite = int(shape), float(scales[scale]), float(angles[angle])
        expected = draw_positions(*sprite, xs[[x]], ys[[y]])[0, 0]
        np.testing.assert_array_equal(images[index], expected)


def test_first_and_last_orientation_are_one_image():
    sheets = [sheet.tobytes() for sheet in draw((3, 2, 40, 2, 1))]
    assert all(sheets[first] == sheets[first + 39] for first in range(0, 240, 40))
    assert len(set(sheets[200:])) == 39  # large hearts look different at every other angle


def test_factors_have_the_published_values():
    shapes, scales, angles, xs, ys = factor_values(FULL)
    assert shapes.tolist() == [1, 2, 3]
    assert scales == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert angles[[0, 1, 39]] == pytest.approx([0.0, 0.16110732, 6.28318531])
    assert xs[[0, 1, 31]] == pytest.approx([0.0, 0.03225806, 1.0])
    assert ys.tolist() == xs.tolist()


def test_a_change_of_any_pixel_needs_another_geometry_number(full_sprites):
    digest = hashlib.sha256(full_sprites.grid.inputs.numpy().data).hexdigest()
    # No pixel's centre is nearer to an outline than 1e-9 of its radius: all machines draw this.
    assert (sprites_drawn.GEOMETRY, digest) == (
        1,
        "f32c8c5fa2974ebdfc6f9313e571a9f32374c914f9482d27a4da46847681b600",
    )
