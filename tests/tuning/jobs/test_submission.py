import os
import re
import threading

import pytest

from tests.job_server import running, without_token
from tune_ddvae.catalogue import find_study
from tune_ddvae.errors import JobError
from tune_ddvae.tuning.jobs import server
from tune_ddvae.tuning.jobs.jobs import Job
from tune_ddvae.tuning.jobs.order import make_order
from tune_ddvae.tuning.jobs.submission import ATTEMPTS, next_id, submit
from tune_ddvae.tuning.storage.folders import slug
from tune_ddvae.tuning.storage.lock import sole_driver

STUDY = find_study("sparsity")


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setattr(server, "SETTLE_S", 0.2)
    with running() as cluster:
        yield cluster


def order_of(cluster, *, storage="/shared", study="sparsity"):
    options = ("--storage", storage)
    return make_order(STUDY, study, options, submit=cluster.address, storage=storage)


def test_a_study_is_sent_with_our_code_its_words_and_time_to_stop(cluster):
    order = order_of(cluster)
    sent = submit(order)
    job = cluster.jobs[sent.job]
    assert job["entrypoint"] == order.entrypoint
    assert job["metadata"] == order.cargo.metadata()
    assert job["runtime_env"]["env_vars"] == order.job_environment
    (uploaded,) = cluster.packages.values()
    assert sent.package.bytes < uploaded < 20_000_000  # an archive that is not compressed
    assert sent.to_json()["sent"]


def test_sending_it_twice_sends_it_once(cluster):
    first, second = submit(order_of(cluster)), submit(order_of(cluster, storage="/shared/"))
    assert second.job == first.job
    assert second.package is None
    assert list(cluster.jobs) == [first.job]
    assert not second.to_json()["sent"]


def test_two_at_the_same_moment_send_it_once(cluster):
    """Both have seen that there is no job before either of them sends one."""
    both_looked = threading.Barrier(2, timeout=20)

    def wait() -> None:
        if not cluster.jobs:
            both_looked.wait()

    cluster.before_sending = wait
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(submit(order_of(cluster)))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(cluster.jobs) == 1
    assert {sent.job for sent in found} == set(cluster.jobs)
    assert sorted(sent.package is None for sent in found) == [False, True]


@pytest.mark.parametrize("status", ["STOPPED", "FAILED", "SUCCEEDED"])
def test_a_study_whose_job_has_ended_is_sent_under_another_id(cluster, status):
    first = submit(order_of(cluster))
    cluster.jobs[first.job]["status"] = status
    second = submit(order_of(cluster))
    assert second.package is not None
    assert second.job != first.job


def test_a_job_that_died_with_its_head_is_no_obstacle(cluster):
    first = submit(order_of(cluster))
    cluster.jobs[first.job]["status"] = "RUNNING"
    cluster.dead.add(first.job)
    second = submit(order_of(cluster))
    assert second.package is not None
    assert second.job != first.job


def test_a_study_that_a_driver_holds_here_is_not_sent(cluster, tmp_path):
    folder = tmp_path / slug("sparsity")
    folder.mkdir()
    with sole_driver(folder):
        sent = submit(order_of(cluster, storage=str(tmp_path)))
        assert not cluster.jobs
        assert (sent.job, sent.package, sent.holder.pid) == (None, None, os.getpid())
        facts = sent.to_json()
        assert (facts["sent"], facts["job"], facts["driver"]["pid"]) == (False, None, os.getpid())
        cluster.add(
            "sparsity-1", metadata=order_of(cluster, storage=str(tmp_path)).cargo.metadata()
        )
        assert submit(order_of(cluster, storage=str(tmp_path))).job == "sparsity-1"
    cluster.jobs["sparsity-1"]["status"] = "STOPPED"
    assert submit(order_of(cluster, storage=str(tmp_path))).package is not None


def test_the_same_name_kept_elsewhere_is_another_study(cluster):
    jobs = {submit(order_of(cluster, storage=storage)).job for storage in ("/one", "/two")}
    assert len(jobs) == 2


def test_somebody_who_takes_every_id_first_is_given_way_to(cluster):
    def take() -> None:
        for number in range(1, ATTEMPTS + 3):
            if f"sparsity-{number}" not in cluster.jobs:
                cluster.add(f"sparsity-{number}")
                return

    cluster.before_sending = take
    with pytest.raises(JobError, match="try again"):
        submit(order_of(cluster))


def test_ids_count_up_and_are_plain_whatever_the_name():
    assert next_id("sparsity", []) == "sparsity-1"
    jobs = [Job(id=name, status="FAILED") for name in ("sparsity-9", "sparsity-quick-12", "x", "-")]
    assert next_id("sparsity", jobs) == "sparsity-10"
    assert re.fullmatch(r"[a-z0-9-]{1,60}-1", next_id("../Ü " * 50, []))


def test_nothing_is_sent_to_a_cluster_that_refuses(cluster, monkeypatch):
    without_token(monkeypatch)
    cluster.token = "0" * 40
    with pytest.raises(JobError, match="asks for a token"):
        submit(order_of(cluster))
    assert {method for method, _ in cluster.requests} == {"GET"}
