import dataclasses

import pytest

from tests.tuning.simulated import make_spec, open_study
from tune_ddvae.errors import RecordError
from tune_ddvae.tuning.jobs import holding
from tune_ddvae.tuning.jobs.holding import holder_at, holder_in, living
from tune_ddvae.tuning.storage.folders import slug
from tune_ddvae.tuning.storage.lock import Holder, sole_driver

LEASED = Holder("vm", 27051, 1e9, left_s=12.4)


def look_at(*seen):
    """A look that finds these, one after another, and the last one ever after."""
    left = list(seen)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(holding, "LOOK_EVERY_S", 0.01)


def test_the_driver_of_a_storage_is_found_and_nothing_is_made(tmp_path):
    name = "Mine, the first"
    assert holder_at(name, str(tmp_path)) is None
    assert not list(tmp_path.iterdir())
    (tmp_path / slug(name)).mkdir()
    with sole_driver(tmp_path / slug(name)):
        assert holder_at(name, str(tmp_path)).is_here
    assert holder_at(name, str(tmp_path)) is None


def test_the_driver_of_a_database_is_found_by_its_studys_name(server, tmp_path):
    database = server.new_database()
    study = open_study(tmp_path, make_spec(), name="a", url=database)
    try:
        assert holder_at("a", "/shared", database).is_here
        assert holder_at("b", "/shared", database) is None
    finally:
        study.record.close()
    assert holder_at("a", "/shared", database) is None


def test_a_database_that_cannot_be_read_from_here_shows_no_driver_and_never_that_there_is_none():
    nowhere = "postgresql://user@127.0.0.1:9/studies"
    assert holder_at("a", "/shared", nowhere) is None
    with pytest.raises(RecordError, match="127.0.0.1:9"):
        holder_in(nowhere, "a")


@pytest.mark.parametrize("holder", [None, dataclasses.replace(LEASED, left_s=None)])
def test_without_a_lease_there_is_nothing_to_wait_for(holder):
    told = []
    assert living(look_at(holder), told.append) is holder
    assert not told


def test_a_lease_that_is_renewed_is_a_living_drivers():
    told = []
    renewed = dataclasses.replace(LEASED, left_s=29.9)
    assert living(look_at(LEASED, LEASED, renewed), told.append) is renewed
    (line,) = told
    assert line.startswith(f"the study is held by {LEASED}: waiting")
    assert "runs out within 13 s if it is dead" in line


def test_a_lease_that_runs_out_was_a_dead_drivers():
    ending = (dataclasses.replace(LEASED, left_s=left_s) for left_s in (12.3, 6.0, 0.0))
    assert living(look_at(LEASED, *ending, None), lambda _: None) is None


def test_who_takes_the_study_after_a_dead_driver_holds_it():
    other = Holder("vm", 3, 2e9, left_s=30.0)
    assert living(look_at(LEASED, other), lambda _: None) is other
