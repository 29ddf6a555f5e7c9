"""The server of mlflow.compose.yaml, as its file starts it, on a PostgreSQL of the tests' own."""

import http.client
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.cluster_files.test_mlflow_compose import SERVER, filled
from tests.postgres import PASSWORD, USER
from tests.studies import wait_until

pytestmark = [pytest.mark.field, pytest.mark.timeout(280)]


def answer(port: int, path: str, host: str | None = None) -> int:
    """The status that a server answers with; 0 if it does not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={} if host is None else {"Host": host})
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


@pytest.fixture(scope="module")
def mlflow(server, tmp_path_factory):
    """Its port; all that differs from the file is where database, artifacts and port are."""
    folder = tmp_path_factory.mktemp("mlflow")
    server.execute("CREATE DATABASE mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {key: value for key, value in SERVER["environment"].items() if value is not None}
    environment = {key: filled(value, POSTGRES_PASSWORD=PASSWORD) for key, value in given.items()}
    address = environment["MLFLOW_BACKEND_STORE_URI"]
    ours = address.replace("mlflow@postgres", f"{USER}@127.0.0.1:{server.port}")
    assert ours != address
    replaced = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=5000": f"--port={port}"}
    words = [
        replaced.get(word, filled(word, MLFLOW_ARTIFACTS=str(folder / "artifacts")))
        for word in SERVER["command"]
    ]
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / words[0]), *words[1:]],
        cwd=folder,
        env={**os.environ, **environment, "MLFLOW_BACKEND_STORE_URI": ours},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        is_up = wait_until(process, lambda: answer(port, "/health") == 200, 120)
        assert is_up, process.communicate()[0]
        yield port
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_runs_and_files_are_kept(mlflow, server, tmp_path):
    client = MlflowClient(f"http://127.0.0.1:{mlflow}")
    run = client.create_run(client.create_experiment("of the server")).info.run_id
    client.log_metric(run, "loss", 1.5)
    (tmp_path / "note.txt").write_text("kept")
    client.log_artifact(run, str(tmp_path / "note.txt"))
    assert client.get_run(run).data.metrics == {"loss": 1.5}
    assert Path(client.download_artifacts(run, "note.txt", str(tmp_path))).read_text() == "kept"
    with server.connected(server.url("mlflow")) as connection:
        (found,) = connection.exec_driver_sql("SELECT value FROM metrics WHERE key = 'loss'").one()
    assert found == 1.5


def test_it_answers_to_this_machines_names_only(mlflow):
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert answer(mlflow, path, f"localhost:{mlflow}") == 200
    assert answer(mlflow, path, "attacker.example") == 403
