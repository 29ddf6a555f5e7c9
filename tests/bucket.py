"""An S3-compatible server of the tests' own, on this machine alone, that can go away and come back."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

NAME = "mine"  # of the bucket that is there
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


class Server:
    """A server with one bucket; what is in it outlasts an outage, but not this process."""

    def __init__(self) -> None:
        self.port = 0
        self.start()
        _, self.port = self._server.get_host_and_port()
        self.client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",  # noqa: S106 - moto takes any
            config=Config(retries={"max_attempts": 1}),
        )
        self.client.create_bucket(Bucket=NAME)

    def address(self, path: str, *, name: str = NAME) -> str:
        return f"s3://{name}/{path}?{self.options}"

    @property
    def options(self) -> str:
        return f"endpoint_override=127.0.0.1:{self.port}&scheme=http"

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=NAME, Key=key, Body=content)

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=NAME, Key=key)["Body"].read()

    def keys(self, prefix: str = "") -> list[str]:
        """Names of the files below it; pyarrow also leaves marks of folders."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=NAME, Prefix=prefix)
        found = (one["Key"] for page in pages for one in page.get("Contents", ()))
        return [key for key in found if not key.endswith("/")]

    @contextmanager
    def away(self) -> Iterator["Refusing"]:
        """Whoever calls meanwhile is cut off."""
        self.stop()
        refusing = Refusing(self.port)
        try:
            yield refusing
        finally:
            refusing.stop()
            self.start()

    def start(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        self._server.stop()


class Refusing:
    """Closes every connection, and counts them."""

    def __init__(self, port: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self.num_calls = 0
        self._thread = threading.Thread(target=self._refuse, daemon=True)
        self._thread.start()

    def _refuse(self) -> None:
        while True:
            try:
                self._listener.accept()[0].close()
            except OSError:  # stopped
                return
            self.num_calls += 1

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@contextmanager
def running() -> Iterator[Server]:
    """A server that answers, and credentials for it in this process's environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
            patch.delenv(name, raising=False)
        server = Server()
        try:
            yield server
        finally:
            server.stop()
