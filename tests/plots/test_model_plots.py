import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from scipy import stats

from tune_ddvae.errors import StorageError
from tune_ddvae.plots.codes import code_magnitudes
from tune_ddvae.plots.images import image_grid
from tune_ddvae.plots.plane import Row, aggregate_density, latent_plane, mass_levels, plane_rows
from tune_ddvae.plots.points import Curves, Points, curve_panels, limits_of, outside, point_panels
from tune_ddvae.plots.style import ACTIVE, INACTIVE, class_style, new_figure, save_figure, thinned

EDGES = np.linspace(-5.0, 5.0, 81)
NAMES = ("bag", "boot")
MAGNITUDES = np.array([[0.1, 2.0, 0.0], [0.5, 1.0, 0.2]])


def random(*shape):
    return np.random.default_rng(0).random(shape)


def normal_density(x=0.0, y=0.0, scale=1.0):
    mean, scales = np.array([[x, y]]), np.full((1, 2), scale)
    return aggregate_density(mean, scales, EDGES)


def shown(axes):
    """The array that an axes shows as an image."""
    return np.asarray(axes.images[0].get_array())


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def legend(owner):
    return [text.get_text() for text in owner.get_texts()]


# -- style -------------------------------------------------------------------------------------------


def test_a_figure_is_written_as_png_and_pdf_with_the_same_bytes_each_time(tmp_path):
    figure = image_grid(random(1, 2, 4, 4), "t")
    written = save_figure(figure, tmp_path / "made", "name")
    assert written == (tmp_path / "made/name.png", tmp_path / "made/name.pdf")
    first = [path.read_bytes() for path in written]
    assert first[0].startswith(b"\x89PNG")
    assert first[1].startswith(b"%PDF")
    save_figure(figure, tmp_path / "made", "name")
    assert [path.read_bytes() for path in written] == first
    assert sorted(path.name for path in written[0].parent.iterdir()) == ["name.pdf", "name.png"]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write the figure .*file/name.png: .*; name a"):
        save_figure(new_figure(1.0, "t"), tmp_path / "file", "name")


def test_a_long_title_is_broken_after_a_comma_and_keeps_all_its_words():
    title = "pinwheel, sparse prior, γ = 0.8, spike 0.1, β = 0.01, α = 1.5 (inclusive KL), and more"
    lines = new_figure(1.0, title).get_suptitle().splitlines()
    assert len(lines) == 2
    assert lines[0].endswith(",")
    assert " ".join(lines) == title


def test_a_long_title_without_commas_is_broken_between_words():
    title = " ".join(["word"] * 40)
    lines = new_figure(1.0, title).get_suptitle().splitlines()
    assert max(map(len, lines)) <= 72
    assert " ".join(lines) == title


def test_no_two_of_seventy_classes_look_alike():
    assert len({class_style(number) for number in range(70)}) == 70


def test_thinned_labels_keep_their_places():
    assert thinned(list("abcde"), 3) == ["a", "", "c", "", "e"]
    assert thinned(list("abc"), 3) == ["a", "b", "c"]


# -- code magnitudes ---------------------------------------------------------------------------------


def test_bars_are_the_magnitudes_in_one_order_with_the_mean_first():
    figure = code_magnitudes(MAGNITUDES, NAMES, np.array([True, True, False]), "t")
    heights = [[bar.get_height() for bar in axes.patches] for axes in figure.axes]
    order = [1, 0, 2]
    np.testing.assert_allclose(heights, np.vstack([MAGNITUDES.mean(0), MAGNITUDES])[:, order])
    assert [axes.get_ylabel() for axes in figure.axes] == ["all classes", *NAMES]
    assert [label.get_text() for label in figure.axes[-1].get_xticklabels()] == ["1", "0", "2"]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1


def test_dimensions_that_are_not_active_are_grey_and_the_legend_says_so():
    figure = code_magnitudes(MAGNITUDES, NAMES, np.array([False, True, True]), "t")
    colours = [bar.get_facecolor() for bar in figure.axes[1].patches]
    assert colours == [to_rgba(ACTIVE), to_rgba(INACTIVE), to_rgba(ACTIVE)]
    assert legend(figure.legends[0]) == ["active", "not active"]
    assert not code_magnitudes(MAGNITUDES, NAMES, np.ones(3, bool), "t").legends


def test_a_class_without_points_says_so_and_changes_no_mean():
    magnitudes = np.vstack([MAGNITUDES, np.full(3, np.nan)])
    figure = code_magnitudes(magnitudes, (*NAMES, "none"), np.ones(3, bool), "t")
    assert [text.get_text() for text in figure.axes[3].texts] == ["no points"]
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(heights, MAGNITUDES.mean(0)[[1, 0, 2]])


def test_fifty_dimensions_have_at_most_twenty_numbers_below_them():
    figure = code_magnitudes(random(2, 50), NAMES, np.ones(50, bool), "t")
    assert 10 <= len(figure.axes[-1].get_xticklabels()) <= 20


# -- images ------------------------------------------------------------------------------------------


def test_images_stand_in_their_cells_on_a_scale_from_0_to_1():
    images = random(2, 3, 4, 5)
    axes = image_grid(images, "t", row_labels=("a", "b"), column_labels=("x", "y", "z")).axes[0]
    canvas = shown(axes)
    assert canvas.shape == (2 * 4 + 1, 3 * 5 + 2)
    for row in range(2):
        for column in range(3):
            cell = canvas[5 * row : 5 * row + 4, 6 * column : 6 * column + 5]
            np.testing.assert_array_equal(cell, images[row, column])
    assert axes.images[0].get_clim() == (0.0, 1.0)
    assert axes.images[0].get_cmap().name == "gray"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y", "z"]


def test_groups_are_wider_apart_and_an_empty_cell_has_no_colour():
    images = random(3, 1, 16, 16)
    images[2] = np.nan
    canvas = shown(image_grid(images, "t", row_groups=(2, 1), caption="rows").axes[0])
    assert len(canvas) == 3 * 16 + 1 + 5
    assert np.ma.getmaskarray(np.ma.masked_invalid(canvas))[38:].all()


# -- points ------------------------------------------------------------------------------------------


def test_panels_of_points_share_axes_and_show_each_class_by_name():
    points, classes = random(6, 2), np.array([0, 1, 0, 1, 0, 1])
    panels = [Points("inputs", points, classes), Points("outputs", points + 9.0, classes)]
    figure = point_panels(panels, NAMES, points, "t")
    assert titles(figure) == ["inputs", "outputs\n(6 outside)"]
    assert legend(figure.legends[0]) == list(NAMES)
    for axes in figure.axes:
        assert (axes.get_xlim(), axes.get_ylim()) == (limits_of(points), limits_of(points))
    for number, drawn in enumerate(figure.axes[0].collections):
        np.testing.assert_array_equal(drawn.get_offsets(), points[classes == number])


def test_points_without_classes_are_all_alike_and_need_no_legend():
    figure = point_panels([Points("inputs", random(6, 2))], (), random(6, 2), "t")
    assert len(figure.axes) == len(figure.axes[0].collections) == 1
    assert not figure.legends


def test_limits_hold_all_points_and_one_point_has_some_room():
    points = random(20, 2)
    assert outside(points, limits_of(points)) == ""
    low, high = limits_of(points[:1] * 0.0)
    assert low < 0.0 < high


def test_curves_are_full_where_near_and_dotted_beyond_with_their_marks():
    curves, marks = random(2, 7, 2), random(2, 2)
    panels = [Curves(f"along {d}", curves, marks, 3, np.array([0, 1])) for d in range(3)]
    figure = curve_panels(panels, NAMES, random(9, 2), "t")
    assert titles(figure) == ["along 0", "along 1", "along 2"]
    assert legend(figure.legends[0]) == ["data", *NAMES]
    lines = figure.axes[0].lines
    assert [line.get_linestyle() for line in lines] == ["-", ":"] * 2
    for curve, near, far in zip(curves, lines[::2], lines[1::2], strict=True):
        np.testing.assert_array_equal(near.get_xydata(), curve[:3])
        np.testing.assert_array_equal(far.get_xydata(), curve[2:])
    drawn = [tuple(point) for c in figure.axes[0].collections for point in c.get_offsets()]
    assert all(tuple(mark) in drawn for mark in marks)


# -- plane -------------------------------------------------------------------------------------------


def test_an_aggregate_posterior_holds_all_its_mass_however_narrow_it_is():
    mean = np.array([[0.3, -1.1], [2.0, 0.1], [-1.2, 3.0]])
    density = aggregate_density(mean, np.array([[1e-6, 1e-6], [0.2, 0.3], [0.01, 0.2]]), EDGES)
    assert density.sum() * (EDGES[1] - EDGES[0]) ** 2 == pytest.approx(1.0)
    lone = aggregate_density(mean[:1], np.full((1, 2), 1e-6), EDGES)
    up, across = np.unravel_index(lone.argmax(), lone.shape)
    assert EDGES[across] < 0.3 < EDGES[across + 1]
    assert EDGES[up] < -1.1 < EDGES[up + 1]


def test_contours_hold_their_share_of_a_normal():
    cell = (EDGES[1] - EDGES[0]) ** 2
    radii = np.sqrt(stats.chi2(2).ppf([0.9, 0.5]))
    expected = np.exp(-0.5 * radii**2) / (2 * np.pi)
    np.testing.assert_allclose(mass_levels(normal_density(), cell, (0.5, 0.9)), expected, rtol=0.05)
    assert len(mass_levels(0.7 * normal_density(), cell)) == 1


def test_the_plane_shows_both_densities_on_one_scale_and_the_codes_by_class():
    prior, aggregate = normal_density(), normal_density(1.0, -1.0, 0.3)
    codes = Points("posterior means", np.array([[1.0, -1.0], [9.0, 0.0]]), np.array([0, 1]))
    figure = latent_plane(prior, aggregate, EDGES, codes, NAMES, "t")
    names = ["prior p(z)", "aggregate posterior q(z)", "posterior means\n(1 outside)"]
    assert titles(figure) == names
    left, right, scattered, beside = figure.axes[:4]
    for axes, density in ((left, prior), (right, aggregate)):
        found, lowest = shown(axes), axes.images[0].get_clim()[0]
        np.testing.assert_allclose(found, np.maximum(density, lowest))
    assert left.images[0].get_clim() == right.images[0].get_clim()
    assert {axes.get_xlim() for axes in (left, right, scattered)} == {(-5.0, 5.0)}
    assert legend(beside.get_legend()) == list(NAMES)
    assert "50, 90, 99 %" in beside.get_legend().get_title().get_text()


def test_the_plane_names_only_contours_that_it_holds():
    codes = Points("codes", random(3, 2))
    figure = latent_plane(0.95 * normal_density(), normal_density(), EDGES, codes, (), "t")
    assert "contours: 50, 90 %\n" in figure.axes[3].get_legend().get_title().get_text()
    figure = latent_plane(0.1 * normal_density(), normal_density(), EDGES, codes, (), "t")
    assert figure.axes[3].get_legend().get_title().get_text() == ""


def test_rows_of_the_plane_share_axes_and_colours():
    inputs, classes = random(4, 2), np.array([0, 0, 1, 1])
    densities = [(normal_density(), normal_density(scale=scale)) for scale in (0.2, 2.0)]
    rows = [
        Row(name, *pair, Points("outputs", inputs + shift, classes))
        for name, pair, shift in zip(("first", "second"), densities, (0.0, 0.1), strict=True)
    ]
    figure = plane_rows(rows, EDGES, inputs, NAMES, "t")
    panels = np.array(figure.axes[:6]).reshape(2, 3)
    for line, row in zip(panels, rows, strict=True):
        assert line[0].get_ylabel().startswith(row.name)
        lowest = line[0].images[0].get_clim()[0]
        np.testing.assert_allclose(shown(line[0]), np.maximum(row.prior, lowest))
        np.testing.assert_allclose(shown(line[1]), np.maximum(row.aggregate, lowest))
        drawn = np.concatenate([c.get_offsets() for c in line[2].collections])
        np.testing.assert_array_equal(drawn, row.points.values)
    assert legend(panels[-1, 2].get_legend()) == list(NAMES)
    assert len({axes.images[0].get_clim() for axes in panels[:, :2].flat}) == 1
    assert {axes.get_xlim() for axes in panels[:, :2].flat} == {(-5.0, 5.0)}
    assert {axes.get_ylim() for axes in panels[:, 2]} == {limits_of(inputs)}


def test_names_of_three_rows_do_not_run_into_each_other():
    rows = [
        Row(f"too little overlap\nβ = 0.0{i}, α = 1.5", normal_density(), normal_density(), points)
        for i, points in enumerate([Points("outputs", random(4, 2))] * 3)
    ]
    figure = plane_rows(rows, EDGES, random(4, 2), (), "t")
    figure.canvas.draw()
    boxes = [axes.yaxis.label.get_window_extent() for axes in figure.axes[:9:3]]
    for above, below in itertools.pairwise(boxes):
        assert above.y0 > below.y1
