import math

import pytest

from search_spaces import clustering, independence, sparsity
from tune_ddvae.config import to_flat, with_overrides
from tune_ddvae.errors import ConfigError
from tune_ddvae.training.options import configured, differences, prior_kind

FASHION, SPRITES, PINWHEEL = (module.STUDY.base for module in (sparsity, independence, clustering))
ON_TEST = {"data/num_validation": 0}


def changed(base, options, setting=(), pins=()) -> dict:
    """What the options change of the base, by key."""
    found = differences(configured(base, options, dict(setting), dict(pins)), base)
    return {key: value for key, value in found.items() if key not in ON_TEST}


MEANINGS = [
    (FASHION, {"obj": "decomp"}, {}),
    (
        FASHION,
        {"obj": "iwae", "K": 8},
        {"objective/kind": "iwae", "objective/num_samples": 8, "objective/alpha": 0.0},
    ),
    (FASHION, {"K": 3}, {"objective/num_samples": 3}),
    (FASHION, {"beta": 0.5}, {"objective/beta": 0.5}),
    (FASHION, {"alpha": 10.0}, {"objective/alpha": 10.0}),
    (FASHION, {"gamma": 0.0}, {"prior/gamma": 0.0}),
    (FASHION, {"gamma": 0.5}, {"prior/gamma": 0.5}),
    (
        FASHION,
        {"prior": "Normal"},
        {
            "prior/kind": "normal",
            "prior/scale": 1.0,
            "prior/gamma": None,
            "prior/spike_scale": None,
        },
    ),
    (FASHION, {"prior": "sparse", "gamma": 0.9}, {"prior/gamma": 0.9}),
    (
        SPRITES,
        {"prior": "STUDENTT", "df": 3.0},
        {"prior/kind": "student_t", "prior/df": 3.0, "prior/scale": None},
    ),
    (SPRITES, {"prior-variance": "iso"}, {}),
    (SPRITES, {"prior-variance": "iso", "prior-variance-scale": 4.0}, {"prior/scale": 2.0}),
    (SPRITES, {"prior-variance-scale": 2.0}, {"prior/scale": math.sqrt(2.0)}),
    (
        SPRITES,
        {"prior-variance": "pca", "prior-variance-scale": 4.0},
        {
            "prior/kind": "anisotropic",
            "prior/variance_scale": 4.0,
            "prior/learns_variance": False,
            "prior/scale": None,
        },
    ),
    (
        SPRITES,
        {"prior-variance": "pca", "learn-prior-variance": True},
        {
            "prior/kind": "anisotropic",
            "prior/variance_scale": 1.0,
            "prior/learns_variance": True,
            "prior/scale": None,
        },
    ),
    (
        SPRITES,
        {"prior": "Anisotropic", "learn-prior-variance": True},
        {
            "prior/kind": "anisotropic",
            "prior/variance_scale": 1.0,
            "prior/learns_variance": True,
            "prior/scale": None,
        },
    ),
    (SPRITES, {"latent-dim": 6}, {"model/latent_dim": 6}),
    (SPRITES, {"fBase": 16}, {"model/width": 16}),
    (
        PINWHEEL,
        {"hidden-dim": 50, "num-hidden-layers": 2},
        {"model/width": 50, "model/num_hidden_layers": 2},
    ),
    (PINWHEEL, {"regulariser": "mmd_dim"}, {"objective/divergence": "mmd"}),
    (FASHION, {"regulariser": "kld_inc"}, {"objective/divergence": "inclusive_kl"}),
    (FASHION, {"epochs": 12}, {"training/epochs": 12}),
    (FASHION, {"batch-size": 64}, {"training/batch_size": 64}),
    (FASHION, {"seed": 3}, {"training/seed": 3}),
    (FASHION, {"lr": 1e-3}, {"optimiser/learning_rate": 1e-3}),
    (FASHION, {"beta1": 0.5}, {"optimiser/beta1": 0.5}),
    (FASHION, {"beta2": 0.99}, {"optimiser/beta2": 0.99}),
]


@pytest.mark.parametrize(
    ("base", "options", "meaning"), MEANINGS, ids=lambda value: str(value)[:60]
)
def test_an_option_sets_its_field_and_no_other(base, options, meaning):
    assert changed(base, options) == meaning


def test_metrics_are_measured_on_the_test_set_as_in_the_paper():
    assert configured(FASHION, {}, {}, {}) == with_overrides(FASHION, ON_TEST)
    asked = configured(FASHION, {}, {}, {"data/num_validation": 7})
    assert asked.data.num_validation == 7


@pytest.mark.parametrize(("epochs", "every"), [(500, 25), (50, 25), (40, 5), (7, 1)])
def test_evaluations_are_as_far_apart_as_the_epochs_can_be_divided(epochs, every):
    asked = configured(PINWHEEL, {"epochs": epochs}, {}, {})
    pinned = configured(PINWHEEL, {}, {}, {"training/epochs": epochs})
    assert asked == pinned
    assert (asked.training.epochs, asked.training.evaluate_every) == (epochs, every)


def test_a_published_setting_is_taken_as_it_stands():
    for name, setting in sparsity.STUDY.published.items():
        config = configured(FASHION, {"seed": 2}, setting, {})
        expected = with_overrides(FASHION, {**ON_TEST, **setting, "training/seed": 2})
        assert config == expected, name


def test_pins_count_last():
    config = configured(FASHION, {"beta": 2.0}, {}, {"prior/kind": "student_t", "prior/df": 4.0})
    assert to_flat(config)["prior/df"] == 4.0
    assert config.objective.beta == 2.0


@pytest.mark.parametrize("name", ["StudentT", "student_t", "STUDENT-T", "studentt"])
def test_a_prior_is_known_in_any_spelling(name):
    assert prior_kind(name) == "student_t"


def test_an_unknown_prior_lists_those_that_there_are():
    with pytest.raises(
        ConfigError, match=r"Normal, Anisotropic, StudentT, Sparse, Clustered .*'Laplace'"
    ):
        prior_kind("Laplace")


SETTING = sparsity.STUDY.published["gamma_0.8_alpha_100"]
CONTRADICTIONS = [
    (
        FASHION,
        {"gamma": 0.8, "prior": "Normal"},
        {},
        {},
        "--gamma belongs to --prior Sparse, this one is Normal",
    ),
    (SPRITES, {"gamma": 0.8}, {}, {}, "--gamma belongs to --prior Sparse, this one is Normal"),
    (SPRITES, {"df": 3.0}, {}, {}, "--df belongs to --prior StudentT, this one is Normal"),
    (
        FASHION,
        {"prior-variance": "pca"},
        {},
        {},
        "--prior-variance belongs to --prior Normal, this one is Sparse",
    ),
    (
        FASHION,
        {"learn-prior-variance": True},
        {},
        {},
        "--learn-prior-variance belongs to --prior Normal",
    ),
    (SPRITES, {"learn-prior-variance": True}, {}, {}, "add --prior-variance pca"),
    (SPRITES, {"prior": "Anisotropic", "prior-variance": "iso"}, {}, {}, "makes the Normal"),
    (
        FASHION,
        {"hidden-dim": 100},
        {},
        {},
        "--hidden-dim belongs to plain layers, fashion_mnist has conv",
    ),
    (SPRITES, {"num-hidden-layers": 2}, {}, {}, "--num-hidden-layers belongs to plain layers"),
    (PINWHEEL, {"fBase": 32}, {}, {}, "--fBase belongs to convolutions, pinwheel has plain layers"),
    (FASHION, {"obj": "iwae", "beta": 2.0}, {}, {}, "--beta 2.0 belongs to --obj decomp"),
    (FASHION, {"obj": "iwae", "alpha": 1.0}, {}, {}, "--alpha 1.0 belongs to --obj decomp"),
    (
        FASHION,
        {"obj": "iwae", "regulariser": "mmd_dim"},
        {},
        {},
        "--regulariser belongs to --obj decomp",
    ),
    (
        FASHION,
        {"beta": 2.0},
        SETTING,
        {},
        "--beta: the published setting states objective/beta already, 1.0",
    ),
    (
        FASHION,
        {"prior": "Normal"},
        SETTING,
        {},
        "--prior: the published setting states prior/kind already",
    ),
    (
        FASHION,
        {"prior-variance": "iso"},
        SETTING,
        {},
        "--prior-variance: the published setting states the prior",
    ),
    (
        FASHION,
        {"beta": 2.0},
        {},
        {"objective/beta": 2.0},
        "--beta and --set objective/beta say the same",
    ),
    (FASHION, {"seed": 0}, {}, {"training/seed": 1}, "--seed and --set training/seed say the same"),
]


@pytest.mark.parametrize(
    ("base", "options", "setting", "pins", "message"), CONTRADICTIONS, ids=lambda v: str(v)[:50]
)
def test_options_that_contradict_are_refused_by_name(base, options, setting, pins, message):
    with pytest.raises(ConfigError) as refused:
        configured(base, options, setting, pins)
    assert message in str(refused.value)


def test_all_contradictions_are_in_one_message():
    with pytest.raises(ConfigError) as refused:
        configured(SPRITES, {"gamma": 0.8, "df": 3.0, "hidden-dim": 10}, {}, {})
    assert all(f"--{name}" in str(refused.value) for name in ("gamma", "df", "hidden-dim"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 1.1}, "prior/gamma must be at most 1.0, got 1.1"),
        ({"gamma": -0.1}, "prior/gamma must be at least 0.0"),
        ({"beta": math.nan}, "objective/beta must be"),
        ({"epochs": 0}, "training/epochs must be at least 1, got 0"),
        (
            {"prior": "Normal", "prior-variance-scale": 0.0},
            "--prior-variance-scale must be above 0",
        ),
    ],
)
def test_a_value_out_of_bounds_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        configured(FASHION, options, {}, {})


def test_the_setting_of_an_objective_with_weights_is_not_for_the_plain_bound():
    with pytest.raises(
        ConfigError, match="objective/alpha 0 under objective/kind iwae, got 1 and 100"
    ):
        configured(FASHION, {"obj": "iwae"}, SETTING, {})
