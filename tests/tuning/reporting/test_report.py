import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from rich.console import Console

from search_spaces import clustering, sparsity
from tests.tuning.screens import printed, summed_up
from tests.tuning.simulated import drive, make_spec, open_study
from tune_ddvae.analysis.figures import model_densities
from tune_ddvae.analysis.published import published_value
from tune_ddvae.analysis.view import look
from tune_ddvae.config import to_flat, with_overrides
from tune_ddvae.tuning import session
from tune_ddvae.tuning.cluster.resources import Slots
from tune_ddvae.tuning.reporting import figures as report_figures
from tune_ddvae.tuning.reporting import report
from tune_ddvae.tuning.reporting.data import (
    courses,
    prior_text,
    swept_lines,
    swept_series,
    whole_trials,
)
from tune_ddvae.tuning.reporting.figures import Material, density_rows, study_figures
from tune_ddvae.tuning.reporting.files import read_report
from tune_ddvae.tuning.reporting.report import chosen, make_report
from tune_ddvae.tuning.reporting.summary_screen import render
from tune_ddvae.tuning.reporting.tracking import log_once
from tune_ddvae.tuning.running.live import LiveStudy
from tune_ddvae.tuning.running.worker import Worker
from tune_ddvae.tuning.search import ranking
from tune_ddvae.tuning.tracking.client import Server
from tune_ddvae.tuning.tracking.tracking import Outcome, Summary, sync
from tune_ddvae.tuning.trials import Row, State, Trial

ALPHA, BETA = "objective/alpha", "objective/beta"
HOYER, SCORE = "sparsity/hoyer_all", "disentanglement/factor_vae"


def make_trial(number: int, spec, metrics=None, *, setting=None, state=State.COMPLETE, **changes):
    """A trial that has ended at epoch 3 with these metrics: its last one, unless it was stopped."""
    whole = state in (State.COMPLETE, State.COLLAPSED)
    changes = {"training__epochs": 3 if whole else 27, "training__evaluate_every": 1, **changes}
    flat = {key.replace("__", "/"): value for key, value in changes.items()}
    config = to_flat(with_overrides(spec.base, {**flat, "training/seed": number}))
    rows = {epoch: Row(epoch, float(epoch), dict(metrics or {"x": 1.0})) for epoch in (1, 3)}
    trial = Trial(number, config, None, setting, state=state, rows=rows)
    trial.values = tuple((metrics or {}).get(metric, 0.0) for metric in spec.rank_by)
    return trial


def material(study: LiveStudy, **changes) -> Material:
    facts = {
        "name": "simulated",
        "spec": study.spec,
        "trials": list(study.trials.values()),
        "folder": study.conditions.storage,
    }
    return Material(**{**facts, **changes})


def of_trials(spec, trials, folder=Path("/nowhere")) -> Material:
    return Material(name="made-up", spec=spec, trials=trials, folder=folder)


def names(of: Material) -> list[str]:
    return [name for name, _ in study_figures(of)]


# -- what is drawn from what ---------------------------------------------------------------------------


def test_values_are_those_of_whole_trials_on_the_test_set():
    metrics = {HOYER: 0.3, f"test/{HOYER}": 0.4}
    trials = [
        make_trial(1, sparsity.STUDY, metrics),
        make_trial(0, sparsity.STUDY, metrics, state=State.STOPPED),
        make_trial(2, sparsity.STUDY, metrics, state=State.COLLAPSED),
    ]
    whole = whole_trials(trials)
    assert [trial.number for trial in whole.trials] == [1, 2]  # leaving one out would flatter
    assert whole.value(whole.trials[0], HOYER) == 0.4
    assert whole.measured_on == "test set"
    assert np.isnan(whole.value(whole.trials[0], SCORE))


def test_a_line_is_what_differs_in_the_swept_number_and_the_seed_alone():
    spec = sparsity.STUDY
    trials = [
        make_trial(0, spec, {HOYER: 0.1}, objective__alpha=0.0),
        make_trial(1, spec, {HOYER: 0.2}, objective__alpha=10.0),
        make_trial(2, spec, {HOYER: 0.3}, objective__alpha=10.0),
        make_trial(3, spec, {HOYER: 0.4}, prior__kind="normal", objective__alpha=0.0),
        make_trial(4, spec, {HOYER: 0.5}, prior__kind="normal", objective__alpha=10.0),
        make_trial(5, spec, {HOYER: 0.9}, objective__alpha=10.0, optimiser__learning_rate=0.1),
    ]
    lines = swept_lines(whole_trials(trials), ALPHA, [HOYER])
    assert [line.name for line in lines] == ["sparse, γ 0.8", "normal, γ 0"]
    np.testing.assert_array_equal(lines[0].swept, [0.0, 10.0, 10.0])
    np.testing.assert_array_equal(lines[0].metrics[HOYER], [0.1, 0.2, 0.3])


def test_lines_are_named_by_their_priors_and_by_what_else_they_differ_in():
    spec = sparsity.STUDY
    trials = [
        make_trial(number, spec, {HOYER: 0.1}, objective__alpha=alpha, objective__beta=beta)
        for number, (alpha, beta) in enumerate([(0.0, 1.0), (9.0, 1.0), (0.0, 5.0), (9.0, 5.0)])
    ]
    lines = swept_lines(whole_trials(trials), ALPHA, [HOYER])
    assert [line.name for line in lines] == ["sparse, γ 0.8, β 1", "sparse, γ 0.8, β 5"]


@pytest.mark.parametrize(
    ("prior", "text"),
    [
        ({"prior/kind": "normal"}, "normal"),
        ({"prior/kind": "normal", "prior/scale": 2.0}, "normal, scale 2"),
        ({"prior/kind": "student_t"}, "student_t, df 9"),
        ({"prior/kind": "anisotropic"}, "anisotropic, fixed"),
        ({"prior/kind": "anisotropic", "prior/learns_variance": True}, "anisotropic, learned"),
        ({"prior/kind": "sparse", "prior/gamma": 0.5}, "sparse, γ 0.5"),
    ],
)
def test_a_prior_is_named_with_all_that_tells_it_from_others(prior, text):
    assert prior_text(to_flat(with_overrides(sparsity.STUDY.base, prior))) == text


def test_trials_of_a_search_are_single_networks_beside_the_lines():
    spec = sparsity.STUDY
    trials = [
        make_trial(0, spec, {HOYER: 0.1}, objective__beta=1.0, setting="a"),
        make_trial(1, spec, {HOYER: 0.2}, objective__beta=2.0, setting="b"),
        make_trial(2, spec, {HOYER: 0.3}, objective__beta=0.7, optimiser__learning_rate=0.01),
        make_trial(3, spec, {HOYER: 0.4}, objective__beta=0.9, optimiser__learning_rate=0.02),
    ]
    series = swept_series(whole_trials(trials), BETA, [HOYER])
    assert [(one.name, one.is_line, len(one.swept)) for one in series] == [
        ("sparse, γ 0.8", True, 2),
        ("sparse, searched", False, 2),
    ]


def test_the_paper_s_values_stand_beside_the_settings_that_they_are_of():
    spec = sparsity.STUDY
    trials = [
        make_trial(number, spec, {HOYER: 0.1}, objective__alpha=alpha, data__num_validation=0)
        for number, alpha in enumerate([0.0, 50.0, 100.0])
    ]
    (line,) = swept_lines(whole_trials(trials), ALPHA, [HOYER])
    np.testing.assert_array_equal(line.published[HOYER], [0.362, np.nan, 0.552])
    (figure,) = (make() for name, make in study_figures(of_trials(spec, trials)) if name == "alpha")
    (drawn,) = figure.legends
    assert "published, 80 epochs" in [text.get_text() for text in drawn.get_texts()]


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({ALPHA: 100.0}, 0.552),
        ({ALPHA: 100.0, "prior/kind": "normal"}, 0.225),
        ({ALPHA: 100.0, "prior/gamma": 0.5}, None),
        ({ALPHA: 100.0, BETA: 5.0}, None),
        ({ALPHA: 100.0, "model/latent_dim": 10}, None),
        ({ALPHA: 100.0, "prior/kind": "student_t"}, None),
        ({ALPHA: 100.0, "prior/spike_scale": 0.2236}, None),
        ({ALPHA: 100.0, "prior/kind": "normal", "prior/scale": 2.0}, None),
        ({ALPHA: 100.0, "objective/divergence": "inclusive_kl"}, None),
        ({ALPHA: 100.0, "objective/num_samples": 5}, None),
        ({ALPHA: 100.0, "likelihood/scale": 0.2}, None),
        ({ALPHA: 100.0, "optimiser/learning_rate": 1e-3}, None),
        ({ALPHA: 100.0, "data/num_train": 3_000}, None),
        ({ALPHA: 100.0, "data/num_validation": 5_000}, None),
        ({ALPHA: 100.0, "model/width": 8}, None),
        ({ALPHA: 100.0, "data/num_train": 60_000, "model/width": 32}, 0.552),
        ({ALPHA: 100.0, "training/epochs": 3}, 0.552),
    ],
)
def test_a_published_value_belongs_to_one_configuration(changes, value):
    config = to_flat(with_overrides(sparsity.STUDY.base, {"data/num_validation": 0, **changes}))
    assert published_value(config, HOYER) == value
    assert published_value(config, "sparsity/hoyer") is None


def test_courses_hold_every_evaluation_and_mark_the_best(driven):
    found = courses(driven.trials.values(), driven.spec.rank_by, ["sparsity/hoyer"])
    front = {t.number for t in ranking.pareto_set(driven.trials.values(), driven.spec.rank_by)}
    assert {course.number for course in found if course.is_best} == front
    for course, trial in zip(found, driven.trials.values(), strict=True):
        assert course.epochs.tolist() == sorted(trial.rows)
        assert (
            course.last("sparsity/hoyer") == trial.rows[trial.last_epoch].metrics["sparsity/hoyer"]
        )
        assert course.is_whole == (trial.state is State.COMPLETE)
        assert course.note == "8"


# -- which figures apply -----------------------------------------------------------------------------


def test_a_plain_search_has_the_generic_pictures(driven):
    assert names(material(driven)) == ["pareto", "histories"]


def test_one_metric_has_no_picture_of_two(driven):
    spec = dataclasses.replace(driven.spec, rank_by={"sparsity/hoyer": "max"})
    assert names(material(driven, spec=spec)) == ["histories"]


def test_nothing_is_drawn_of_a_study_without_evaluations():
    spec = make_spec()
    failed = make_trial(0, spec, state=State.FAILED)
    failed.rows = {}
    assert names(of_trials(spec, [failed])) == []


def test_scores_of_disentanglement_bring_their_picture():
    spec = sparsity.STUDY
    metrics = {SCORE: 0.6, "log_likelihood/reconstruction": -9.0}
    assert "disentanglement" in names(of_trials(spec, [make_trial(0, spec, metrics)]))
    metrics["disentanglement/mig"] = 0.2
    found = names(of_trials(spec, [make_trial(0, spec, metrics)]))
    assert found[:2] == ["disentanglement", "disentanglement-all"]


def test_several_alphas_bring_a_picture_for_each_beta():
    spec = sparsity.STUDY
    pairs = [(0.0, 1.0), (9.0, 1.0), (0.0, 5.0), (9.0, 5.0), (9.0, 0.1)]
    trials = [
        make_trial(number, spec, {HOYER: 0.1}, objective__alpha=alpha, objective__beta=beta)
        for number, (alpha, beta) in enumerate(pairs)
    ]
    assert names(of_trials(spec, trials[:2]))[0] == "alpha"
    assert names(of_trials(spec, trials))[:2] == ["alpha-beta-1", "alpha-beta-5"]


def test_density_panels_are_a_row_over_beta_and_one_over_alpha():
    spec = clustering.STUDY
    settings = [(1.0, 0.0), (0.01, 0.0), (0.0, 8.0), (0.0, 1.0), (0.7, 3.0), (1.0, 0.0)]
    trials = [
        make_trial(number, spec, objective__beta=beta, objective__alpha=alpha, setting="x")
        for number, (beta, alpha) in enumerate(settings)
    ]
    trials.append(make_trial(9, spec, objective__beta=0.3, objective__alpha=0.0))  # searched
    rows = density_rows(whole_trials(trials))
    assert [[[t.number for t in panel] for panel in row] for row in rows] == [
        [[1], [0, 5]],
        [[3], [2]],
    ]
    assert density_rows(whole_trials([make_trial(0, sparsity.STUDY)])) == []


def test_of_many_settings_some_are_shown_evenly():
    spec = clustering.STUDY
    trials = [
        make_trial(n, spec, objective__beta=0.1 * (n + 1), objective__alpha=0.0) for n in range(30)
    ]
    (row,) = density_rows(whole_trials(trials))
    numbers = [panel[0].number for panel in row]
    assert len(numbers) == 6
    assert (numbers[0], numbers[-1]) == (0, 29)


def test_the_best_trials_of_a_long_pareto_set_are_its_ends_and_its_middle():
    trials = [make_trial(number, sparsity.STUDY) for number in range(7)]
    assert [trial.number for trial in chosen(trials)] == [0, 3, 6]
    assert chosen(trials[:3]) == trials[:3]
    assert chosen([]) == []


# -- the files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A real study of three published settings, a few epochs each, and what its report holds."""
    whole = clustering.STUDY.as_published(
        clustering.STUDY.quick,
        1,
        {
            "training/epochs": 40,
            "training/evaluate_every": 20,
            "metrics/iwae_num_samples": 2,
            "metrics/iwae_num_points": 20,
        },
    )
    kept = ("beta_0.01_alpha_0", "beta_0_alpha_1", "beta_0_alpha_8")
    study = open_study(
        tmp_path_factory.mktemp("trained"), dataclasses.replace(whole, replicated=kept), trials=3
    )
    worker = Worker()
    while (assignment := study.next_assignment()) is not None:
        worker.assign(assignment)
        goes_on = True
        while goes_on:
            step = worker.step()
            goes_on = study.take(assignment.attempt, step) and not step.is_last
            path = f"trials/{assignment.number:05d}-{assignment.attempt}/{step.epoch}"
            worker.save(study.conditions.storage / path)
            study.take_checkpoint(assignment.attempt, step.epoch, path)
        study.end_attempt(assignment.attempt)
    assert {trial.state for trial in study.trials.values()} == {State.COMPLETE}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "chosen", lambda best: list(best)[:1])
        made = make_report(material(study))
    yield study, made
    study.record.close()


def test_a_report_holds_every_figure_as_png_and_pdf(trained):
    study, made = trained
    assert made.problems == []
    folder = study.conditions.storage / "report"
    assert made.folder == folder
    wanted = ["disentanglement", "disentanglement-all", "alpha", "densities", "pareto", "histories"]
    assert [file.name for file in made.study] == [
        f"{name}.{ending}" for name in wanted for ending in ("png", "pdf")
    ]
    for file in made.files:
        start = file.read_bytes()[:8]
        assert start.startswith(b"%PDF" if file.suffix == ".pdf" else b"\x89PNG")


def test_density_panels_show_the_training_points_that_clusters_are_counted_on(trained):
    study, _ = trained
    (figure,) = (make() for name, make in study_figures(material(study)) if name == "densities")
    assert "of 400 training points" in figure.get_suptitle()
    axes = figure.axes[0]
    trial = next(t for t in study.trials.values() if t.config[ALPHA] == 0.0)
    model = report_figures.open_trial(material(study), trial)
    image = axes.images[0]
    edges = np.linspace(*image.get_extent()[:2], image.get_array().shape[0] + 1)
    of_training, of_test = (
        model_densities(model, look(model, split=split), edges)[1]
        for split in ("train", "evaluation")
    )
    np.testing.assert_allclose(image.get_array(), of_training, atol=1e-9)
    assert not np.allclose(of_training, of_test, atol=1e-3)


def test_the_best_trial_has_its_own_figures_in_a_folder_of_its_own(trained):
    study, made = trained
    (best,) = made.trials
    assert best in {t.number for t in ranking.pareto_set(study.trials.values(), study.spec.rank_by)}
    folder = made.folder / f"trial-{best:05d}"
    assert {file.parent for file in made.trials[best]} == {folder}
    assert {"latent_plane.png", "samples.pdf"} <= {file.name for file in made.trials[best]}


def test_what_was_made_can_be_read_back(trained):
    study, made = trained
    assert read_report(study.conditions.storage) == made
    assert read_report(Path("/nowhere")) is None


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A simulated study that is complete, whose folder may be written to."""
    study = open_study(tmp_path_factory.mktemp("done"), make_spec(), trials=15)
    drive(study)
    yield study
    study.record.close()


def end(study: LiveStudy, **changes) -> tuple[Path | None, list[str]]:
    told: list[str] = []
    facts = {
        "name": "simulated",
        "experiment": "simulated",
        "tracking_uri": "sqlite:////nowhere/mlflow.db",
        "is_tracked": False,
        "tell": told.append,
    }
    return report.report_on(study, **{**facts, **changes}), told


@pytest.fixture
def plain(monkeypatch):
    """Reports without the trials' own figures, and how often one was made."""
    made = []

    def counted(*args, **kwargs):
        made.append(make_report(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(report, "chosen", lambda _: [])
    monkeypatch.setattr(report, "make_report", counted)
    return made


def test_a_report_is_made_again_only_where_trials_were_added(tmp_path, plain):
    study = open_study(tmp_path, make_spec(), trials=4)
    drive(study)
    folder, told = end(study)
    assert (folder, told) == (tmp_path / "report", [])
    assert end(study) == (folder, [])
    assert len(plain) == 1
    study.conditions = dataclasses.replace(study.conditions, trials=5)
    drive(study)
    assert end(study) == (folder, [])
    assert len(plain) == 2
    (folder / "pareto.png").unlink()
    end(study)
    assert len(plain) == 3
    study.record.close()


def test_files_that_no_longer_belong_to_the_report_go_and_others_stay(done, plain, monkeypatch):
    folder, _ = end(done)
    (folder / "my-notes.txt").write_text("mine")
    one = dataclasses.replace(done.spec, rank_by={"sparsity/hoyer": "max"})
    trials = [
        dataclasses.replace(t, values=t.values and t.values[:1]) for t in done.trials.values()
    ]
    again = make_report(material(done, spec=one, trials=trials))
    assert [file.name for file in again.files] == ["histories.png", "histories.pdf"]
    kept = {path.name for path in folder.iterdir()}
    assert kept == {"histories.png", "histories.pdf", "my-notes.txt", "contents.json"}


def test_an_error_in_one_figure_is_told_in_a_line_and_the_rest_goes_on(done, plain, monkeypatch):
    def broken(*_args, **_kwargs):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(report_figures, "pareto", broken)
    made = make_report(material(done))
    assert [file.name for file in made.study] == ["histories.png", "histories.pdf"]
    assert made.problems == ["figure pareto: RuntimeError: two lines"]
    folder, told = end(done)  # a report with problems is tried again
    assert told == ["the report lacks something: figure pareto: RuntimeError: two lines"]
    assert folder is not None


def test_a_checkpoint_that_is_none_costs_that_trial_s_figures_alone(done):
    made = make_report(material(done))
    best = chosen(ranking.pareto_set(done.trials.values(), done.spec.rank_by))
    assert set(made.trials) == {trial.number for trial in best}
    assert all(files == [] for files in made.trials.values())
    assert len(made.problems) == len(best)
    for problem, trial in zip(made.problems, best, strict=True):
        assert problem.startswith(f"trial {trial.number}: figures ended at once: no checkpoint at")
    assert [file.name for file in made.study][::2] == ["pareto.png", "histories.png"]


def test_no_figure_is_begun_once_the_time_is_over(done):
    made = make_report(material(done), time_limit_s=0.0)
    assert made.files == []
    assert all(re.search("left out: the time for the report was over", p) for p in made.problems)


def test_a_folder_that_cannot_be_written_to_is_told_and_nothing_is_raised(tmp_path, plain):
    study = open_study(tmp_path, make_spec(), trials=2)
    drive(study)
    (tmp_path / "report").write_text("in the way")
    folder, told = end(study)
    assert folder is None
    assert told[-1].startswith("there is no report: ")
    study.record.close()


# -- in MLflow, and at the end of a session ----------------------------------------------------------


def artifacts(client: MlflowClient, run_id: str, folder: str) -> set[str]:
    return {Path(file.path).name for file in client.list_artifacts(run_id, folder)}


def test_the_figures_are_artifacts_of_the_runs_that_they_are_about(trained, workplace):
    study, made = trained
    uri = f"sqlite:///{workplace / 'studies' / 'mlflow.db'}"
    assert sync(study.record, uri, "clustering", outcome=Outcome.COMPLETE).is_whole
    _, told = end(study, tracking_uri=uri, experiment="clustering", is_tracked=True)
    assert told == []
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("clustering").experiment_id
    runs = client.search_runs([experiment])
    parent = next(run for run in runs if run.data.tags["tune_ddvae.role"] == "study")
    assert artifacts(client, parent.info.run_id, "report") == {file.name for file in made.study}
    for number, files in read_report(study.conditions.storage).trials.items():
        run = next(run for run in runs if run.data.tags.get("tune_ddvae.trial") == str(number))
        assert artifacts(client, run.info.run_id, "figures") == {file.name for file in files}
        assert run.info.status == parent.info.status == "FINISHED"
    (runs_there,) = read_report(study.conditions.storage).logged.values()
    assert parent.info.run_id in runs_there


def test_what_is_there_is_not_sent_twice_but_to_a_run_that_was_made_again(
    trained, workplace, monkeypatch
):
    study, made = trained
    uri = f"sqlite:///{workplace / 'studies' / 'mlflow.db'}"
    sync(study.record, uri, "again", outcome=Outcome.COMPLETE)
    sent: list[str] = []
    monkeypatch.setattr(Server, "store_file", lambda _self, run, *_: sent.append(run))
    folder, told = study.conditions.storage, []
    log_once(folder, study.record, uri, "again", told.append)
    assert len(sent) == len(made.files)
    log_once(folder, study.record, uri, "again", told.append)
    assert len(sent) == len(made.files)
    client = MlflowClient(uri)
    client.delete_run(sent[-1])
    sync(study.record, uri, "again", outcome=Outcome.COMPLETE, restores=True)
    log_once(folder, study.record, uri, "again", told.append)
    assert len(sent) == 2 * len(made.files)
    assert told == []


def test_a_slow_server_is_left_after_a_while(trained, workplace):
    study, _ = trained
    uri = f"sqlite:///{workplace / 'studies' / 'mlflow.db'}"
    sync(study.record, uri, "slow", outcome=Outcome.COMPLETE)
    told: list[str] = []
    log_once(study.conditions.storage, study.record, uri, "slow", told.append, time_limit_s=0.0)
    assert len(told) == 1
    assert "too slow" in told[0]


def test_a_server_that_takes_no_files_is_told_in_one_line(done, plain):
    folder, told = end(done, tracking_uri="http://127.0.0.1:9", is_tracked=True)
    assert folder is not None
    assert len(told) == 1
    assert told[0].startswith(f"the report in {folder} is not in MLflow: ")
    assert json.loads((folder / "contents.json").read_text())["logged"] == {}


@pytest.mark.parametrize("broken_off_by", [KeyboardInterrupt(), SystemExit(143)], ids=repr)
def test_a_signal_breaks_off_the_report_and_not_the_session(done, monkeypatch, broken_off_by):
    def interrupted(*_args, **_kwargs):
        raise broken_off_by

    monkeypatch.setattr(report, "make_report", interrupted)
    (done.conditions.storage / "report" / "contents.json").unlink(missing_ok=True)
    request = session.Request(
        name="simulated",
        experiment="simulated",
        question="",
        spec=done.spec,
        folder=done.conditions.storage,
        tracking_uri="sqlite:////nowhere/mlflow.db",
        record="",
        data_checksum="",
        command="",
        seed=0,
        trials=15,
        hours=None,
        slots=Slots(concurrent=1, num_cpus=1.0, num_gpus=0.0),
    )
    tracked = Summary(
        address="", experiment="", run_id="", rows_left=1, runs_left=0, artifacts_left=0
    )
    console = Console(file=io.StringIO(), width=200)
    assert session._report(request, done, tracked, console) is None
    assert "the report was broken off; the same command makes it" in console.file.getvalue()


def test_the_summary_says_where_the_report_lies(driven):
    summary = summed_up(driven, report=Path("/studies/x/report"))
    assert "  report      /studies/x/report" in printed(render(summary))
    assert summary.to_json()["report"] == "/studies/x/report"
    assert "report" not in printed(render(summed_up(driven, folder=Path("/s"))))
