import pytest
import torch

from tests.metrics.grids import (
    ENCODERS,
    GOLDEN,
    SMALL,
    factors,
    generator,
    golden_rows,
    normal,
    spread,
)
from tune_ddvae.errors import AbsentMetric
from tune_ddvae.metrics.dci import dci, dci_completeness, dci_disentanglement


def _score(codes, values=None, num_train=2000, num_test=1000, seed=0):
    values = factors(SMALL).long() if values is None else values
    is_unordered = (True,) + (False,) * (values.shape[1] - 1)
    return dci(
        codes,
        values,
        is_unordered,
        num_train=num_train,
        num_test=num_test,
        generator=generator(seed),
    )


@pytest.mark.parametrize("encoder", ENCODERS)
def test_its_formulas_agree_with_the_fields_standard_implementation(encoder):
    importance = torch.from_numpy(GOLDEN[f"{encoder}_importance"])
    expected = float(GOLDEN[f"{encoder}_dci_disentanglement"])
    assert dci_disentanglement(importance) == pytest.approx(expected, abs=1e-6)
    expected = float(GOLDEN[f"{encoder}_dci_completeness"])
    assert dci_completeness(importance) == pytest.approx(expected, abs=1e-6)


def test_encoders_are_ordered_as_by_mutual_information():
    rotated, mixed, aligned = (
        _score(*golden_rows()[encoder]).disentanglement
        for encoder in ("rotated", "mixed", "aligned")
    )
    assert rotated < mixed < aligned
    assert aligned > 0.99


def test_one_dimension_for_two_factors_is_complete_but_not_disentangled():
    importance = torch.tensor([[0.5, 0.5], [0.0, 0.0]], dtype=torch.float64)
    assert dci_disentanglement(importance) == 0.0
    assert dci_completeness(importance) == 1.0
    assert dci_disentanglement(importance.T.contiguous()) == 1.0
    assert dci_completeness(importance.T.contiguous()) == 0.0


def test_no_importance_at_all_is_zero():
    nothing = torch.zeros(3, 2, dtype=torch.float64)
    assert dci_disentanglement(nothing) == dci_completeness(nothing) == 0.0


def test_informativeness_is_one_for_perfect_codes_and_none_for_random_ones():
    assert _score(spread(SMALL)).informativeness > 0.99
    assert abs(_score(normal(11_520, 5)).informativeness) < 0.2


def test_rotated_codes_are_informative_but_not_disentangled():
    result = _score(*golden_rows()["rotated"])
    assert result.informativeness > 0.9
    assert result.disentanglement < 0.4
    assert result.completeness < 0.7


def test_fewer_points_than_asked_for_are_shared_out_in_proportion():
    which = torch.arange(0, 11_520, 192)
    result = _score(spread(SMALL)[which], factors(SMALL).long()[which])
    assert (result.num_train, result.num_test) == (40, 20)


def test_the_same_generator_gives_the_same_scores():
    codes = normal(11_520, 3) + spread(SMALL)[:, :3]
    assert _score(codes, seed=3) == _score(codes, seed=3)
    assert _score(codes, seed=3) != _score(codes, seed=4)


def test_one_factor_is_absent():
    with pytest.raises(AbsentMetric, match="two factors of more than one value, got 1"):
        _score(normal(8, 2), torch.arange(8)[:, None])
