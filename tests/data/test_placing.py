import functools

import pytest

from tune_ddvae import data
from tune_ddvae.config import DataConfig
from tune_ddvae.data import cache, dsprites, placing
from tune_ddvae.data.placing import Parcel, pack, settle
from tune_ddvae.errors import DataError

FASHION = DataConfig(name="fashion_mnist", num_train=20, num_test=5)
SPRITES = DataConfig(name="dsprites", num_train=20, num_test=5)


@pytest.fixture
def fashion(fake_files, monkeypatch):
    """Fashion-MNIST as a whole, with the few images that the tests have."""
    for table in (data._PREPARE, data._FOUND, data._LOAD, data._CHECKSUM, placing._FILES):
        function = table["fashion_mnist"]
        monkeypatch.setitem(
            table, "fashion_mnist", functools.partial(function, source=fake_files.source)
        )
    monkeypatch.setattr(placing, "_held", set())
    return fake_files


@pytest.fixture
def other_machine(monkeypatch, tmp_path):
    """From here on another machine is meant, with a cache of its own."""
    monkeypatch.setenv("TUNE_DDVAE_CACHE", str(tmp_path / "other cache"))
    return tmp_path / "other cache"


def wanted() -> str:
    return data.checksum(FASHION)


def never() -> Parcel:
    raise AssertionError("nothing had to be fetched")


def test_a_machine_without_the_files_trains_on_those_that_it_was_sent(fashion, tmp_path, request):
    given = fashion.write(tmp_path / "given")
    parcel = pack(FASHION, given)
    here = data.load(FASHION, given)
    request.getfixturevalue("other_machine")
    folder = settle(FASHION, tmp_path / "not there", wanted(), lambda: parcel)
    there = data.load(FASHION, folder)
    assert there.checksum == here.checksum
    assert (there.train.inputs == here.train.inputs).all()


def test_they_are_fetched_once_and_lie_in_the_data_cache(fashion, tmp_path, other_machine):
    parcel = pack(FASHION, fashion.write(tmp_path / "given"))
    first = settle(FASHION, None, wanted(), lambda: parcel)
    assert first.is_relative_to(other_machine)
    assert sorted(path.name for path in first.iterdir()) == sorted(parcel.files)
    data.prepare(FASHION, first)
    assert settle(FASHION, None, wanted(), never) is None  # its own cache has them now


def test_a_folder_that_exists_here_too_is_used(fashion, tmp_path, other_machine):
    given = fashion.write(tmp_path / "given")
    assert settle(FASHION, given, wanted(), never) == given


def test_a_given_folder_that_is_damaged_here_is_passed_over(fashion, tmp_path, other_machine):
    parcel = pack(FASHION, fashion.write(tmp_path / "given"))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    assert settle(FASHION, damaged, wanted(), lambda: parcel) not in (None, damaged)


def test_a_writer_that_was_killed_leaves_nothing_that_counts(fashion, tmp_path, other_machine):
    parcel = pack(FASHION, fashion.write(tmp_path / "given"))
    rest = other_machine / placing.FOLDER / f"{parcel.key}.part"
    rest.mkdir(parents=True)
    (rest / "half").touch()
    folder = settle(FASHION, None, wanted(), lambda: parcel)
    assert sorted(path.name for path in folder.iterdir()) == sorted(parcel.files)


def test_what_arrives_damaged_is_refused_when_it_is_read(fashion, tmp_path, other_machine):
    parcel = pack(FASHION, fashion.write(tmp_path / "given"))
    broken = Parcel(parcel.key, dict.fromkeys(parcel.files, b"no"))
    folder = settle(FASHION, None, wanted(), lambda: broken)
    with pytest.raises(DataError, match="damaged or another file"):
        data.prepare(FASHION, folder)


def test_with_nothing_to_send_a_machine_looks_in_its_own_places(fashion, tmp_path):
    assert settle(FASHION, tmp_path / "not there", wanted()) is None
    assert settle(FASHION, tmp_path, wanted()) == tmp_path


@pytest.mark.parametrize("name", ["pinwheel", "digits"])
def test_data_without_files_need_no_parcel(name):
    assert pack(DataConfig(name=name)) is None


def test_a_machine_that_would_have_to_fetch_has_nothing_to_send(fashion):
    assert pack(FASHION) is None


def test_an_earlier_download_is_sent(fashion, tmp_path):
    folder = cache.cache_dir() / "fashion_mnist" / "downloads"
    fashion.write(folder)
    parcel = pack(FASHION)
    assert dict(parcel.files) == fashion.contents


@pytest.mark.parametrize("has_archive", [True, False])
def test_dsprites_are_sent_where_they_are_not_drawn(
    has_archive, few_sprites, fake_archive, tmp_path, request
):
    folder = fake_archive.write(tmp_path / "given") if has_archive else None
    checksum = dsprites.checksum(SPRITES, folder, few_sprites)
    found = dsprites.files(folder, few_sprites)
    assert bool(found) == has_archive
    request.getfixturevalue("other_machine")
    settled = placing._lay(Parcel("key", found)) if found else None
    assert dsprites.checksum(SPRITES, settled, few_sprites) == checksum
    assert len(dsprites.load(SPRITES, settled, few_sprites).train) == 20
