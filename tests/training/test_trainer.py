import contextlib
import copy
import dataclasses
import math

import pytest
import torch

import tune_ddvae.training.trainer
from tests.training.tiny import make_trainer, numbers, run, tiny
from tune_ddvae.config import METRICS
from tune_ddvae.data import Dataset, Split, load
from tune_ddvae.errors import DivergedError
from tune_ddvae.metrics.evaluate import Evaluation
from tune_ddvae.training.trainer import Trainer


def _same_state(one: Trainer, other: Trainer) -> bool:
    return _same(one.state_dict(), other.state_dict())


def _same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


def _first_points(dataset: Dataset, num: int) -> Dataset:
    train = Split(dataset.train.inputs[:num], dataset.train.classes[:num])
    return dataclasses.replace(dataset, train=train)


def test_the_objective_rises(config):
    longer = dataclasses.replace(
        config, training=dataclasses.replace(config.training, epochs=8, evaluate_every=2)
    )
    results = run(make_trainer(longer))
    objectives = [result["metrics"]["training/objective"] for result in results]
    assert objectives[-1] > objectives[0]
    assert [result["epoch"] for result in results] == [2, 4, 6, 8]


def test_every_metric_is_finite_or_absent_with_a_reason(config):
    result = make_trainer(config).step()
    assert set(METRICS) <= {*result.metrics, *result.absent}
    assert not set(result.metrics) & set(result.absent)
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert all(result.absent.values())
    assert {f"training/{term}" for term in ("objective", "log_likelihood", "kl", "divergence")} <= {
        *result.metrics
    }


def test_the_last_step_measures_the_test_set_too(config):
    trainer = make_trainer(config)
    results = run(trainer)
    assert not any(key.startswith("test/") for r in results[:-1] for key in r["metrics"])
    assert {f"test/{name}" for name in METRICS} <= {
        *results[-1]["metrics"],
        *results[-1]["absent"],
    }


def test_an_epoch_of_fewer_images_draws_other_ones_each_time():
    config = tiny(training__images_per_epoch=64, training__epochs=2)
    trainer = make_trainer(config)
    seen, gather = [], Split.gather
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Split, "gather", lambda self, which: seen.append(which) or gather(self, which)
        )
        trainer.step()
        trainer.step()
    first, second = (which for which in seen if len(which) == 64)  # one batch an epoch
    assert (len(first.unique()), len(second.unique())) == (64, 64)
    assert set(first.tolist()) != set(second.tolist())


DUE = [
    ({"expensive_every": 1}, (), [1, 2, 3, 4, 5, 6, 7]),
    ({"expensive_every": 3}, (), [3, 6, 7]),
    ({"expensive_every": None}, (2, 4), [2, 4, 7]),
    ({"expensive_every": 3}, (2,), [2, 3, 6, 7]),
    ({"expensive_every": None, "expensive_at_rungs": False}, (2, 4), [7]),
]


@pytest.mark.parametrize(("cadence", "rungs", "epochs"), DUE, ids=[str(d[:2]) for d in DUE])
def test_expensive_metrics_have_a_cadence_and_are_always_measured_at_the_end(
    cadence, rungs, epochs, monkeypatch
):
    asked = []

    def measure(*args, with_expensive, **kwargs):
        asked.append(with_expensive)
        return Evaluation({}, {}, {})

    monkeypatch.setattr(tune_ddvae.training.trainer, "evaluate", measure)
    overrides = {f"metrics__{key}": value for key, value in cadence.items()}
    config = tiny(training__epochs=7, data__num_validation=0, data__num_train=64, **overrides)
    run(make_trainer(config, rungs=rungs))
    assert [epoch for epoch, is_due in enumerate(asked, start=1) if is_due] == epochs


def test_only_the_last_word_is_measured_on_the_finer_grid(monkeypatch):
    asked = []

    def measure(_vae, dataset, split, *args, at_end, **kwargs):
        asked.append(("test" if len(split) == 50 else "validation", at_end))
        return Evaluation({}, {}, {})

    monkeypatch.setattr(tune_ddvae.training.trainer, "evaluate", measure)
    run(make_trainer(tiny(training__epochs=2)))
    assert asked == [("validation", False), ("validation", False), ("test", True)]
    asked.clear()
    run(make_trainer(tiny(training__epochs=2, data__num_validation=0)))
    assert asked == [("test", False), ("test", True)]


def test_without_validation_the_test_set_is_measured_once():
    config = tiny(data__num_validation=0, training__epochs=1)
    result = make_trainer(config).step()
    assert "log_likelihood/iwae" in result.metrics
    assert not any(key.startswith("test/") for key in result.metrics)


def test_the_same_seed_gives_the_same_numbers(config):
    assert run(make_trainer(config)) == run(make_trainer(config))


@pytest.mark.parametrize("seed", [1, 2**32, 2**63 - 1])
def test_another_seed_gives_other_weights_order_and_noise(seed):
    one, other = make_trainer(tiny()), make_trainer(tiny(training__seed=seed))
    assert run(one) != run(other)
    states = one.state_dict(), other.state_dict()
    assert all(not _same(states[0][part], states[1][part]) for part in ("vae", "order", "noise"))


def test_resumed_training_is_bitwise_the_same(config):
    straight = make_trainer(config)
    expected, states = [], []
    while not straight.is_done:
        states.append(copy.deepcopy(straight.state_dict()))
        expected.append(numbers(straight.step()))
    for number, state in enumerate(states):
        resumed = make_trainer(config)
        resumed.load_state_dict(state)
        assert run(resumed) == expected[number:]
        assert _same_state(resumed, straight)


def test_evaluation_does_not_disturb_training():
    often, once = make_trainer(tiny()), make_trainer(tiny(training__evaluate_every=3))
    run(often)
    run(once)
    assert _same_state(often, once)


def test_evaluating_on_more_points_does_not_disturb_training():
    one = make_trainer(tiny())
    other = make_trainer(
        tiny(data__num_validation=60, metrics__iwae_num_samples=7, metrics__seed=5)
    )
    run(one)
    run(other)
    assert _same_state(one, other)


def test_the_global_generator_is_neither_read_nor_moved(config):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    undisturbed = run(make_trainer(config))
    assert torch.equal(before, torch.get_rng_state())

    trainer, disturbed = make_trainer(config, on_batch=lambda: torch.manual_seed(2)), []
    while not trainer.is_done:
        torch.manual_seed(3)
        disturbed.append(numbers(trainer.step()))
    assert disturbed == undisturbed


def test_a_trial_gives_the_same_numbers_anywhere_in_the_queue():
    first = run(make_trainer(tiny()))
    run(make_trainer(tiny(model__latent_dim=7, training__seed=4)))
    run(make_trainer(tiny("pinwheel")))
    assert run(make_trainer(tiny())) == first


def test_the_watchdog_hears_of_each_batch_and_metric():
    calls = []
    trainer = make_trainer(tiny(), on_batch=lambda: calls.append(1))
    trainer.step()
    assert len(calls) >= 4 + 1 + len(METRICS)  # 200 points in batches of 64, one evaluation batch


def test_a_finished_trainer_trains_no_further():
    trainer = make_trainer(tiny(training__epochs=1))
    trainer.step()
    with pytest.raises(ValueError, match="1 epochs"):
        trainer.step()


@pytest.mark.parametrize("divergence", ["mmd", "inclusive_kl"])
@pytest.mark.parametrize("batch_size", [64, 1000])
def test_a_last_batch_of_one_and_a_batch_above_the_data_are_handled(divergence, batch_size):
    config = tiny(objective__divergence=divergence, training__batch_size=batch_size)
    dataset = _first_points(load(config.data), 65)
    results = run(make_trainer(config, dataset))
    assert all(math.isfinite(v) for result in results for v in result["metrics"].values())


@pytest.mark.parametrize(
    "overrides",
    [
        {"optimiser__learning_rate": 1e6},
        {"optimiser__learning_rate": 10.0},
        {"objective__beta": 1e6},
        {"objective__alpha": 1e6},
        {"objective__alpha": 1e6, "objective__divergence": "inclusive_kl"},
        {"objective__beta": 1e30},
        {"prior__gamma": 0.0},
        {"prior__gamma": 1.0},
        {"likelihood__scale": 1e-30},
    ],
)
def test_extreme_settings_stay_finite_or_diverge_with_a_reason(overrides):
    trainer, results = make_trainer(tiny(**overrides)), []
    with contextlib.suppress(DivergedError):
        results = run(trainer)
    assert all(math.isfinite(v) for result in results for v in result["metrics"].values())


def test_divergence_names_term_value_and_epoch():
    trainer = make_trainer(tiny())
    trainer.step()
    with torch.no_grad():
        trainer.vae.encoder.mean.bias[0] = math.nan
    with pytest.raises(DivergedError, match=r"training/log_likelihood is nan at epoch 2, batch 1"):
        trainer.step()


def test_a_huge_learning_rate_is_noticed(config):
    rate = dataclasses.replace(config.optimiser, learning_rate=1e30)
    with pytest.raises(DivergedError, match=r"(nan|inf).* epoch"):
        run(make_trainer(dataclasses.replace(config, optimiser=rate)))


def test_weights_that_leave_the_finite_numbers_are_noticed_by_the_end_of_the_epoch():
    trainer = make_trainer(tiny(training__batch_size=200))  # one batch: the next look is too late
    with torch.no_grad():
        next(iter(trainer.vae.parameters())).register_hook(lambda grad: grad * math.inf)
    with pytest.raises(DivergedError, match=r"\S+ holds nan after epoch 1"):
        trainer.step()
