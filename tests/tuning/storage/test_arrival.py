import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pyarrow.fs import AwsStandardS3RetryStrategy, LocalFileSystem, S3FileSystem, copy_files

from tune_ddvae.errors import StorageAwayError
from tune_ddvae.tuning.storage.arrival import check_arrived, file_sizes, says_cut_off


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


def check(written, copy) -> None:
    check_arrived(LocalFileSystem(), str(copy), file_sizes(written))


def test_a_copy_that_is_whole_has_arrived_whatever_else_lies_there(written, copy):
    (copy / "more").mkdir()
    check(written, copy)


def test_a_file_that_is_missing_or_cut_short_is_named_with_its_size(written, copy):
    (copy / "state.pt").write_bytes(b"123")
    (copy / "config.json").unlink()
    with pytest.raises(StorageAwayError) as caught:
        check(written, copy)
    assert "config.json 0 of 2 bytes, state.pt 3 of 5 bytes" in str(caught.value)
    assert str(copy) in str(caught.value)
    assert says_cut_off(str(caught.value))


def test_a_copy_that_is_not_there_at_all_is_refused(written, tmp_path):
    with pytest.raises(StorageAwayError, match="config.json 0 of 2 bytes, state.pt 0 of 5 bytes"):
        check(written, tmp_path / "nowhere")


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
    copy_files(str(written), "mine/copy", destination_filesystem=cutting)  # raises nothing
    with pytest.raises(StorageAwayError, match="state.pt 0 of 5 bytes in mine/copy"):
        check_arrived(cutting, "mine/copy", file_sizes(written))
