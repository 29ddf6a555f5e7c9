"""A Ray head of the tests' own: its own folder, ports and token, and a state that outlives it."""

import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import requests

TOKEN = "0123456789" * 4
UP_S = 120.0


class Head:
    """A head that can be killed with all that runs on it, and brought up again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        names = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")
        names += ("dashboard-agent-grpc-port", "metrics-export-port", "runtime-env-agent-port")
        self._ports = dict(zip(names, _free_ports(len(names)), strict=True))
        self._process: subprocess.Popen | None = None
        self.address = f"http://127.0.0.1:{self._ports['dashboard-port']}"
        self.client = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}

    def start(self) -> None:
        """Bring it up, by Ray's whole path: the first python3 on its path knows no package."""
        programs = self._folder / "bin"
        if not programs.exists():
            programs.mkdir()
            (programs / "python3").symlink_to(Path(sys.base_prefix, "bin", "python3"))
            (self._folder / "gcs").mkdir()
        words = [f"--{name}={port}" for name, port in self._ports.items()]
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [
                    str(Path(sys.executable).with_name("ray")),
                    *("start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats"),
                    *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"),
                    *("--object-store-memory=100000000", f"--temp-dir={self._folder / 'ray'}"),
                    *words,
                ],
                cwd=self._folder,
                env={
                    **self.client,
                    "HOME": str(self._folder),
                    "PATH": f"{programs}:/usr/bin:/bin",
                    "RAY_gcs_storage": "rocksdb",
                    "RAY_gcs_storage_path": str(self._folder / "gcs"),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until = time.monotonic() + UP_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise AssertionError((self._folder / "log").read_text())
            time.sleep(0.2)  # nothing tells when it is up

    def kill(self) -> None:
        """End everything at once, as when the machine goes down."""
        assert self._process is not None
        main = psutil.Process(self._process.pid)
        for process in (main, *main.children(recursive=True)):
            _kill(process)
        self._process.wait()

    def stop(self) -> None:
        """End it, and whatever it started."""
        if self._process is None or self._process.poll() is not None:
            return
        started = psutil.Process(self._process.pid).children(recursive=True)
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for process in started:
            _kill(process)

    def _answers(self) -> bool:
        token = {"Authorization": f"Bearer {TOKEN}"}
        try:
            return requests.get(f"{self.address}/api/version", headers=token, timeout=2).ok
        except requests.RequestException:
            return False


@contextmanager
def running() -> Iterator[Head]:
    """A head that is up, until the context ends."""
    # Not below pytest's own folder: the path of a Unix socket is short.
    folder = Path(tempfile.mkdtemp(prefix="ddvae-ray-"))
    head = Head(folder)
    try:
        head.start()
        yield head
    finally:
        head.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that the system gives away by itself."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
