import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.studies import Tracked, run, trials_of, write_tiny
from tests.training.tiny import make_trainer, tiny
from tune_ddvae import exit_codes
from tune_ddvae.analyse import main
from tune_ddvae.config import METRICS, to_flat
from tune_ddvae.errors import CheckpointError, ConfigError, DdvaeError, StorageError, TrackingError
from tune_ddvae.training import checkpoint
from tune_ddvae.tuning.analysing import analysing
from tune_ddvae.tuning.analysing import files as analysis_files

pytestmark = pytest.mark.timeout(280)
SPARSITY = {"sparsity/hoyer", "sparsity/hoyer_all", "latent/active_units"}
LOGP = {"log_likelihood/iwae", "log_likelihood/reconstruction", "latent/kl"}


def analyse(*words) -> tuple[int, dict]:
    """Exit code and result of the command."""
    done = CliRunner().invoke(main, [*map(str, words), "--json"], catch_exceptions=False)
    return done.exit_code, json.loads(done.stdout)


def refused(*words) -> DdvaeError | None:
    return CliRunner().invoke(main, [*map(str, words)]).exception


@pytest.fixture(scope="module")
def studied(tmp_path_factory, ready_tracking, ray_address):
    """A study of one trial that gets worse after its best epoch, as a user has run it."""
    folder = tmp_path_factory.mktemp("studied")
    worsens = {"objective/beta": 1.7, "objective/alpha": 1.1, "optimiser/learning_rate": 9e-4}
    study = write_tiny(folder, trials=1, published={"worsens": worsens}, first=("worsens",))
    (folder / "studies").mkdir()
    shutil.copy(ready_tracking, folder / "studies" / "mlflow.db")
    done = run(study, folder, "--max-concurrent", "1", "--address", ray_address)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    (trial,) = trials_of(folder, "tiny")
    return folder / "studies", trial, Tracked(folder, "tiny", "tiny")


@pytest.fixture
def attempt(tmp_path):
    """A folder with the checkpoints of three epochs."""
    trainer = make_trainer(tiny())
    while not trainer.is_done:
        trainer.step()
        checkpoint.save(trainer, tmp_path / "run" / f"checkpoint_{trainer.epoch:06d}")
    return tmp_path / "run"


# -- a trial of a study -----------------------------------------------------------------------


@pytest.mark.parametrize("which", ["best", "last"])
def test_the_checkpoint_of_a_trial_gives_the_values_that_were_recorded(studied, which):
    storage, trial, tracked = studied
    (child,) = tracked.children
    epoch = int(child.data.tags[f"{which}_epoch"])
    words = ("--storage", storage, "--as-recorded", "--checkpoint", which)
    code, found = analyse(child.info.run_id, *words)
    assert (code, found["differing"], found["epoch"]) == (exit_codes.COMPLETE, [], epoch)
    row = trial.rows[epoch]
    assert found["recorded"] == {n: v for n, v in row.metrics.items() if n in METRICS}
    assert found["values"] == pytest.approx(found["recorded"], rel=1e-4, abs=1e-4)
    assert found["measured_on"] == {"split": "validation", "points": 400}
    metric = "log_likelihood/iwae"
    assert found["values"][metric] == pytest.approx(
        float(child.data.tags[f"{which}_value"]), rel=1e-4
    )


def test_best_and_last_are_different_checkpoints_here(studied):
    _, trial, tracked = studied
    tags = tracked.children[0].data.tags
    values = {epoch: row.metrics["log_likelihood/iwae"] for epoch, row in trial.rows.items()}
    assert int(tags["best_epoch"]) == max(values, key=values.get) < int(tags["last_epoch"]) == 27
    assert tags["best_checkpoint"] != tags["last_checkpoint"]
    assert tracked.parent.data.tags["folder"] == str(studied[0] / "tiny")
    for which in ("best", "last"):
        folder = studied[0] / "tiny" / tags[f"{which}_checkpoint"]
        assert checkpoint.epoch_of(folder) == int(tags[f"{which}_epoch"])


def test_a_value_that_is_not_found_again_is_named(studied, monkeypatch):
    storage, _, tracked = studied
    original = analysing.measure_as_recorded

    def off(model, names, on_batch):
        measured = original(model, names, on_batch)
        measured.values["latent/kl"] += 0.01
        return measured

    monkeypatch.setattr(analysing, "measure_as_recorded", off)
    run_id = tracked.children[0].info.run_id
    code, found = analyse(run_id, "--storage", storage, "--as-recorded", "--logp")
    assert (code, found["differing"]) == (exit_codes.NO_SUCCESS, ["latent/kl"])


def test_values_files_and_figures_are_added_to_the_trials_run_once(studied):
    storage, _, tracked = studied
    (child,) = tracked.children
    words = ("--storage", storage, "--iwae-samples", 20, "--points", 50)
    for _ in range(2):
        code, found = analyse(child.info.run_id, *words)
        assert code == exit_codes.COMPLETE
    for name, value in found["values"].items():
        assert tracked.history(child, f"analysis/{name}") == [(27, value)]
    assert len(found["values"]) > 8
    how = tracked.client.get_run(child.info.run_id).data.tags
    assert how["analysis/protocol/log_likelihood/iwae"].startswith(
        "epoch 27, test set, samples 20, points 50"
    )
    assert json.loads(tracked.artifact(child, "analysis/epoch_27/analysis.json")) == found
    kept = {
        Path(file.path).name
        for file in tracked.client.list_artifacts(child.info.run_id, "analysis/epoch_27")
    }
    figures = {f"{name}.{kind}" for name in found["figures"] for kind in ("png", "pdf")}
    assert figures
    assert figures | {"analysis.json"} <= kept


def test_the_result_says_what_it_follows_from(studied):
    storage, trial, tracked = studied
    run_id = tracked.children[0].info.run_id
    _, found = analyse(run_id, "--storage", storage, "--sparsity")
    assert found["config"] == trial.config
    assert found["run"]["id"] == run_id
    assert Path(found["checkpoint"]).is_relative_to(storage)
    assert found["versions"]["torch"]
    assert found["measured_on"] == {"split": "test", "points": 400}


def test_tracking_that_takes_nothing_leaves_the_results_in_the_folder(studied, monkeypatch):
    storage, _, tracked = studied

    def fails(*_) -> None:
        raise TrackingError("MLflow takes no files")

    monkeypatch.setattr(analysis_files, "log_files", fails)
    words = [tracked.children[0].info.run_id, "--storage", str(storage), "--sparsity"]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == exit_codes.WORK_LEFT
    assert "warning: MLflow takes no files" in done.stdout
    assert "artifacts in" not in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("  folder")]
    assert (Path(line.split()[1]) / "analysis-sparsity.json").is_file()


def test_the_studys_own_run_is_refused_with_its_best_trial(studied):
    storage, _, tracked = studied
    error = refused(tracked.parent.info.run_id, "--storage", storage)
    assert isinstance(error, TrackingError)
    assert tracked.children[0].info.run_id in str(error)


# -- a folder ---------------------------------------------------------------------------------


def test_everything_is_measured_and_drawn_where_nothing_is_chosen(attempt):
    code, found = analyse(attempt, "--iwae-samples", 5, "--points", 20)
    assert (code, found["epoch"], found["run"]) == (exit_codes.COMPLETE, 3, None)
    assert set(found["values"]) | set(found["absent"]) == set(METRICS)
    assert found["config"] == to_flat(tiny())
    folder = attempt / "analysis" / "epoch_3"
    assert Path(found["folder"]) == folder
    assert json.loads((folder / "analysis.json").read_text()) == found
    assert found["figures"]
    for name in found["figures"]:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("options", "names"),
    [(("--sparsity",), SPARSITY), (("--logp", "--points", "9"), LOGP), (("--figures",), set())],
)
def test_only_what_is_asked_for_is_measured(attempt, options, names):
    _, found = analyse(attempt, *options)
    assert set(found["values"]) | set(found["absent"]) == names
    assert bool(found["figures"]) == ("--figures" in options)


def test_disentanglement_of_the_class_is_reported_and_the_rest_absent_with_the_reason(attempt):
    _, found = analyse(attempt, "--disentanglement")
    assert set(found["values"]) == {"disentanglement/class_mig", "disentanglement/class_sap"}
    assert "needs known factors" in found["absent"]["disentanglement/dci"]


def test_samples_and_points_are_a_thousand_unless_said_otherwise(attempt):
    _, found = analyse(attempt, "--logp")
    how = found["protocol"]["log_likelihood/iwae"]
    assert (how["samples"], how["points"]) == (1000, 50)  # there are but 50
    assert math.isfinite(how["standard_error"])


def test_an_epoch_a_folder_and_the_name_of_the_papers_users_can_be_given(attempt, tmp_path):
    out = tmp_path / "here" / "it goes"
    words = ("--checkpoint", 2, "--out", out, "--sparsity", "--no-cuda")
    _, found = analyse("--save-dir", attempt, *words)
    assert (found["epoch"], found["checkpoint"]) == (2, str(attempt / "checkpoint_000002"))
    assert (out / "analysis-sparsity.json").is_file()


def test_one_question_never_overwrites_the_answer_to_another(attempt):
    for options in (("--sparsity",), ("--disentanglement",)):
        analyse(attempt, *options)
    kept = {path.name for path in (attempt / "analysis" / "epoch_3").iterdir()}
    assert kept == {"analysis-sparsity.json", "analysis-disentanglement.json"}


def test_a_damaged_checkpoint_is_passed_over_with_a_word(attempt):
    (attempt / "checkpoint_000003" / "state.pt").write_bytes(b"half")
    done = CliRunner().invoke(main, [str(attempt), "--sparsity"], catch_exceptions=False)
    assert done.exit_code == exit_codes.COMPLETE
    assert "passed over a checkpoint" in done.stdout
    assert "epoch 2" in done.stdout


# -- what is refused --------------------------------------------------------------------------


def test_a_place_that_cannot_be_written_to_is_refused_before_computing(attempt, monkeypatch):
    monkeypatch.delattr(analysing, "measure")
    (attempt / "file").write_text("")
    error = refused(attempt, "--out", attempt / "file" / "below")
    assert isinstance(error, StorageError)
    assert "--out" in str(error)


@pytest.mark.parametrize(
    "options", [("--checkpoint", "best"), ("--as-recorded",), ("--tracking-uri", "http://x")]
)
def test_what_only_a_run_can_answer_is_refused_of_a_folder(attempt, options):
    error = refused(attempt, *options)
    assert isinstance(error, ConfigError)
    assert options[0] in str(error)


def test_a_folder_for_data_that_have_no_files_is_refused(attempt, tmp_path):
    error = refused(attempt, "--sparsity", "--data-dir", tmp_path)
    assert isinstance(error, ConfigError)
    assert (
        f"--data-dir must be left out where data have no files, got {tmp_path}: digits is"
        in str(error)
    )
    assert not (attempt / "analysis").exists()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, exit_codes.INTERRUPTED), (signal.SIGTERM, exit_codes.TERMINATED)],
)
def test_a_signal_ends_an_analysis_that_nothing_goes_on_with(attempt, monkeypatch, number, code):
    monkeypatch.setattr(analysing, "measure", lambda *_a, **_k: signal.raise_signal(number))
    with pytest.raises(SystemExit) as ended:
        main.main([str(attempt), "--sparsity"], standalone_mode=False)
    assert ended.value.code == code
    (note,) = ended.value.__notes__
    assert note.endswith("the analysis is not finished; the same command begins it anew")


def test_a_folder_without_checkpoints_and_one_that_is_not_there_are_refused(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        error = refused(place)
        assert isinstance(error, CheckpointError)
        assert str(place) in str(error)


def test_an_epoch_without_checkpoint_is_refused_with_those_there_are(attempt):
    error = refused(attempt, "--checkpoint", 7)
    assert isinstance(error, CheckpointError)
    assert "1, 2, 3" in str(error)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name one run of MLflow or one folder"),
        (("a", "--save-dir", "b"), "name one run of MLflow or one folder"),
        (("a", "--sparsity", "--points", "9"), "belong to --logp"),
        (("a", "--as-recorded", "--iwae-samples", "9"), "--as-recorded takes the trial's own"),
        (("a", "--checkpoint", "worst"), "must be last, best or an epoch"),
        (("a", "--iwae-samples", "0"), "0 is not in the range 1<=x<=1000000"),
        (("a", "--iwae-samples", "9" * 12), "is not in the range 1<=x<=1000000"),
        (("",), "RUN_OR_DIR must name a run of MLflow or a folder, got nothing"),
        (("--save-dir", " "), "--save-dir must name a run of MLflow or a folder, got nothing"),
    ],
)
def test_options_that_contradict_each_other_are_refused(words, message):
    done = CliRunner().invoke(main, list(words))
    assert done.exit_code == exit_codes.REFUSED
    assert message in done.stderr


def test_a_refusal_is_one_message_and_exit_code_2(workplace):
    command = [sys.executable, "-m", "tune_ddvae.analyse", "0" * 32]
    done = subprocess.run(command, cwd=workplace, capture_output=True, text=True)
    assert done.returncode == exit_codes.REFUSED
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: MLflow at sqlite:///{workplace}/studies/mlflow.db has no run")
    assert done.stdout == ""
