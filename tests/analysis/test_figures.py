import dataclasses
import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from tests.training.tiny import CPU, one_thread, tiny
from tune_ddvae.analysis import image_figures
from tune_ddvae.analysis.figures import model_densities, model_figures, plane_edges, reach_of
from tune_ddvae.analysis.model import TrainedModel
from tune_ddvae.analysis.view import (
    by_class,
    expected,
    look,
    moved,
    of_many_classes,
    points_of,
    prior_samples,
    setting,
    traversed_dimensions,
)
from tune_ddvae.config import from_flat
from tune_ddvae.data import Dataset, Split, load
from tune_ddvae.data.sprites_drawn import draw
from tune_ddvae.training.trainer import new_vae

OF_EVERY_MODEL = ["interpolations", "reconstructions", "samples", "traversals"]
LEARNED = {"prior__kind": "anisotropic", "prior__learns_variance": True}
BERNOULLI = {"likelihood__kind": "bernoulli"}


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def make_model(tmp_path, config, dataset=None) -> TrainedModel:
    dataset = load(config.data) if dataset is None else dataset
    vae = new_vae(config, dataset).eval()
    return TrainedModel(config, dataset, vae, 3, CPU, tmp_path)


def make_digits(tmp_path, **changes) -> TrainedModel:
    return make_model(tmp_path, tiny(**changes))


def make_pinwheel(tmp_path) -> TrainedModel:
    return make_model(tmp_path, tiny("pinwheel"))


def make_sprites(tmp_path) -> TrainedModel:
    """Some sprites as dSprites holds them: eight pixels to a byte, and no class of its own."""
    packed = torch.from_numpy(np.concatenate(list(draw((3, 1, 2, 2, 2)))))
    split = Split(packed, None, torch.arange(len(packed)).flip(0))
    dataset = Dataset(
        name="dsprites",
        train=split,
        validation=None,
        test=split,
        class_names=(),
        checksum="0",
        packed_shape=(1, 64, 64),
    )
    names = {"data/name": "dsprites", "likelihood/kind": "bernoulli", "model/latent_dim": 3}
    return make_model(tmp_path, from_flat({**names, "model/width": 4}), dataset)


def images_of(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for axes in figure.axes for image in axes.images]


def arrays_of(figure: Figure) -> list[np.ndarray]:
    """All numbers that a figure draws."""
    found = images_of(figure)
    for axes in figure.axes:
        found += [line.get_xydata() for line in axes.lines]
        found += [np.asarray(drawn.get_offsets()) for drawn in axes.collections]
        found += [
            np.array([bar.get_height() for bar in axes.patches if hasattr(bar, "get_height")])
        ]
    return found


def test_a_model_of_images_has_every_figure_once_with_setting_and_epoch(tmp_path):
    model = make_digits(tmp_path)
    made = list(model_figures(model))
    assert [name for name, _ in made] == ["code_magnitudes", *OF_EVERY_MODEL]
    for _, figure in made:
        assert figure.get_suptitle().endswith(", epoch 3")
        assert setting(model.config) in figure.get_suptitle().replace("\n", " ")


def test_a_model_of_points_has_every_figure_and_the_plane(tmp_path):
    made = dict(model_figures(make_pinwheel(tmp_path)))
    assert list(made) == ["code_magnitudes", *OF_EVERY_MODEL, "latent_plane"]
    assert "of 100 validation points" in made["interpolations"].get_suptitle()


def test_images_without_classes_and_stored_packed_have_every_figure_but_the_classes(tmp_path):
    model = make_sprites(tmp_path)
    made = dict(model_figures(model))
    assert list(made) == OF_EVERY_MODEL
    cells = images_of(made["reconstructions"])[0]
    inputs = look(model).inputs[0, 0].numpy()
    np.testing.assert_array_equal(cells[:64, :64], inputs)
    assert inputs.sum() > 0.0


@pytest.mark.parametrize("make", [make_digits, make_pinwheel, make_sprites])
def test_the_same_model_gives_the_same_arrays(tmp_path, make):
    model = make(tmp_path)
    first, second = ([arrays_of(f) for _, f in model_figures(model)] for _ in range(2))
    for ours, theirs in zip(first, second, strict=True):
        assert ours
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("changes", [BERNOULLI, LEARNED | BERNOULLI | {"model__latent_dim": 2}])
def test_logits_are_shown_as_probabilities(tmp_path, changes):
    model = make_digits(tmp_path, **changes)
    with torch.no_grad():  # logits far beyond 1, which no clipping could make probabilities of
        for parameter in model.vae.decoder.parameters():
            parameter.mul_(3.0)
        codes = prior_samples(model, 60)
        (logits,) = model.vae.decode(codes.unsqueeze(0))
    assert logits.abs().max() > 1.0
    torch.testing.assert_close(expected(model, codes), logits[0].sigmoid())
    for name, figure in model_figures(model):
        for values in images_of(figure) if name != "latent_plane" else ():
            assert np.nanmin(values) >= 0.0
            assert np.nanmax(values) <= 1.0
            assert np.nanmax(values) > np.nanmin(values)


@pytest.mark.parametrize(
    "changes",
    [
        LEARNED,
        {"prior__kind": "anisotropic"},
        {"prior__kind": "student_t", "prior__df": 3.0},
        {"prior__kind": "normal"},
        {"prior__kind": "sparse"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_every_prior_has_its_plane_and_is_named(tmp_path, changes):
    model = make_digits(tmp_path, model__latent_dim=2, objective__alpha=0.0, **changes)
    made = dict(model_figures(model))
    kind = {"student_t": "Student-t"}.get(changes["prior__kind"], changes["prior__kind"])
    assert kind in made["latent_plane"].get_suptitle()
    edges = plane_edges(look(model).posterior.mean, reach_of(model))
    cell = (edges[1] - edges[0]) ** 2
    assert model_densities(model, look(model), edges)[0].sum() * cell == pytest.approx(
        0.95, abs=0.06
    )


def test_reconstructions_show_inputs_above_what_the_posterior_means_give(tmp_path):
    model = make_digits(tmp_path)
    view = look(model)
    canvas = images_of(image_figures.reconstructions(model, view))[0]
    point = by_class(view, 10, 1)[0, 0]
    np.testing.assert_array_equal(canvas[:16, :16], view.inputs[point, 0])
    outputs = expected(model, view.posterior.mean[[point]])[0, 0]
    np.testing.assert_allclose(canvas[17:33, :16], outputs, atol=1e-5)


def test_interpolations_start_at_the_code_itself_beside_its_input(tmp_path):
    model = make_digits(tmp_path)
    view = look(model)
    figure = image_figures.interpolations(model, view)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["input", "0", "0.25", "0.5", "0.75", "1", "1.5", "2", "3"]
    canvas = images_of(figure)[0]
    point = of_many_classes(view, 10, 1)[0]
    code = view.posterior.mean[point]
    np.testing.assert_array_equal(canvas[:16, :16], view.inputs[point, 0])
    itself = expected(model, code.unsqueeze(0))[0, 0]
    np.testing.assert_allclose(canvas[:16, 21:37], itself, atol=1e-5)


def test_interpolations_go_away_from_0_in_the_dimensions_that_each_code_uses_most(tmp_path):
    model = make_digits(tmp_path)
    view = look(model)
    canvas = images_of(image_figures.interpolations(model, view))[0]
    signs = set()
    for group, point in enumerate(of_many_classes(view, 10, 4)):
        code = view.posterior.mean[point]
        rank = code.abs() + torch.where(view.is_active, 100.0, 0.0)
        for row, dimension in enumerate(rank.argsort(descending=True)[:3].tolist()):
            far = code.clone()
            far[dimension] += 3.0 * code[dimension].sign()
            signs.add(float(code[dimension].sign()))
            top = group * (3 * 16 + 2 + 5) + row * 17
            farthest = expected(model, far.unsqueeze(0))[0, 0]
            np.testing.assert_allclose(canvas[top : top + 16, -16:], farthest, atol=1e-5)
    assert signs == {-1.0, 1.0}


def test_training_points_are_looked_at_where_asked_and_named_so(tmp_path):
    model = make_pinwheel(tmp_path)
    view = look(model, split="train")
    np.testing.assert_array_equal(view.inputs, model.dataset.train.head(100))
    np.testing.assert_array_equal(view.classes, model.dataset.train.classes[:100])
    assert points_of(model, view) == "100 training points"
    assert points_of(model, look(model)) == "100 validation points"


def test_classes_without_points_and_few_points_leave_empty_cells(tmp_path):
    model = make_digits(tmp_path)
    few = Split(model.dataset.test.inputs[:7], torch.full((7,), 3))
    few_points = dataclasses.replace(model.dataset, validation=None, test=few)
    model = dataclasses.replace(model, dataset=few_points)
    made = dict(model_figures(model))
    assert "of 7 test points" in made["reconstructions"].get_suptitle()
    assert [axes.texts[0].get_text() for axes in made["code_magnitudes"].axes if axes.texts] == [
        "no points"
    ] * 9
    chosen = by_class(look(model), 10, 2)
    assert (chosen[:, 3] == [0, 1]).all()
    assert (np.delete(chosen, 3, axis=1) == -1).all()


def test_points_of_many_classes_come_before_a_second_of_any(tmp_path):
    view = look(make_digits(tmp_path))
    assert view.classes is not None
    chosen = of_many_classes(view, 10, 10)
    assert sorted(view.classes[chosen].tolist()) == list(range(10))


def test_moving_a_dimension_leaves_the_others():
    codes = torch.arange(6.0).view(2, 3)
    steps = moved(codes, 1, torch.tensor([[7.0, 8.0], [9.0, 10.0]]))
    assert steps[1].tolist() == [[3.0, 9.0, 5.0], [3.0, 10.0, 5.0]]


def test_a_collapsed_model_still_has_all_figures(tmp_path):
    model = make_pinwheel(tmp_path)
    with torch.no_grad():
        for parameter in model.vae.encoder.parameters():
            parameter.zero_()
    view = look(model)
    assert not view.is_active.any()
    assert len(traversed_dimensions(view, 4)) == 1
    assert len(list(model_figures(model))) == 6


def test_the_plane_is_symmetric_and_holds_codes_and_prior():
    codes = torch.linspace(-4.0, 1.0, 500)[:, None].expand(-1, 2)
    edges = plane_edges(codes, torch.zeros(10, 2), num_cells=10)
    assert len(edges) == 11
    assert edges[0] == -edges[-1]
    assert 4.0 < edges[-1] < 1.2 * 4.0 + 1e-6
    assert math.isclose(plane_edges(codes * 0.01, codes)[-1], 1.2 * 3.875, abs_tol=0.1)
