import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.bucket import NAME
from tune_ddvae.tuning.cluster.facts import State
from tune_ddvae.tuning.doctor import servers
from tune_ddvae.tuning.doctor.servers import record_of, tracking_of
from tune_ddvae.tuning.storage import folders
from tune_ddvae.tuning.storage.bucket import bucket_at

# -- the record -------------------------------------------------------------------------------


def test_a_record_may_be_a_file_where_there_are_locks(tmp_path):
    check = record_of(tmp_path, None, "tiny", "word")
    assert check.state is State.GOOD
    assert folders.file_system(tmp_path) in check.words
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_locks_is_named_with_the_way_out(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("no locks here")

    monkeypatch.setattr(servers, "FileLock", refuse)
    check = record_of(tmp_path, None, "tiny", "word")
    assert check.state is State.BAD
    assert str(tmp_path) in check.words
    assert "--record postgresql://" in check.mend


def test_a_folder_on_a_network_is_worth_a_word(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "file_system", lambda _: "nfs4")
    check = record_of(tmp_path, None, "tiny", "word")
    assert check.state is State.DOUBTFUL
    assert "nfs4" in check.words


def test_a_bucket_without_a_database_is_named_with_the_way_out():
    check = record_of(bucket_at(f"s3://{NAME}/studies"), None, "tiny", "word")
    assert check.state is State.BAD
    assert "--record postgresql://" in check.words


def test_a_record_on_a_server_answers_and_shows_no_password(server):
    url = server.new_database()
    check = record_of(bucket_at(f"s3://{NAME}/studies"), url, "tiny", "word")
    assert check.state is State.GOOD, check.words
    assert "answers" in check.words
    assert "s3cret" not in check.words


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://me:s3cret@127.0.0.1:1/studies", "cannot be opened"),
        ("mysql://me:s3cret@127.0.0.1:1/studies", "must be the address of a PostgreSQL database"),
    ],
)
def test_a_record_that_cannot_be_kept_there_is_named(tmp_path, url, words):
    check = record_of(tmp_path, url, "tiny", "word")
    assert check.state is State.BAD
    assert words in check.words
    assert "--record" in check.mend
    assert "s3cret" not in check.words


# -- MLflow -----------------------------------------------------------------------------------


def reply(request: BaseHTTPRequestHandler, status: int, content: bytes) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)


class Answers(BaseHTTPRequestHandler):
    """What an MLflow server says that knows no experiment."""

    def do_GET(self) -> None:
        is_version = self.path == "/version"
        missing = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"}
        content = b"3.99.0" if is_version else json.dumps(missing).encode()
        reply(self, 200 if is_version else 404, content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_tracking_server_that_answers_tells_its_version(served):
    check = tracking_of(served, "tiny")
    assert check.state is State.GOOD
    assert check.words == f"{served} answers, MLflow 3.99.0"


def test_a_tracking_server_that_does_not_answer_is_worth_a_word(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    check = tracking_of("http://me:s3cret@127.0.0.1:1", "tiny")
    assert check.state is State.DOUBTFUL  # training never depends on it
    assert "MLflow at http://me:***@127.0.0.1:1 does not answer" in check.words
    assert "start MLflow there" in check.mend


@pytest.mark.parametrize(
    ("status", "said", "words"),
    [
        (404, b"<html>no such page</html>", "answers, but not as MLflow does"),
        (404, b'{"detail": "Not Found"}', "answers, but not as MLflow does"),
        (405, b"<html>not so</html>", "answers, but not as MLflow does"),
        (200, b"<html>welcome</html>", "answers, but not as MLflow does"),
        (401, b"<html>who are you?</html>", "answers, but lets nobody in without the right"),
        (400, b'{"error_code": "BAD_REQUEST", "message": "no"}', "answers, but refuses"),
        (502, b"<html>nobody behind me</html>", "does not answer"),
        (503, b"<html>later</html>", "does not answer"),
    ],
)
def test_a_server_that_is_another_is_told_from_one_that_is_away(
    served, monkeypatch, status, said, words
):
    def answer(request: BaseHTTPRequestHandler) -> None:
        reply(request, status, said)

    monkeypatch.setattr(Answers, "do_GET", answer)
    check = tracking_of(served, "tiny")
    assert check.state is State.DOUBTFUL
    assert f"{served} {words}" in check.words
    assert "<html>" not in check.words
    assert ("is the address right?" in check.words) == ("not as MLflow" in words)
    assert "Training runs all the same" in check.words
    assert "its right address with --tracking-uri" in check.mend


def test_a_file_need_not_be_there_yet_and_is_not_made(tmp_path):
    check = tracking_of(f"sqlite:///{tmp_path}/mlflow.db", "tiny")
    assert check.state is State.GOOD
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_cannot_be_used_is_named(tmp_path):
    check = tracking_of(str(tmp_path), "tiny")
    assert check.state is State.BAD
    assert "sqlite:///" in check.words
