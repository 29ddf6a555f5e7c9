import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from tests.tuning.screens import COMMAND, printed, summed_up
from tests.tuning.simulated import drive, make_spec, metrics_at, open_study
from tune_ddvae.tuning.reporting.summary import Summary
from tune_ddvae.tuning.reporting.summary_screen import render, show
from tune_ddvae.tuning.trials import Report, State
from tune_ddvae.tuning.wording import figure, number


def screen(summary: Summary, width: int = 120) -> str:
    return printed(render(summary), width)


def fail_all(study) -> None:
    """Two kinds of failure, the first at different epochs each time."""
    while (assignment := study.next_assignment()) is not None:
        kind, message = "DivergedError", f"training/kl is nan at epoch {assignment.number}"
        if assignment.number == 2:
            kind, message = "DataError", "no file /data/x"
        report = Report(0, error_kind=kind, error=message, is_last=True)
        study.take(assignment.attempt, report)
        study.end_attempt(assignment.attempt)


def test_the_best_epoch_stands_beside_the_last(driven):
    summary = summed_up(driven)
    finding = summary.findings[0]
    best = finding.best_epochs["sparsity/hoyer"]
    assert best.value >= finding.values["sparsity/hoyer"]
    assert f"{best.value:#.4g} @ {best.epoch}" in screen(summary)
    assert f"{finding.values['sparsity/hoyer']:#.4g}" in screen(summary)


def test_a_checkpoint_that_is_gone_is_shown_as_that(driven):
    summary = summed_up(driven)
    first = summary.findings[0]
    lost = dataclasses.replace(first, gone=(first.checkpoint,))
    findings = (lost, *summary.findings[1:])
    told = screen(dataclasses.replace(summary, findings=findings), width=400)
    assert f"gone: {first.checkpoint}" in told
    assert told.count("gone: ") == 1


def test_active_units_stand_beside_sparsity(driven):
    lines = screen(summed_up(driven)).splitlines()
    heads = next(line for line in lines if line.split()[:3] == ["hoyer", "hoyer", "hoyer"])
    assert heads.split() == ["hoyer", "hoyer", "hoyer", "active", "iwae", "iwae", "iwae"]


def test_one_metric_has_one_best_trial(tmp_path):
    spec = make_spec(rank_by={"log_likelihood/iwae": "max"})
    study = open_study(tmp_path, spec, trials=4)
    drive(study)
    summary = summed_up(study)
    complete = [t for t in study.trials.values() if t.state is State.COMPLETE]
    (finding,) = summary.findings
    assert finding.number == max(complete, key=lambda t: t.values).number
    assert "Best trial by log_likelihood/iwae (max)" in screen(summary)
    assert "Pareto" not in screen(summary)
    study.record.close()


def test_published_settings_are_shown_over_their_seeds_and_no_single_one_is_best(tmp_path):
    spec = make_spec(epochs=3).as_published(make_spec().size, replicates=2)
    study = open_study(tmp_path, spec, trials=4)
    drive(study)
    summary = summed_up(study)
    plain = [
        t.rows[3].metrics["sparsity/hoyer"] for t in study.trials.values() if t.number % 2 == 0
    ]
    study.record.close()
    text = screen(summary)
    assert "Settings over their seeds" in text
    assert "Pareto" not in text
    (line,) = (line for line in text.splitlines() if line.startswith("plain"))
    spread = abs(plain[0] - plain[1])  # two standard errors of two values are their distance
    assert line.split()[1:5] == ["2", figure(sum(plain) / 2), "±", figure(spread)]


def test_one_seed_has_no_error_bar(tmp_path):
    spec = make_spec(epochs=3).as_published(make_spec().size, replicates=1)
    study = open_study(tmp_path, spec, trials=2)
    drive(study)
    assert "±" not in screen(summed_up(study))
    study.record.close()


def test_a_complete_study_has_nothing_to_go_on_with(driven):
    summary = summed_up(driven)
    assert summary.is_complete
    assert summary.continue_command is None
    assert COMMAND not in screen(summary)


def test_where_every_trial_failed_the_same_command_is_told_to_train_them_again(study):
    while (assignment := study.next_assignment()) is not None:
        study.take(assignment.attempt, Report(0, error_kind="DataError", error="gone"))
        study.end_attempt(assignment.attempt)
    summary = summed_up(study)
    assert summary.is_complete
    text = screen(summary)
    assert COMMAND in text
    assert "Go on with it once the cause is mended: they are trained again" in text


def test_where_work_is_left_the_command_to_go_on_is_told(study):
    drive_one = study.next_assignment()
    study.take(drive_one.attempt, Report(1, metrics_at(dict(drive_one.config), 1)))
    summary = summed_up(study, outcome="out of time")
    assert summary.unfinished == {0: 1}
    text = screen(summary)
    assert COMMAND in text
    assert "Go on with it, with larger --hours: they count over all starts" in text
    assert "1 unfinished (trial 0 at 1/27): out of time; what it recorded is kept" in text
    assert "No trial is complete (a whole one has 27 epochs), so none is best." in text
    assert "1 evaluation is recorded" in text


def test_hours_are_no_matter_where_they_are_not_what_ended_it(study):
    assert "--hours" not in screen(summed_up(study, outcome="interrupted"))


def test_where_nothing_was_reported_it_says_so(study):
    text = screen(summed_up(study, outcome="out of time"))
    assert "No trial finished its first evaluation, so nothing was found." in text
    assert "0 of 4 trials were started" in text


def test_failures_are_grouped_by_reason(study):
    fail_all(study)
    summary = summed_up(study)
    assert [(g.state, g.numbers) for g in summary.groups] == [
        (State.FAILED, (0, 1, 3)),
        (State.FAILED, (2,)),
    ]
    text = screen(summary)
    assert "3 failed (trials 0, 1, 3), the first: DivergedError: training/kl is nan at" in text
    assert "1 failed (trial 2): DataError: no file /data/x" in text


def test_trials_carried_over_are_counted(driven):
    again = open_study(driven.conditions.storage, make_spec(), trials=15)
    summary = summed_up(again, earlier_hours=2.0)
    assert summary.carried_over == 15
    assert "15 of them were carried over" in screen(summary)
    assert "30 min in this session, 2 h in earlier ones" in screen(summary)
    again.record.close()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_tables_fit_the_screen(driven, width):
    text = screen(summed_up(driven, folder=Path("/s")), width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120])
def test_every_number_is_whole_at_any_width(driven, width):
    summary = summed_up(driven)
    console = Console(file=io.StringIO(), width=width)
    show(summary, console)
    text = console.file.getvalue()
    assert "…" not in text
    words = text.split()
    for finding in summary.findings:
        for metric in summary.rank_by:
            best = finding.best_epochs[metric]
            for value in (finding.values[metric], best.value, finding.test[f"test/{metric}"]):
                assert figure(value) in words
            if width >= 40:
                assert f"{figure(best.value)} @ {best.epoch}" in text
        for value in finding.params.values():
            assert number(value) in words


def test_on_a_narrow_terminal_each_value_has_a_line_with_its_name(driven):
    summary = summed_up(driven)
    finding = summary.findings[0]
    lines = [line.rstrip() for line in screen(summary, 40).splitlines()]
    at = lines.index(f"trial {finding.number}")
    assert lines[at + 1].split() == ["hoyer", "last", figure(finding.values["sparsity/hoyer"])]
    assert ["active", "units", "8"] in [line.split() for line in lines]


def test_shown_paths_and_commands_stay_on_one_line(driven):
    summary = summed_up(driven)
    console = Console(file=io.StringIO(), width=40)
    show(summary, console)
    lines = console.file.getvalue().splitlines()
    assert f"  {summary.open_command}" in lines
    for finding in summary.findings:
        assert any(line.endswith(str(finding.checkpoint)) for line in lines)


def test_no_password_reaches_screen_or_json(driven):
    summary = summed_up(
        driven,
        record="postgresql://me:s3cret@host/db",
        tracking_uri="http://me:s3cret@tracking:5000",
    )
    assert "s3cret" not in screen(summary)
    assert "s3cret" not in json.dumps(summary.to_json())
