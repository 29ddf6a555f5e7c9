import pytest
import torch
from torch import Tensor

from tests.benchmarks.bench_mmd import mmd_plain
from tests.numerics import golden
from tune_ddvae.objectives.mmd import SCALES, _over_pairs, mmd


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _value_and_gradient(function, codes, prior_sample):
    codes = codes.clone().requires_grad_()
    value = function(codes, prior_sample)
    value.backward()
    return value.detach(), codes.grad


def test_value_and_gradient_match_the_golden_ones():
    value, gradient = _value_and_gradient(
        mmd, golden("mmd_posterior_sample"), golden("mmd_prior_sample")
    )
    torch.testing.assert_close(value, golden("mmd"), rtol=1e-6, atol=0)
    expected = golden("mmd_grad_posterior_sample")
    torch.testing.assert_close(
        gradient, expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item()
    )


CODES = {
    "near the prior": _normal(60, 4),
    "spread out": 4.0 * _normal(60, 4),
    "collapsed": 1e-3 * _normal(60, 4) + 0.3,
    "all equal": torch.zeros(60, 4),
    "too far apart for a grid": torch.cat([_normal(59, 4), torch.full((1, 4), 1e4)]),
    "beyond any square": torch.cat([_normal(59, 4), torch.full((1, 4), 1e18)]),
}


@pytest.mark.parametrize("case", CODES)
def test_fast_sum_is_the_plain_sum_over_pairs(case):
    prior_sample = _normal(60, 4, seed=1)
    expected, expected_gradient = _value_and_gradient(
        mmd_plain, CODES[case].double(), prior_sample.double()
    )
    value, gradient = _value_and_gradient(mmd, CODES[case], prior_sample)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    error = (gradient - expected_gradient).norm() / expected_gradient.norm()
    assert error < 1e-5


def test_sum_over_pairs_agrees_with_the_grid_for_more_dimensions_than_fit_at_a_time():
    codes, prior_sample = 2.0 * _normal(200, 7).double(), _normal(200, 7, seed=1).double()
    on_grid, gradient_on_grid = _value_and_gradient(mmd, codes, prior_sample)
    over_pairs, gradient_over_pairs = _over_pairs(
        torch.stack([codes, prior_sample]).transpose(1, 2)
    )
    torch.testing.assert_close(on_grid, over_pairs, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient_on_grid, gradient_over_pairs.T, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("num", "num_dims"), [(2, 1), (3, 5), (257, 1)])
def test_any_number_of_codes_and_dimensions_will_do(num, num_dims):
    codes, prior_sample = _normal(num, num_dims), _normal(num, num_dims, seed=1)
    expected = mmd_plain(codes.double(), prior_sample.double())
    assert mmd(codes, prior_sample).item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradient_is_the_values_own():
    codes = _normal(6, 2).double().requires_grad_()
    torch.autograd.gradcheck(mmd, (codes, _normal(6, 2, seed=1).double()), atol=1e-6)


def test_gradient_flows_to_the_prior_sample_too():
    prior_sample = _normal(6, 2, seed=1).double().requires_grad_()
    torch.autograd.gradcheck(
        mmd, (_normal(6, 2).double().requires_grad_(), prior_sample), atol=1e-6
    )


def test_sample_against_itself_is_slightly_negative_and_not_clamped():
    codes = _normal(500, 10)
    value = mmd(codes, codes).item()
    # Pairs of a point with itself are counted across the samples and not within.
    assert -2 * len(SCALES) * 10 / 500 < value < 0


def test_unbiased_between_samples_of_one_distribution():
    values = [mmd(_normal(50, 3, seed=i), _normal(50, 3, seed=1000 + i)).item() for i in range(64)]
    mean, spread = torch.tensor(values).mean().item(), torch.tensor(values).std().item()
    assert abs(mean) < 3 * spread / 8
    assert min(values) < 0


def test_equal_samples_give_bitwise_equal_gradients():
    codes, prior_sample = _normal(200, 20), _normal(200, 20, seed=1)
    first, second = (_value_and_gradient(mmd, codes, prior_sample) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_codes_that_diverged_give_no_number(value):
    codes = _normal(10, 2)
    codes[3, 1] = value
    assert not mmd(codes, _normal(10, 2, seed=1)).isfinite()
