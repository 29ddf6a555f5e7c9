import numpy as np
import pytest

from tests.training.tiny import CPU, one_thread, tiny
from tune_ddvae.analysis.model import TrainedModel
from tune_ddvae.analysis.opening import OPENING, opening_picture
from tune_ddvae.analysis.view import expected, look
from tune_ddvae.config import with_overrides
from tune_ddvae.data import load
from tune_ddvae.errors import ConfigError
from tune_ddvae.training.trainer import new_vae


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def make_model(tmp_path, changes=None, **data) -> TrainedModel:
    config = tiny("pinwheel", prior__kind="sparse", **data)
    config = with_overrides(config, changes or {})
    dataset = load(config.data)
    return TrainedModel(config, dataset, new_vae(config, dataset).eval(), 4, CPU, tmp_path)


@pytest.fixture
def models(tmp_path) -> list[TrainedModel]:
    return [make_model(tmp_path, changes) for changes in OPENING.values()]


def test_each_model_has_a_row_of_prior_aggregate_posterior_and_reconstructions(models):
    figure = opening_picture(models, list(OPENING))
    panels = np.array(figure.axes[:9]).reshape(3, 3)
    for line, model, (title, changes) in zip(panels, models, OPENING.items(), strict=True):
        words = line[0].get_ylabel()
        assert title in words
        assert f"β = {changes['objective/beta']:g}" in words
        assert f"α = {changes['objective/alpha']:g}" in words
        assert len(line[0].images) == len(line[1].images) == 1
        drawn = np.concatenate([c.get_offsets() for c in line[2].collections])
        outputs = expected(model, look(model).posterior.mean).numpy()
        np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(outputs, axis=0), rtol=1e-6)
    assert len({axes.images[0].get_clim() for axes in panels[:, :2].flat}) == 1
    assert len({axes.get_xlim() for axes in panels[:, :2].flat}) == 1
    assert len({axes.get_xlim() for axes in panels[:, 2]}) == 1


def test_its_title_names_data_and_epoch(models):
    title = opening_picture(models, list(OPENING)).get_suptitle()
    assert "pinwheel" in title
    assert "epoch 4" in title
    assert "sparse" in title


def test_only_beta_and_alpha_differ_from_row_to_row():
    weights = ("objective/beta", "objective/alpha")
    shared = [{k: v for k, v in row.items() if k not in weights} for row in OPENING.values()]
    assert shared[0] == shared[1] == shared[2]
    little, right, much = OPENING.values()
    assert (little["objective/beta"], little["objective/alpha"]) == (0.01, 0.0)
    assert right["objective/alpha"] > 0.0
    assert much["objective/beta"] > 1.0
    assert much["objective/alpha"] == 0.0


def test_another_number_of_dimensions_is_refused_by_name(models, tmp_path):
    wide = make_model(tmp_path, model__latent_dim=3)
    with pytest.raises(ConfigError, match="model/latent_dim must be 2 .* got 3"):
        opening_picture([models[0], wide], ["a", "b"])


def test_other_data_are_refused_by_name(models, tmp_path):
    other = make_model(tmp_path, data__seed=1)
    with pytest.raises(ConfigError, match="must have the same data, got pinwheel"):
        opening_picture([models[0], other], ["a", "b"])


def test_data_of_images_are_refused_by_name(models, tmp_path):
    config = tiny("digits", model__latent_dim=2)
    dataset = load(config.data)
    digits = TrainedModel(config, dataset, new_vae(config, dataset).eval(), 4, CPU, tmp_path)
    for others in ([models[0], digits], [digits, digits]):
        with pytest.raises(ConfigError, match="got digits"):
            opening_picture(others, ["a", "b"])
