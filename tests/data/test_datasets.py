import pytest
from click.testing import CliRunner

from tune_ddvae import data, exit_codes
from tune_ddvae.config import DATASETS, DataConfig
from tune_ddvae.data import fashion_mnist
from tune_ddvae.data.__main__ import main
from tune_ddvae.data.sprites_archive import NAME

BUNDLED = ("pinwheel", "digits")


def test_every_data_set_of_the_configuration_can_be_loaded():
    assert set(data._LOAD) == set(data._CHECKSUM) == set(DATASETS)
    assert set(data._PREPARE) == set(DATASETS) - set(BUNDLED)


@pytest.fixture(params=[*BUNDLED, "dsprites"])
def name(request, monkeypatch):
    """Of each data set that needs no file of others."""
    if request.param == "dsprites":
        cache = request.getfixturevalue("full_sprites_cache")
        monkeypatch.setenv("TUNE_DDVAE_CACHE", str(cache))
    return request.param


def test_data_agree_with_what_the_configuration_says_of_them(name):
    loaded, facts = data.load(DataConfig(name=name)), DATASETS[name]
    assert loaded.name == name
    assert (len(loaded.train), len(loaded.test)) == (facts.max_train, facts.max_test)
    for split in (loaded.train, loaded.test):
        assert loaded.to_float(split.head(3)).shape == (3, *facts.shape)
        assert len(split.classes) == len(split)
    assert loaded.validation is None
    assert loaded.train.classes.max() + 1 == len(loaded.class_names)
    assert (loaded.grid is not None) == facts.has_factors


def test_checksum_is_that_of_the_loaded_data(name):
    config = DataConfig(name=name, num_train=60, num_validation=20)
    assert data.checksum(config) == data.load(config).checksum
    assert data.checksum(config) != data.checksum(DataConfig(name=name))


@pytest.mark.parametrize("bundled", BUNDLED)
def test_bundled_data_need_no_files_and_ignore_the_folder(bundled, tmp_path):
    assert data.prepare(DataConfig(name=bundled), tmp_path / "nowhere") is None
    data.load(DataConfig(name=bundled), tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("words", "file"), [([], f"{fashion_mnist.TEST_LABELS}.gz"), (["dsprites"], NAME)]
)
def test_command_names_what_is_missing_and_fails(tmp_path, words, file):
    result = CliRunner().invoke(main, [*words, "--data-dir", str(tmp_path)])
    assert result.exit_code == exit_codes.REFUSED
    assert f"{tmp_path}/{file}" in result.output


def test_command_fetches_dsprites_only_when_told_and_then_draws_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNE_DDVAE_MIRROR", "http://127.0.0.1:1/")
    result = CliRunner().invoke(main, ["dsprites", "--fetch"])
    assert result.exit_code == exit_codes.REFUSED
    assert f"could not be fetched: http://127.0.0.1:1/{NAME}" in result.output
    assert not list((tmp_path / "cache").rglob("*.bin"))


@pytest.mark.parametrize(
    "words", [["digits", "--fetch"], ["dsprites", "--fetch", "--data-dir", "there"]]
)
def test_command_refuses_to_fetch_what_it_would_not_use(words):
    result = CliRunner().invoke(main, words)
    assert result.exit_code == exit_codes.REFUSED
    assert "--fetch" in result.output


def test_command_says_where_data_need_nothing():
    assert CliRunner().invoke(main, ["digits"]).output == "digits needs no files\n"
