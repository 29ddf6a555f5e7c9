import pytest
import torch
from scipy import special, stats

from tests.numerics import golden
from tune_ddvae.config import PriorConfig
from tune_ddvae.models import make_prior
from tune_ddvae.models.transport import to_normal

DFS = [1e-3, 0.5, 2.0, 9.0, 100.0, 1e6, 1e12]


def _double(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_map_matches_the_golden_one():
    df, loc, scale = golden("student_t_df_loc_scale").tolist()
    codes = (golden("student_t_value").double() - loc) / scale
    torch.testing.assert_close(
        loc + scale * to_normal(codes, df), golden("student_t_to_normal"), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("df", DFS)
def test_probabilities_below_are_those_of_the_student_t(df):
    codes = torch.linspace(-8.0, 8.0, 321, dtype=torch.float64)
    expected = torch.from_numpy(stats.t.cdf(codes.numpy(), df))
    found = torch.from_numpy(special.ndtr(to_normal(codes, df).numpy()))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("df", DFS)
def test_both_tails_are_mapped_alike(df):
    codes = torch.logspace(-3.0, 18.0, 200, dtype=torch.float64)
    assert torch.equal(to_normal(codes, df), -to_normal(-codes, df))


@pytest.mark.parametrize(
    ("df", "code", "value"),
    [
        # By 60-digit arithmetic: the tail, from its hypergeometric series, and its normal quantile.
        (0.5, 1e18, 6.1799049788315394),
        (9.0, 10000000000.0, 19.772942393494872),
        (9.0, -1e18, -26.868764888943163),
        (100.0, 10000.0, 37.133957686123152),
        (100.0, -1e18, -88.455832052190573),
        (10000.0, 60.0, 55.449952166966755),
    ],
)
def test_far_tails_are_exact_where_probabilities_are_too_small_for_a_float(df, code, value):
    assert to_normal(_double(code), df).item() == pytest.approx(value, rel=1e-12)


def test_many_degrees_of_freedom_change_next_to_nothing():
    codes = _double([-200.0, -30.0, -1.0, 0.0, 0.1, 5.0, 38.0, 100.0])
    # Cornish and Fisher's first term.
    expected = codes - (codes**3 + codes) / (4.0 * 1e9)
    torch.testing.assert_close(to_normal(codes, 1e9), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("df", DFS)
def test_order_is_kept_and_the_far_formula_joins_without_a_step(df):
    codes = torch.linspace(25.0, 35.0, 2001, dtype=torch.float64)
    steps = to_normal(codes, df).diff()
    assert steps.min() > 0
    assert steps.diff().abs().max() < 1e-3 * steps.min()


@pytest.mark.parametrize("df", [1e-300, 1e-30, *DFS, 1e300])
def test_every_float32_code_has_a_finite_value(df):
    largest = torch.finfo(torch.float32).max
    codes = torch.tensor([-largest, -1e18, -1e4, -1e-40, 0.0, 1e-40, 1.0, 1e18, largest])
    found = to_normal(codes, df)
    assert found.dtype == torch.float64
    assert found.isfinite().all()


def test_shapes_stay():
    assert to_normal(torch.tensor(1.0), 9.0).shape == ()
    assert to_normal(torch.zeros(0, 3), 9.0).shape == (0, 3)
    assert to_normal(torch.zeros(2, 3, 4), 9.0).shape == (2, 3, 4)


def test_samples_of_the_prior_become_standard_normal():
    prior = make_prior(PriorConfig(kind="student_t", df=2.5), 3)
    codes = to_normal(prior.sample(10_000, torch.Generator().manual_seed(0)), 2.5)
    for dim in range(3):
        assert stats.kstest(codes[:, dim].numpy(), "norm").pvalue > 1e-3
