import dataclasses

import numpy as np
import pytest
import torch

from tune_ddvae import data
from tune_ddvae.config import DataConfig
from tune_ddvae.data import dsprites, principal, principal_variances
from tune_ddvae.data.dataset import Dataset, Split


def by_singular_values(dataset: Dataset, num: int) -> np.ndarray:
    points = dataset.to_float(dataset.train.head(num)).flatten(1).double().numpy()
    singular = np.linalg.svd(points - points.mean(0), compute_uv=False)
    return singular**2 / (num - 1)


@pytest.fixture
def digits() -> Dataset:
    return data.load(DataConfig(name="digits", num_train=300))


def test_pinwheel_has_the_variances_of_a_plane():
    loaded = data.load(DataConfig(name="pinwheel"))
    covariance = np.cov(loaded.train.inputs.double().numpy().T)
    assert principal_variances(loaded, 2) == pytest.approx(np.linalg.eigvalsh(covariance)[::-1])


def test_variances_are_those_of_the_centred_data_as_a_model_sees_them(digits):
    variances = principal_variances(digits, 20)
    assert variances.dtype == torch.float64
    assert variances == pytest.approx(by_singular_values(digits, 300)[:20], rel=1e-9)


def test_packed_images_count_as_zeros_and_ones(few_sprites):
    config = DataConfig(name="dsprites", num_train=150, num_test=40)
    loaded = dsprites.load(config, None, few_sprites)
    variances = principal_variances(loaded, 30)
    assert variances == pytest.approx(by_singular_values(loaded, 150)[:30], rel=1e-9)


def test_fewer_variances_are_the_first_of_more(digits):
    assert torch.equal(principal_variances(digits, 3), principal_variances(digits, 9)[:3])
    assert principal_variances(digits, 9).diff().max() < 0.0


def test_of_very_many_points_the_first_stand_for_all(digits, monkeypatch):
    monkeypatch.setattr(principal, "ALL_POINTS", 299)
    monkeypatch.setattr(principal, "SOME_POINTS", 120)
    expected = by_singular_values(digits, 120)[:5]
    assert principal_variances(digits, 5) == pytest.approx(expected, rel=1e-9)


def test_they_are_computed_once_per_machine(digits, monkeypatch):
    before = principal_variances(digits, 5)

    def fail(_dataset: Dataset) -> np.ndarray:
        raise AssertionError("computed again")

    monkeypatch.setattr(principal, "_all_variances", fail)
    assert torch.equal(principal_variances(digits, 5), before)


def test_other_data_have_their_own(digits):
    other = data.load(DataConfig(name="digits", num_train=300, seed=1))
    cut = dataclasses.replace(digits, train=Split(digits.train.head(100), None))
    found = {float(principal_variances(one, 1)) for one in (digits, other, cut)}
    assert len(found) == 3


def test_there_is_one_for_each_dimension_of_the_data_at_most():
    loaded = data.load(DataConfig(name="pinwheel"))
    assert len(principal_variances(loaded, 3)) == 2


def test_directions_in_which_nothing_varies_have_next_to_none(digits):
    few = dataclasses.replace(digits, train=Split(digits.train.head(6), None))
    shares = principal_variances(few, 9) / principal_variances(few, 1)
    assert shares[4] > 1e-3  # six points span five directions
    assert shares[5:].max() < 1e-12


def test_a_single_point_has_no_variance():
    one = data.load(DataConfig(name="pinwheel", num_train=1))
    assert principal_variances(one, 2).tolist() == [0.0, 0.0]
