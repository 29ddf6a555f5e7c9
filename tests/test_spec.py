import dataclasses

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tests.tuning.simulated import make_spec
from tune_ddvae.config import (
    DataConfig,
    LikelihoodConfig,
    MetricsConfig,
    TrainingConfig,
    TrialConfig,
)
from tune_ddvae.errors import ConfigError
from tune_ddvae.spec import Choice, StudySize


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank_by": {"sparsity/hoyr": "max"}}, "unknown metric 'sparsity/hoyr' .*sparsity/hoyer"),
        ({"rank_by": {}}, "at least one metric"),
        ({"space": {"objective/betta": FloatDistribution(0, 1)}}, "valid: objective/beta"),
        ({"space": {"objective/beta": FloatDistribution(-1, 1)}}, "objective/beta .* got -1.0"),
        ({"space": {"model/latent_dim": IntDistribution(2, 9999)}}, "latent_dim .* got 9999"),
        ({"space": {"prior/kind": Choice({"norml": {}})}}, "prior/kind must be one of .*'norml'"),
        (
            {"space": {"prior/kind": Choice({"sparse": {"prior/gamma": FloatDistribution(0, 2)}})}},
            "prior/gamma must be at most 1.0, got 2.0",
        ),
        (
            {"space": {"prior/kind": Choice({"normal": {"prior/gamma": FloatDistribution(0, 1)}})}},
            "prior/gamma has no meaning under prior/kind normal",
        ),
        (
            {"space": {"prior/kind": Choice({"normal": {}, "clustered": {}})}},
            "latent_dim must be 2 under prior/kind clustered",
        ),
        ({"published": {"odd": {"prior/df": 3.0}}, "first": ()}, "published setting 'odd'"),
        ({"first": ("plane",)}, "first names 'plane'; published settings: plain, outside"),
        ({"replicated": ("plane",)}, "replicated names 'plane'; published settings: plain"),
        ({"sampler": "magic"}, "sampler must be tpe or random, got 'magic'"),
        ({"size": StudySize(trials=4, first_rung=27)}, "first_rung .* got 27 of 27"),
        ({"size": StudySize(trials=0, first_rung=1)}, "trials must be at least 1, got 0"),
        ({"quick": StudySize(trials=1, first_rung=0)}, "first_rung .* got 0"),
        ({"size": StudySize(trials=1, first_rung=1, reduction_factor=1)}, "reduction_factor .* 2"),
    ],
)
def test_a_wrong_study_stops_when_it_is_built(changes, message):
    with pytest.raises(ConfigError, match=message):
        make_spec(**changes)


def test_a_rung_at_which_nothing_is_measured_is_refused():
    spec = make_spec()
    size = StudySize(trials=1, first_rung=5, overrides={"training/evaluate_every": 9})
    with pytest.raises(ConfigError, match="rung 5 must be"):
        dataclasses.replace(spec, quick=size)


def test_a_rung_at_which_the_deciding_metric_is_not_due_is_refused():
    base = TrialConfig(
        data=DataConfig(name="dsprites"),
        likelihood=LikelihoodConfig(kind="bernoulli"),
        training=TrainingConfig(epochs=20),
        metrics=MetricsConfig(expensive_every=4, expensive_at_rungs=False),
    )
    size = StudySize(trials=4, first_rung=4)
    changes = {"rank_by": {"disentanglement/mig": "max"}, "base": base, "size": size, "quick": size}
    with pytest.raises(ConfigError, match="decides at rung 2 and is not due there"):
        make_spec(**{**changes, "size": StudySize(trials=4, first_rung=2, reduction_factor=3)})
    assert make_spec(**{**changes, "size": StudySize(trials=4, first_rung=4)}).rungs == (4, 12)


def test_a_published_study_trains_every_setting_with_one_seed_before_the_next_seed():
    spec = make_spec().as_published(make_spec().size, replicates=2)
    assert [spec.planned(number) for number in range(spec.size.trials)] == [
        ("plain", 0),
        ("outside", 0),
        ("plain", 1),
        ("outside", 1),
    ]
    assert not spec.space
    assert not spec.rungs
    assert not spec.base.has_validation


def test_more_replicates_make_a_published_study_longer_and_not_another_one():
    one, three = (make_spec().as_published(make_spec().size, replicates=n) for n in (1, 3))
    assert one.identity() == three.identity()
    assert three.size.trials == 3 * one.size.trials


def test_published_settings_that_a_pin_contradicts_are_left_out():
    spec = make_spec()
    assert spec.as_published(spec.size, 1, {"objective/beta": 1.0}).replicated == ("plain",)
    with pytest.raises(ConfigError, match=r"agrees with .*objective/beta=7.0; there are: plain"):
        spec.as_published(spec.size, 1, {"objective/beta": 7.0})
    with pytest.raises(ConfigError, match="num_validation must be 0 .* got 50"):
        spec.as_published(spec.size, 1, {"data/num_validation": 50})
    with pytest.raises(ConfigError, match="no published settings"):
        make_spec(published={}, first=()).as_published(spec.size, 1)


def test_one_key_with_two_ranges_is_refused():
    choice = Choice(
        {
            "sparse": {"prior/spike_scale": FloatDistribution(0.01, 0.1)},
            "normal": {},
        }
    )
    with pytest.raises(ConfigError, match="one range wherever"):
        make_spec(space={"prior/kind": choice, "prior/spike_scale": FloatDistribution(0.1, 0.2)})


def test_rungs_are_all_multiples_below_the_last_epoch():
    assert make_spec(epochs=27).rungs == (1, 3, 9)
    assert make_spec(epochs=28).rungs == (1, 3, 9, 27)
    assert make_spec(first_rung=None).rungs == ()


def test_a_pinned_key_is_searched_no_longer():
    spec = make_spec()
    pinned = spec.resized(spec.size, {"objective/beta": 2.0})
    assert "objective/beta" not in pinned.space
    assert pinned.base.objective.beta == 2.0
    assert pinned.first == ()  # both settings say otherwise


def test_a_pinned_option_keeps_its_own_ranges():
    spec = make_spec()
    pinned = spec.resized(spec.size, {"prior/kind": "sparse"})
    assert set(pinned.space) == {"objective/beta", "prior/gamma"}
    assert pinned.base.prior.kind == "sparse"


def test_a_pinned_conditional_key_holds_wherever_its_option_is_drawn():
    spec = make_spec()
    pinned = spec.resized(spec.size, {"prior/gamma": 0.7})
    ranges = pinned.space["prior/kind"].options["sparse"]
    assert ranges == {"prior/gamma": CategoricalDistribution((0.7,))}
    with pytest.raises(ConfigError, match="prior/gamma must be at most 1.0, got 7.0"):
        spec.resized(spec.size, {"prior/gamma": 7.0})


def test_a_conditional_key_pinned_with_its_option_holds_for_every_trial():
    spec = make_spec()
    pinned = spec.resized(spec.size, {"prior/kind": "sparse", "prior/gamma": 0.7})
    assert pinned.base.prior.gamma == 0.7
    assert set(pinned.space) == {"objective/beta"}
    with pytest.raises(ConfigError, match="prior/gamma has no meaning under prior/kind normal"):
        spec.resized(spec.size, {"prior/kind": "normal", "prior/gamma": 0.7})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank_by": {"disentanglement/factor_vae": "max"}}, "needs known factors"),
        ({"rank_by": {"latent/components_used": "max"}}, "needs a clustered prior"),
        ({"space": {"model/latent_dim": IntDistribution(1, 8)}}, "needs two latent dimensions"),
        ({"space": {"training/seed": IntDistribution(0, 8)}}, "give --seed instead"),
    ],
)
def test_a_metric_that_some_trial_could_never_have_is_not_ranked_by(changes, message):
    with pytest.raises(ConfigError, match=message):
        make_spec(**changes)


def test_identity_tells_any_change_of_what_is_searched():
    spec = make_spec()
    assert spec.identity() == make_spec().identity()
    for changed in (
        make_spec(epochs=9),
        make_spec(first_rung=3),
        make_spec(sampler="random"),
        make_spec(rank_by={"sparsity/hoyer": "max"}),
        spec.resized(spec.size, {"objective/alpha": 3.0}),
        dataclasses.replace(spec, first=()),
    ):
        assert changed.identity() != spec.identity()


def test_the_number_of_trials_does_not_make_it_another_study():
    spec = make_spec()
    more = dataclasses.replace(spec, size=dataclasses.replace(spec.size, trials=99))
    assert more.identity() == spec.identity()
