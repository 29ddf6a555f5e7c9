import dataclasses
import platform

import pytest
import torch

from tests.tuning.running.test_worker import make_assignment
from tune_ddvae.errors import UnfitNodeError
from tune_ddvae.tuning.cluster import fitness, shipping
from tune_ddvae.tuning.cluster.fitness import check_node, leave_mark, remove_marks
from tune_ddvae.tuning.running.worker import Worker


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch):
    monkeypatch.setattr(fitness, "PATIENCE_S", 0.0)


def asked(folder, **changes):
    return dataclasses.replace(make_assignment(folder), **changes)


def test_a_machine_that_has_all_is_fit(tmp_path):
    check_node(asked(tmp_path, code=shipping.digest(), mark=leave_mark(tmp_path)))
    check_node(asked(tmp_path / "not there"))  # nothing is asked of it


def test_other_code_is_refused_naming_host_and_place(tmp_path):
    with pytest.raises(UnfitNodeError) as refused:
        check_node(asked(tmp_path, code="0" * 64))
    assert str(refused.value).startswith(f"{platform.node()} runs other code")
    assert f"{shipping.digest()[:8]} from " in str(refused.value)


def test_a_folder_of_the_same_name_that_is_another_one_is_refused(tmp_path):
    theirs, here = tmp_path / "theirs", tmp_path / "here"
    theirs.mkdir()
    here.mkdir()
    leave_mark(here)
    with pytest.raises(UnfitNodeError, match="does not see the study's folder"):
        check_node(asked(here, mark=leave_mark(theirs)))


def test_a_folder_that_is_mounted_late_is_waited_for(tmp_path, monkeypatch):
    folder = tmp_path / "late"
    monkeypatch.setattr(fitness, "PATIENCE_S", 10.0)
    monkeypatch.setattr(
        fitness.time, "sleep", lambda _: (folder.mkdir(), (folder / ".session-1").touch())
    )
    check_node(asked(folder, mark=".session-1"))


def test_a_gpu_that_torch_cannot_use_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fitness, "choose_device", lambda: torch.device("cpu"))
    with pytest.raises(UnfitNodeError, match="gives out a GPU that torch cannot compute on"):
        check_node(asked(tmp_path, num_gpus=0.25))
    monkeypatch.setattr(fitness, "choose_device", lambda: torch.device("cuda"))
    check_node(asked(tmp_path, num_gpus=0.25))


def test_only_the_last_drivers_mark_is_left(tmp_path):
    first, second = leave_mark(tmp_path), leave_mark(tmp_path)
    assert first != second
    assert [path.name for path in tmp_path.iterdir()] == [second]
    remove_marks(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_on_an_unfit_machine_says_so_and_writes_nothing(tmp_path):
    worker = Worker()
    worker.assign(asked(tmp_path / "elsewhere", mark=".session-1"))
    report = worker.step()
    assert (report.error_kind, report.is_last) == ("UnfitNodeError", True)
    assert report.facts["host"] == platform.node()
    assert not (tmp_path / "elsewhere").exists()
