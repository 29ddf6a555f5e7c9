import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pyarrow.fs import AwsStandardS3RetryStrategy, LocalFileSystem, S3FileSystem, copy_files

from tune_ddvae.tuning.storage.arrival import complete_copy
from tune_ddvae.tuning.storage.bucket import says_away


@pytest.fixture
def written(tmp_path):
    folder = tmp_path / "written"
    folder.mkdir()
    (folder / "state.pt").write_bytes(b"12345")
    (folder / "config.json").write_bytes(b"{}")
    return folder


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copy")


def complete(written, copy) -> dict[str, bytes]:
    complete_copy(written, LocalFileSystem(), str(copy))
    return {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}


def test_a_copy_that_is_whole_is_left_alone_whatever_else_lies_there(written, copy):
    (copy / "more").mkdir()
    (written / "no-file").mkdir()
    (copy / "state.pt").write_bytes(b"other")
    assert complete(written, copy) == {"state.pt": b"other", "config.json": b"{}"}


def test_what_is_missing_or_cut_short_is_copied_once_more(written, copy):
    (copy / "state.pt").write_bytes(b"123")
    (copy / "config.json").unlink()
    assert complete(written, copy) == {"state.pt": b"12345", "config.json": b"{}"}


class CutsUploadsOff(BaseHTTPRequestHandler):
    """A bucket that begins each upload, and takes none of its parts."""

    def do_POST(self) -> None:
        self._answer(
            b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
        )

    def do_PUT(self) -> None:
        self.close_connection = True

    def do_DELETE(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")

    def log_message(self, *_args: object) -> None:
        pass

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def cutting(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    server = ThreadingHTTPServer(("127.0.0.1", 0), CutsUploadsOff)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield S3FileSystem(
        endpoint_override=f"127.0.0.1:{server.server_port}",
        scheme="http",
        region="us-east-1",
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=1),
    )
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_upload_that_is_cut_off_ends_as_if_it_had_worked_and_is_found_out(written, cutting):
    # As Ray does it; it raises nothing.
    copy_files(str(written), "mine/copy", destination_filesystem=cutting, use_threads=False)
    with pytest.raises(OSError, match="AWS Error NETWORK_CONNECTION") as caught:
        complete_copy(written, cutting, "mine/copy")
    assert says_away(str(caught.value))
