import pytest

from tune_ddvae.errors import ConfigError
from tune_ddvae.tuning.jobs.jobs import Cargo, Job, cargo_of, checked_address, jobs_of

CARGO = Cargo(study="a b/ü", storage="/shared", record="", words=("x.py", "--set", "k=v w"))


def test_what_is_written_to_a_job_is_read_back():
    assert cargo_of(CARGO.metadata()) == CARGO
    assert all(isinstance(value, str) for value in CARGO.metadata().values())


@pytest.mark.parametrize(
    "changes",
    [
        {"tune_ddvae.words": "{"},
        {"tune_ddvae.words": "7"},
        {"tune_ddvae.study": None},
        {"tune_ddvae.storage": None},
    ],
)
def test_what_others_wrote_is_no_study_of_ours(changes):
    metadata = {key: value for key, value in (CARGO.metadata() | changes).items() if value}
    assert cargo_of(metadata) is None
    assert cargo_of({}) is None


def test_studies_of_one_name_are_told_apart_by_where_they_are_kept():
    here = Job(id="1", status="RUNNING", cargo=CARGO)
    there = Job(id="2", status="RUNNING", cargo=Cargo(study=CARGO.study, storage="/other"))
    other = Job(id="3", status="RUNNING")
    served = Job(
        id="4", status="RUNNING", cargo=Cargo(study=CARGO.study, storage="/shared", record="db")
    )
    assert jobs_of([here, there, other, served], CARGO.place) == [here]


def test_a_job_is_live_until_it_has_ended():
    ended = ("STOPPED", "SUCCEEDED", "FAILED")
    assert all(Job(id="1", status=status).is_live for status in ("PENDING", "RUNNING"))
    assert not any(Job(id="1", status=status).is_live for status in ended)


@pytest.mark.parametrize("unseen", [" ", "\t", "\n", "\r", "\0", "\x7f", "\u00a0", "\u200b"])
@pytest.mark.parametrize(
    "address", ["http://h{}h:80", "{}http://h:80", "http://h:80{}", "http://h:{}80"]
)
def test_an_address_holds_nothing_that_cannot_be_seen(address, unseen):
    assert checked_address(address.format("")) == address.format("")
    with pytest.raises(ConfigError, match="http://HEAD:8265"):
        checked_address(address.format(unseen))
