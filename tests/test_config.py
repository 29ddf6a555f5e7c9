import dataclasses
import json

import pytest

from tune_ddvae.config import (
    FIELDS,
    METRICS,
    DataConfig,
    LikelihoodConfig,
    ModelConfig,
    ObjectiveConfig,
    PriorConfig,
    TrainingConfig,
    TrialConfig,
    from_flat,
    parse_value,
    to_flat,
    with_overrides,
)
from tune_ddvae.errors import ConfigError

CONFIGS = [
    TrialConfig(),
    TrialConfig(prior=PriorConfig(kind="sparse", gamma=0.5)),
    TrialConfig(prior=PriorConfig(kind="anisotropic", learns_variance=True)),
    TrialConfig(
        data=DataConfig(name="pinwheel"),
        model=ModelConfig(latent_dim=2),
        prior=PriorConfig(kind="clustered"),
        likelihood=LikelihoodConfig(kind="normal"),
    ),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_flat_round_trip_changes_nothing(config):
    assert from_flat(json.loads(json.dumps(to_flat(config)))) == config


def test_every_flat_key_is_a_field():
    assert set(to_flat(TrialConfig())) == set(FIELDS)


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"prior/gama": 0.5}, r"unknown key 'prior/gama'; valid: .*prior/gamma"),
        ({"gamma": 0.5}, r"unknown key 'gamma'; valid: .*prior/gamma"),
        ({"nonsense/xyz": 1}, "unknown key 'nonsense/xyz'; valid: data/name"),
        ({"model/latent_dim": 2.5}, "model/latent_dim must be int, got 2.5 of type float"),
        ({"model/latent_dim": True}, "model/latent_dim must be int, got True of type bool"),
        ({"optimiser/amsgrad": 1}, "optimiser/amsgrad must be bool, got 1 of type int"),
        ({"prior/kind": "gamma"}, "prior/kind must be one of normal, .*, got 'gamma'"),
        ({"objective/beta": -1.0}, "objective/beta must be at least 0.0, got -1.0"),
        ({"objective/beta": float("nan")}, "objective/beta must be .*, got nan"),
        ({"objective/kind": "elbo"}, "objective/kind must be one of decomp, iwae, got 'elbo'"),
        (
            {"objective/kind": "iwae", "objective/beta": 2.0},
            "objective/beta must be 1 and objective/alpha 0 under objective/kind iwae, got 2 and 0",
        ),
        ({"objective/kind": "iwae", "objective/alpha": 10.0}, "alpha 0 .* iwae, got 1 and 10"),
        ({"objective/alpha": float("inf")}, "objective/alpha must be finite, got inf"),
        ({"training/batch_size": 1}, "training/batch_size must be at least 2, got 1"),
        ({"prior/kind": "sparse", "prior/gamma": 1.1}, "prior/gamma must be at most 1.0, got 1.1"),
        ({"prior/kind": "sparse", "prior/gamma": -0.1}, "prior/gamma must be at least 0.0"),
        ({"prior/gamma": 0.5}, "no meaning under prior/kind normal, got 0.5; it belongs to sparse"),
        ({"prior/kind": "clustered"}, "model/latent_dim must be 2 under prior/kind clustered"),
        ({"data/num_train": 60_001}, "data/num_train must be at most 60000, got 60001"),
        ({"data/num_train": 58_000, "data/num_validation": 5_000}, "data/num_train .* most 55000"),
        ({"data/num_train": 1}, "data/num_train must be at least 2"),
        ({"data/name": "pinwheel", "likelihood/kind": "bernoulli"}, "likelihood/kind must be one"),
        ({"data/name": "pinwheel", "data/num_validation": 500}, "data/num_validation .* most 400"),
        ({"training/epochs": 9, "training/evaluate_every": 2}, "must be a multiple of"),
        ({"training/images_per_epoch": 60_001}, "images_per_epoch must be at most the 60000 train"),
        ({"training/images_per_epoch": 1}, "training/images_per_epoch must be at least 2, got 1"),
        ({"data/name": "dsprites", "data/num_test": 5_001}, "data/num_test must be at most 5000"),
        (
            {"data/name": "pinwheel", "likelihood/kind": "normal", "prior/kind": "anisotropic"},
            "latent_dim must be at most 2 under prior/kind anisotropic, got 50: pinwheel has no more",
        ),
        ({"prior/learns_variance": True}, "no meaning under prior/kind normal, got True"),
        (
            {"prior/kind": "anisotropic", "prior/variance_scale": 0.0},
            "variance_scale must be at least",
        ),
        (
            {"model/num_hidden_layers": 2},
            "must be 1 for data/name fashion_mnist, got 2; it belongs",
        ),
        ({"metrics/grid_stride": 0}, "metrics/grid_stride must be at least 1, got 0"),
    ],
)
def test_a_broken_rule_names_key_value_and_what_is_valid(flat, message):
    with pytest.raises(ConfigError, match=message):
        from_flat(flat)


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_both_ends_of_gamma_are_valid(gamma):
    assert from_flat({"prior/kind": "sparse", "prior/gamma": gamma}).prior.gamma == gamma


def test_a_kind_fills_its_own_fields_and_no_others():
    prior = PriorConfig(kind="student_t")
    assert (prior.df, prior.gamma, prior.scale) == (9.0, None, None)


def test_changing_the_kind_drops_the_old_kinds_fields():
    sparse = TrialConfig(prior=PriorConfig(kind="sparse", gamma=0.3))
    assert with_overrides(sparse, {"prior/kind": "normal"}).prior == PriorConfig(kind="normal")
    kept = with_overrides(sparse, {"objective/beta": 2.0})
    assert kept.prior == sparse.prior


def test_an_int_is_taken_where_a_float_is_meant():
    assert from_flat({"objective/beta": 2}).objective == ObjectiveConfig(beta=2.0)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("data/num_train", "none", None),
        ("data/num_train", "512", 512),
        ("objective/beta", "1e6", 1e6),
        ("optimiser/amsgrad", "false", False),
        ("prior/kind", "sparse", "sparse"),
    ],
)
def test_command_line_words_become_typed_values(key, text, value):
    parsed = parse_value(key, text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("key", "text"), [("training/epochs", "ten"), ("training/epochs", "1.5"), ("data/x", "1")]
)
def test_command_line_words_of_the_wrong_type_are_refused(key, text):
    with pytest.raises(ConfigError, match=key):
        parse_value(key, text)


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainingConfig().epochs = 3


def test_metric_names_say_what_kind_they_are():
    kinds = {name.partition("/")[0] for name in METRICS}
    assert kinds == {"sparsity", "log_likelihood", "latent", "divergence", "disentanglement"}
