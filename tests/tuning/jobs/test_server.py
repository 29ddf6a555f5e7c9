import asyncio
import os
import re
import socket
import threading
import time

import pytest

from tests.job_server import TOKEN, running, without_token
from tune_ddvae.errors import ConfigError, JobError, ResourceError
from tune_ddvae.tuning.cluster import entry
from tune_ddvae.tuning.jobs import server as job_server
from tune_ddvae.tuning.jobs.jobs import ADDRESS_VARIABLE, Cargo
from tune_ddvae.tuning.jobs.server import JobServer


@pytest.fixture
def cluster():
    with running() as cluster:
        yield cluster


def test_the_address_that_is_given_wins_over_the_environments(cluster, monkeypatch):
    monkeypatch.setenv(ADDRESS_VARIABLE, "http://127.0.0.1:9")
    assert JobServer(cluster.address).jobs() == []
    assert os.environ[ADDRESS_VARIABLE] == "http://127.0.0.1:9"


def test_jobs_come_newest_first_and_others_jobs_are_told_apart(cluster):
    cargo = Cargo(study="a", storage="/shared", words=("sparsity", "--quick"))
    cluster.add("older", start_time=1000, metadata=cargo.metadata())
    cluster.add("newer", "SUCCEEDED", start_time=2000, end_time=3000, driver_exit_code=0)
    newer, older = JobServer(cluster.address).jobs()
    assert (newer.id, newer.cargo, newer.ended, newer.exit_code) == ("newer", None, 3.0, 0)
    assert (older.id, older.cargo, older.is_live) == ("older", cargo, True)


def test_a_head_that_is_gone_is_said_to_be():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(JobError, match=f"nothing answers at {address} .*refused.*is the head up"):
        JobServer(address)


GRPC = bytes([0, 0, 18, 4, 0, 0, 0, 0, 0]) * 3  # what a head's port for its nodes says first


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_is_no_dashboard_of_that_scheme_is_said_to_be_none_in_plain_words(scheme):
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(GRPC)

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"{scheme}://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(
            JobError, match=f"what answers at {address} does not speak {scheme}:"
        ) as no:
            JobServer(address)
        thread.join()
    assert "8265" in str(no.value)
    assert not re.search(r"Error|\(|\\x", str(no.value).replace("(http, ", "").replace("(8265", ""))


def test_a_connection_that_is_closed_without_an_answer_is_told_of_in_plain_words():
    with socket.create_server(("127.0.0.1", 0)) as other:
        thread = threading.Thread(target=lambda: other.accept()[0].close())
        thread.start()
        with pytest.raises(JobError, match="nothing answers at") as no:
            JobServer(f"http://127.0.0.1:{other.getsockname()[1]}")
        thread.join()
    assert "Disconnected(" not in str(no.value)


def test_a_head_that_hangs_is_given_up_in_time(cluster, monkeypatch):
    server = JobServer(cluster.address)
    assert job_server.REACH_S + job_server.ANSWER_S < 20
    monkeypatch.setattr(job_server, "ANSWER_S", 0.3)
    cluster.is_silent = True
    started = time.monotonic()
    for ask in (server.jobs, lambda: JobServer(cluster.address), lambda: server.log("a")):
        with pytest.raises(JobError, match="does not answer in time"):
            ask()
    assert time.monotonic() - started < 10


def test_a_missing_token_is_asked_for(cluster, monkeypatch):
    without_token(monkeypatch)
    cluster.token = TOKEN
    with pytest.raises(JobError, match="asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH"):
        JobServer(cluster.address)


def test_a_token_that_others_can_read_is_not_sent(cluster, tmp_path, monkeypatch):
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    monkeypatch.setattr(entry, "uses_token", lambda: True)
    with pytest.raises(ResourceError, match=f"other accounts .mode 644.*: chmod 600 {path}"):
        JobServer(cluster.address)
    path.chmod(0o600)
    assert JobServer(cluster.address).jobs() == []


def test_a_server_that_fails_is_quoted_in_one_line_without_passwords(cluster):
    server = JobServer(cluster.address)
    cluster.failure = "Traceback\n  File x\nOSError: postgresql://u:hidden@h/d is away\n"
    with pytest.raises(
        JobError, match=r"does not do what it should: OSError: .*is away"
    ) as refused:
        server.jobs()
    assert "\n" not in str(refused.value)
    assert "hidden" not in str(refused.value)


def test_what_is_no_cluster_is_said_to_be_none(cluster):
    cluster.failure = "<html>nginx</html>"
    with pytest.raises(JobError, match="Is that the dashboard of a Ray cluster"):
        JobServer(cluster.address)


@pytest.mark.parametrize(
    "address",
    [
        "head:6379",
        "head",
        "",
        "ray://head:10001",
        "http://",
        "http://head:x",
        "http://head:8265/api?x=1",
        "http://user:hidden@head:8265",
        "file:///etc/passwd",
    ],
)
def test_what_is_no_dashboards_address_is_refused_unasked(address):
    with pytest.raises(ConfigError, match="http://HEAD:8265") as refused:
        JobServer(address)
    assert "hidden" not in str(refused.value)


def test_a_job_is_sent_once_under_one_id(cluster, tmp_path):
    server = JobServer(cluster.address)
    cargo = Cargo(study="a", storage="/shared", words=("sparsity",))
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent" / "a.py").write_text("a = 1")
    sent = {"folder": tmp_path / "sent", "environment": {"A": "b"}, "cargo": cargo}
    assert server.send("a-1", "python3 -m a", **sent)
    assert not server.send("a-1", "python3 -m b", **sent)
    job = cluster.jobs["a-1"]
    assert job["entrypoint"] == "python3 -m a"
    assert job["runtime_env"]["env_vars"] == {"A": "b"}
    assert job["runtime_env"]["working_dir"].startswith("gcs://")
    assert len(cluster.packages) == 1
    assert server.job("a-1").cargo == cargo


def test_a_job_that_died_with_its_head_is_found_dead_and_nothing_is_started(cluster):
    server = JobServer(cluster.address)
    cluster.add("a-1", entrypoint="python3 -m a")
    cluster.dead.add("a-1")
    job = server.job("a-1")
    assert job.is_live
    assert not server.settled(job).is_live
    assert list(cluster.jobs) == ["a-1"]
    assert cluster.jobs["a-1"]["entrypoint"] == "python3 -m a"


def test_a_job_that_runs_is_found_to_run(cluster, monkeypatch):
    monkeypatch.setattr(job_server, "SETTLE_S", 0.3)
    server = JobServer(cluster.address)
    cluster.add("a-1")
    assert server.settled(server.job("a-1")).is_live


def test_a_log_is_whole(cluster):
    cluster.add("a-1")
    cluster.logs["a-1"] = "one\ntwo\n"
    assert JobServer(cluster.address).log("a-1") == "one\ntwo\n"


def test_a_job_that_is_not_there_is_said_not_to_be(cluster):
    with pytest.raises(JobError, match="Job a-7 does not exist"):
        JobServer(cluster.address).log("a-7")


def test_a_connection_that_breaks_while_a_log_is_followed_is_told_of(cluster, monkeypatch):
    async def tail(_client, _job_id):
        yield "one\n"
        raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")

    cluster.add("a-1")
    server, told = JobServer(cluster.address), []
    monkeypatch.setattr(job_server.JobSubmissionClient, "tail_job_logs", tail)
    with pytest.raises(
        JobError, match="the connection to .* broke .*goes on as far as the cluster"
    ):
        server.follow("a-1", told.append)
    assert told == ["one\n"]


def test_a_log_that_is_followed_ends_with_its_job(cluster, monkeypatch):
    async def tail(_client, _job_id):
        for text in ("one\n", "two\n"):
            yield text

    server, told = JobServer(cluster.address), []
    monkeypatch.setattr(job_server.JobSubmissionClient, "tail_job_logs", tail)
    server.follow("a-1", told.append)
    assert told == ["one\n", "two\n"]


def test_a_head_that_hangs_while_a_log_is_followed_is_given_up(cluster, monkeypatch):
    async def tail(_client, _job_id):
        yield "one\n"
        await asyncio.sleep(60)

    cluster.add("a-1")
    server = JobServer(cluster.address)
    monkeypatch.setattr(job_server.JobSubmissionClient, "tail_job_logs", tail)
    monkeypatch.setattr(job_server, "QUIET_S", 0.1)
    monkeypatch.setattr(job_server, "ANSWER_S", 0.3)

    def tell(_text: str) -> None:
        cluster.is_silent = True

    with pytest.raises(JobError, match="does not answer in time"):
        server.follow("a-1", tell)
