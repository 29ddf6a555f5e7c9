import contextlib
import dataclasses
import gzip
import pickle
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tune_ddvae.data import fashion_mnist, sources
from tune_ddvae.errors import DataError

FIRST = fashion_mnist.TRAIN_IMAGES
REPOSITORY = Path(__file__).parents[2]

# Says when it is ready, so that two of them can be let go in the same moment.
PREPARE_WHEN_TOLD = """
import pickle, sys
from tune_ddvae.data import fashion_mnist
config, source = pickle.loads(bytes.fromhex(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(fashion_mnist.prepare(config, None, source))
"""


@contextlib.contextmanager
def mirror(contents: dict[str, bytes]) -> Iterator[tuple[str, Counter[str]]]:
    """A web server with these files gzipped; yields its address and the requests it got."""
    requests: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests[self.path] += 1
            content = contents.get(self.path.removeprefix("/").removesuffix(".gz"))
            time.sleep(0.1)  # long enough for a second process to want the same
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(gzip.compress(content or b""))

        def log_message(self, *args: Any) -> None:
            """Nothing: a test's output is its own."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("gzipped", [True, False])
@pytest.mark.parametrize("subfolder", ["", "FashionMNIST/raw"])
def test_files_may_be_gzipped_or_plain_in_either_folder(fake_files, tmp_path, gzipped, subfolder):
    fake_files.write(tmp_path / "data" / subfolder, gzipped=gzipped)
    contents = sources.read_given(tmp_path / "data", fake_files.source)
    assert contents == fake_files.contents


def test_given_folder_lacking_a_file_is_refused_not_skipped(fake_files, config, tmp_path):
    fake_files.write(fake_files.source.system_dir)
    fashion_mnist.prepare(config, None, fake_files.source)  # found, and cached by now
    given = fake_files.write(tmp_path / "given")
    (given / f"{FIRST}.gz").unlink()
    for ask in (fashion_mnist.prepare, fashion_mnist.load):
        with pytest.raises(DataError, match=rf"missing: {given}/{FIRST}\.gz\. .*apt-get install"):
            ask(config, given, fake_files.source)


def test_folder_in_the_environment_counts_as_given(fake_files, config, tmp_path, monkeypatch):
    fake_files.write(fake_files.source.system_dir)
    monkeypatch.setenv("TUNE_DDVAE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=rf"TUNE_DDVAE_DATA.*{tmp_path}/nowhere"):
        fashion_mnist.prepare(config, None, fake_files.source)


def test_option_wins_over_the_environment(fake_files, config, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNE_DDVAE_DATA", str(tmp_path / "nowhere"))
    given = fake_files.write(tmp_path / "given")
    assert fashion_mnist.prepare(config, given, fake_files.source).is_file()


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data + b"rest"])
def test_damaged_file_is_named_even_where_the_cache_would_do(fake_files, config, tmp_path, damage):
    given = fake_files.write(tmp_path / "given")
    fashion_mnist.prepare(config, given, fake_files.source)
    path = given / f"{FIRST}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"{path}.*; replace it"):
        fashion_mnist.prepare(config, given, fake_files.source)


def test_damaged_package_is_named_with_its_mend(fake_files):
    folder = fake_files.write(fake_files.source.system_dir)
    (folder / f"{FIRST}.gz").write_bytes(b"")
    with pytest.raises(DataError, match=rf"{folder}/{FIRST}\.gz is damaged.*apt-get install --rei"):
        sources.read_found(fake_files.source)


def test_package_spares_the_network(fake_files):
    fake_files.write(fake_files.source.system_dir)
    assert sources.read_found(fake_files.source) == fake_files.contents


def test_what_lies_here_is_verified_and_nothing_is_made_or_fetched(fake_files, config, tmp_path):
    def found(folder: Path | None = None) -> str:
        return fashion_mnist.found(config, folder, fake_files.source)

    assert found() == ""  # it would have to be fetched
    downloads = fake_files.write(tmp_path / "cache" / "fashion_mnist" / "downloads")
    assert found() == str(downloads)
    given = fake_files.write(tmp_path / "given")
    assert found(given) == str(given)
    assert not list(tmp_path.rglob("*.bin"))
    package = fake_files.write(fake_files.source.system_dir)
    assert found() == str(package)
    cached = fashion_mnist.prepare(config, None, fake_files.source)
    assert found() == str(cached)
    cached.write_bytes(cached.read_bytes()[:-1])
    assert found() == str(package)
    (given / f"{FIRST}.gz").write_bytes(b"")
    with pytest.raises(DataError, match="is damaged"):
        found(given)
    (downloads / f"{FIRST}.gz").write_bytes(b"")
    (package / f"{FIRST}.gz").unlink()
    assert found() == ""


def test_without_network_the_message_says_what_was_tried_and_what_would_do(fake_files, config):
    with pytest.raises(DataError) as caught:
        fashion_mnist.prepare(config, None, fake_files.source)
    for part in (
        f"http://127.0.0.1:1/{FIRST}.gz",
        str(fake_files.source.system_dir),
        "apt-get install dataset-fashion-mnist",
        "--data-dir",
        "TUNE_DDVAE_DATA",
        "TUNE_DDVAE_MIRROR",
    ):
        assert part in str(caught.value)


def test_password_of_a_mirror_is_never_shown(fake_files, monkeypatch):
    monkeypatch.setenv("TUNE_DDVAE_MIRROR", "http://someone:secret@127.0.0.1:1/")
    with pytest.raises(DataError) as caught:
        sources.read_found(fake_files.source)
    assert "http://127.0.0.1:1/" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_two_processes_fetch_each_file_once(fake_files, config, monkeypatch):
    with mirror(fake_files.contents) as (address, requests):
        monkeypatch.setenv("TUNE_DDVAE_MIRROR", address)
        argument = pickle.dumps((config, fake_files.source)).hex()
        command = [sys.executable, "-c", PREPARE_WHEN_TOLD, argument]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes = [
            subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes) for _ in range(2)
        ]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        results = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert results[0][0] == results[1][0]
    assert requests == {f"/{name}.gz": 1 for name in fake_files.contents}


def test_second_mirror_serves_where_the_first_does_not(fake_files):
    with mirror(fake_files.contents) as (address, requests):
        both = dataclasses.replace(fake_files.source, mirrors=("http://127.0.0.1:1/", address))
        assert sources.read_found(both) == fake_files.contents
    assert requests.total() == 4


def test_wrong_content_from_a_mirror_is_refused_and_not_kept(fake_files, tmp_path, monkeypatch):
    with mirror({**fake_files.contents, FIRST: b"a login page"}) as (address, _):
        monkeypatch.setenv("TUNE_DDVAE_MIRROR", address)
        with pytest.raises(DataError, match=rf"{FIRST}.*is damaged or another file"):
            sources.read_found(fake_files.source)
    assert not list((tmp_path / "cache").rglob("*ubyte*"))


def test_damaged_download_is_fetched_again_and_only_that(fake_files, tmp_path, monkeypatch):
    with mirror(fake_files.contents) as (address, requests):
        monkeypatch.setenv("TUNE_DDVAE_MIRROR", address)
        sources.read_found(fake_files.source)
        (download,) = (tmp_path / "cache").rglob(f"{FIRST}.gz")
        download.write_bytes(b"")
        assert sources.read_found(fake_files.source) == fake_files.contents
    assert requests == {f"/{name}.gz": 1 + (name == FIRST) for name in fake_files.contents}
