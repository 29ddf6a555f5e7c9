import dataclasses
import math

import pytest
import torch

from tests.training.tiny import CPU, make_trainer, tiny
from tune_ddvae.analysis.measure import (
    IWAE,
    KINDS,
    measure,
    measure_as_recorded,
    measure_likelihood,
)
from tune_ddvae.analysis.model import open_checkpoint
from tune_ddvae.config import METRICS
from tune_ddvae.data import FactorGrid, Split
from tune_ddvae.errors import ConfigError
from tune_ddvae.metrics.evaluate import evaluate
from tune_ddvae.training import checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model after each of its three epochs, and what training measured there."""
    trainer = make_trainer(tiny())
    models, recorded = [], []
    while not trainer.is_done:
        recorded.append(trainer.step())
        folder = tmp_path_factory.mktemp("checkpoint")
        checkpoint.save(trainer, folder)
        models.append(open_checkpoint(folder, device=CPU))
    return models, recorded


def test_measured_as_recorded_every_epoch_gives_the_recorded_values(trained):
    models, recorded = trained
    for model, result in zip(models, recorded, strict=True):
        again = measure_as_recorded(model)
        assert again.split == "validation"
        expected = {name: value for name, value in result.metrics.items() if name in METRICS}
        assert len(expected) > 5
        assert again.values == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert again.absent == {n: r for n, r in result.absent.items() if n in METRICS}


def test_the_test_set_at_the_end_gives_what_training_called_test(trained):
    models, recorded = trained
    result = recorded[-1]
    names = [name for name in METRICS if f"test/{name}" in result.metrics]
    assert len(names) > 5
    again = measure(models[-1], names)
    assert (again.split, again.num_points) == ("test", 50)
    expected = {name: result.metrics[f"test/{name}"] for name in names}
    assert again.values == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_measuring_twice_gives_the_same_values(trained):
    model = trained[0][0]
    assert measure(model) == measure(model)
    assert measure_likelihood(model, 20, 30) == measure_likelihood(model, 20, 30)


def test_only_what_is_named_is_measured(trained):
    model = trained[0][-1]
    for names in KINDS.values():
        found = measure(model, names)
        assert set(found.values) | set(found.absent) == set(names)
    assert measure(model, ()).values == {}


def test_every_value_has_its_protocol(trained):
    found = measure(trained[0][-1])
    assert found.protocol.keys() == found.values.keys()
    assert all(how["points"] > 0 for how in found.protocol.values())


def test_every_kind_of_question_names_metrics_that_exist():
    assert set().union(*KINDS.values()) <= set(METRICS)
    assert "latent/active_units" in KINDS["sparsity"]


# -- the likelihood ---------------------------------------------------------------------------


def test_the_bound_with_the_trials_own_samples_is_the_evaluations(trained):
    model = trained[0][0]
    config = model.config.metrics
    found = measure_likelihood(model, config.iwae_num_samples, config.iwae_num_points)
    test = model.dataset.test
    own = evaluate(model.vae, model.dataset, test, model.config, CPU, names=(IWAE,))
    assert found.values == own.metrics


def test_more_samples_tighten_the_bound(trained):
    model = trained[0][-1]
    few, many = (measure_likelihood(model, num, 50).values[IWAE] for num in (1, 200))
    assert many > few


def test_samples_points_and_the_error_of_their_mean_stand_beside_it(trained):
    model = trained[0][0]
    found = measure_likelihood(model, 10, 40)
    facts = found.protocol[IWAE]
    assert (facts["samples"], facts["points"]) == (10, 40)
    singles = torch.tensor([_of_one_point(model, point) for point in range(40)])
    # Other noise, same points: their spread is nearly all between points.
    assert facts["standard_error"] == pytest.approx(float(singles.std()) / math.sqrt(40), rel=0.1)


def _of_one_point(model, point):
    test = model.dataset.test
    one = Split(test.inputs[point : point + 1], None)
    dataset = dataclasses.replace(model.dataset, test=one)
    found = measure_likelihood(dataclasses.replace(model, dataset=dataset), 10, 1)
    assert "standard_error" not in found.protocol[IWAE]
    return found.values[IWAE]


def test_more_points_than_there_are_means_all(trained):
    model = trained[0][0]
    assert measure_likelihood(model, 2, 10**6).protocol[IWAE]["points"] == 50


def test_progress_counts_every_code(trained):
    counts = []
    measure_likelihood(trained[0][0], 30, 40, on_codes=counts.append)
    assert sum(counts) == 30 * 40
    assert len(counts) > 1


def test_a_bound_that_is_not_finite_is_absent(trained):
    model = trained[0][0]
    test = model.dataset.test
    broken = dataclasses.replace(
        model.dataset, test=Split(test.inputs.float().fill_(math.nan), test.classes)
    )
    found = measure_likelihood(dataclasses.replace(model, dataset=broken), 2, 10)
    assert found.values == {}
    assert found.absent == {IWAE: "is nan for these codes"}


def test_a_number_out_of_bounds_is_named(trained):
    with pytest.raises(ConfigError, match="metrics/iwae_num_samples must be at least 1, got 0"):
        measure_likelihood(trained[0][0], 0, 10)


# -- known factors ----------------------------------------------------------------------------


def test_factors_are_scored_on_the_whole_grid_however_coarse_training_was(trained):
    model = trained[0][-1]
    sizes = (2, 3, 8)
    inputs = model.dataset.train.inputs[:48]
    grid = FactorGrid(inputs, sizes, ("shape", "scale", "place"))
    config = dataclasses.replace(
        model.config,
        metrics=dataclasses.replace(model.config.metrics, grid_stride_at_end=4),
    )
    dataset = dataclasses.replace(model.dataset, grid=grid)
    found = measure(
        dataclasses.replace(model, dataset=dataset, config=config),
        ("disentanglement/factor_vae", "disentanglement/mig"),
    )
    assert found.protocol["disentanglement/mig"]["points"] == 48
    assert found.protocol["disentanglement/factor_vae"]["grid_stride"] == 1
