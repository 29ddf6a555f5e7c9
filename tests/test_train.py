import contextlib
import errno
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from mlflow import MlflowClient

from search_spaces import clustering, independence, sparsity
from tests.studies import without_seconds
from tests.training.tiny import one_thread
from tune_ddvae import exit_codes, train
from tune_ddvae.catalogue import find_study
from tune_ddvae.config import to_flat, with_overrides
from tune_ddvae.errors import CheckpointError, DdvaeError
from tune_ddvae.spec import StudySize
from tune_ddvae.training import checkpoint
from tune_ddvae.training.folder import METRICS_FILE
from tune_ddvae.training.options import KEYS
from tune_ddvae.tuning.one_training import tracked_training
from tune_ddvae.tuning.record.opening import open_record, record_url
from tune_ddvae.tuning.running.live import Conditions, LiveStudy
from tune_ddvae.tuning.running.worker import Worker
from tune_ddvae.tuning.tracking import check as tracking_check
from tune_ddvae.tuning.tracking import tracked_run
from tune_ddvae.tuning.tracking.tracking import Outcome, sync
from tune_ddvae.tuning.trials import State

# Seconds on one core.
PINWHEEL = ["--model", "pinwheel", "--epochs", "6", "--set", "metrics/iwae_num_points=20"]
DIGITS = [
    "--model", "digits", "--latent-dim", "3", "--fBase", "4", "--epochs", "4",
    "--set", "data/num_train=150", "--set", "data/num_test=50",
    "--set", "metrics/iwae_num_samples=4", "--set", "metrics/iwae_num_points=10",
]  # fmt: skip
LONG = [*DIGITS[:-2], "--epochs", "2000"]  # to be ended from outside


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """In a folder of its own, with the signal handlers and threads of before afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    with one_thread():
        yield
    signal.signal(signal.SIGTERM, before)


def run(*words: str) -> tuple[int, dict]:
    """Exit code and JSON result of the command, run in this process."""
    done = CliRunner().invoke(train.main, [*words, "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, json.loads(done.stdout)


def start(*words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tune_ddvae.train", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def training(folder: Path, rows: int, *words: str):
    """The command in a process of its own, once it has trained so many epochs."""
    process = start(*words, "--save-dir", str(folder))
    try:
        until = time.monotonic() + 120
        while num_rows(folder) < rows:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)  # the file is what is awaited; it has no event to wait on
        yield process
    finally:
        process.kill()
        process.communicate()


def num_rows(folder: Path) -> int:
    path = folder / METRICS_FILE
    return path.read_bytes().count(b"\n") if path.exists() else 0


def rows(folder: str | Path) -> list[tuple]:
    """What two trainings of one configuration must have in common."""
    lines = (Path(folder) / METRICS_FILE).read_text().splitlines()
    found = map(json.loads, lines)
    return [
        (row["epoch"], without_seconds(row["metrics"]), row["absent"], row["facts"])
        for row in found
    ]


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(Path(folder), torch.device("cpu")).vae


def assert_same(one: dict, other: dict) -> None:
    assert rows(one["folder"]) == rows(other["folder"])
    mine, theirs = weights(one["checkpoint"]), weights(other["checkpoint"])
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("words", [PINWHEEL, DIGITS], ids=["pinwheel", "digits"])
def test_a_configuration_is_trained_and_measured_on_the_test_set(words, tmp_path):
    code, result = run(*words)
    assert code == exit_codes.COMPLETE
    assert result["outcome"] == "complete"
    epochs = int(words[words.index("--epochs") + 1])
    assert result["epochs"] == epochs
    assert Path(result["folder"]).parent == tmp_path / "runs"
    assert result["config"]["data/num_validation"] == 0
    assert not any(name.startswith("test/") for name in result["metrics"])
    last = rows(result["folder"])[-1]
    assert (last[0], last[1]) == (epochs, without_seconds(result["metrics"]))
    assert {"log_likelihood/iwae", "training/objective", "latent/kl"} <= result["metrics"].keys()


def test_the_same_command_again_says_that_it_is_finished_and_changes_nothing():
    _, first = run(*PINWHEEL)
    before = (Path(first["folder"]) / METRICS_FILE).read_bytes()
    again = CliRunner().invoke(train.main, PINWHEEL)
    assert again.exit_code == exit_codes.COMPLETE
    assert "already finished: 6 epochs" in again.stdout
    assert (Path(first["folder"]) / METRICS_FILE).read_bytes() == before
    assert run(*PINWHEEL) == (exit_codes.COMPLETE, first)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, exit_codes.INTERRUPTED, "interrupted"),
        (signal.SIGTERM, exit_codes.TERMINATED, "terminated"),
    ],
)
def test_a_signal_keeps_the_last_finished_epoch_and_says_how_to_go_on(number, code, word, tmp_path):
    folder = tmp_path / "a"
    with training(folder, 2, *LONG, "--save-freq", "1000") as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    last = num_rows(folder)
    *_, said, how = out.splitlines()
    assert said == f"{word}: epoch {last} of 2000 is kept; to go on:"
    assert how.split()[1:4] == ["-m", "tune_ddvae.train", "--model"]
    assert [path.parent.name for path in folder.glob("*/state.pt")] == [f"checkpoint_{last:06d}"]


def test_a_training_that_was_killed_ends_as_one_left_alone(tmp_path):
    words = [*DIGITS[:-12], "--epochs", "30", *DIGITS[-8:]]
    folder = tmp_path / "killed"
    for seen in (3, 8):
        with training(folder, seen, *words) as process:
            process.kill()
            process.communicate()
    assert num_rows(folder) < 30
    code, killed = run(*words, "--save-dir", str(folder))
    assert code == exit_codes.COMPLETE
    _, straight = run(*words)
    assert [row[0] for row in rows(folder)] == list(range(1, 31))
    assert_same(killed, straight)


def test_a_damaged_newest_checkpoint_falls_back_and_says_so():
    _, first = run(*DIGITS)
    expected = rows(first["folder"])
    state = Path(first["checkpoint"]) / "state.pt"
    state.write_bytes(state.read_bytes()[:500])
    again = CliRunner().invoke(train.main, DIGITS)
    assert again.exit_code == exit_codes.COMPLETE
    assert f"passed over a checkpoint: checkpoint {state} is damaged" in again.stdout
    assert "goes on from the checkpoint of epoch 3" in again.stdout
    assert "\nfinished: 4 epochs" in again.stdout  # not already: its last epoch was trained again
    assert rows(first["folder"]) == expected
    assert weights(first["checkpoint"])


def test_a_second_process_on_one_folder_is_refused(tmp_path):
    with training(tmp_path / "a", 1, *LONG) as process:
        with pytest.raises(DdvaeError) as refused:
            run(*LONG, "--save-dir", str(tmp_path / "a"))
        assert f"process {process.pid} on " in str(refused.value)
        assert "holds this training" in str(refused.value)


def test_a_folder_of_another_configuration_is_refused_by_its_first_differing_key(tmp_path):
    run(*PINWHEEL, "--name", "mine")
    with pytest.raises(
        DdvaeError, match=r"holds another training: objective/beta is 1.0 there, 2.0"
    ):
        run(*PINWHEEL, "--name", "mine", "--beta", "2")
    with pytest.raises(
        DdvaeError, match=r"training/epochs is 6 there, 12 here \(another number of"
    ):
        run(
            "--epochs", "12", *[w for w in PINWHEEL if w not in ("--epochs", "6")], "--name", "mine"
        )


def test_skip_test_measures_nothing_and_trains_the_same():
    _, full = run(*PINWHEEL)
    _, bare = run(*PINWHEEL, "--skip-test", "--name", "bare")
    assert all(name.startswith("training/") for name in bare["metrics"])
    mine, theirs = weights(bare["checkpoint"]), weights(full["checkpoint"])
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_with_and_without_metrics_are_two_trainings():
    run(*PINWHEEL, "--skip-test")
    with pytest.raises(DdvaeError, match="another training: --skip-test is True there, False here"):
        run(*PINWHEEL)


def test_no_cuda_means_the_cpu_where_there_is_a_gpu_too(monkeypatch):
    from tune_ddvae.tuning.one_training import session as training_session

    monkeypatch.setattr(training_session, "choose_device", lambda: torch.device("meta"))
    code, _ = run(*PINWHEEL, "--no-cuda", "--skip-test")
    assert code == exit_codes.COMPLETE


def test_a_training_that_diverges_has_a_code_of_its_own_and_says_why():
    done = CliRunner().invoke(train.main, [*DIGITS, "--lr", "1e8"])
    assert done.exit_code == exit_codes.NO_SUCCESS
    last = done.stdout.splitlines()[-1]
    assert re.match(r"failed: .* (after|at) epoch \d", last)


def test_a_full_disk_leaves_work_and_the_same_command_goes_on():
    _, straight = run(*DIGITS, "--name", "straight")
    save = checkpoint.save

    def full(trainer, folder):
        if trainer.epoch == 3:
            raise CheckpointError("full") from OSError(errno.ENOSPC, "No space left on device")
        save(trainer, folder)

    with pytest.MonkeyPatch.context() as at_first:
        at_first.setattr(checkpoint, "save", full)
        done = CliRunner().invoke(train.main, [*DIGITS, "--name", "full"])
    assert done.exit_code == exit_codes.WORK_LEFT
    assert "full: epoch 2 of 4 is kept; to go on:" in done.stdout
    code, again = run(*DIGITS, "--name", "full")
    assert code == exit_codes.COMPLETE
    assert_same(again, straight)


def test_the_importance_weighted_objective_can_be_trained():
    code, result = run(*PINWHEEL, "--obj", "iwae", "--K", "5")
    assert code == exit_codes.COMPLETE
    metrics = result["metrics"]
    assert metrics["training/objective"] > (
        metrics["training/log_likelihood"] - metrics["training/kl"]
    )


# -- what is meant ----------------------------------------------------------------------------------


def asked(monkeypatch, *words: str) -> dict:
    """What the command would train, without training it."""
    seen: dict = {}
    monkeypatch.setattr(train, "_run", lambda request, *_a, **_k: seen.update(request))
    train.main.main(list(words), standalone_mode=False)
    return seen


def flat_of(monkeypatch, words: str) -> dict:
    return to_flat(asked(monkeypatch, *words.split())["config"])


@pytest.mark.parametrize(
    ("model", "module"),
    [("dsprites", independence), ("pinwheel", clustering), ("fashion_mnist", sparsity)],
)
def test_a_models_defaults_are_the_papers(model, module, monkeypatch):
    config = asked(monkeypatch, "--model", model)["config"]
    assert config == with_overrides(module.STUDY.base, {"data/num_validation": 0})


def test_digits_are_the_smallest_model_of_images(monkeypatch):
    config = asked(monkeypatch, "--model", "digits")["config"]
    assert (config.data.name, config.model.latent_dim) == ("digits", 8)


def test_fashion_mnist_means_the_sparse_prior_with_gamma(monkeypatch):
    config = asked(monkeypatch, "--model", "fashion_mnist", "--gamma", "0.5")["config"]
    assert (config.prior.kind, config.prior.gamma) == ("sparse", 0.5)
    config = asked(monkeypatch, "--model", "fashion_mnist", "--prior", "normal")["config"]
    assert (config.prior.kind, config.prior.gamma) == ("normal", None)


@pytest.mark.parametrize("study", ["sparsity", "clustering", "independence"])
def test_a_published_setting_can_be_named(study, monkeypatch):
    spec = find_study(study).spec
    for name in spec.first:
        found = asked(monkeypatch, f"{study}/{name}", "--seed", "3")
        expected = {**spec.published[name], "data/num_validation": 0, "training/seed": 3}
        assert found["config"] == with_overrides(spec.base, expected)
        assert found["name"] == f"{study}/{name}, seed 3"


def test_every_option_reaches_its_field(monkeypatch):
    flat = flat_of(
        monkeypatch,
        "--model dsprites --obj iwae --K 3 --prior StudentT --df 5 --latent-dim 6 --fBase 16 "
        "--epochs 7 --batch-size 32 --lr 0.002 --beta1 0.8 --beta2 0.99 --seed 4",
    )
    assert flat.items() >= {
        "data/name": "dsprites", "objective/kind": "iwae", "objective/num_samples": 3,
        "objective/beta": 1.0, "objective/alpha": 0.0, "prior/kind": "student_t", "prior/df": 5.0,
        "model/latent_dim": 6, "model/width": 16, "training/epochs": 7, "training/batch_size": 32,
        "optimiser/learning_rate": 0.002, "optimiser/beta1": 0.8, "optimiser/beta2": 0.99,
        "training/seed": 4,
    }.items()  # fmt: skip
    flat = flat_of(
        monkeypatch,
        "--model pinwheel --prior Normal --prior-variance pca --prior-variance-scale 2 "
        "--learn-prior-variance --hidden-dim 20 --num-hidden-layers 2 --beta 0.5 --alpha 3 "
        "--regulariser mmd_dim",
    )
    assert flat.items() >= {
        "prior/kind": "anisotropic", "prior/variance_scale": 2.0, "prior/learns_variance": True,
        "model/width": 20, "model/num_hidden_layers": 2, "objective/beta": 0.5,
        "objective/alpha": 3.0, "objective/divergence": "mmd",
    }.items()  # fmt: skip


@pytest.mark.parametrize("option", ["beta", "alpha", "gamma", "beta1"])
def test_zero_is_a_value_like_any_other(option, monkeypatch):
    setting = flat_of(monkeypatch, f"--model fashion_mnist --{option} 0")
    assert setting[KEYS[option]] == 0


def test_different_configurations_have_different_folders_and_a_path_is_safe(monkeypatch, tmp_path):
    lines = [
        [], ["--beta", "2"], ["--beta", "0.2"], ["--seed", "1"], ["--prior", "normal"],
        ["--set", "likelihood/kind=laplace"], ["--epochs", "50"], ["--latent-dim", "2"],
    ]  # fmt: skip
    folders = [asked(monkeypatch, "--model", "pinwheel", *words)["folder"] for words in lines]
    assert len(set(folders[:-1])) == len(folders) - 1
    assert folders[-1] == folders[0]  # two dimensions are the default
    odd = asked(monkeypatch, "--model", "pinwheel", "--name", "../../etc/päss wörd" * 20)["folder"]
    assert odd.parent == tmp_path / "runs"
    assert len(odd.name) <= 60
    assert asked(monkeypatch, "--model", "pinwheel", "--save-dir", "a/b")["folder"] == (
        tmp_path / "a" / "b"
    )


def test_a_name_of_which_nothing_plain_is_left_gives_a_folder_of_a_training(monkeypatch):
    folder = asked(monkeypatch, "--model", "pinwheel", "--name", "/")["folder"]
    assert folder.name.startswith("training--")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "pinwheel, seed 0"),
        (["--set", "likelihood/scale=0.5"], "pinwheel, likelihood/scale 0.5, seed 0"),
        (["--set", "data/seed=1"], "pinwheel, data/seed 1, seed 0"),
        (["--set", "metrics/seed=1", "--seed", "2"], "pinwheel, seed 2, metrics/seed 1"),
        (
            ["--prior", "normal", "--set", "prior/scale=2"],
            "pinwheel, prior normal, prior/scale 2.0",
        ),
        (["--beta", "2", "--latent-dim", "2"], "pinwheel, beta 2.0, seed 0"),
    ],
)
def test_a_default_name_has_no_name_of_a_field_that_two_fields_have(words, name, monkeypatch):
    assert asked(monkeypatch, "--model", "pinwheel", *words)["name"].startswith(name)


REFUSED = [
    ([], "name a --model (dsprites, pinwheel, fashion_mnist, digits), a published setting"),
    (
        ["sparsity"],
        "a published setting must be STUDY/SETTING, got 'sparsity'; studies: clustering",
    ),
    (
        ["sparsity/gamma_0.8"],
        "sparsity publishes no setting 'gamma_0.8'; there is: gamma_0.8_alpha",
    ),
    (["sparcity/gamma_0.8_alpha_0"], "sparcity"),
    (["sparsity/gamma_0.8_alpha_0", "--model", "digits"], "a published setting states its model"),
    (["sparsity/gamma_0.8_alpha_0", "--alpha", "1"], "--alpha: the published setting states"),
    (["--model", "pinwheel", "--prior", "Laplace"], "--prior must be one of Normal, Anisotropic"),
    (["--model", "pinwheel", "--latent-dim", "3"], "model/latent_dim must be 2 under prior/kind"),
    (["--model", "fashion_mnist", "--gamma", "0.8", "--prior", "Normal"], "--gamma belongs to"),
    (["--model", "fashion_mnist", "--gamma", "1.1"], "prior/gamma must be at most 1.0, got 1.1"),
    (["--model", "fashion_mnist", "--hidden-dim", "9"], "--hidden-dim belongs to plain layers"),
    (["--model", "pinwheel", "--batch-size", "1"], "training/batch_size must be at least 2, got 1"),
    (["--model", "pinwheel", "--beta", "nan"], "objective/beta must be"),
    (["--model", "pinwheel", "--set", "prior/gama=1"], "unknown key 'prior/gama'"),
    (["--model", "pinwheel", "--set", "prior"], "--set must be part/field=value"),
    (["--model", "pinwheel", "--name", " "], "--name must have 1 to"),
    (["--model", "pinwheel", "--save-dir", ""], "--save-dir must name a folder"),
    (["--model", "pinwheel", "--save-dir", "/proc/x"], "--save-dir"),
    (["--model", "pinwheel", "--tracking-uri", "./mlruns"], "keeps no runs in a plain folder"),
    (["--model", "fashion_mnist", "--data-dir", "nowhere"], "train-images-idx3-ubyte"),
    (["--model", "pinwheel", "--tracking-uri", "sqlite:////proc/x.db"], "database /proc/x.db must"),
    (["--model", "pinwheel", "--data-dir", "."], "pinwheel is generated from data/seed"),
    (["--model", "digits", "--data-dir", "."], "digits is bundled with scikit-learn"),
    (["--from-run", "abc", "--beta", "2", "--model", "digits"], "got --model, --beta too"),
    (["--from-run", "abc", "--skip-test"], "--from-run repeats a run as it was, got --skip-test"),
    (["--from-run", "abc"], "no tracking database at "),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[" ".join(r[0]) for r in REFUSED])
def test_what_is_refused_is_refused_before_anything_is_created(words, message, tmp_path):
    with pytest.raises(DdvaeError) as refused:
        train.main.main(words, standalone_mode=False)
    assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_one_message_and_exit_code_2(tmp_path):
    process = start("--model", "dsprites", "--gamma", "0.8", "--df", "3")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (exit_codes.REFUSED, "")
    assert err == (
        "error: these options cannot go together: --gamma belongs to --prior Sparse, this one is "
        "Normal; --df belongs to --prior StudentT, this one is Normal\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--modle", "--save-freq"])
def test_a_wrong_word_is_refused_with_exit_code_2(option):
    assert CliRunner().invoke(train.main, [option, "0"]).exit_code == exit_codes.REFUSED


def test_every_exit_code_is_documented_in_the_help():
    shown = CliRunner().invoke(train.main, ["--help"]).output
    for code in (0, 1, 2, 3, 130, 143):
        assert re.search(rf"\b{code}\s+[a-z]", shown)


def test_every_option_has_help():
    assert all(p.help for p in train.main.params if p.param_type_name == "option")


def test_the_console_script_has_the_same_command():
    from tune_ddvae.__main__ import COMMANDS

    assert COMMANDS.commands["train"] is train.main


# -- MLflow -----------------------------------------------------------------------------------------


@pytest.fixture
def uri(tmp_path_factory, ready_tracking):
    path = tmp_path_factory.mktemp("tracked") / "mlflow.db"
    shutil.copy(ready_tracking, path)
    return f"sqlite:///{path}"


def snapshot(uri: str, run_id: str) -> tuple:
    """All that MLflow shows of a run."""
    client = MlflowClient(uri)
    run = client.get_run(run_id)
    points = {
        name: [(p.step, p.value, p.timestamp) for p in client.get_metric_history(run_id, name)]
        for name in run.data.metrics
    }
    return run.info.status, run.info.end_time, run.data.params, run.data.tags, points


def test_a_training_is_logged_if_asked_and_going_on_doubles_nothing(uri, tmp_path):
    folder = tmp_path / "a"
    words = [*DIGITS[:-12], "--epochs", "25", *DIGITS[-8:], "--tracking-uri", uri]
    with training(folder, 2, *words) as process:
        process.kill()
        process.communicate()
    code, result = run(*words, "--save-dir", str(folder))
    assert code == exit_codes.COMPLETE
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("train").experiment_id])
    assert [run.info.run_id for run in found] == [result["tracking"]["run_id"]]
    status, _, params, tags, points = snapshot(uri, result["tracking"]["run_id"])
    assert (status, tags["state"]) == ("FINISHED", "complete")
    assert (params["prior/kind"], tags["prior"]) == ("sparse", "sparse")
    assert tags["tune_ddvae.role"] == "training"
    for epoch, metrics, *_ in rows(folder):
        for name, value in metrics.items():
            assert [v for step, v, _ in points[name] if step == epoch] == [value], (name, epoch)


def test_a_training_that_diverges_is_failed_there_with_its_reason(uri):
    code, result = run(*DIGITS, "--lr", "1e8", "--tracking-uri", uri)
    assert code == exit_codes.NO_SUCCESS
    status, _, _, tags, _ = snapshot(uri, result["tracking"]["run_id"])
    assert status == "FAILED"
    assert tags["reason"].startswith("DivergedError: ")


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_both_ends_of_gamma_train_finitely_and_the_prior_is_logged_as_used(gamma, uri):
    code, result = run(*DIGITS, "--gamma", str(gamma), "--skip-test", "--tracking-uri", uri)
    assert code == exit_codes.COMPLETE
    assert all(math.isfinite(value) for value in result["metrics"].values())
    _, _, params, tags, _ = snapshot(uri, result["tracking"]["run_id"])
    assert (params["prior/kind"], params["prior/gamma"], tags["prior"]) == (
        "sparse", str(gamma), "sparse"
    )  # fmt: skip


def test_an_interrupted_training_is_killed_there(uri, tmp_path):
    with training(tmp_path / "a", 2, *LONG, "--tracking-uri", uri) as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    client = MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("train").experiment_id])
    assert found.info.status == "KILLED"
    assert found.data.tags["reason"] == "terminated"


@pytest.fixture(scope="module")
def tracked_study(tmp_path_factory, ready_tracking):
    """A study of real trials, without Ray: its address, and each trial's run id by its state."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copy(ready_tracking, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    size = StudySize(trials=6, first_rung=1, startup_trials=2)
    quick = {
        "training/epochs": 9,
        "training/evaluate_every": 1,
        "metrics/iwae_num_samples": 4,
        "metrics/iwae_num_points": 50,
        "metrics/expensive_every": None,
    }
    spec = clustering.STUDY.resized(size, quick)
    identity = {**spec.identity(), "seed": 0}
    with one_thread():
        record = open_record(record_url(folder), "tiny", spec, identity, {})
        study = LiveStudy(spec, record, Conditions(storage=folder, seed=0, trials=6))
        worker, goes_on = Worker(), True
        while (assignment := study.next_assignment()) is not None:
            worker.assign(assignment)
            goes_on = True
            while goes_on:
                report = worker.step()
                goes_on = study.take(assignment.attempt, report) and not report.is_last
            study.end_attempt(assignment.attempt)
        sync(record, uri, "tiny", outcome=Outcome.COMPLETE)
        states = {trial.number: trial.state for trial in study.trials.values()}
        record.close()
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    run_ids = {
        states[int(run.data.tags["tune_ddvae.trial"])]: run.info.run_id
        for run in found
        if "tune_ddvae.trial" in run.data.tags
    }
    return uri, run_ids


@pytest.mark.parametrize("state", [State.COMPLETE, State.STOPPED])
def test_a_trial_that_is_repeated_comes_out_the_same_to_the_last_bit(state, tracked_study):
    uri, run_ids = tracked_study
    before = snapshot(uri, run_ids[state])
    code, result = run("--from-run", run_ids[state], "--tracking-uri", uri)
    assert code == exit_codes.COMPLETE, result["comparison"]
    found = result["comparison"]
    assert found["is_same"]
    assert found["conditions"] == {}
    compared = [
        value
        for name, points in before[-1].items()
        if not name.endswith("seconds") and not name.startswith("best/")
        for _, value, _ in points
    ]
    assert found["num_values"] == len(compared) > 10
    assert result["config"]["data/num_validation"] == 400
    assert snapshot(uri, run_ids[state]) == before
    done = CliRunner().invoke(train.main, ["--from-run", run_ids[state], "--tracking-uri", uri])
    assert f"identical to the last bit ({len(compared)} values)" in done.stdout


def test_a_trial_that_comes_out_differently_is_told_where_and_by_how_much(
    tracked_study, monkeypatch
):
    uri, run_ids = tracked_study
    fetch = tracked_run.fetch_run

    def fetch_changed(*args):
        found = fetch(*args)
        found.history["latent/kl"][5] *= 1.01
        found.tags["torch"] = "1.0"
        return found

    monkeypatch.setattr(tracked_run, "fetch_run", fetch_changed)
    words = ["--from-run", run_ids[State.COMPLETE], "--tracking-uri", uri]
    code, result = run(*words)
    assert code == exit_codes.NO_SUCCESS
    found = result["comparison"]
    assert (found["is_same"], found["num_different"]) == (False, 1)
    first = found["first_difference"]
    assert (first["epoch"], first["metric"]) == (5, "latent/kl")
    assert first["there"] == first["here"] * 1.01
    assert found["largest_relative_difference"]["relative"] == pytest.approx(0.01, rel=0.02)
    assert found["conditions"]["torch"]["there"] == "1.0"


def test_a_training_can_be_repeated_too(uri):
    _, first = run(*PINWHEEL, "--tracking-uri", uri)
    code, again = run("--from-run", first["tracking"]["run_id"], "--tracking-uri", uri)
    assert code == exit_codes.COMPLETE
    assert again["comparison"]["is_same"]
    assert again["tracking"] is None
    assert again["folder"] != first["folder"]


def test_a_repetition_is_always_trained(uri):
    _, first = run(*PINWHEEL, "--tracking-uri", uri)
    words = ["--from-run", first["tracking"]["run_id"], "--tracking-uri", uri]
    _, again = run(*words)
    path = Path(again["folder"]) / METRICS_FILE
    times = [json.loads(line)["time"] for line in path.read_text().splitlines()]
    _, third = run(*words)
    assert third["comparison"]["is_same"]
    later = [json.loads(line)["time"] for line in path.read_text().splitlines()]
    assert len(later) == len(times)
    assert min(later) > max(times)


def test_a_run_without_metrics_is_refused(uri, tmp_path):
    client = MlflowClient(uri)
    experiment = client.create_experiment("x", (tmp_path / "artifacts").as_uri())
    tags = {"tune_ddvae.role": "trial"}
    run_id = client.create_run(experiment, tags=tags).info.run_id
    for key, text in {"data/name": "digits", "training/seed": "0"}.items():
        client.log_param(run_id, key, text)
    with pytest.raises(DdvaeError, match="not an epoch of it is recorded"):
        run("--from-run", run_id, "--tracking-uri", uri)


def test_a_run_that_is_not_there_is_refused_by_name(uri):
    with pytest.raises(DdvaeError, match="has no run 'nonsense'"):
        run("--from-run", "nonsense", "--tracking-uri", uri)


def test_a_server_that_never_answers_is_waited_for_a_moment_and_the_result_is_whole(monkeypatch):
    monkeypatch.setattr(tracking_check, "ANSWER_S", 0.1)
    monkeypatch.setattr(tracked_training, "END_S", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = CliRunner().invoke(train.main, [*DIGITS, "--tracking-uri", uri])
    assert done.exit_code == exit_codes.COMPLETE
    assert f"MLflow at {uri} does not take this training" in done.stdout
    assert "\nfinished: 4 epochs" in done.stdout
