from search_spaces import clustering
from tests.tuning.simulated import make_spec
from tune_ddvae.config import to_flat
from tune_ddvae.tuning.search.sampling import searched_params
from tune_ddvae.tuning.wording import (
    duration,
    figure,
    file_size,
    number,
    params_text,
    searched,
    short_names,
    shown_metrics,
)


def test_numbers_keep_four_digits_and_whole_ones_all():
    assert [number(v) for v in (0.123456, 64, 1234.56, 123456.7, None, "mmd")] == [
        "0.1235",
        "64",
        "1235",
        "123457",
        "none",
        "mmd",
    ]
    assert [figure(v) for v in (0.4, -236.0, 1234.5)] == ["0.4000", "-236.0", "1234"]


def test_durations_and_sizes_read_well():
    assert [duration(s) for s in (0.2, 59.0, 61.0, 3599.6, 5400.0, 90_000.0)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "1 h",
        "1 h 30 min",
        "1 d 1 h",
    ]
    assert [file_size(b) for b in (999, 1_530_000, 4 * 10**12)] == ["999 B", "1.53 MB", "4 TB"]


def test_short_names_stay_unique():
    names = short_names(["prior/kind", "prior/scale", "likelihood/scale", "objective/beta"])
    assert list(names.values()) == ["prior", "prior/scale", "likelihood/scale", "beta"]


def test_a_setting_outside_the_space_still_shows_its_searched_keys():
    spec = clustering.STUDY
    config = {**to_flat(spec.base), "objective/alpha": 0.0}
    assert searched_params(spec, config) is None
    assert searched(spec, config)["objective/alpha"] == 0.0
    assert params_text(spec, config) == "beta 1, alpha 0, learning_rate 0.001"


def test_sparsity_never_stands_without_its_active_units():
    spec = make_spec(rank_by={"log_likelihood/iwae": "max", "sparsity/hoyer": "max"})
    assert shown_metrics(spec) == (
        "log_likelihood/iwae",
        "sparsity/hoyer",
        "latent/active_units",
    )
    assert shown_metrics(make_spec(rank_by={"latent/active_units": "min"})) == (
        "latent/active_units",
    )
