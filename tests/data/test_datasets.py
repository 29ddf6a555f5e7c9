import pytest
from click.testing import CliRunner

from tune_ddvae import data
from tune_ddvae.config import DATASETS, DataConfig
from tune_ddvae.data import fashion_mnist
from tune_ddvae.data.__main__ import main

BUNDLED = ("pinwheel", "digits")


def test_every_data_set_of_the_configuration_can_be_loaded():
    assert set(data._LOAD) == set(data._CHECKSUM) == set(DATASETS)
    assert set(data._PREPARE) == set(DATASETS) - set(BUNDLED)


@pytest.mark.parametrize("name", BUNDLED)
def test_data_agree_with_what_the_configuration_says_of_them(name):
    loaded, facts = data.load(DataConfig(name=name)), DATASETS[name]
    assert loaded.name == name
    assert loaded.train.inputs.shape == (facts.max_train, *facts.shape)
    assert loaded.test.inputs.shape == (facts.max_test, *facts.shape)
    assert loaded.validation is None
    assert loaded.train.classes.max() + 1 == len(loaded.class_names)


@pytest.mark.parametrize("name", BUNDLED)
def test_checksum_is_that_of_the_loaded_data(name):
    config = DataConfig(name=name, num_train=60, num_validation=20)
    assert data.checksum(config) == data.load(config).checksum
    assert data.checksum(config) != data.checksum(DataConfig(name=name))


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_data_need_no_files_and_ignore_the_folder(name, tmp_path):
    assert data.prepare(DataConfig(name=name), tmp_path / "nowhere") is None
    data.load(DataConfig(name=name), tmp_path / "nowhere")


def test_command_names_what_is_missing_and_fails(tmp_path):
    result = CliRunner().invoke(main, ["--data-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert f"{tmp_path}/{fashion_mnist.TEST_LABELS}.gz" in result.output


def test_command_says_where_data_need_nothing():
    assert CliRunner().invoke(main, ["digits"]).output == "digits needs no files\n"
