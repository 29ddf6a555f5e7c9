import json
import re
import shlex
import signal
import sys

import click
import pytest
from click.testing import CliRunner

from tests.studies import (
    Tracked,
    kill_after,
    outcome,
    result,
    run,
    start,
    trials_of,
    trials_so_far,
    wait_until,
    write_tiny,
)
from tune_ddvae import exit_codes
from tune_ddvae.catalogue import find_study
from tune_ddvae.config import from_flat
from tune_ddvae.data import load
from tune_ddvae.errors import DdvaeError, StudyLockedError
from tune_ddvae.metrics.evaluate import evaluate
from tune_ddvae.study import main, sized_spec
from tune_ddvae.training import checkpoint
from tune_ddvae.training.device import choose_device
from tune_ddvae.training.trainer import Trainer
from tune_ddvae.tuning.storage.lock import sole_driver
from tune_ddvae.tuning.trials import State

DIVERGES = {"objective/beta": 1.0, "optimiser/learning_rate": 1e30}

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory, ready_tracking, ray_address):
    """A serial study that nobody disturbs: 15 trials, the sampler's random start-up 5."""
    folder = tmp_path_factory.mktemp("left-alone")
    study = write_tiny(folder)
    done = run(study, folder, "--max-concurrent", "1", "--json", "--address", ray_address)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    return folder, done


def test_a_study_runs_end_to_end(left_alone):
    folder, done = left_alone
    trials = trials_of(folder, "tiny")
    states = [trial.state for trial in trials]
    assert len(trials) == 15
    assert states.count(State.STOPPED) >= 4
    assert State.COMPLETE in states
    tracked = Tracked(folder, "tiny", "tiny")
    tracked.assert_equals(trials)
    assert tracked.parent.info.status == "FINISHED"
    found = result(done)
    assert {f["number"] for f in found["findings"]} <= {
        t.number for t in trials if t.state is State.COMPLETE
    }
    assert found["findings"]


def test_the_checkpoint_that_is_named_gives_the_values_that_are_reported(left_alone):
    _, done = left_alone
    finding = result(done)["findings"][0]
    config = from_flat(finding["config"])
    dataset = load(config.data)
    trainer = Trainer(config, dataset, choose_device())
    from pathlib import Path

    checkpoint.load(trainer, Path(finding["checkpoint"]))
    again = evaluate(trainer.vae, dataset, dataset.evaluation, config, trainer.device)
    for metric, value in finding["values"].items():
        assert again.metrics[metric] == pytest.approx(value, rel=1e-4)


def test_a_complete_study_says_so_at_once(left_alone, ray_address):
    folder, done = left_alone
    before = outcome(folder, "tiny")
    again = run(folder / "tiny.py", folder, "--max-concurrent", "1", "--json")
    assert again.returncode == exit_codes.COMPLETE, again.stderr
    assert result(again)["findings"] == result(done)["findings"]
    assert result(again)["outcome"] == "already complete"
    assert outcome(folder, "tiny") == before


def test_a_serial_study_whose_driver_is_killed_ends_as_one_left_alone(
    left_alone, workplace, ray_address
):
    undisturbed, _ = left_alone
    study = write_tiny(workplace)
    words = ("--max-concurrent", "1", "--address", ray_address)
    kills = 0
    for rows in (11, 47):
        driver = start(study, workplace, *words)
        kills += kill_after(driver, workplace, "tiny", rows, signal.SIGKILL)
        driver.communicate(timeout=60)
    assert kills == 2
    done = run(study, workplace, *words)
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    assert outcome(workplace, "tiny") == outcome(undisturbed, "tiny")
    tracked = Tracked(workplace, "tiny", "tiny")
    tracked.assert_equals(trials_of(workplace, "tiny"))
    assert tracked.parent.info.status == "FINISHED"


def test_ctrl_c_and_then_the_same_command_carries_trials_over(workplace):
    """On a Ray of the study's own, which must be gone with it."""
    study = write_tiny(workplace, trials=8, first=("beta_0_alpha_1",))
    words = ("--max-concurrent", "2", "--cpus-per-trial", "1")
    driver = start(study, workplace, *words)
    assert wait_until(
        driver,
        lambda: any(
            trial.state is not State.UNFINISHED for trial in trials_so_far(workplace, "tiny")
        ),
    )
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=30)
    assert driver.returncode == exit_codes.INTERRUPTED, err
    tracked = Tracked(workplace, "tiny", "tiny")
    assert tracked.parent.info.status == "KILLED"
    assert all(run.info.status != "RUNNING" for run in tracked.children)
    ended = [t for t in trials_of(workplace, "tiny") if t.state is not State.UNFINISHED]
    assert ended

    done = run(study, workplace, *words, "--json")
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    assert result(done)["carried_over"] == len(ended)
    trials = trials_of(workplace, "tiny")
    assert len(trials) == 8
    for trial in ended:
        assert trials[trial.number].ended == trial.ended
    again = Tracked(workplace, "tiny", "tiny")
    again.assert_equals(trials)
    assert again.parent.info.run_id == tracked.parent.info.run_id
    assert {r.info.run_id for r in tracked.children} <= {r.info.run_id for r in again.children}


def test_a_diverged_trial_fails_with_its_reason_and_the_others_finish(workplace, ray_address):
    study = write_tiny(workplace, trials=4, published={"diverges": DIVERGES}, first=("diverges",))
    done = run(study, workplace, "--address", ray_address, "--json")
    assert done.returncode == exit_codes.COMPLETE, done.stderr
    trials = trials_of(workplace, "tiny")
    assert trials[0].state is State.FAILED
    assert trials[0].reason.startswith("DivergedError: ")
    assert "epoch" in trials[0].reason
    assert all(trial.state is not State.FAILED for trial in trials[1:])
    tracked = Tracked(workplace, "tiny", "tiny")
    tracked.assert_equals(trials)
    assert tracked.children[0].info.status == "FAILED"
    assert trials[0].reason in tracked.children[0].data.tags["reason"]
    assert 0 not in {finding["number"] for finding in result(done)["findings"]}


def test_one_error_again_and_again_stops_the_study_early(workplace, ray_address):
    study = write_tiny(workplace, trials=9)
    driver_env = {"TUNE_DDVAE_THREADS": "none"}  # every worker refuses it
    done = run(study, workplace, "--json", env=driver_env)
    assert done.returncode == exit_codes.WORK_LEFT, done.stderr
    trials = trials_of(workplace, "tiny")
    assert 3 <= len(trials) < 9
    assert {trial.state for trial in trials} <= {State.FAILED, State.UNFINISHED}
    assert "TUNE_DDVAE_THREADS" in result(done)["outcome"]
    assert Tracked(workplace, "tiny", "tiny").parent.info.status == "KILLED"


REFUSED = [
    (["sparcity"], "unknown study 'sparcity'; known: clustering, independence, sparsity"),
    (["clustering", "--set", "prior/gama=1"], "unknown key 'prior/gama'"),
    (["clustering", "--set", "objective/beta=-1"], "objective/beta must be at least 0.0, got -1.0"),
    (["clustering", "--set", "objective/beta"], "--set must be part/field=value"),
    (["clustering", "--set", "model/latent_dim=3"], "model/latent_dim must be 2 under prior/kind"),
    (["clustering", "--epochs", "25"], "first_rung must lie from 1 to below training/epochs"),
    (["clustering", "--epochs", "99"], "must be a multiple of training/evaluate_every"),
    (["clustering", "--first-rung", "x"], "--first-rung must be a number of epochs or none"),
    (["clustering", "--gpus-per-trial", "1000"], "asks for 1000 GPUs a trial, and there are"),
    (["clustering", "--cpus-per-trial", "6400"], "asks for 6400 CPUs a trial, and there are"),
    (["clustering", "--memory-per-trial", "100000"], "asks for 100000 GB of memory a trial, and"),
    (["clustering", "--published", "--trials", "4"], "got --trials too; --replicates says"),
    (["clustering", "--published", "--no-published"], "got --no-published too"),
    (["clustering", "--replicates", "4"], "belongs to --published, got --replicates 4"),
    (["clustering", "--published", "--set", "objective/beta=3"], "no published setting agrees"),
    (
        ["clustering", "--published", "--only", "beta_3"],
        "unknown published setting 'beta_3'; there",
    ),
    (["clustering", "--only", "beta_1_alpha_0"], "belongs to --published, got --only beta_1"),
    (["clustering", "--name", ""], "--name must have 1 to"),
    (["clustering", "--storage", ""], "--storage must name a folder"),
    (["clustering", "--storage", "s3://mine/x"], "is a bucket, and the record is a database"),
    (["clustering", "--storage", "hdfs://host/x"], "storage must be a folder or a bucket, s3://"),
    (["clustering", "--set", "training/seed=5"], "give --seed instead"),
    (["sparsity", "--set", "prior/kind=normal", "--set", "prior/gamma=0.5"], "prior/gamma has no"),
    (["sparsity", "--set", "model/latent_dim=1"], "sparsity/hoyer, which needs two latent dim"),
    (["clustering", "--address", "127.0.0.1:9"], "nothing answers at --address 127.0.0.1:9"),
    (["clustering", "--tracking-uri", "./mlruns"], "mlruns"),
    (["sparsity", "--data-dir", "nowhere"], "train-images-idx3-ubyte"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[" ".join(r[0]) for r in REFUSED])
@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry-run"])
def test_what_is_refused_is_refused_before_anything_is_created(
    words, message, dry, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DdvaeError) as refused:
        main.main([*words, *(["--dry-run"] * dry)], standalone_mode=False)
    assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_study_that_is_held_is_refused_before_a_cluster_is_joined(tmp_path):
    folder = tmp_path / "clustering"
    folder.mkdir()
    words = ["clustering", "--storage", str(tmp_path), "--address", "127.0.0.1:9"]
    with sole_driver(folder), pytest.raises(StudyLockedError, match="another driver holds"):
        main.main(words, standalone_mode=False)


def test_a_refusal_is_one_message_and_exit_code_2(tmp_path):
    done = run("sparcity", tmp_path)
    assert done.returncode == exit_codes.REFUSED
    assert done.stderr.startswith("error: unknown study 'sparcity'")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_metric_in_a_study_file_is_refused(tmp_path):
    path = write_tiny(tmp_path)
    path.write_text(
        path.read_text() + "\nSTUDY = dataclasses.replace(STUDY, rank_by={'x/y': 'max'})"
    )
    with pytest.raises(DdvaeError, match="unknown metric 'x/y' in rank_by; valid: sparsity/hoyer"):
        find_study(str(path))


def test_a_storage_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "studies").write_text("")
    done = run("clustering", tmp_path)
    assert done.returncode == exit_codes.REFUSED
    assert f"storage {tmp_path}/studies must be a folder that can be written to" in done.stderr


@pytest.mark.parametrize(
    "option", ["--hours", "--cpus-per-trial", "--gpus-per-trial", "--memory-per-trial"]
)
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e400"])
def test_a_number_that_is_none_is_refused(option, value):
    with pytest.raises(click.BadParameter):
        main.main(["clustering", option, value], standalone_mode=False)


def test_an_unknown_option_is_refused_with_exit_code_2(tmp_path):
    done = run("clustering", tmp_path, "--trails", "3")
    assert done.returncode == exit_codes.REFUSED
    assert "--trials" in done.stderr


def test_list_names_every_study_with_its_question():
    shown = CliRunner().invoke(main, ["--list"])
    assert shown.exit_code == 0
    for name in ("clustering", "sparsity"):
        assert f"{name}" in shown.output
        assert find_study(name).question in shown.output


def test_a_dry_run_creates_nothing_and_shows_the_whole_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(main, ["clustering", "--quick", "--dry-run", "--json"])
    assert shown.exit_code == 0, shown.output
    plan = json.loads(shown.output)
    assert plan["rungs"] == [10, 30, 90]
    assert plan["trials"] == 15
    assert list(tmp_path.iterdir()) == []


def test_hours_without_trials_are_without_limit_on_trials():
    spec = find_study("clustering").spec
    assert sized_spec(spec, hours=1.0).size.trials is None
    assert sized_spec(spec, hours=1.0, trials=3).size.trials == 3
    assert sized_spec(spec).size.trials == spec.size.trials


def test_the_quick_size_has_a_name_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(main, ["clustering", "--quick", "--dry-run", "--json"])
    assert json.loads(shown.output)["name"] == "clustering-quick"


def test_the_console_script_has_the_same_command():
    from tune_ddvae.__main__ import COMMANDS

    assert COMMANDS.commands["study"] is main


def test_the_words_that_continue_a_study_are_the_same_under_both_names(monkeypatch):
    from tune_ddvae.__main__ import COMMANDS
    from tune_ddvae.study import _words

    alone, grouped = click.Context(main), click.Context(main, parent=click.Context(COMMANDS))
    for context, line in (
        (alone, ["study.py", "sparsity", "--quick", "--json"]),
        (grouped, ["tune-ddvae", "study", "sparsity", "--quick", "--dry-run"]),
    ):
        monkeypatch.setattr(sys, "argv", line)
        with context:
            assert _words() == ["sparsity", "--quick"]


@pytest.mark.parametrize(
    "words",
    [
        ["--quick", "--trials", "2"],
        ["--set", "objective/beta=2"],
        ["--memory-per-trial", "4.5"],
    ],
)
def test_a_dry_run_of_sending_shows_what_would_be_sent_and_asks_nobody(
    words, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    line = ["sparsity", *words, "--storage", "/shared", "--submit", "http://192.0.2.1:8265"]
    shown = CliRunner().invoke(main, [*line, "--dry-run", "--json"])
    assert shown.exit_code == 0, shown.output
    plan = json.loads(shown.output)
    given = shlex.split(plan["entrypoint"])
    assert given[given.index("sparsity") + 1 :][-2:] == ["--address", "auto"]
    assert set(words) <= set(given)
    assert 0 < plan["package"]["bytes"] < 20_000_000
    plain = CliRunner().invoke(main, [*line, "--dry-run"]).output
    assert f"{plan['package']['files']} files" in plain
    assert list(tmp_path.iterdir()) == []


def test_a_study_is_checked_before_it_is_sent():
    line = ["sparsity", "--set", "objective/betta=2", "--submit", "http://192.0.2.1:8265"]
    refused = CliRunner().invoke(main, line)
    assert "objective/betta" in str(refused.exception)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_every_exit_code_is_documented_in_the_help():
    shown = CliRunner().invoke(main, ["--help"]).output
    assert "143 terminated" in shown
    for code in (0, 1, 2, 3, 70, 130, 143):
        assert re.search(rf"\b{code}\s+[a-z]", shown)
