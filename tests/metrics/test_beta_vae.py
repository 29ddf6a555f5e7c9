import pytest

from tests.metrics.grids import (
    ENCODERS,
    GOLDEN,
    SIZES,
    SMALL,
    generator,
    golden_codes,
    normal,
    spread,
)
from tune_ddvae.metrics.beta_vae import beta_vae


def _score(codes, sizes=SMALL, seed=0, group=64, train_votes=3000, test_votes=1500):
    return beta_vae(
        codes,
        sizes,
        group=group,
        train_votes=train_votes,
        test_votes=test_votes,
        generator=generator(seed),
    )


@pytest.mark.parametrize("encoder", ENCODERS)
def test_it_agrees_with_the_fields_standard_implementation(encoder):
    result = _score(golden_codes(encoder), SIZES)
    train, test = GOLDEN[f"{encoder}_beta_vae_train_eval"].mean(0)
    assert result.train_score == pytest.approx(train, abs=0.03)
    assert result.score == pytest.approx(test, abs=0.03)


def test_the_same_generator_gives_the_same_score():
    codes = spread(SMALL) + normal(len(spread(SMALL)), 5)
    few = {"train_votes": 200, "test_votes": 100, "group": 8}
    assert _score(codes, seed=3, **few) == _score(codes, seed=3, **few)
    assert _score(codes, seed=3, **few) != _score(codes, seed=4, **few)


def test_votes_fewer_than_factors_still_have_a_score():
    assert 0 <= _score(spread(SMALL), train_votes=2, test_votes=1, group=1).score <= 1
