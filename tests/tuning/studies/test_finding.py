import os

import pytest

from tests.job_server import running
from tests.tuning.studies.test_listing import make
from tune_ddvae.errors import ConfigError, JobError, RecordError
from tune_ddvae.tuning.jobs.jobs import Cargo
from tune_ddvae.tuning.provenance import command
from tune_ddvae.tuning.storage.folders import slug
from tune_ddvae.tuning.storage.lock import sole_driver
from tune_ddvae.tuning.studies.finding import Found, find, where_it_prints
from tune_ddvae.tuning.studies.listed import Listed, Standing


@pytest.fixture
def cluster():
    with running() as cluster:
        yield cluster


def add(cluster, job_id: str, storage: str, start_time: int = 1000, study: str = "a") -> None:
    cargo = Cargo(study=study, storage=storage, words=("x",))
    cluster.add(job_id, metadata=cargo.metadata(), start_time=start_time)


def test_without_a_cluster_a_study_is_looked_for_in_its_storage(tmp_path):
    make(tmp_path, "a", ended_as="complete")
    assert find("a", storage=str(tmp_path)).study.name == "a"
    with pytest.raises(RecordError, match="unknown study 'b'"):
        find("b", storage=str(tmp_path))


def test_on_a_cluster_the_newest_job_comes_first_wherever_it_keeps_its_study(cluster, tmp_path):
    add(cluster, "a-1", "/shared", start_time=1000)
    add(cluster, "a-2", "/shared", start_time=2000)
    add(cluster, "b-1", "/shared", start_time=3000, study="b")
    found = find("a", storage=str(tmp_path / "nowhere"), address=cluster.address, anywhere=True)
    assert [job.id for job in found.jobs] == ["a-2", "a-1"]
    assert found.study is None


def test_the_record_is_found_beside_the_job_where_it_can_be_seen(cluster, tmp_path):
    make(tmp_path, "a", ended_as="complete")
    add(cluster, "a-1", str(tmp_path))
    found = find("a", storage=str(tmp_path), address=cluster.address)
    assert found.study.place == found.jobs[0].place


def test_a_local_study_is_not_taken_for_the_clusters(cluster, tmp_path):
    make(tmp_path, "a", ended_as="complete")
    add(cluster, "a-1", "/shared")
    found = find("a", storage=str(tmp_path), address=cluster.address, anywhere=True)
    assert found.study is None
    assert len(found.jobs) == 1


def test_two_studies_of_one_name_are_not_guessed_between(cluster, tmp_path):
    add(cluster, "a-1", "/one")
    add(cluster, "a-2", "/two")
    with pytest.raises(ConfigError, match="/one and /two.*--storage"):
        find("a", storage=str(tmp_path), address=cluster.address, anywhere=True)
    found = find("a", storage="/two", address=cluster.address)
    assert [job.id for job in found.jobs] == ["a-2"]


def test_a_study_whose_jobs_the_cluster_has_forgotten_is_found_by_its_record(cluster, tmp_path):
    make(tmp_path, "a", ended_as="complete")
    found = find("a", storage=str(tmp_path), address=cluster.address, anywhere=True)
    assert found.study.name == "a"
    assert not found.jobs


def test_what_neither_knows_is_refused(cluster, tmp_path):
    with pytest.raises(JobError, match="has no job of a study 'a'.*--submit"):
        find("a", storage=str(tmp_path / "nowhere"), address=cluster.address, anywhere=True)


def test_where_a_study_prints_that_is_no_job(tmp_path):
    make(tmp_path, "a", ended_as="complete")
    text = "\n".join(where_it_prints(find("a", storage=str(tmp_path))))
    assert "no driver holds it" in text
    assert "python -m tune_ddvae.study simulated" in text
    assert str(tmp_path) in text


@pytest.mark.parametrize("words", [["--submit", "http://head:8265"], ["--submit=http://head:8265"]])
def test_the_logs_of_a_study_that_was_sent_are_asked_of_that_cluster(words):
    study = Listed(
        name="a b",
        standing=Standing.INTERRUPTED,
        storage="/shared",
        command=command("tune_ddvae.study", ["sparsity", *words, "--quick"]),
    )
    text = "\n".join(where_it_prints(Found(study=study)))
    assert "studies logs 'a b' --storage /shared --address http://head:8265" in text
    assert "terminal" not in text


def test_where_a_running_study_prints_is_said_though_its_record_cannot_be_read(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "record.db").write_bytes(b"no database at all" * 100)
    with sole_driver(tmp_path / "a"):
        text = "\n".join(where_it_prints(find("a", storage=str(tmp_path))))
    assert f"its driver is process {os.getpid()}" in text
    assert "\nunreadable: " in text


def test_what_is_told_of_a_study_is_one_harmless_line_each():
    study = Listed(name="a\x1b[2J", standing=Standing.INTERRUPTED, command="x\ny", folder="/\udcff")
    lines = where_it_prints(Found(study=study))
    assert all(line.isprintable() for line in lines)


def test_a_study_that_has_recorded_nothing_yet_is_found_where_a_cluster_is_asked(cluster, tmp_path):
    folder = tmp_path / slug("A B")
    folder.mkdir()
    with sole_driver(folder):
        found = find("A B", storage=str(tmp_path), address=cluster.address)
    assert found.study.holder.pid == os.getpid()
