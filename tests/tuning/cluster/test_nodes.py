import json
import subprocess
import sys
from pathlib import Path

import pytest

from tune_ddvae import data
from tune_ddvae.config import DataConfig
from tune_ddvae.errors import DataError
from tune_ddvae.tuning.cluster import nodes
from tune_ddvae.tuning.cluster.facts import Check, Devices, Need, State
from tune_ddvae.tuning.cluster.nodes import (
    free_memory,
    load_training,
    look,
    see_data,
    see_devices,
    spaces,
    total_memory,
    versions,
)

ROOT = Path(__file__).parents[3]
FASHION = DataConfig(name="fashion_mnist")
# What a machine says on which Python is, and nothing else: no site-packages at all.
BARE = """
import dataclasses, json, sys
from tune_ddvae.config import DataConfig
from tune_ddvae.tuning.cluster.facts import Need
from tune_ddvae.tuning.cluster.nodes import look
from pathlib import Path
need = Need(data=(DataConfig(name="pinwheel"),), storage=Path(sys.argv[1]), probe="bare")
print(json.dumps(dataclasses.asdict(look(need))))
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that stands for all that a worker loads."""

    def write(text: str) -> None:
        (tmp_path / "stand_in.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(nodes, "TRAINABLE", "stand_in")
        monkeypatch.delitem(sys.modules, "stand_in", raising=False)

    return write


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """A machine that seems to have a GPU, on which a script of ours runs."""

    def seem(script: str) -> Devices:
        monkeypatch.setattr(nodes, "GPU_FILES", ("null",))
        monkeypatch.setattr(nodes, "GPU_SCRIPT", script)
        return see_devices()

    return seem


# -- all of it --------------------------------------------------------------------------------


def test_this_machine_has_what_it_takes(tmp_path):
    need = Need(data=(DataConfig(name="pinwheel"),), storage=tmp_path, probe="word", is_driver=True)
    facts = look(need)
    assert facts.problems == ()
    assert facts.loading.state is State.GOOD
    assert facts.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(facts.versions.values())
    assert facts.devices.num_cpus >= 1
    assert facts.data[0].check.state is State.GOOD
    assert facts.data[0].checksum == data.checksum(need.data[0])
    assert facts.writing == Check(State.GOOD, "written")
    assert [path.name for path in tmp_path.iterdir()] == [facts.probe]
    assert facts.free_memory > 0
    assert facts.spaces[0].place == str(tmp_path)


def test_a_machine_without_any_package_says_what_it_lacks(tmp_path):
    done = subprocess.run(
        [sys.executable, "-S", "-c", BARE, str(tmp_path)],
        cwd=ROOT,
        env={},
        capture_output=True,
        text=True,
        check=True,
    )
    facts = json.loads(done.stdout)
    assert facts["loading"]["state"] == "bad"
    assert facts["loading"]["words"] == "ray is not installed"
    assert "pip install -c constraints.txt ray" in facts["loading"]["mend"]
    assert facts["versions"] | {"ray": "", "torch": "", "numpy": ""} == facts["versions"]
    assert facts["data"][0]["check"]["state"] == "absent"
    assert facts["writing"]["state"] == "good"
    assert facts["devices"]["num_cpus"] >= 1
    assert facts["spaces"][0]["is_storage"]


def test_what_cannot_be_looked_at_is_told_and_the_rest_is_looked_at(tmp_path, monkeypatch):
    def fail() -> dict:
        raise ValueError("torn file")

    monkeypatch.setattr(nodes, "versions", fail)
    facts = look(Need(storage=tmp_path, probe="word"))
    assert facts.problems == ("versions could not be looked at: ValueError: torn file",)
    assert facts.versions == {}
    assert facts.writing.state is State.GOOD


def test_a_version_is_what_runs_and_not_what_is_installed(monkeypatch):
    import torch

    monkeypatch.setattr(torch, "__version__", "1.0.0+other")
    assert versions()["torch"] == "1.0.0+other"


# -- what trains ------------------------------------------------------------------------------


def test_a_missing_package_is_named_with_its_mend(module):
    module("import no_such_package.inner")
    check = load_training()
    assert check.words == "no_such_package is not installed"
    assert check.mend.endswith("pip install -c constraints.txt no_such_package")
    assert check.state is State.BAD


def test_a_package_that_cannot_be_loaded_says_why(module):
    module("raise OSError('libcudart.so.13: cannot open shared object file')")
    check = load_training()
    assert check.state is State.BAD
    assert "libcudart.so.13" in check.words


# -- devices ----------------------------------------------------------------------------------


def test_a_machine_without_a_gpu_is_asked_for_none(monkeypatch):
    monkeypatch.setattr(nodes, "GPU_FILES", ("no-such-device",))
    monkeypatch.setattr(nodes, "GPU_SCRIPT", "raise SystemExit('asked')")
    assert see_devices() == Devices(see_devices().num_cpus)


def test_gpus_are_those_that_computed_something(gpu):
    assert gpu("print('noise'); print('[\"H200\", \"H200\"]')").gpus == ("H200", "H200")


def test_a_gpu_that_cannot_be_used_says_why(gpu):
    devices = gpu("raise RuntimeError('CUDA driver is too old')")
    assert devices.gpus == ()
    assert devices.problem == "RuntimeError: CUDA driver is too old"


def test_a_gpu_that_hangs_is_not_waited_for(gpu, monkeypatch):
    monkeypatch.setattr(nodes, "GPU_S", 0.2)
    assert "within 0.2 s" in gpu("import time; time.sleep(60)").problem


def test_gpus_that_ray_hides_are_seen(gpu, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    script = "import json, os; print(json.dumps([os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')]))"
    assert gpu(script).gpus == ("unset",)


# -- data -------------------------------------------------------------------------------------


def test_the_driver_must_have_the_folder_that_it_names_and_a_node_need_not(tmp_path):
    need = Need(data=(FASHION,), data_dir=str(tmp_path / "nowhere"), probe="word", is_driver=True)
    (driver,) = look(need).data
    assert driver.check.state is State.BAD
    assert str(tmp_path / "nowhere") in driver.check.words
    (node,) = look(Need(data=(FASHION,), data_dir=need.data_dir, probe="word")).data
    assert "nowhere" not in node.check.words


def test_data_that_would_be_fetched_are_told_with_the_way_to_be_sure(monkeypatch):
    monkeypatch.setattr(data, "found", lambda *_: "")
    seen = see_data(FASHION, None)
    assert seen.check.state is State.DOUBTFUL
    assert seen.check.mend.endswith("python -m tune_ddvae.data fashion_mnist")
    assert seen.checksum == data.checksum(FASHION)


def test_damaged_data_are_named(monkeypatch):
    def fail(*_: object) -> str:
        raise DataError("/files/images.gz is damaged")

    monkeypatch.setattr(data, "found", fail)
    seen = see_data(FASHION, None)
    assert seen.check == Check(State.BAD, "fashion_mnist: /files/images.gz is damaged")
    assert seen.checksum == ""


# -- room -------------------------------------------------------------------------------------


def test_room_is_told_once_a_file_system(tmp_path):
    places = [space.place for space in spaces(tmp_path / "not" / "yet")]
    assert places[0] == str(tmp_path / "not" / "yet")
    assert len(places) == len(set(places))
    assert not (tmp_path / "not").exists()


def test_a_containers_memory_is_what_its_limit_leaves(tmp_path, monkeypatch):
    for name, text in (
        ("MEMORY_LIMIT", "3000000"),
        ("MEMORY_USED", "2500000"),
        ("MEMORY_STAT", "anon 1000000\ninactive_file 400000\nactive_file 100000"),
    ):
        path = tmp_path / name
        path.write_text(f"{text}\n")
        monkeypatch.setattr(nodes, name, path)
    assert free_memory() == 1_000_000  # what is cached gives way
    assert total_memory() == 3_000_000
    (tmp_path / "MEMORY_LIMIT").write_text("max\n")
    assert free_memory() > 1_000_000
    assert total_memory() >= free_memory()
    monkeypatch.setattr(nodes, "MEMORY_LIMIT", tmp_path / "none")
    monkeypatch.setattr(nodes, "MEMORY_USED", tmp_path / "none")
    monkeypatch.setattr(nodes, "OLD_MEMORY_LIMIT", tmp_path / "old")
    (tmp_path / "old").write_text("2000000\n")
    assert total_memory() == free_memory() == 2_000_000
