import pytest
import torch

from tests.metrics.grids import ENCODERS, GOLDEN, generator, golden_rows, normal
from tune_ddvae.errors import AbsentMetric
from tune_ddvae.metrics.sap import sap


def _classes(num, num_classes=4, seed=0):
    return torch.randint(num_classes, (num, 1), generator=generator(seed))


def _class_sap(codes, classes, seed=0):
    return sap(codes, classes, (True,), generator(seed))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_ordered_factors_agree_with_the_fields_standard_implementation(encoder):
    result = sap(*golden_rows()[encoder], (False,) * 5, generator())
    expected = float(GOLDEN[f"{encoder}_sap_continuous"])
    assert result.score == pytest.approx(expected, abs=1e-6)
    assert (result.num_points, result.num_train, result.num_test) == (4000, 0, 0)


def test_a_dimension_that_separates_all_classes_is_above_guessing_by_what_guessing_misses():
    classes = _classes(3000)
    codes = torch.cat([classes + 0.01 * normal(3000, 1), normal(3000, 1, seed=1)], 1)
    result = _class_sap(codes, classes)
    assert result.score == pytest.approx(1 - 1 / 4, abs=0.05)
    assert (result.num_train, result.num_test) == (2000, 1000)


def test_two_dimensions_that_separate_the_classes_leave_no_gap():
    classes = _classes(3000)
    codes = classes + 0.01 * normal(3000, 2)
    assert _class_sap(codes, classes).score == 0.0


def test_the_order_of_classes_along_a_dimension_does_not_matter():
    classes = _classes(3000, num_classes=3)
    places = torch.tensor([0.3, -7.0, 0.0])
    codes = torch.cat([places[classes] + 0.01 * normal(3000, 1), normal(3000, 1, seed=1)], 1)
    assert _class_sap(codes, classes).score == pytest.approx(2 / 3, abs=0.05)


def test_a_rare_class_counts_as_much_as_a_common_one():
    classes = (torch.arange(3000) % 100 == 0).long()[:, None]
    codes = torch.zeros(3000, 1, dtype=torch.float64)
    codes[::2] = normal(1500, 1)
    assert _class_sap(codes, classes).score < 0.6  # guessing the common one is right for 99 %


def test_at_most_fifteen_thousand_points_are_classified():
    classes = _classes(20_000)
    result = _class_sap(classes.double(), classes)
    assert (result.num_points, result.num_train, result.num_test) == (20_000, 10_000, 5_000)
    assert result.score == 0.75


def test_a_class_that_no_test_point_has_is_not_counted():
    classes = torch.tensor([[0], [1], [2]])
    assert _class_sap(classes.double(), classes).num_test == 1
    assert 0 <= _class_sap(classes.double(), classes).score <= 1


def test_the_same_generator_gives_the_same_score():
    classes = _classes(300)
    codes = classes + normal(300, 3)
    assert _class_sap(codes, classes, seed=3) == _class_sap(codes, classes, seed=3)
    assert _class_sap(codes, classes, seed=3) != _class_sap(codes, classes, seed=4)


def test_one_class_alone_is_absent():
    with pytest.raises(AbsentMetric, match="factor of more than one value"):
        _class_sap(normal(10, 2), torch.full((10, 1), 3))
