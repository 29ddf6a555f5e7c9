import math

import pytest
import torch

from tests.training.tiny import CPU, tiny
from tune_ddvae.config import METRICS
from tune_ddvae.data import Split, load
from tune_ddvae.errors import DivergedError
from tune_ddvae.metrics.evaluate import _MEASURES, evaluate
from tune_ddvae.metrics.streams import stream
from tune_ddvae.models import make_vae


def _evaluate(config, split=None, dataset=None, change=None, **options):
    dataset = load(config.data) if dataset is None else dataset
    vae = make_vae(config, stream(0, "initial weights"))
    if change is not None:
        with torch.no_grad():
            change(vae)
    split = dataset.evaluation if split is None else split
    return evaluate(vae, dataset, split, config, CPU, **options)


def _fill(value):
    def change(vae):
        for parameter in vae.encoder.parameters():
            parameter.fill_(value)

    return change


def test_every_metric_of_the_table_is_measured():
    assert list(_MEASURES) == list(METRICS)


@pytest.mark.parametrize("name", ["digits", "pinwheel"])
def test_the_same_model_gives_the_same_values_at_any_time(name):
    config = tiny(name)
    assert _evaluate(config) == _evaluate(config)


def test_what_does_not_apply_is_absent_with_the_reason():
    absent = _evaluate(tiny()).absent
    assert absent["latent/components_used"] == "needs a clustered prior, this one is sparse"
    assert absent["disentanglement/factor_vae"] == "needs known factors, digits has none"


@pytest.mark.parametrize(
    ("name", "latent_dim", "points", "change"),
    [
        ("digits", 4, 60, _fill(0.0)),  # constant codes
        ("digits", 4, 60, _fill(1e-20)),
        ("digits", 1, 60, None),  # one dimension
        ("digits", 4, 1, None),  # one point
        ("digits", 4, 2, None),
        ("pinwheel", 2, 60, _fill(0.0)),
        ("pinwheel", 2, 60, _fill(1e12)),
        ("pinwheel", 2, 1, None),
    ],
)
def test_any_codes_give_finite_values_or_reasons(name, latent_dim, points, change):
    config = tiny(name, model__latent_dim=latent_dim)
    dataset = load(config.data)
    split = Split(dataset.evaluation.inputs[:points], None)
    result = _evaluate(config, split, dataset, change)
    assert {*result.metrics, *result.absent} == set(METRICS)
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert all(result.absent.values())


def test_collapsed_codes_have_no_active_unit_and_no_sparsity():
    result = _evaluate(tiny(), change=_fill(0.0))
    assert result.metrics["latent/active_units"] == 0
    assert result.facts["latent/active_units"] == {"which": []}
    assert "active" in result.absent["sparsity/hoyer"]


def test_encodings_that_are_not_finite_are_named():
    with pytest.raises(DivergedError, match="posterior mean is nan for 60 of the 60 points"):
        _evaluate(tiny(), change=_fill(math.nan))


def test_evaluation_leaves_the_model_as_it_was():
    config = tiny()
    dataset = load(config.data)
    vae = make_vae(config, stream(0, "initial weights"))
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    for mode in (True, False):
        vae.train(mode)
        evaluate(vae, dataset, dataset.evaluation, config, CPU)
        assert vae.training is mode
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_divergences_average_over_whole_batches_and_drop_the_rest():
    config = tiny("pinwheel", prior__kind="normal", training__batch_size=40)
    dataset = load(config.data)
    assert len(dataset.evaluation.inputs) == 100
    two_batches = Split(dataset.evaluation.inputs[:80], None)
    whole, less = _evaluate(config, dataset=dataset), _evaluate(config, two_batches, dataset)
    for name in ("divergence/mmd", "divergence/inclusive_kl"):
        assert whole.metrics[name] == pytest.approx(less.metrics[name], rel=1e-5)


def test_a_batch_above_the_split_measures_all_of_it():
    config = tiny("pinwheel", training__batch_size=1000)
    assert {"divergence/mmd", "divergence/inclusive_kl"} <= set(_evaluate(config).metrics)


def test_the_tighter_bound_is_above_the_elbo():
    config = tiny("pinwheel", metrics__iwae_num_samples=500, metrics__iwae_num_points=100)
    metrics = _evaluate(config).metrics
    elbo = metrics["log_likelihood/reconstruction"] - metrics["latent/kl"]
    assert metrics["log_likelihood/iwae"] > elbo


def test_expensive_metrics_that_are_not_due_are_left_out():
    result = _evaluate(tiny(), with_expensive=False)
    expected = {name for name, facts in METRICS.items() if not facts.is_expensive}
    assert {*result.metrics, *result.absent} == expected


def test_only_the_metrics_that_are_wanted_are_measured():
    wanted = {"sparsity/hoyer_all", "latent/components_used"}
    result = _evaluate(tiny(), names=wanted)
    assert {*result.metrics, *result.absent} == wanted
    whole = _evaluate(tiny())
    assert result.metrics["sparsity/hoyer_all"] == whole.metrics["sparsity/hoyer_all"]


@pytest.mark.parametrize(
    "prior",
    [
        {"prior__kind": "normal", "prior__scale": 0.7},
        {"prior__kind": "student_t", "prior__df": 4.0},
        {"prior__kind": "sparse"},
    ],
    ids=lambda prior: prior["prior__kind"],
)
def test_the_kl_is_told_by_dimension(prior):
    result = _evaluate(tiny(**prior))
    parts = result.facts["latent/kl"]["per_dimension"]
    assert len(parts) == 4
    assert sum(parts) == pytest.approx(result.metrics["latent/kl"], rel=1e-2)


def test_the_kl_to_a_clustered_prior_has_no_parts():
    fact = _evaluate(tiny("pinwheel")).facts["latent/kl"]["per_dimension"]
    assert "no product over dimensions" in fact


def test_the_importance_weighted_bound_says_what_it_averages():
    facts = _evaluate(tiny()).facts["log_likelihood/iwae"]
    assert facts == {"samples": 4, "points": 20}


def test_a_split_by_rows_is_measured_as_its_points():
    config = tiny()
    dataset = load(config.data)
    evaluation = dataset.evaluation
    rows = torch.arange(len(evaluation)) * 2 + 1
    stored = evaluation.inputs.repeat_interleave(2, dim=0)
    stored[::2] = 0
    by_rows = Split(stored, evaluation.classes, rows)
    assert _evaluate(config, by_rows, dataset) == _evaluate(config, dataset=dataset)


def test_the_watchdog_hears_of_every_metric():
    heard = []
    _evaluate(tiny(), on_batch=lambda: heard.append(None))
    assert len(heard) > len(METRICS)
