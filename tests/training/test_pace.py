import itertools

import pytest

from tests.training.tiny import CPU, tiny
from tune_ddvae.metrics.streams import stream
from tune_ddvae.models import make_vae
from tune_ddvae.training import pace
from tune_ddvae.training.pace import measure_pace


@pytest.fixture(autouse=True)
def _each_batch_takes_a_second(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(pace.time, "perf_counter", lambda: next(ticks))


def _batches(config) -> float:
    seconds = measure_pace(config, CPU).seconds_per_epoch
    return seconds / (1 + pace._EVALUATION_SHARE)


def test_an_epoch_takes_its_batches_and_the_metrics_share(config):
    batch_size, images = config.training.batch_size, config.data.train_size
    assert _batches(config) == pytest.approx(-(-images // batch_size))


def test_an_epoch_of_fewer_images_takes_fewer_batches():
    assert _batches(tiny(training__images_per_epoch=65)) == pytest.approx(2)


@pytest.mark.parametrize("limit", ["data__num_train", "training__images_per_epoch"])
def test_a_batch_is_no_larger_than_an_epoch(limit):
    config = tiny(training__batch_size=1000, **{limit: 50})
    assert _batches(config) == pytest.approx(1)


@pytest.mark.parametrize("learns", [False, True])
def test_data_are_not_needed_for_a_prior_that_follows_them(learns):
    config = tiny(prior__kind="anisotropic", prior__learns_variance=learns)
    assert _batches(config) == pytest.approx(4)


def test_parameters_are_those_of_the_model(config):
    vae = make_vae(config, stream(0, "any"))
    expected = sum(parameter.numel() for parameter in vae.parameters())
    assert measure_pace(config, CPU).num_parameters == expected
