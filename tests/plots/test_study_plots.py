import numpy as np
import pytest
from matplotlib.collections import FillBetweenPolyCollection, LineCollection

from tune_ddvae.plots.density import Panel, density_panels
from tune_ddvae.plots.seeds import Series, spread
from tune_ddvae.plots.study import sweep, tradeoff
from tune_ddvae.plots.trials import Course, histories, pareto

SCORE, RECONSTRUCTION, HOYER = (
    "disentanglement/factor_vae",
    "log_likelihood/reconstruction",
    "sparsity/hoyer_all",
)
BETAS = np.array([1.0, 1.0, 4.0, 4.0])


def make_series(name="normal", *, is_line=True, shift=0.0, swept=BETAS, **changes) -> Series:
    metrics = {
        SCORE: np.linspace(0.5, 0.8, len(swept)) + shift,
        RECONSTRUCTION: -np.linspace(20.0, 80.0, len(swept)),
        HOYER: np.linspace(0.2, 0.4, len(swept)) + shift,
    }
    return Series(name=name, swept=swept, metrics=metrics, is_line=is_line, **changes)


def make_course(number=0, *, is_whole=True, is_best=False, first=(0.2, 0.3), second=(-5.0, -4.0)):
    epochs = np.arange(1, len(first) + 1, dtype=np.int64)
    metrics = {HOYER: np.array(first), RECONSTRUCTION: np.array(second)}
    return Course(
        number=number,
        group="normal" if number % 2 else "sparse",
        is_whole=is_whole,
        is_best=is_best,
        note="50",
        epochs=epochs,
        metrics=metrics,
    )


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def drawn(figure):
    """The figure after its layout, so that positions are final; warnings are errors here."""
    figure.canvas.draw()
    return figure


# -- seeds -------------------------------------------------------------------------------------------


def test_a_spread_is_the_mean_and_two_standard_errors_of_each_value():
    found = spread(np.array([4.0, 1.0, 4.0, 4.0, 1.0]), np.array([1.0, 5.0, 2.0, 6.0, 7.0]))
    np.testing.assert_array_equal(found.swept, [1.0, 4.0])
    np.testing.assert_allclose(found.mean, [6.0, 3.0])
    deviations = [np.sqrt(2.0), np.sqrt(7.0)]
    np.testing.assert_allclose(
        found.error, [2 * deviations[0] / np.sqrt(2), 2 * deviations[1] / np.sqrt(3)]
    )
    np.testing.assert_array_equal(found.num, [2, 3])


def test_one_seed_says_nothing_of_others_and_an_absent_value_is_no_seed():
    found = spread(np.array([1.0, 2.0, 2.0]), np.array([5.0, 3.0, np.nan]))
    assert np.isnan(found.error).all()
    np.testing.assert_array_equal(found.num, [1, 1])
    np.testing.assert_array_equal(found.num_trained, [1, 2])
    assert len(spread(np.array([1.0]), np.array([np.nan])).swept) == 0


# -- disentanglement against reconstruction ----------------------------------------------------------


def test_each_point_of_a_line_stands_at_its_means_and_is_labelled_with_beta():
    series = [make_series(), make_series("student_t, df 9", shift=0.05)]
    figure = drawn(
        tradeoff(series, x=RECONSTRUCTION, ys=[SCORE], swept="objective/beta", title="t")
    )
    axes = figure.axes[0]
    assert texts(axes) == ["β 1", "β 4"] * 2
    assert legend(figure) == ["normal (2 seeds)", "student_t, df 9 (2 seeds)"]
    for one, container in zip(series, axes.containers, strict=True):
        across, up = container.lines[0].get_data()
        np.testing.assert_allclose(across, spread(one.swept, one.metrics[RECONSTRUCTION]).mean)
        np.testing.assert_allclose(up, spread(one.swept, one.metrics[SCORE]).mean)


def test_every_seed_is_there_as_a_dot_of_its_own():
    figure = tradeoff(
        [make_series()], x=RECONSTRUCTION, ys=[SCORE], swept="objective/beta", title="t"
    )
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "."]
    np.testing.assert_allclose(dots[0].get_ydata(), make_series().metrics[SCORE])


def test_searched_trials_are_single_networks_without_line_or_error():
    figure = drawn(
        tradeoff(
            [make_series("normal, searched", is_line=False)],
            x=RECONSTRUCTION,
            ys=[SCORE],
            swept="objective/beta",
            title="t",
        )
    )
    axes = figure.axes[0]
    assert axes.containers == []
    assert [line.get_linestyle() for line in axes.lines] == ["None"]
    assert texts(axes) == ["β 1", "β 1", "β 4", "β 4"]
    assert legend(figure) == ["normal, searched (4 single networks)"]


def test_a_network_that_lacks_a_metric_is_left_out_of_that_panel_alone():
    one = make_series()
    one.metrics["disentanglement/mig"] = np.array([0.1, 0.2, np.nan, np.nan])
    figure = drawn(
        tradeoff(
            [one],
            x=RECONSTRUCTION,
            ys=[SCORE, "disentanglement/mig"],
            swept="objective/beta",
            title="t",
        )
    )
    assert [texts(axes) for axes in figure.axes[:2]] == [["β 1", "β 4"], ["β 1"]]
    assert [axes.get_title() for axes in figure.axes[:2]] == [
        "",
        "no value: normal at β 4 (0 of 2 seeds)",
    ]


def test_a_point_says_of_how_many_seeds_it_is_where_not_of_as_many_as_the_others():
    one = make_series(swept=np.array([1.0, 1.0, 4.0, 8.0, 8.0]))
    one.metrics[SCORE][4] = np.nan
    figure = drawn(tradeoff([one], x=RECONSTRUCTION, ys=[SCORE], swept="objective/beta", title="t"))
    assert texts(figure.axes[0]) == ["β 1", "β 4, 1 seed", "β 8, 1 of 2 seeds"]
    assert legend(figure) == ["normal (1 to 2 seeds)"]


def test_axes_hold_all_points_and_bars_of_two_seeds_as_far_as_they_fit():
    one = make_series(swept=np.array([1.0, 1.0, 1.0, 1.0]))
    one.metrics[SCORE][:] = [0.2, 0.2, 0.7, 0.7]
    one.metrics[RECONSTRUCTION][:] = [-50.0, -50.0, -40.0, -40.0]
    two = make_series("two", swept=np.array([1.0, 1.0]))
    two.metrics[SCORE][:] = [0.3, 0.6]
    two.metrics[RECONSTRUCTION][:] = [-49.0, -41.0]
    figure = drawn(
        tradeoff([one, two], x=RECONSTRUCTION, ys=[SCORE], swept="objective/beta", title="t")
    )
    axes = figure.axes[0]
    for (low, high), least, most in (
        (axes.get_ylim(), 0.2, 0.7),
        (axes.get_xlim(), -50.0, -40.0),
    ):
        span = most - least
        assert low == pytest.approx(least - 0.12 * span)
        assert high == pytest.approx(most + 0.12 * span)


def test_single_networks_without_a_metric_are_counted_above_the_panel():
    one = make_series("normal, searched", is_line=False)
    one.metrics[SCORE][0] = np.nan
    figure = drawn(tradeoff([one], x=RECONSTRUCTION, ys=[SCORE], swept="objective/beta", title="t"))
    assert figure.axes[0].get_title() == "no value: 1 of 4 normal, searched"


# -- over alpha --------------------------------------------------------------------------------------

ALPHAS = np.repeat([0.0, 10.0, 100.0, 1000.0], 3)


def over_alpha(**changes):
    one = make_series("sparse, γ 0.8", swept=ALPHAS, **changes)
    return one, drawn(sweep([one], panels=[[HOYER]], swept="objective/alpha", title="t"))


def test_alpha_zero_stands_on_the_axis_at_a_distance_like_the_others():
    _, figure = over_alpha()
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "10", "100", "1000"]
    places = axes.transData.transform([(alpha, 0.3) for alpha in (0.0, 10.0, 100.0, 1000.0)])[:, 0]
    first, *others = np.diff(places)
    assert others[0] == pytest.approx(others[1])
    assert 0.3 * others[0] < first < others[0]


def test_the_band_is_two_standard_errors_either_side_of_the_mean():
    one, figure = over_alpha()
    found = spread(one.swept, one.metrics[HOYER])
    (band,) = (c for c in figure.axes[0].collections if isinstance(c, FillBetweenPolyCollection))
    corners = band.get_paths()[0].vertices
    for alpha, mean, error in zip(found.swept, found.mean, found.error, strict=True):
        ups = corners[corners[:, 0] == alpha, 1]
        np.testing.assert_allclose([ups.min(), ups.max()], [mean - error, mean + error])


def test_the_legend_tells_how_many_seeds_a_line_rests_on():
    assert legend(over_alpha()[1]) == ["sparse, γ 0.8 (3 seeds)"]
    uneven = make_series(swept=np.array([0.0, 0.0, 10.0]))
    figure = sweep([uneven], panels=[[HOYER]], swept="objective/alpha", title="t")
    assert legend(figure) == ["normal (1 to 2 seeds)"]
    assert texts(figure.axes[0]) == ["1 seed"]


def test_seeds_that_lack_a_metric_are_told_in_the_panel_of_that_metric_alone():
    one = make_series("sparse, γ 0.8", swept=ALPHAS)
    one.metrics[HOYER][[0, 3, 4, 9, 10, 11]] = np.nan
    panels = [[HOYER], [RECONSTRUCTION]]
    figure = drawn(sweep([one], panels=panels, swept="objective/alpha", title="t"))
    first, second = figure.axes
    assert texts(first) == ["2 of 3 seeds", "1 of 3 seeds"]
    assert first.get_title() == "no value: sparse, γ 0.8 at α 1000 (0 of 3 seeds)"
    assert (texts(second), second.get_title()) == ([], "")
    assert legend(figure) == ["sparse, γ 0.8 (3 seeds)"]


def test_seeds_that_lack_the_dotted_metric_are_told_where_it_is():
    one = make_series(swept=ALPHAS)
    one.metrics["sparsity/hoyer"] = one.metrics[HOYER] + 0.1
    one.metrics["sparsity/hoyer"][0] = np.nan
    figure = drawn(
        sweep([one], panels=[[HOYER, "sparsity/hoyer"]], swept="objective/alpha", title="t")
    )
    (told,) = figure.axes[0].texts
    assert told.get_text() == "2 of 3 seeds"
    assert told.xy[1] == pytest.approx(spread(ALPHAS, one.metrics["sparsity/hoyer"]).mean[0])


def band_points(axes) -> set[float]:
    """Swept values that lie in a band of some height."""
    found = set()
    for band in axes.collections:
        if isinstance(band, FillBetweenPolyCollection):
            for path in band.get_paths():
                for at in np.unique(path.vertices[:, 0]):
                    ups = path.vertices[path.vertices[:, 0] == at, 1]
                    assert ups.max() > ups.min()
                    found.add(float(at))
    return found


def test_one_seed_has_no_band():
    one = make_series(swept=np.array([0.0, 0.0, 10.0, 10.0, 100.0]))
    figure = drawn(sweep([one], panels=[[HOYER]], swept="objective/alpha", title="t"))
    assert band_points(figure.axes[0]) == {0.0, 10.0}
    single = make_series(swept=np.array([0.0, 10.0, 100.0]))
    figure = drawn(sweep([single], panels=[[HOYER]], swept="objective/alpha", title="t"))
    assert band_points(figure.axes[0]) == set()


def test_several_seeds_between_points_of_one_have_a_bar():
    one = make_series(swept=np.array([0.0, 10.0, 10.0, 100.0]))
    figure = drawn(sweep([one], panels=[[HOYER]], swept="objective/alpha", title="t"))
    (bars,) = (c for c in figure.axes[0].collections if isinstance(c, LineCollection))
    (segment,) = bars.get_segments()
    found = spread(one.swept, one.metrics[HOYER])
    low, high = found.mean[1] - found.error[1], found.mean[1] + found.error[1]
    np.testing.assert_allclose(segment, [(10.0, low), (10.0, high)])


def test_published_values_are_marks_of_their_own_and_only_where_there_are_any():
    stated = np.where(ALPHAS == 100.0, 0.552, np.nan)
    _, figure = over_alpha(published={HOYER: stated})
    stars = [line for line in figure.axes[0].lines if line.get_marker() == "*"]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in stars if len(line.get_xdata())] == [
        (100.0, 0.552)
    ]
    assert "published" in legend(figure)
    assert "published" not in legend(over_alpha()[1])
    one = make_series(swept=ALPHAS, published={HOYER: stated})
    figure = sweep(
        [one],
        panels=[[HOYER]],
        swept="objective/alpha",
        title="t",
        published="published, 80 epochs",
    )
    assert "published, 80 epochs" in legend(figure)


def test_alphas_without_zero_need_no_straight_part():
    one = make_series(swept=np.array([1.0, 3.0, 8.0]))
    figure = sweep([one], panels=[[HOYER]], swept="objective/alpha", title="t")
    assert figure.axes[0].get_xscale() == "log"


# -- all trials --------------------------------------------------------------------------------------


def markers(axes) -> list[str]:
    return [line.get_marker() for line in axes.lines if len(line.get_xdata()) == 1]


def test_a_trial_that_ended_early_is_drawn_as_the_epoch_that_its_values_are_of():
    courses = [
        make_course(0, is_best=True),
        make_course(1, is_whole=False, first=(0.1, 0.2, 0.25), second=(-9.0, -8.0, -7.0)),
    ]
    figure = drawn(pareto(courses, x=HOYER, y=RECONSTRUCTION, title="t", notes="active units"))
    axes = figure.axes[0]
    early, whole = axes.lines[:2]
    assert early.get_marker() == "$3$"
    assert (*early.get_xdata(), *early.get_ydata()) == (0.25, -7.0)
    assert whole.get_marker() == "o"
    assert early.get_alpha() < whole.get_alpha()
    assert texts(axes) == ["0 (50)"]


def test_values_of_two_epochs_are_never_put_together():
    courses = [make_course(0), make_course(1, first=(0.2, 0.3), second=(-5.0, np.nan))]
    figure = drawn(pareto(courses, x=HOYER, y=RECONSTRUCTION, title="t"))
    assert markers(figure.axes[0]) == ["o"]
    assert texts(figure.axes[0]) == ["not shown: 1 lack a metric here"]


def test_a_trial_about_to_diverge_does_not_press_the_others_into_a_corner():
    courses = [make_course(i, first=(0.2 + 0.01 * i,), second=(-5.0 + 0.1 * i,)) for i in range(9)]
    courses.append(make_course(9, is_whole=False, first=(0.2,), second=(-1e6,)))
    figure = drawn(pareto(courses, x=HOYER, y=RECONSTRUCTION, title="t"))
    assert figure.axes[0].get_ylim()[0] > -10.0
    assert texts(figure.axes[0]) == ["not shown: 1 lie far outside"]
    figure = drawn(histories(courses, metrics=[RECONSTRUCTION], title="t"))
    assert figure.axes[0].get_ylim()[0] > -10.0


def test_histories_have_a_line_for_each_trial_and_the_best_are_bold():
    courses = [make_course(0, is_best=True), make_course(1), make_course(2, is_whole=False)]
    figure = drawn(histories(courses, metrics=[HOYER, RECONSTRUCTION], title="t"))
    for axes in figure.axes:
        assert len(axes.lines) == 3
        widths = [line.get_linewidth() for line in axes.lines]
        assert widths[-1] > widths[0]
    assert figure.axes[-1].get_xlabel() == "epoch"


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_trial_with_one_known_value_is_a_dot_in_the_histories(is_whole):
    courses = [
        make_course(0, is_whole=is_whole, first=(0.2,), second=(-5.0,)),
        make_course(1, is_whole=is_whole, first=(np.nan, 0.4), second=(-5.0, -4.0)),
        make_course(2, first=(0.2, 0.3)),
    ]
    figure = drawn(histories(courses, metrics=[HOYER], title="t"))
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert sorted((*line.get_xdata(), *line.get_ydata()) for line in dots) == [(1, 0.2), (2, 0.4)]
    assert all(line.get_markersize() > 0 for line in dots)


@pytest.mark.parametrize("first", [(0.2, 0.3), (0.2,)])
def test_epochs_are_whole_numbers(first):
    figure = drawn(histories([make_course(first=first)], metrics=[HOYER], title="t"))
    low, high = figure.axes[0].get_xlim()
    ticks = [at for at in figure.axes[0].get_xticks() if low <= at <= high]
    assert ticks == list(range(1, len(first) + 1))


def test_a_study_whose_trials_lack_the_metric_still_has_a_picture():
    absent = make_course(first=(np.nan, np.nan))
    drawn(histories([absent], metrics=[HOYER], title="t"))
    drawn(pareto([absent], x=HOYER, y=RECONSTRUCTION, title="t"))


# -- densities ---------------------------------------------------------------------------------------


def make_panel(title: str, width: float) -> Panel:
    at = np.linspace(-1.95, 1.95, 40)
    first, second = np.meshgrid(at, at)
    density = np.exp(-(first**2 + second**2) / (2 * width**2)) / (2 * np.pi * width**2)
    return Panel(title=title, density=density, prior=density, note="keeps four: 3 of 5")


def test_panels_share_axes_and_colours_and_show_the_prior():
    rows = [[make_panel("β 1", 0.5), make_panel("β 2", 0.2)], [make_panel("α 1", 0.4)]]
    figure = drawn(density_panels(rows, np.linspace(-2.0, 2.0, 41), "t"))
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == [
        f"{name}\nkeeps four: 3 of 5" for name in ("β 1", "β 2", "α 1")
    ]
    assert {axes.get_xlim() for axes in shown} == {axes.get_ylim() for axes in shown} == {(-2, 2)}
    assert len({id(axes.images[0].norm) for axes in shown}) == 1
    assert all(axes.collections for axes in shown)  # contours


def test_one_spike_does_not_darken_all_other_panels():
    spiky = make_panel("spike", 0.5)
    spiky.density[20, 20] = 1e6
    figure = density_panels([[make_panel("plain", 0.5), spiky]], np.linspace(-2.0, 2.0, 41), "t")
    assert figure.axes[0].images[0].norm.vmax < 1.0
