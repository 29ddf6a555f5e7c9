"""A local MLflow server that tests kill, freeze, and start again at its address."""

import http.client
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

from tests.studies import wait_until


class Server:
    """One server with its own SQLite database, or one that is given; its workers go with it."""

    def __init__(self, folder: Path, store: str | None = None) -> None:
        self.database = folder / "server.db"
        self._store = store or f"sqlite:///{self.database}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen | None = None

    def start(self, *, waits: bool = True) -> None:
        words = ["--workers", "1"]
        words += ["--artifacts-destination", str(self._folder / "artifacts")]
        words += ["--host", "127.0.0.1", "--port", str(self.port)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words],
            cwd=self._folder,
            env={**os.environ, "MLFLOW_BACKEND_STORE_URI": self._store},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if waits:
            self.wait()

    def wait(self) -> None:
        """Return once it answers."""
        assert wait_until(self._process, self._answers, 120)

    def kill(self) -> None:
        """End the server and its workers at once."""
        if self._process is not None:
            self.send(signal.SIGKILL)
            self._process.wait(timeout=30)
            self._process = None

    def send(self, number: int) -> None:
        """Send the server and its workers a signal."""
        os.killpg(self._process.pid, number)

    def num_points(self) -> int:
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)
        try:
            return connection.execute("select count(*) from metrics").fetchone()[0]
        finally:
            connection.close()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()
