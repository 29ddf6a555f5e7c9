import re
import sys
from pathlib import Path

import pytest

from tune_ddvae.errors import StorageError
from tune_ddvae.tuning.storage.folders import (
    existing_parent,
    file_system,
    free_bytes,
    planned_folder,
    slug,
    storage_folder,
    takes_wal,
)

NAMES = [
    "sparsity",
    "Sparsity",
    "sparsity ",
    "a b/c@d[e]",
    "a b/c@d(e)",
    "../x",
    "..",
    ".",
    "/etc/passwd",
    "..\\x",
    "~root",
    "-rf",
    "a\nb",
    "a\0b",
    "исследование",
    "研究",
    "研究 2",
    "étude",
    "etude",
    "🙂",
    "x" * 200,
    "x" * 201,
    "研" * 200,
    "/" * 200,
    "CON",
    "clustering.",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_gives_one_short_plain_folder(name):
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*", slug(name))
    assert len(slug(name)) <= 100


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_the_storage(name, tmp_path):
    folder = tmp_path / slug(name)
    folder.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [slug(name)]
    assert folder.resolve().parent == tmp_path.resolve()


def test_different_names_have_different_folders():
    assert len({slug(name) for name in NAMES}) == len(NAMES)


def test_a_name_that_looks_like_anothers_slug_has_a_folder_of_its_own():
    names = [*NAMES, *(slug(name) for name in NAMES)]
    assert len({slug(name) for name in names}) == len(set(names))


def test_a_plain_name_is_its_own_folder():
    for name in ("sparsity", "sparsity-quick", "my_study-2"):
        assert slug(name) == name


def test_a_relative_storage_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage_folder("./out") == tmp_path / "out"
    assert storage_folder(Path("deep/er")) == tmp_path / "deep" / "er"
    assert (tmp_path / "deep" / "er").is_dir()


def test_a_home_relative_storage_with_a_space_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert planned_folder("~/x y") == tmp_path / "x y"
    assert storage_folder("~/x y") == tmp_path / "x y"
    assert [path.name for path in tmp_path.iterdir()] == ["x y"]


def test_a_storage_that_is_there_keeps_what_it_holds(tmp_path):
    (tmp_path / "kept").write_text("kept")
    assert storage_folder(tmp_path) == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_planning_makes_nothing(tmp_path):
    assert planned_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert list(tmp_path.iterdir()) == []
    assert existing_parent(tmp_path / "a" / "b") == tmp_path


@pytest.mark.parametrize("check", [planned_folder, storage_folder])
@pytest.mark.parametrize("below", ["", "studies", "deep/studies"])
def test_a_file_or_a_place_below_one_is_refused_with_its_path_and_the_option(
    check, below, tmp_path
):
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / "file" / below
    with pytest.raises(StorageError, match=re.escape(f"storage {folder} must be")) as refused:
        check(folder)
    assert "--storage" in str(refused.value)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc takes no folder, not even root's")
def test_a_place_that_takes_no_folder_is_refused():
    with pytest.raises(StorageError, match="storage /proc/tune-ddvae must be a folder"):
        storage_folder("/proc/tune-ddvae")


@pytest.mark.parametrize("mark", "?%#")
def test_a_path_that_no_database_address_can_hold_is_refused(mark, tmp_path):
    for check in (planned_folder, storage_folder):
        with pytest.raises(StorageError, match=re.escape(f"a{mark}20b")):
            check(tmp_path / f"a{mark}20b" / "studies")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="every Linux has /proc mounted")
def test_the_file_system_is_that_of_the_nearest_mount():
    assert file_system(Path("/proc/self")) == "proc"
    assert file_system(Path("/proc/no/such/place")) == "proc"


@pytest.mark.parametrize(("kind", "takes"), [("ext4", True), ("nfs4", False), ("lustre", False)])
def test_the_write_ahead_log_is_not_used_on_network_file_systems(
    kind, takes, tmp_path, monkeypatch
):
    monkeypatch.setattr("tune_ddvae.tuning.storage.folders.file_system", lambda _: kind)
    assert takes_wal(tmp_path) is takes


def test_free_space_is_a_number_of_bytes(tmp_path):
    assert 0 <= free_bytes(tmp_path) < 2**63


def test_a_name_of_which_nothing_plain_is_left_is_called_by_its_kind():
    assert slug("/").startswith("study--")
    assert slug("/", "training").startswith("training--")
    assert slug("a", "training") == "a"
