import json
import shutil
import socket
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.training.tiny import make_trainer, tiny
from tune_ddvae.config import to_flat
from tune_ddvae.errors import CheckpointError, ConfigError, TrackingError
from tune_ddvae.training import checkpoint
from tune_ddvae.tuning.tracking.names import value_text
from tune_ddvae.tuning.tracking.tracked_run import checkpoint_of, fetch_run, log_files, log_values

CONFIG = tiny(objective__beta=0.1 + 0.2)
METRIC = "log_likelihood/iwae"
VALUES = {1: -3.5, 2: -2.25, 3: -2.5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoints of epochs 1 to 3."""
    folder = tmp_path_factory.mktemp("trained")
    trainer = make_trainer(CONFIG)
    for number in range(3):
        trainer.step()
        checkpoint.save(trainer, folder / f"checkpoint_{number:06d}")
    return folder


@pytest.fixture
def study(trained, workplace):
    """A storage with one study whose trial 3 has its checkpoints on disk, and that trial in MLflow."""
    return Study(workplace / "studies", trained)


class Study:
    def __init__(self, storage: Path, trained: Path) -> None:
        self.storage = storage
        self.folder = storage / "tiny"
        self.attempt = self.folder / "trials" / "00003-0a1b2c3d4e5f"
        shutil.copytree(trained, self.attempt)
        self.uri = f"sqlite:///{storage / 'mlflow.db'}"
        self.client = MlflowClient(self.uri)
        artifacts = (storage / "mlartifacts").as_uri()
        self.experiment = self.client.create_experiment("tiny", artifacts)
        self.parent = self.make(
            "tiny", {"tune_ddvae.role": "study", "study": "tiny", "folder": str(self.folder)}
        )
        self.run_id = self.make("trial 3", self.trial_tags())
        self.describe(self.run_id)

    def trial_tags(self, **changed) -> dict:
        tags = {
            "tune_ddvae.role": "trial",
            "tune_ddvae.trial": "3",
            "mlflow.parentRunId": self.parent,
            "state": "complete",
            "host": "node7",
            "best_epoch": "2",
        }
        return {**tags, **changed}

    def make(self, name: str, tags: dict) -> str:
        run = self.client.create_run(self.experiment, tags=tags, run_name=name)
        return run.info.run_id

    def describe(self, run_id: str, values=VALUES, config=CONFIG, *, has_artifact=True) -> str:
        for key, value in to_flat(config).items():
            self.client.log_param(run_id, key, value_text(value))
        for epoch, value in values.items():
            self.client.log_metric(run_id, METRIC, value, timestamp=1000 + epoch, step=epoch)
        if has_artifact:
            self.client.log_text(run_id, json.dumps(to_flat(config)), "config.json")
        return run_id

    def fetch(self, run_id: str | None = None, **kwargs):
        return fetch_run(run_id or self.run_id, self.uri, **kwargs)


def test_a_run_gives_configuration_numbers_and_checkpoints_back(study):
    run = study.fetch()
    assert run.config == CONFIG
    assert run.history == {METRIC: VALUES}
    assert (run.name, run.last_epoch, run.best_epoch) == ("trial 3", 3, 2)
    assert run.tags["state"] == "complete"
    best_first = [f"checkpoint_{number:06d}" for number in (1, 2, 0)]
    assert run.checkpoints == tuple(study.attempt / name for name in best_first)
    assert run.folder == study.folder


def test_the_last_the_best_or_any_epochs_checkpoint_can_be_chosen(study):
    run = study.fetch()
    for which, number in (("last", 2), ("best", 1), (1, 0)):
        assert checkpoint_of(run, which) == study.attempt / f"checkpoint_{number:06d}"
    with pytest.raises(
        CheckpointError, match=r"\(trial 3\) has no checkpoint of epoch 9; .* 1, 2, 3"
    ):
        checkpoint_of(run, 9)


def test_checkpoints_of_another_trial_or_newer_than_the_record_do_not_count(study):
    shutil.copytree(study.attempt, study.folder / "trials" / "00030-0a1b2c3d4e5f")
    run_id = study.make("trial 3", study.trial_tags())
    study.describe(run_id, {1: -3.5, 2: -2.25})
    run = study.fetch(run_id)
    assert [*run.found.by_epoch] == [1, 2]
    assert all(path.parent == study.attempt for path in run.checkpoints)


def test_points_that_were_added_later_are_no_epochs_of_training(study):
    study.client.log_metric(study.run_id, f"best/{METRIC}", -2.0, step=8)
    study.client.log_metric(study.run_id, "analysis/latent/kl", 1.0, step=9)
    assert study.fetch().last_epoch == 3


def test_without_the_artifact_params_give_the_configuration_unrounded(study):
    run_id = study.make("trial 3", study.trial_tags())
    study.describe(run_id, has_artifact=False)
    assert study.fetch(run_id).config == CONFIG


def test_a_training_of_its_own_has_its_checkpoints_in_its_own_folder(study, trained):
    tags = {"tune_ddvae.role": "training", "folder": str(trained)}
    run = study.fetch(study.describe(study.make("mine", tags)))
    assert checkpoint_of(run) == trained / "checkpoint_000002"
    with pytest.raises(CheckpointError, match="names no best epoch"):
        checkpoint_of(run, "best")


# -- where it lies ----------------------------------------------------------------------------


def test_a_storage_that_was_moved_is_found_beside_its_database(study, tmp_path):
    moved = tmp_path / "moved"
    study.storage.rename(moved)
    run = fetch_run(study.run_id, f"sqlite:///{moved / 'mlflow.db'}")
    assert checkpoint_of(run).is_relative_to(moved)


def test_a_study_that_was_moved_is_found_in_the_storage_that_is_named(study, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    study.folder.rename(tmp_path / "elsewhere" / "tiny")
    with pytest.raises(
        CheckpointError, match=f"in {study.folder}, which is not .* node7.* --storage"
    ):
        checkpoint_of(study.fetch())
    run = study.fetch(storage=tmp_path / "elsewhere")
    assert checkpoint_of(run).is_relative_to(tmp_path / "elsewhere")


def test_a_relative_address_means_the_current_folder(study, monkeypatch):
    monkeypatch.chdir(study.storage)
    run = fetch_run(study.run_id, "sqlite:///mlflow.db")
    assert run.uri == study.uri


# -- what is refused --------------------------------------------------------------------------


def test_a_run_that_failed_before_its_first_epoch_has_no_checkpoint(study):
    tags = study.trial_tags(state="failed", reason="DivergedError: training/kl is inf")
    run_id = study.describe(study.make("trial 4", tags), {})
    with pytest.raises(CheckpointError, match="no epoch of it is recorded .*failed.*kl is inf"):
        checkpoint_of(study.fetch(run_id))


def test_a_stopped_run_whose_checkpoints_are_gone_says_so(study):
    shutil.rmtree(study.attempt)
    run_id = study.make("trial 3", study.trial_tags(state="stopped early", reason="at rung 3"))
    study.describe(run_id)
    with pytest.raises(CheckpointError, match="no checkpoint left in .*stopped early, at rung 3"):
        checkpoint_of(study.fetch(run_id))


def test_a_run_whose_only_checkpoint_is_damaged_says_so(study):
    for file in study.attempt.glob("*/state.pt"):
        file.write_bytes(b"PK half")
    with pytest.raises(CheckpointError, match="state.pt is damaged"):
        checkpoint_of(study.fetch())


def test_a_run_that_does_not_say_where_it_lies_asks_for_the_storage(study):
    tags = {"tune_ddvae.role": "trial", "tune_ddvae.trial": "3"}
    run_id = study.describe(study.make("trial 3", tags))
    with pytest.raises(CheckpointError, match="does not say where .* --storage"):
        checkpoint_of(study.fetch(run_id))


@pytest.mark.parametrize("run_id", ["0" * 32, "nonsense", "study-7"])
def test_an_unknown_run_is_refused_by_its_id(study, run_id):
    with pytest.raises(TrackingError, match=f"has no run '{run_id}'.*--tracking-uri"):
        study.fetch(run_id)


def test_a_study_is_refused_with_its_best_trials(study):
    with pytest.raises(TrackingError, match="is the study 'tiny' itself.*none of them is complete"):
        study.fetch(study.parent)
    study.client.set_tag(study.parent, "pareto_trials", "3, 5")
    study.client.set_tag(study.parent, "pareto_run_ids", "aaa, bbb")
    with pytest.raises(TrackingError, match="trial 3 is run aaa, trial 5 is run bbb"):
        study.fetch(study.parent)


def test_a_run_of_another_program_is_refused(study):
    with pytest.raises(TrackingError, match="must be a trial of tune_ddvae"):
        study.fetch(study.make("theirs", {}))


def test_a_configuration_of_another_version_is_refused_by_its_key(study):
    run_id = study.make("trial 3", study.trial_tags(version="9.9"))
    study.client.log_text(run_id, json.dumps({"prior/skew": 1.0}), "config.json")
    with pytest.raises(ConfigError, match=r"unknown key 'prior/skew'.*9\.9"):
        study.fetch(run_id)


def test_a_run_without_any_configuration_is_refused(study):
    run_id = study.make("trial 3", study.trial_tags())
    with pytest.raises(TrackingError, match="has neither its config.json .* nor a param data/name"):
        study.fetch(run_id)


def test_a_database_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(TrackingError, match=f"no tracking database at {tmp_path}/none.db"):
        fetch_run("0" * 32, f"sqlite:///{tmp_path}/none.db")
    assert [*tmp_path.iterdir()] == []


def test_a_server_that_does_not_answer_is_named_without_its_password():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(TrackingError, match="cannot be read") as refused:
            fetch_run("0" * 32, f"http://me:hidden@{address}")
    assert f"http://me:***@{address}" in str(refused.value)


def test_a_folder_is_no_tracking_address(tmp_path):
    with pytest.raises(TrackingError, match="must name a server or a database"):
        fetch_run("0" * 32, str(tmp_path))


# -- adding to it -----------------------------------------------------------------------------


def points(study, key):
    return [(p.step, p.value) for p in study.client.get_metric_history(study.run_id, key)]


def test_a_value_that_is_measured_twice_is_one_point(study):
    run = study.fetch()
    for value in (1.5, 1.5, 1.5 * (1 + 1e-7)):
        log_values(
            run, {"analysis/latent/kl": value}, 3, {"analysis/protocol/latent/kl": "points 7"}
        )
    assert points(study, "analysis/latent/kl") == [(3, 1.5)]
    assert study.fetch().tags["analysis/protocol/latent/kl"] == "points 7"


def test_another_value_for_the_epoch_becomes_its_latest(study):
    run = study.fetch()
    for value, how in ((1.5, "few points"), (2.5, "many points")):
        log_values(run, {"analysis/latent/kl": value}, 3, {"analysis/protocol/latent/kl": how})
    again = study.fetch()
    assert again.history["analysis/latent/kl"] == {3: 2.5}
    assert again.tags["analysis/protocol/latent/kl"] == "many points"
    assert study.client.get_run(study.run_id).data.metrics["analysis/latent/kl"] == 2.5


def test_an_earlier_epochs_value_stands_beside_a_later_ones(study):
    run = study.fetch()
    log_values(run, {"analysis/latent/kl": 2.5}, 3, {})
    log_values(run, {"analysis/latent/kl": 1.5}, 2, {})
    assert study.fetch().history["analysis/latent/kl"] == {3: 2.5, 2: 1.5}


def test_files_become_artifacts_and_replace_those_of_before(study, tmp_path):
    file = tmp_path / "analysis.json"
    for text in ("old", "new"):
        file.write_text(text)
        log_files(study.fetch(), [file], "analysis/epoch_3")
    (found,) = study.client.list_artifacts(study.run_id, "analysis/epoch_3")
    assert found.path == "analysis/epoch_3/analysis.json"
    (tmp_path / "back").mkdir()
    path = study.client.download_artifacts(study.run_id, found.path, str(tmp_path / "back"))
    assert Path(path).read_text() == "new"


def test_a_run_that_was_deleted_meanwhile_takes_nothing(study, tmp_path):
    run = study.fetch()
    study.client.delete_run(study.run_id)
    with pytest.raises(TrackingError, match="takes no values for run .*trial 3"):
        log_values(run, {"analysis/latent/kl": 1.5}, 3, {})
