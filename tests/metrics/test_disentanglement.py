import dataclasses
import math

import pytest
import torch

from tests.training.tiny import CPU, tiny
from tune_ddvae.config import METRICS
from tune_ddvae.data import FactorGrid, load
from tune_ddvae.errors import DivergedError
from tune_ddvae.metrics import subject
from tune_ddvae.metrics.evaluate import evaluate
from tune_ddvae.metrics.streams import stream
from tune_ddvae.models import make_vae
from tune_ddvae.models.transport import to_normal

SIZES = (3, 10, 8)
ON_GRID = {name for name, facts in METRICS.items() if facts.needs == "known factors"}
ON_CLASSES = {"disentanglement/class_mig", "disentanglement/class_sap"}
FEW = {
    "metrics__factor_vae_train_votes": 200,
    "metrics__factor_vae_test_votes": 100,
    "metrics__beta_vae_train_votes": 100,
    "metrics__beta_vae_test_votes": 50,
    "metrics__dci_train_points": 100,
    "metrics__dci_test_points": 50,
}


def _with_grid(config, sizes=SIZES):
    """Digits that pretend to be the combinations of three factors."""
    dataset = load(config.data)
    inputs = dataset.train.inputs.repeat(2, 1, 1, 1)[: math.prod(sizes)]
    names = ("shape", "height", "width")
    grid = FactorGrid(inputs, sizes, names, unordered=frozenset({"shape"}))
    return dataclasses.replace(dataset, grid=grid)


def _evaluate(config, dataset, **options):
    vae = make_vae(config, stream(0, "initial weights"))
    with torch.no_grad():
        vae.encoder.mean.weight.mul_(100)  # an untrained network's means hardly vary
    return evaluate(vae, dataset, dataset.evaluation, config, CPU, **options)


def test_every_score_on_the_grid_stands_beside_its_protocol():
    config = tiny(**FEW, metrics__grid_stride=2)
    result = _evaluate(config, _with_grid(config))
    assert set(result.metrics) >= ON_GRID
    for name in ON_GRID:
        assert 0 <= result.metrics[name] <= 1
        facts = result.facts[name]
        assert facts["codes"] == "posterior means"
        assert (facts["points"], facts["grid_stride"]) == (3 * 5 * 4, 2)
    facts = {name.split("/")[1]: result.facts[name] for name in ON_GRID}
    assert facts["factor_vae"]["pruned"] == 0
    assert facts["factor_vae"]["pruned_below"] == 0.05
    assert (facts["factor_vae"]["group"], facts["factor_vae"]["train_votes"]) == (64, 200)
    assert (facts["beta_vae"]["train_votes"], facts["beta_vae"]["test_votes"]) == (100, 50)
    assert "logistic" in facts["beta_vae"]["classifier"]
    assert facts["mig"]["bins"] == facts["modularity"]["bins"] == 20
    assert "forest" in facts["dci"]["regressor"]
    assert (facts["dci"]["train_points"], facts["dci"]["test_points"]) == (40, 20)  # of 60
    assert {"completeness", "informativeness"} <= set(facts["dci"])
    assert (facts["sap"]["train_points"], facts["sap"]["test_points"]) == (40, 20)
    assert facts["sap"]["ordered"] == "squared correlation"
    assert "tree" in facts["sap"]["unordered"]


def test_the_grid_is_encoded_once_for_all_scores(monkeypatch):
    config = tiny(**FEW)
    calls = []
    encode_grid = subject.encode_grid

    def counted(*args):
        calls.append(args)
        return encode_grid(*args)

    monkeypatch.setattr(subject, "encode_grid", counted)
    _evaluate(config, _with_grid(config))
    assert len(calls) == 1
    _evaluate(config, _with_grid(config), with_expensive=False)
    assert len(calls) == 1


def test_the_whole_grid_is_encoded_at_the_end():
    config = tiny(**FEW, metrics__grid_stride=2)
    names = {"disentanglement/mig"}
    at_end = _evaluate(config, _with_grid(config), at_end=True, names=names)
    facts = at_end.facts["disentanglement/mig"]
    assert (facts["points"], facts["grid_stride"]) == (240, 1)
    coarser = tiny(**FEW, metrics__grid_stride=2, metrics__grid_stride_at_end=2)
    before = _evaluate(config, _with_grid(config), names=names)
    assert _evaluate(coarser, _with_grid(config), at_end=True, names=names) == before


def test_a_gpu_encodes_the_whole_grid_at_any_time():
    config = tiny(**FEW, metrics__grid_stride=2)
    assert subject.grid_stride(config.metrics, torch.device("cuda"), at_end=False) == 1
    assert subject.grid_stride(config.metrics, CPU, at_end=False) == 2
    assert subject.grid_stride(config.metrics, CPU, at_end=True) == 1


def test_the_same_model_gives_the_same_scores_at_any_time():
    config = tiny(**FEW)
    dataset = _with_grid(config)
    assert _evaluate(config, dataset) == _evaluate(config, dataset)
    other = _evaluate(tiny(**FEW, metrics__seed=1), dataset)
    assert (
        other.metrics["disentanglement/dci"]
        != (_evaluate(config, dataset).metrics["disentanglement/dci"])
    )


def test_without_a_grid_the_scores_on_it_are_absent_with_the_reason():
    config = tiny()
    absent = _evaluate(config, load(config.data)).absent
    assert {absent[name] for name in ON_GRID} == {"needs known factors, digits has none"}


def test_classes_are_scored_where_they_are_all_that_is_known():
    config = tiny()
    result = _evaluate(config, load(config.data))
    for name in ON_CLASSES:
        assert 0 <= result.metrics[name] <= 1
        assert result.facts[name]["points"] == 60
        assert result.facts[name]["codes"] == "posterior means"
    assert result.facts["disentanglement/class_mig"]["bins"] == 20
    assert result.facts["disentanglement/class_sap"]["train_points"] == 40


def test_classes_are_not_scored_where_more_is_known(monkeypatch):
    config = tiny()
    monkeypatch.setattr(
        "tune_ddvae.metrics.disentanglement.unmet_need", lambda name, _: METRICS[name].needs
    )
    absent = _evaluate(config, load(config.data)).absent
    expected = "needs classes as the only known factor, data/name is digits"
    assert {absent[name] for name in ON_CLASSES} == {expected}


def test_a_split_without_classes_has_no_score_of_them():
    config = tiny()
    dataset = load(config.data)
    dataset = dataclasses.replace(
        dataset, validation=dataclasses.replace(dataset.evaluation, classes=None)
    )
    absent = _evaluate(config, dataset).absent
    expected = "needs known classes, this split of digits has none"
    assert {absent[name] for name in ON_CLASSES} == {expected}


def test_codes_under_student_t_are_mapped_to_a_normal_first(monkeypatch):
    config = tiny(**FEW, prior__kind="student_t", prior__df=3.0)
    mapped = []

    def noted(codes, df):
        assert df == 3.0
        mapped.append(to_normal(codes, df))
        return mapped[-1]

    monkeypatch.setattr(subject, "to_normal", noted)
    result = _evaluate(config, _with_grid(config))
    assert [len(codes) for codes in mapped].count(3 * 3 * 2) == 1  # the grid's, once for all scores
    assert all(codes.dtype == torch.float64 for codes in mapped)
    for name in ON_GRID | ON_CLASSES:
        assert result.facts[name]["codes"] == "posterior means, mapped to normal"


def test_the_map_changes_what_is_measured_under_student_t(monkeypatch):
    config = tiny(prior__kind="student_t", prior__df=1.0)
    names = {"disentanglement/class_mig"}
    dataset = load(config.data)
    with_map = _evaluate(config, dataset, names=names).metrics
    monkeypatch.setattr(subject, "to_normal", lambda codes, _: codes)
    assert _evaluate(config, dataset, names=names).metrics != with_map


def test_collapsed_codes_score_the_floor_or_have_a_reason():
    config = tiny(**FEW)
    dataset = _with_grid(config)
    vae = make_vae(config, stream(0, "initial weights"))
    with torch.no_grad():
        for parameter in vae.encoder.parameters():
            parameter.fill_(0.0)
    result = evaluate(vae, dataset, dataset.evaluation, config, CPU)
    names = ("mig", "dci", "sap", "class_mig", "class_sap")
    assert [result.metrics[f"disentanglement/{name}"] for name in names] == [0.0] * 5
    for name in ("factor_vae", "beta_vae"):
        assert result.metrics[f"disentanglement/{name}"] == pytest.approx(1 / 3)
    assert result.facts["disentanglement/factor_vae"]["pruned"] == 4
    assert "needs a dimension that varies" in result.absent["disentanglement/modularity"]


def test_a_model_that_diverges_on_the_grid_is_named():
    config = tiny(**FEW)
    dataset = _with_grid(config)
    broken = dataset.grid.inputs.clone().float()
    broken[0] = math.nan
    grid = dataclasses.replace(dataset.grid, inputs=broken)
    with pytest.raises(DivergedError, match="posterior mean is nan for 1 of the"):
        _evaluate(config, dataclasses.replace(dataset, grid=grid))
