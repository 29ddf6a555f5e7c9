import errno
import os
from pathlib import Path

import numpy as np
import pytest

from tune_ddvae.data import cache
from tune_ddvae.errors import DataError

PARTS = (np.arange(100, dtype=np.uint8).reshape(4, 25), np.full(28, 7, np.uint8))


class Maker:
    """Counts how often the file had to be made."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> tuple[np.ndarray, ...]:
        self.calls += 1
        return PARTS


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Maker]:
    path, maker = tmp_path / "cache" / "file.bin", Maker()
    cache.ensure(path, 128, maker)
    return path, maker


def test_file_holds_its_parts_one_after_another(made: tuple[Path, Maker]) -> None:
    expected = np.concatenate([part.ravel() for part in PARTS])
    np.testing.assert_array_equal(cache.open_shared(made[0]), expected)


def test_intact_file_is_not_made_again(made: tuple[Path, Maker]) -> None:
    path, maker = made
    cache.ensure(path, 128, maker)
    assert maker.calls == 1


def test_truncated_file_is_made_again(made: tuple[Path, Maker]) -> None:
    path, maker = made
    path.write_bytes(path.read_bytes()[:50])
    cache.ensure(path, 128, maker)
    assert maker.calls == 2
    assert cache.is_intact(path, 128)


def test_one_changed_byte_is_noticed(made: tuple[Path, Maker]) -> None:
    path, maker = made
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    assert not cache.is_intact(path, 128)
    cache.ensure(path, 128, maker)
    assert cache.open_shared(path)[60] == 60


def test_reader_keeps_its_content_while_the_file_is_replaced(made: tuple[Path, Maker]) -> None:
    path, maker = made
    mapped = cache.open_shared(path)
    path.unlink()
    cache.ensure(path, 128, maker)
    assert mapped[99] == 99


def test_stray_write_stays_in_its_own_process(made: tuple[Path, Maker]) -> None:
    path, _ = made
    cache.open_shared(path)[:] = 0
    assert cache.open_shared(path)[99] == 99


def test_failure_while_making_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> tuple[np.ndarray, ...]:
        raise DataError("damaged source")

    with pytest.raises(DataError, match="damaged source"):
        cache.ensure(tmp_path / "cache" / "file.bin", 128, fail)
    assert not list((tmp_path / "cache").glob("file*"))


def test_unusable_cache_is_named_with_its_mend(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=rf"{tmp_path}/cache.*set TUNE_DDVAE_CACHE"):
        cache.ensure(tmp_path / "cache" / "file.bin", 128, Maker())


def test_full_disk_is_named_with_its_mend_and_left_no_fuller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"No space left.*set TUNE_DDVAE_CACHE"):
        cache.ensure(tmp_path / "cache" / "file.bin", 128, Maker())
    assert not list((tmp_path / "cache").glob("file*"))
