import math

import pytest
import torch

from tests.metrics.grids import ENCODERS, GOLDEN, golden_rows, normal
from tune_ddvae.errors import AbsentMetric
from tune_ddvae.metrics.mutual_information import Information, information, mig, modularity


def _known(mutual, entropy=None):
    mutual = torch.tensor(mutual, dtype=torch.float64)
    if entropy is None:
        entropy = [1.0] * mutual.shape[1]
    return Information(mutual, torch.tensor(entropy, dtype=torch.float64))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_it_agrees_with_the_fields_standard_implementation(encoder):
    known = information(*golden_rows()[encoder], num_bins=20)
    expected = torch.from_numpy(GOLDEN[f"{encoder}_mutual_information"])
    torch.testing.assert_close(known.mutual, expected, rtol=0, atol=1e-6)
    assert mig(known) == pytest.approx(float(GOLDEN[f"{encoder}_mig"]), abs=1e-6)
    assert modularity(known) == pytest.approx(float(GOLDEN[f"{encoder}_modularity"]), abs=1e-6)


def test_a_dimension_that_copies_a_factor_knows_its_entropy():
    values = torch.tensor([[0], [1], [2], [3]] * 5)
    known = information(values.double(), values)
    assert known.entropy.tolist() == pytest.approx([math.log(4)])
    assert known.mutual.tolist() == [pytest.approx([math.log(4)])]


def test_information_is_zero_for_factors_that_are_independent_of_the_codes():
    codes = torch.tensor([0.0, 0.0, 1.0, 1.0])[:, None]
    assert information(codes, torch.tensor([0, 1, 0, 1])[:, None]).mutual.item() < 1e-15


def test_bins_have_equal_width_and_the_greatest_code_lies_in_the_last():
    codes = torch.tensor([0.0, 0.49, 0.51, 1.0])[:, None]
    values = torch.tensor([0, 0, 1, 1])[:, None]
    assert information(codes, values, num_bins=2).mutual.item() == pytest.approx(math.log(2))
    with_outlier = torch.tensor([0.0, 0.49, 0.51, 10.0])[:, None]
    assert information(with_outlier, values, num_bins=2).mutual.item() < math.log(2)


def test_the_gap_is_between_the_two_best_relative_to_the_entropy():
    known = _known([[1.0, 0.0], [0.25, 0.0], [0.0, 3.0]], entropy=[2.0, 4.0])
    assert mig(known) == pytest.approx((0.75 / 2 + 3 / 4) / 2)


def test_a_single_dimension_has_its_gap_to_nothing():
    assert mig(_known([[1.0]], entropy=[2.0])) == 0.5


def test_modularity_is_one_where_each_dimension_knows_one_factor():
    assert modularity(_known([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.1, 0.0]])) == 1.0


def test_modularity_is_zero_where_all_factors_are_known_alike():
    assert modularity(_known([[0.7, 0.7, 0.7]])) == pytest.approx(0.0, abs=1e-12)


def test_a_dimension_that_knows_nothing_has_no_part_in_modularity():
    assert modularity(_known([[0.0, 2.0], [1e-16, 1e-17]])) == 1.0


def test_codes_that_know_nothing_have_no_modularity():
    with pytest.raises(AbsentMetric, match="dimension that varies with a factor"):
        modularity(_known([[0.0, 0.0]]))


def test_one_factor_has_no_modularity():
    with pytest.raises(AbsentMetric, match="two factors"):
        modularity(_known([[1.0]]))


def test_no_factor_of_two_values_is_absent():
    with pytest.raises(AbsentMetric, match="factor of more than one value"):
        information(normal(10, 2), torch.zeros(10, 2, dtype=torch.int64))
