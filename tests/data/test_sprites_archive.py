import contextlib
import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from tune_ddvae.data import sprites_archive
from tune_ddvae.data.sprites_archive import NAME, fetch, find_download, find_given, pack
from tune_ddvae.errors import DataError


@contextlib.contextmanager
def server(content: bytes) -> Iterator[tuple[str, Counter[str]]]:
    """A web server that answers every request so; yields its address and what it was asked for."""
    requests: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests[self.path] += 1
            time.sleep(0.1)  # long enough for a second process to want the same
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            """Nothing: a test's output is its own."""

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=web.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{web.server_port}/", requests
    finally:
        web.shutdown()
        thread.join()
        web.server_close()


@pytest.fixture
def published(fake_archive, few_sprites, tmp_path):
    """The archive's bytes, and a source that takes just these for the published ones."""
    archive = find_given(fake_archive.write(tmp_path / "published"), few_sprites)
    return archive.path.read_bytes(), dataclasses.replace(few_sprites, blob_id=archive.blob_id)


def packed(folder, source) -> np.ndarray:
    return np.concatenate(list(pack(find_given(folder, source), source)))


def test_images_are_packed_as_they_are(fake_archive, few_sprites, tmp_path, monkeypatch):
    monkeypatch.setattr(sprites_archive, "_IMAGES_AT_ONCE", 50)  # and a rest of 16
    images = np.unpackbits(packed(fake_archive.write(tmp_path / "given"), few_sprites), axis=1)
    np.testing.assert_array_equal(images.reshape(-1, 64, 64), fake_archive.arrays["imgs"])


def test_pickle_in_it_is_never_opened(fake_archive, few_sprites, tmp_path):
    folder = fake_archive.write(tmp_path / "given")
    packed(folder, few_sprites)
    assert not fake_archive.trap.exists()
    with np.load(folder / NAME, allow_pickle=True) as arrays:
        arrays["metadata"]
    assert fake_archive.trap.exists()  # it would have shown


@pytest.mark.parametrize("place", ["", "dsprites-dataset", NAME])
def test_archive_is_found_in_the_folder_in_a_clone_within_or_as_the_file_itself(
    fake_archive, few_sprites, tmp_path, place
):
    folder = tmp_path / "given"
    fake_archive.write(folder / place if place == "dsprites-dataset" else folder)
    given = folder / NAME if place == NAME else folder
    assert find_given(given, few_sprites).path.parent in (folder, folder / "dsprites-dataset")


def test_wrong_place_is_named_with_the_full_path_and_the_mend(few_sprites, tmp_path):
    with pytest.raises(DataError) as caught:
        find_given(tmp_path / "nowhere", few_sprites)
    for part in (f"{tmp_path}/nowhere/{NAME}", "--data-dir", "TUNE_DDVAE_DATA", "--fetch"):
        assert part in str(caught.value)


def test_place_that_cannot_be_looked_into_is_named_too(few_sprites, tmp_path):
    longer_than_any_name = tmp_path / ("x" * 300)
    with pytest.raises(DataError, match=f"cannot look for {longer_than_any_name}/{NAME}: .*give"):
        find_given(longer_than_any_name, few_sprites)


def test_identifier_is_gits_own(fake_archive, few_sprites, tmp_path):
    """As ``git hash-object`` has it for a file of these bytes."""
    folder = tmp_path / "given"
    fake_archive.write(folder)
    path = folder / NAME
    path.write_bytes(b"what is up, doc?")
    with pytest.raises(DataError, match="not a zip file"):
        find_given(folder, few_sprites)
    assert sprites_archive._blob_id(path) == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("imgs", lambda _: None, "no item named 'imgs.npy'"),
        ("imgs", lambda images: images[:200], r"imgs must be uint8 of shape \(216, 64, 64\), got"),
        ("imgs", lambda images: images.astype(np.float32), "got float32 of shape"),
        ("imgs", lambda images: images.astype(object), "imgs must be uint8 .* got object"),
        ("imgs", np.asfortranarray, "images must lie one after another"),
        ("latents_classes", lambda classes: classes[:, 1:], r"must be int64 of shape \(216, 6\)"),
        ("latents_values", lambda _: None, "no item named 'latents_values.npy'"),
    ],
)
def test_another_file_is_refused_before_it_is_unpacked(
    fake_archive, few_sprites, tmp_path, key, change, message
):
    folder = fake_archive.write(tmp_path / "given", **{key: change(fake_archive.arrays[key])})
    with pytest.raises(
        DataError, match=f"{folder}/{NAME} is damaged or not .*{message}.*; replace"
    ):
        find_given(folder, few_sprites)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("imgs", lambda images: images * 255, "pixels must be 0 or 1, got 255"),
        ("latents_classes", lambda classes: classes[::-1], "latents_classes is not in the order"),
        ("latents_values", lambda values: values * 1.01, "latents_values is not that of the grid"),
    ],
)
def test_other_content_is_refused_when_it_is_unpacked(
    fake_archive, few_sprites, tmp_path, key, change, message
):
    changed = np.ascontiguousarray(change(fake_archive.arrays[key]))
    folder = fake_archive.write(tmp_path / "given", **{key: changed})
    with pytest.raises(
        DataError, match=f"{folder}/{NAME} is damaged or not .*{message}.*; replace"
    ):
        packed(folder, few_sprites)


def test_cut_off_archive_is_refused(fake_archive, few_sprites, tmp_path):
    path = fake_archive.write(tmp_path / "given") / NAME
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"{path} is damaged"):
        find_given(path.parent, few_sprites)


@pytest.mark.parametrize("compressed", [True, False])
def test_one_flipped_bit_in_the_images_is_noticed(fake_archive, few_sprites, tmp_path, compressed):
    path = fake_archive.write(tmp_path / "given", compressed=compressed) / NAME
    content = bytearray(path.read_bytes())
    content[3_000] ^= 1  # within imgs, which come first
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} is damaged"):
        packed(path.parent, few_sprites)


def test_fetched_archive_is_found_from_then_on(published):
    content, source = published
    assert find_download(source) is None
    with server(content) as (address, requests):
        fetched = fetch(dataclasses.replace(source, mirrors=("http://127.0.0.1:1/", address)))
    assert requests == {f"/{NAME}": 1}
    assert fetched.path.read_bytes() == content
    assert find_download(source) == fetched


def test_two_at_once_fetch_it_once(published, monkeypatch):
    content, source = published
    with server(content) as (address, requests), ThreadPoolExecutor(2) as threads:
        monkeypatch.setenv("TUNE_DDVAE_MIRROR", address)
        fetched = list(threads.map(fetch, [source, source]))
    assert fetched[0] == fetched[1]
    assert requests.total() == 1


@pytest.mark.parametrize("content", [b"a login page", None], ids=["no-zip", "other-archive"])
def test_wrong_content_from_a_mirror_is_refused_and_not_kept(
    published, fake_archive, tmp_path, monkeypatch, content
):
    other = fake_archive.write(tmp_path / "other", compressed=False) / NAME
    with server(content or other.read_bytes()) as (address, _):
        monkeypatch.setenv("TUNE_DDVAE_MIRROR", address)
        with pytest.raises(DataError, match=f"could not be fetched: {address}{NAME}.*damaged or"):
            fetch(published[1])
    assert not list((tmp_path / "cache").rglob(f"{NAME}*"))


def test_without_network_the_message_says_what_was_tried_and_what_would_do(few_sprites):
    with pytest.raises(DataError) as caught:
        fetch(few_sprites)
    for part in (f"http://127.0.0.1:1/{NAME}", "--data-dir", "TUNE_DDVAE_DATA", "TUNE_DDVAE_MIRR"):
        assert part in str(caught.value)


def test_damaged_download_is_refused_until_it_is_fetched_again(published, monkeypatch):
    content, source = published
    with server(content) as (address, _):
        monkeypatch.setenv("TUNE_DDVAE_MIRROR", address)
        path = fetch(source).path
        path.write_bytes(content[:-1] + b"x")
        with pytest.raises(DataError, match=f"{path} is damaged.*dsprites --fetch"):
            find_download(source)
        assert fetch(source).path.read_bytes() == content
