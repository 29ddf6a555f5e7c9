import dataclasses
import json
from pathlib import Path

import pytest

from tests.tuning.machines import GOOD, HOSTS, VERSIONS, examined, machine
from tests.tuning.simulated import make_spec
from tune_ddvae.catalogue import StudyFile, find_study
from tune_ddvae.config import DATASETS
from tune_ddvae.errors import ConfigError, ResourceError, StorageError
from tune_ddvae.tuning.cluster.facts import Check, State
from tune_ddvae.tuning.cluster.resources import Available, Growth, NodeType, View
from tune_ddvae.tuning.doctor import doctoring
from tune_ddvae.tuning.doctor.doctoring import Question, examine, make_need, room_for_trials
from tune_ddvae.tuning.doctor.rounds import Round

PINWHEEL = find_study("clustering")  # its data need no files
AWAY = Check(State.DOUBTFUL, "MLflow does not answer", "start that server")


def silently(_: str) -> None:
    pass


def alone(folder: Path, **changes) -> Question:
    """Of a study on this machine, whose storage is a folder that is not there yet."""
    options = {
        "file": PINWHEEL,
        "storage": str(folder / "new" / "studies"),
        "tracking_uri": f"sqlite:///{folder}/mlflow.db",
    }
    return Question(**{**options, **changes})


# -- what is found ----------------------------------------------------------------------------


def test_what_keeps_a_study_from_running_comes_first_and_says_where():
    examination = examined(
        h1={"versions": VERSIONS | {"torch": "2.13.0"}},
        h2={"ahead_s": 9.0},
        whole={"tracking": AWAY, "record": Check(State.BAD, "no database")},
    )
    assert not examination.can_run
    assert [(found.where, found.what) for found in examination.findings] == [
        ("study", "record"),
        ("h1", "versions"),
        ("study", "tracking"),
        ("h2", "clock"),
    ]


def test_warnings_alone_keep_nothing_from_running():
    assert examined(whole={"tracking": AWAY}, h1={"ahead_s": 9.0}).can_run


def test_as_json_it_is_all_there():
    examination = examined(h1={"ahead_s": 9.0}, whole={"tracking": AWAY})
    told = json.loads(json.dumps(examination.to_json()))
    assert told["can_run"] is True
    assert [row["host"] for row in told["machines"]] == ["h0 (driver)", *HOSTS]
    assert told["machines"][2]["checks"]["clock"]["state"] == "doubtful"
    assert told["study"]["tracking"] == dataclasses.asdict(AWAY)
    assert [found["where"] for found in told["findings"]] == ["study", "h1"]


# -- this machine -----------------------------------------------------------------------------


def test_a_machine_alone_is_looked_at_and_nothing_is_left(tmp_path):
    told: list[str] = []
    examination = examine(alone(tmp_path), told.append)
    assert examination.findings == ()
    assert examination.subject == "study clustering on this machine"
    assert examination.whole["trials"].words.endswith("CPU")
    assert examination.whole["record"].state is State.GOOD
    assert len(examination.rows) == 1
    assert list(tmp_path.iterdir()) == []
    assert told == ["looking at this machine", "asking the record's database and MLflow"]


def test_what_lay_in_the_storage_stays(tmp_path):
    (tmp_path / "new" / "studies").mkdir(parents=True)
    (tmp_path / "new" / "studies" / "kept").touch()
    examine(alone(tmp_path), silently)
    assert [path.name for path in (tmp_path / "new" / "studies").iterdir()] == ["kept"]


def test_a_storage_that_cannot_be_made_is_named_once(tmp_path):
    (tmp_path / "new").touch()  # a file, where a folder would have to be
    examination = examine(alone(tmp_path), silently)
    assert [(found.where.split()[-1], found.what) for found in examination.findings] == [
        ("(driver)", "storage")
    ]
    assert str(tmp_path / "new" / "studies") in examination.findings[0].check.words
    assert not examination.can_run


def test_more_cpus_than_there_are_is_named(tmp_path):
    examination = examine(alone(tmp_path, cpus_per_trial=4096.0), silently)
    assert not examination.can_run
    assert "4096 CPUs" in examination.whole["trials"].words


def test_more_memory_than_there_is_is_named(tmp_path):
    examination = examine(alone(tmp_path, memory_per_trial=100_000.0), silently)
    assert not examination.can_run
    words = examination.whole["trials"].words
    assert words.startswith("--memory-per-trial asks for 100000 GB of memory a trial, and there")


# -- a cluster --------------------------------------------------------------------------------


def test_a_cluster_that_cannot_be_joined_is_told_with_what_this_machine_has(tmp_path, monkeypatch):
    def refuse(*_: object) -> Round:
        raise ResourceError("the Ray cluster runs Ray 2.59.0, and this is Ray 2.60.0")

    monkeypatch.setattr(doctoring, "round_of", refuse)
    examination = examine(alone(tmp_path, address="h0:6379"), silently)
    assert not examination.can_run
    assert "Ray 2.59.0" in examination.whole["cluster"].words
    assert "trials" not in examination.whole
    assert len(examination.rows) == 1


def test_a_cluster_is_shown_with_the_driver_first(tmp_path, monkeypatch):
    def well(address, driver, need, tell) -> Round:
        seen = (driver.facts.probe, "probe of h1")
        theirs = {"versions": driver.facts.versions, "digest": driver.facts.digest}
        node = machine("h1", seen=seen, data=driver.facts.data, **theirs)
        view = View((Available(2.0, 0.0),))
        return Round(driver=dataclasses.replace(driver, seen=seen), nodes=(node,), view=view)

    monkeypatch.setattr(doctoring, "round_of", well)
    examination = examine(alone(tmp_path, address="h0:6379"), silently)
    assert examination.findings == ()
    assert examination.subject == "study clustering on the cluster at h0:6379"
    assert examination.rows[0].host.endswith("(driver)")
    assert examination.rows[1].host == "h1"
    assert examination.whole["trials"].words.startswith("2 trials at once")


# -- what is asked ----------------------------------------------------------------------------


def test_without_a_study_all_data_sets_are_looked_for(tmp_path):
    assert [config.name for config in make_need(Question(), tmp_path).data] == list(DATASETS)
    need = make_need(Question(file=PINWHEEL), tmp_path)
    assert need.data == (PINWHEEL.spec.base.data,)
    assert need.is_driver


def test_a_folder_of_data_belongs_to_a_study_that_has_files(tmp_path):
    with pytest.raises(ConfigError, match="--data-dir is for the data of one STUDY"):
        make_need(Question(data_dir=str(tmp_path)), tmp_path)
    with pytest.raises(ConfigError, match="--data-dir must be left out"):
        make_need(Question(file=PINWHEEL, data_dir=str(tmp_path)), tmp_path)
    need = make_need(Question(file=find_study("sparsity"), data_dir="files"), tmp_path)
    assert need.data_dir == str(Path("files").absolute())


def test_a_storage_that_is_no_place_is_refused():
    with pytest.raises(StorageError, match="ftp://somewhere"):
        examine(Question(storage="ftp://somewhere/studies"), silently)


# -- room -------------------------------------------------------------------------------------


def test_room_is_what_all_nodes_hold():
    view = View((Available(0.0, 0.0), Available(2.0, 0.0), Available(3.0, 0.0)))
    trial, room = room_for_trials(Question(cpus_per_trial=1.0), view)
    assert trial == Available(1.0, 0.0)
    assert room == Check(State.GOOD, "5 trials at once, each with 1 CPU")


def test_a_cluster_of_heads_alone_has_no_room():
    _, room = room_for_trials(Question(), View((Available(0.0, 0.0),)))
    assert room.state is State.BAD
    assert "ray start" in room.mend


def test_room_that_an_autoscaler_adds_is_said_to_be_on_its_way():
    growth = Growth((NodeType(Available(4.0, 1.0), 2),))
    view = View((Available(0.0, 0.0),), 0, growth)
    _, room = room_for_trials(Question(gpus_per_trial=1.0), view)
    assert room.state is State.GOOD
    assert "autoscaler" in room.words


def test_more_than_any_node_has_names_asked_and_available():
    _, room = room_for_trials(Question(gpus_per_trial=2.0), View((Available(4.0, 1.0),)))
    assert room.state is State.BAD
    assert "asks for 2 GPUs" in room.words


def test_room_is_told_with_the_memory_that_is_asked_for():
    trial, room = room_for_trials(
        Question(cpus_per_trial=1.0, memory_per_trial=4.0), View((Available(4.0, 0.0, 9.0),))
    )
    assert trial == Available(1.0, 0.0, 4.0)
    assert room == Check(State.GOOD, "2 trials at once, each with 1 CPU and 4 GB of memory")


def test_a_study_needs_room_for_its_checkpoints(tmp_path):
    spec = make_spec()
    few = dataclasses.replace(spec, size=dataclasses.replace(spec.size, trials=20))
    many = dataclasses.replace(spec, size=dataclasses.replace(spec.size, trials=2000))
    needed = [
        doctoring._needed(Question(file=StudyFile("x", "x.py", "", one)), 2) for one in (few, many)
    ]
    assert needed[0] < needed[1]
    assert doctoring._needed(Question(), 2) < needed[0]


def test_a_driver_hands_over_files_and_nothing_that_is_generated(tmp_path, monkeypatch):
    monkeypatch.setattr(
        doctoring.placing, "pack", lambda config, _: config.name == "dsprites" or None
    )
    need = make_need(Question(), tmp_path)
    assert doctoring._handed_over(need) == frozenset({"dsprites"})


def test_a_check_that_is_well_is_no_finding():
    assert examined(whole={"record": GOOD}).findings == ()
