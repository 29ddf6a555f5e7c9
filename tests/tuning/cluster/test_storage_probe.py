import errno
from pathlib import Path

import pytest

from tune_ddvae.tuning.cluster.facts import MAKE_ROOM, State
from tune_ddvae.tuning.cluster.storage_probe import remove_probes, see_storage, write_storage
from tune_ddvae.tuning.storage import disk
from tune_ddvae.tuning.storage.bucket import bucket_at


def test_what_one_machine_writes_is_read_and_taken_away_by_any(tmp_path):
    assert write_storage(tmp_path, ".probe-a-1").state is State.GOOD
    assert write_storage(tmp_path, ".probe-b-1").state is State.GOOD
    assert see_storage(tmp_path, [".probe-a-1", ".probe-a-2"]) == (".probe-a-1",)
    remove_probes(tmp_path, "a")
    assert [path.name for path in tmp_path.iterdir()] == [".probe-b-1"]


def test_a_file_of_another_content_is_not_what_was_written(tmp_path):
    (tmp_path / ".probe-a-1").write_text("half")
    assert see_storage(tmp_path, [".probe-a-1"]) == ()


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    check = write_storage(tmp_path / "missing", ".probe-a-1")
    assert check.state is State.BAD
    assert str(tmp_path / "missing") in check.words
    assert "No such file or directory" in check.words
    assert not (tmp_path / "missing").exists()
    remove_probes(tmp_path / "missing", "a")


@pytest.mark.parametrize("number", sorted(disk.FULL))
def test_a_folder_that_is_full_is_to_be_emptied(tmp_path, monkeypatch, number):
    def refuse(path: Path, _content: bytes) -> None:
        raise OSError(number, errno.errorcode[number], str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    check = write_storage(tmp_path, ".probe-a-1")
    assert (check.state, check.mend) == (State.BAD, MAKE_ROOM)


def test_a_bucket_is_written_read_and_left_as_it_was(s3):
    there = bucket_at(s3.address("nodes"))
    s3.put("nodes/kept.txt", b"kept")
    assert write_storage(there, ".probe-a-1").state is State.GOOD
    assert see_storage(there, [".probe-a-1", ".probe-a-2"]) == (".probe-a-1",)
    remove_probes(there, "a")
    assert s3.keys("nodes/") == ["nodes/kept.txt"]


def test_a_bucket_that_is_not_there_is_named_with_its_mend(s3):
    check = write_storage(bucket_at(s3.address("nodes", name="elsewhere")), ".probe-a-1")
    assert check.state is State.BAD
    assert "s3://elsewhere/nodes" in check.words
    assert "--storage" in check.words
