import http.server
import os
import re
import threading
from pathlib import Path

import pytest

from tests.bucket import NAME, Refusing
from tests.training.tiny import make_trainer, tiny
from tune_ddvae.errors import CheckpointError, ConfigError, StorageAwayError, StorageError
from tune_ddvae.training import checkpoint
from tune_ddvae.tuning.running.losses import judge
from tune_ddvae.tuning.storage import bucket, place
from tune_ddvae.tuning.storage.bucket import Bucket, bucket_at, download, says_away, upload
from tune_ddvae.tuning.storage.place import (
    Remover,
    below,
    fetched,
    for_ray,
    free_bytes,
    make_ready,
    place_at,
    planned_place,
    tracking_folder,
    wait_for,
    working_copy,
)
from tune_ddvae.tuning.tracking.tracked_place import folder_of, found_in

RECORD = "postgresql://someone@nowhere.invalid/studies"


@pytest.fixture
def there(s3, request):
    """A place in the bucket that no other test uses."""
    return bucket_at(s3.address(f"studies/{request.node.name.partition('[')[0]}"))


@pytest.fixture
def filled(s3, there):
    for name, content in (("a.txt", b"a"), ("deep/b.txt", b"b")):
        s3.put(f"{there.path}/{name}".partition("/")[2], content)
    return there


def key(there: Bucket, name: str = "") -> str:
    """How the bucket itself calls what lies there."""
    return f"{there.path.partition('/')[2]}/{name}"


# -- a folder ---------------------------------------------------------------------------------


def test_a_folder_is_the_path_that_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = place_at("out")
    assert folder == planned_place("out", None) == tmp_path / "out"
    assert list(tmp_path.iterdir()) == []
    make_ready(folder / "tiny")
    assert list(folder.iterdir()) == []
    assert tracking_folder(folder) == folder
    assert free_bytes(folder / "not" / "there") > 0
    assert for_ray(folder) == {"storage_path": str(folder)}
    assert below(f"{folder}/trials/0/checkpoint_000001", folder) == "trials/0/checkpoint_000001"


def test_a_folders_checkpoint_is_used_where_it_lies_and_removed_at_once(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    with fetched(folder) as here, working_copy(tmp_path, "report") as study:
        assert (here, study) == (folder, tmp_path)
    remover = Remover(pytest.fail)
    remover.remove(folder)
    assert not folder.exists()
    remover.remove(folder)  # gone already


def test_a_folder_is_never_waited_for(tmp_path):
    wait_for(tmp_path / "not there", pytest.fail)


# -- addresses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "below_it"),
    [
        ("s3://mine", "s3://mine/a/b"),
        ("S3://mine/", "s3://mine/a/b"),
        ("gs://mine//deep/", "gs://mine/deep/a/b"),
        ("s3://mine/deep?region=eu-west-1", "s3://mine/deep/a/b?region=eu-west-1"),
        (
            "s3://mine?endpoint_override=h:9&scheme=http",
            "s3://mine/a/b?endpoint_override=h:9&scheme=http",
        ),
    ],
)
def test_what_lies_below_a_bucket_keeps_the_addresss_options_at_its_end(address, below_it):
    inner = bucket_at(address) / "a" / "b"
    assert str(inner) == below_it
    assert bucket_at(str(inner)) == inner
    assert (inner.name, inner.parent) == ("b", bucket_at(address) / "a")
    assert inner.root.path == "mine"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hdfs://host/studies", "a folder or a bucket, s3://… or gs://…, got hdfs://host/studies"),
        ("https://s3.example.org/mine", "got https://s3.example.org/mine"),
        ("file:///srv/studies", "give the folder's path"),
        ("s3://", "storage must be s3://BUCKET/FOLDER"),
        ("s3://mine/a b", "its names of letters"),
        ("s3://mine/a%20b", "its names of letters"),
        ("s3://mine/../yours", "its names of letters"),
        ("s3://mine/a#b?region=x", "its names of letters"),
        ("s3://KEY:s3cret@mine/a", "without credentials in it"),
        ("s3://mine/a?region=x&secret_key=s3cret", "without credentials in it"),
        ("s3://mine/a?regoin=x", "Unexpected query parameter"),
    ],
)
def test_an_address_that_is_of_no_use_is_refused_by_name(address, message):
    with pytest.raises(StorageError) as refused:
        planned_place(address, RECORD)
    assert message in str(refused.value)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "s3:/b/x",
        "S3:/b/x",
        "s3:b/x",
        "s3//b/x",
        "gs:/b",
        "file:/srv",
        "file:srv",
        "hdfs:/h/x",
        " s3://b/x",
        "s3:/KEY:s3cret@b/x",
        "s3//KEY:s3cret@b/x",
    ],
)
def test_an_address_with_a_slip_is_no_folder(tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    for find in (place_at, lambda address: planned_place(address, RECORD)):
        with pytest.raises(
            StorageError, match="a folder or a bucket, s3://… or gs://…, got"
        ) as refused:
            find(address)
        assert "s3cret" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["s3", "s3/b", "gs-1", "./s3:/b", "run-12:30", "a:b", "files//x", "C:/x"]
)
def test_a_folder_may_have_nearly_any_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert place_at(name) == tmp_path / name


def test_a_folder_that_no_study_can_be_kept_in_is_refused_wherever_it_is_named(tmp_path):
    for odd in "?%#":
        with pytest.raises(StorageError, match=re.escape(f"{odd} in its path")):
            place_at(str(tmp_path / f"a{odd}b"))


def test_a_bucket_without_a_database_for_the_record_is_refused_before_it_is_asked():
    with pytest.raises(ConfigError, match=r"s3://nowhere/x.* is a bucket.*--record postgresql://"):
        planned_place("s3://nowhere/x?endpoint_override=nowhere.invalid", None)


def test_mlflows_default_database_is_beside_the_driver(there):
    assert tracking_folder(there) == Path("studies")


# -- can it be used? --------------------------------------------------------------------------


def test_a_bucket_that_can_be_used_is_left_as_it_was(s3, there):
    assert planned_place(str(there), RECORD) == there
    make_ready(there)
    assert s3.keys(key(there)) == []
    assert free_bytes(there) is None


def test_the_environment_may_name_the_server(s3, monkeypatch):
    bucket._file_system.cache_clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3.port}")
    make_ready(bucket_at(f"s3://{NAME}/by-environment"))
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    bucket._file_system.cache_clear()


def test_a_bucket_that_is_not_there_is_refused_by_name(s3):
    with pytest.raises(StorageAwayError, match="there is no bucket 'nobodys'.*--storage"):
        planned_place(s3.address("studies", name="nobodys"), RECORD)
    with pytest.raises(StorageAwayError, match=f"s3://nobodys/studies.*{s3.port}.*NO_SUCH_BUCKET"):
        make_ready(bucket_at(s3.address("studies", name="nobodys")))


def test_where_nothing_answers_the_address_the_cause_and_the_mend_are_named():
    refusing = Refusing()
    refusing.stop()
    address = f"s3://mine/x?endpoint_override=127.0.0.1:{refusing.port}&scheme=http"
    with pytest.raises(StorageAwayError) as refused:
        planned_place(address, RECORD)
    for words in (address, "Could not connect to server", "AWS_ACCESS_KEY_ID", "--storage"):
        assert words in str(refused.value)


class Forbids(http.server.BaseHTTPRequestHandler):
    """Lets nobody in."""

    def do_GET(self):
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815 - the server calls them so

    def log_message(self, *words):
        """Nothing."""


def test_a_bucket_that_may_not_be_used_is_refused_with_the_place_of_credentials(s3):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Forbids) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"s3://mine/x?endpoint_override=127.0.0.1:{server.server_port}&scheme=http"
        for check in (
            lambda: planned_place(address, RECORD),
            lambda: make_ready(place_at(address)),
        ):
            with pytest.raises(StorageAwayError, match=r"ACCESS_DENIED.*AWS_SECRET_ACCESS_KEY"):
                check()
        server.shutdown()


# -- files ------------------------------------------------------------------------------------


def test_what_is_fetched_is_here_as_long_as_it_is_used(filled):
    with fetched(filled) as here:
        assert (here / "a.txt").read_bytes() == b"a"
        assert (here / "deep" / "b.txt").read_bytes() == b"b"
    assert not here.exists()


def test_a_checkpoint_that_is_gone_or_damaged_is_named_by_its_address(filled, there):
    with (
        pytest.raises(CheckpointError, match=r"no checkpoint at s3://.*gone\?"),
        fetched(there / "gone"),
    ):
        pytest.fail("there is none")
    with pytest.raises(CheckpointError) as damaged, fetched(filled) as here:
        raise checkpoint.damaged(here, ValueError("half a file"))
    assert f"checkpoint {filled.plain}/state.pt is damaged" in str(damaged.value)


def test_a_bucket_that_is_away_is_no_damaged_checkpoint(s3, filled):
    with (
        s3.away(),
        pytest.raises(StorageAwayError, match="NETWORK_CONNECTION") as away,
        fetched(filled),
    ):
        pytest.fail("it is away")
    assert not isinstance(away.value, CheckpointError)
    with fetched(filled) as here:
        assert (here / "a.txt").exists()


def test_a_worker_lost_to_an_outage_does_not_count(s3, filled):
    with s3.away(), pytest.raises(StorageAwayError) as away, fetched(filled):
        pytest.fail("it is away")
    text = f"Traceback ...\nOSError: {away.value.__cause__}"
    assert says_away(text)
    loss = judge(text, "stalled: nothing was finished")
    assert loss.reason.startswith("the storage was away: OSError: When ")
    assert not loss.counts
    assert not says_away("OSError: [Errno 5] Input/output error")


def test_a_bucket_that_comes_back_is_waited_for(s3, there, monkeypatch):
    monkeypatch.setattr(place, "RETRY_S", 0.0)
    waits = []

    def back():
        waits.append(1)
        s3.start()

    s3.stop()
    wait_for(there, back)
    assert waits == [1]


def test_patience_with_a_bucket_ends(s3, there, monkeypatch):
    monkeypatch.setattr(place, "PATIENCE_S", -1.0)
    with s3.away(), pytest.raises(StorageAwayError):
        wait_for(there, pytest.fail)


def test_files_go_and_come_with_the_order_in_which_they_were_written(there, tmp_path):
    (tmp_path / "there" / "deep").mkdir(parents=True)
    for age, name in ((200, "z"), (100, "deep/m"), (0, "a")):
        (tmp_path / "there" / name).write_text(name)
        os.utime(tmp_path / "there" / name, (1e9 - age, 1e9 - age))
    upload(tmp_path / "there", there)
    download(there, tmp_path / "here")
    written = {name: (tmp_path / "here" / name).stat().st_mtime_ns for name in ("z", "deep/m", "a")}
    assert list(written.values()) == sorted(written.values())
    assert {name: (tmp_path / "here" / name).read_text() for name in written} == {
        name: name for name in written
    }


def test_nothing_is_written_outside_the_folder_that_it_is_fetched_to(s3, there, tmp_path):
    s3.put(key(there, "deep/../../../escaped"), b"x")
    with pytest.raises(StorageError, match="which no folder can hold"):
        download(there, tmp_path / "a" / "b" / "c")
    assert list(tmp_path.rglob("escaped")) == []


def test_a_checkpoint_is_removed_from_the_bucket_and_others_stay(s3, filled):
    s3.put(key(filled, "deep-2/c.txt"), b"c")
    remover = Remover(pytest.fail)
    remover.remove(filled / "deep")
    remover.remove(filled / "gone already")
    remover.close()
    assert s3.keys(key(filled)) == [key(filled, "a.txt"), key(filled, "deep-2/c.txt")]


def test_a_checkpoint_that_cannot_be_removed_is_noted_and_no_more(s3, filled):
    notes = []
    remover = Remover(notes.append)
    with s3.away():
        remover.remove(filled / "deep")
        remover.close()
    (note,) = notes
    assert f"not needed any more is left: storage {filled / 'deep'}" in note
    assert key(filled, "deep/b.txt") in s3.keys(key(filled))


def test_a_part_that_is_worked_on_comes_back_changed_and_whole(s3, filled):
    for name in ("old.png", "contents.json"):
        s3.put(key(filled, f"report/{name}"), b"before")
    with working_copy(filled, "report") as study:
        assert [path.name for path in study.iterdir()] == ["report"]
        (study / "report" / "old.png").unlink()
        (study / "report" / "new.png").write_bytes(b"after")
    assert s3.keys(key(filled, "report/")) == [
        key(filled, "report/contents.json"),
        key(filled, "report/new.png"),
    ]
    assert key(filled, "a.txt") in s3.keys(key(filled))
    assert not study.exists()


def _fail_over(filled):
    with working_copy(filled, "deep") as study:
        (study / "deep" / "b.txt").write_text("half")
        raise OSError("mine")


def test_a_part_that_stays_as_it_was_or_fails_is_not_sent_back(filled, monkeypatch):
    monkeypatch.setattr(bucket, "upload", lambda *_: pytest.fail("nothing has changed"))
    with working_copy(filled, "deep") as study:
        assert (study / "deep" / "b.txt").exists()
    with working_copy(filled, "not there yet"):
        pass
    with pytest.raises(OSError, match="mine"):
        _fail_over(filled)


def test_rays_paths_are_relative_to_the_study(there):
    assert for_ray(there)["storage_path"] == there.path
    assert below(f"{there.path}/trials/00000-a/checkpoint_000001", there) == (
        "trials/00000-a/checkpoint_000001"
    )


# -- of a tracked run -------------------------------------------------------------------------


def test_a_tracked_trials_checkpoints_are_found_where_its_studys_tag_says(s3, there, tmp_path):
    trainer = make_trainer(tiny())
    for number in range(3):
        trainer.step()
        folder = tmp_path / f"checkpoint_{number:06d}"
        checkpoint.save(trainer, folder)
        upload(folder, there / "trials" / "00003-abc" / folder.name)
    upload(folder, there / "trials" / "00030-abc" / folder.name)
    s3.put(key(there, "trials/00003-def/checkpoint_000000/state.pt"), b"PK half")
    tags = {"folder": str(there), "study": "tiny", "tune_ddvae.trial": "3"}
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert folder_of(uri, tags, None) == there
    assert folder_of(uri, tags, there / "moved") == there / "moved" / "tiny"
    found = found_in(there, tags, last_epoch=2)  # the third belongs to nothing that is recorded
    assert {epoch: path.parts[-2:] for epoch, path in found.by_epoch.items()} == {
        1: ("00003-abc", "checkpoint_000000"),
        2: ("00003-abc", "checkpoint_000001"),
    }
    assert checkpoint.epoch_of(found.by_epoch[2]) == 2
    (problem,) = found.problems
    assert f"checkpoint {there.plain}/trials/00003-def/checkpoint_000000/state.pt is" in problem
