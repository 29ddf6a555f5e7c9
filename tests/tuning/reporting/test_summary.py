import dataclasses
import json
import shutil

from tests.tuning.screens import summed_up
from tests.tuning.simulated import drive, make_spec, open_study
from tune_ddvae.tuning.reporting.summary import open_command
from tune_ddvae.tuning.search import ranking
from tune_ddvae.tuning.trials import State


def test_the_findings_are_the_pareto_set_with_every_value_unrounded(driven):
    summary = summed_up(driven)
    front = ranking.pareto_set(driven.trials.values(), driven.spec.rank_by)
    assert [f.number for f in summary.findings] == [t.number for t in front]
    plain = json.loads(json.dumps(summary.to_json()))
    for finding, trial in zip(plain["findings"], front, strict=True):
        assert tuple(finding["values"].values()) == trial.values
        assert finding["config"] == trial.config
        assert finding["params"]["objective/beta"] == trial.config["objective/beta"]
        assert finding["test"]["test/sparsity/hoyer"] == 0.9 * trial.values[0]
        assert finding["active_units"] == 8


def test_the_checkpoint_named_is_the_one_that_gives_the_values(driven):
    for finding in summed_up(driven).findings:
        assert finding.checkpoint.is_absolute()
        assert (finding.checkpoint / "epoch").read_text() == str(finding.epoch) == "27"
        best = finding.best_epochs["sparsity/hoyer"].epoch
        assert (finding.best_checkpoint / "epoch").read_text() == str(best)


def test_a_checkpoint_that_is_recorded_and_not_there_is_named_as_gone(tmp_path):
    study = open_study(tmp_path, make_spec(first=()), trials=4)
    drive(study)
    study.record.close()
    first, *_ = summed_up(study).findings
    assert first.gone == ()
    shutil.rmtree(first.checkpoint)
    again, *others = summed_up(study).findings
    assert again.gone == (again.checkpoint,)
    assert not any(finding.gone for finding in others)
    assert json.loads(json.dumps(summed_up(study).to_json()))["findings"][0]["gone"] == [
        str(first.checkpoint)
    ]
    shutil.rmtree(tmp_path / "trials")
    assert all(finding.checkpoint in finding.gone for finding in summed_up(study).findings)


def test_stopped_trials_are_counted_by_rung(driven):
    summary = summed_up(driven)
    stopped = [g for g in summary.groups if g.state is State.STOPPED]
    rungs = [f"stopped at rung {rung}" for rung in driven.spec.rungs]
    assert [g.reason for g in stopped] == [r for r in rungs if r in {g.reason for g in stopped}]
    assert sum(len(g.numbers) for g in stopped) == summary.counts[State.STOPPED]


def test_a_database_is_opened_by_a_command_and_a_server_by_its_address():
    assert open_command("sqlite:////a b/tracking.db").endswith(
        " -m mlflow ui --backend-store-uri 'sqlite:////a b/tracking.db' --host 127.0.0.1"
    )
    assert open_command("https://tracking.example:5000") == "https://tracking.example:5000"


def test_a_summary_is_plain_data_to_the_last_field(driven):
    summary = summed_up(driven)
    assert set(summary.to_json()) == {f.name for f in dataclasses.fields(summary)}
    assert summary.to_json()["counts"]["complete"] == summary.counts[State.COMPLETE]
