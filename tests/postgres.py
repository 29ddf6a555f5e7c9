"""A PostgreSQL server of the tests' own: its own folder, socket and port, on this machine alone."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import Connection, NullPool, create_engine, text

USER, PASSWORD = "ddvae", "s3cret"
READY = "ready"  # a database with all tables in it, that new ones are copies of
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "16MB",
    "fsync": "off",  # the tests crash the server, not the machine
}


class Server:
    """A server that can be restarted as by a crash."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._data = folder / "data"
        self.port = _free_port()
        self._numbers = count()

    def make(self) -> None:
        password = self._folder / "password"
        password.write_text(PASSWORD)
        if os.getuid() == 0:
            for path in (self._folder, password):
                shutil.chown(path, "postgres")
        words = ["-D", self._data, "-U", USER, "--pwfile", password, "--no-sync", "-E", "UTF8"]
        self._run("initdb", *words, "--auth=scram-sha-256")

    def start(self) -> None:
        settings = {**SETTINGS, "port": self.port, "unix_socket_directories": self._folder}
        words = " ".join(f"-c {key}={value}" for key, value in settings.items())
        self._run(
            "pg_ctl", "-D", self._data, "-l", self._folder / "log", "-o", words, "-w", "start"
        )

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")

    def restart(self) -> None:
        """End all connections, as a crash does, and come back."""
        self.stop()
        self.start()

    def url(self, database: str, *, user: str = USER, password: str = PASSWORD) -> str:
        return f"postgresql+psycopg2://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        with self.connected(self.url(database)) as connection:
            connection.execute(text(statement))

    @staticmethod
    @contextmanager
    def connected(url: str) -> Iterator[Connection]:
        """A connection that the record knows nothing of."""
        engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            yield connection

    def new_database(self, template: str = READY) -> str:
        """Address of a database of its own."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        # Copied sequences would go back to their copied values in a crash before the next checkpoint.
        self.execute("CHECKPOINT")
        return self.url(name)

    def _run(self, program: str, *words: object) -> None:
        as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        done = subprocess.run(
            [*as_user, str(self._programs / program), *map(str, words)],
            cwd=self._folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout


@contextmanager
def running() -> Iterator[Server]:
    """A server that runs, with the record's tables in one of its databases."""
    from tests.tuning.simulated import make_spec, open_study

    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    # Not below pytest's own folder, which the server's user may not enter.
    folder = Path(tempfile.mkdtemp(prefix="ddvae-postgres-"))
    server = Server(found[-1].parent, folder)
    try:
        server.make()
        server.start()
        try:
            server.execute(f"CREATE DATABASE {READY}")
            study = open_study(folder, make_spec(), url=server.url(READY))
            study.record.close()
            server.execute("TRUNCATE ddvae_studies, studies CASCADE", READY)
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
