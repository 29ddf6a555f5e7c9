import dataclasses
import random

import optuna
import pytest

from tests.tuning import simulated
from tests.tuning.simulated import Killed, drive, kill_after, make_spec, open_study, outcome
from tune_ddvae.errors import RecordError
from tune_ddvae.tuning.record.opening import record_url
from tune_ddvae.tuning.trials import Report, State


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    study = open_study(tmp_path_factory.mktemp("undisturbed"), make_spec())
    drive(study)
    study.record.close()
    return outcome(study.trials)


def test_some_trials_are_stopped_and_some_complete(undisturbed):
    states = [trial[4] for trial in undisturbed]
    assert len(states) == 15
    assert states.count(State.STOPPED) >= 4
    assert states.count(State.COMPLETE) >= 2


def test_a_serial_study_killed_at_random_moments_ends_as_one_left_alone(undisturbed, tmp_path):
    moments = random.Random(0)
    for run in range(4):
        folder = tmp_path / str(run)
        folder.mkdir()
        kills = 0
        while True:
            study = open_study(folder, make_spec())
            kill_after(study.record, moments.randrange(120))
            try:
                drive(study)
                study.record.check()
            except Killed:
                kills += 1
                continue
            break
        assert kills >= 3
        assert outcome(study.trials) == undisturbed
        study = open_study(folder, make_spec())
        assert outcome(study.trials) == undisturbed
        assert study.is_complete
        study.record.close()


def test_replicate_r_of_a_published_setting_has_seed_r_and_more_of_them_may_be_asked_for(tmp_path):
    for replicates in (1, 2):
        spec = make_spec(epochs=3).as_published(make_spec().size, replicates)
        study = open_study(tmp_path, spec, trials=spec.size.trials)
        drive(study)
        study.record.close()
    study = open_study(tmp_path, spec, trials=spec.size.trials)
    trained = [(t.setting, t.replicate, t.seed, t.state) for t in study.trials.values()]
    study.record.close()
    assert trained == [
        ("plain", 0, 0, State.COMPLETE),
        ("outside", 0, 0, State.COMPLETE),
        ("plain", 1, 1, State.COMPLETE),
        ("outside", 1, 1, State.COMPLETE),
    ]


def test_optunas_own_view_agrees_with_the_record(tmp_path):
    study = open_study(tmp_path, make_spec())
    drive(study)
    study.record.close()
    told = optuna.load_study(study_name="simulated", storage=record_url(tmp_path)).trials
    assert [t.number for t in told] == list(range(15))
    for mine, theirs in zip(study.trials.values(), told, strict=True):
        expected = {State.COMPLETE: "COMPLETE", State.STOPPED: "PRUNED"}[mine.state]
        assert theirs.state.name == expected
        assert theirs.params == (mine.params or {})
        assert tuple(theirs.values or ()) == (mine.values or ())


def test_more_trials_extend_a_complete_study(tmp_path):
    study = open_study(tmp_path, make_spec(), trials=6)
    drive(study)
    before = outcome(study.trials)
    study.record.close()
    study = open_study(tmp_path, make_spec(), trials=8)
    assert study.carried_over == 6
    drive(study)
    assert outcome(study.trials)[:6] == before
    assert len(study.trials) == 8
    study.record.close()


def test_a_changed_specification_is_refused_with_the_difference(tmp_path):
    open_study(tmp_path, make_spec()).record.close()
    with pytest.raises(RecordError, match=r"rungs: \[1, 3, 9\] in the record, \[2, 6, 18\] now"):
        open_study(tmp_path, make_spec(first_rung=2))


def test_a_lost_worker_is_retried_from_its_checkpoint_and_fails_past_the_limit(tmp_path):
    study = open_study(tmp_path, make_spec(), trials=1)
    for loss in range(3):
        assignment = study.next_assignment()
        assert assignment.number == 0
        study.take(assignment.attempt, Report(1, simulated.metrics_at(dict(assignment.config), 1)))
        study.take_checkpoint(assignment.attempt, 1, f"trials/{loss}")
        study.lose_attempt(assignment.attempt, "killed")
        assert study.trials[0].state is State.UNFINISHED
    assignment = study.next_assignment()
    assert assignment.checkpoints[0] == "trials/2"
    study.lose_attempt(assignment.attempt, "killed")
    assert study.trials[0].state is State.FAILED
    assert "worker lost 4 times; last: killed" in study.trials[0].reason
    study.record.close()


def test_trials_that_all_lose_their_workers_stop_the_study(tmp_path):
    study = open_study(tmp_path, make_spec(), trials=5)
    for number in range(3):
        assert study.troubles.reason_to_stop == ""
        for _ in range(4):
            study.lose_attempt(study.next_assignment().attempt, f"likely out of memory: {number} %")
        assert study.trials[number].state is State.FAILED
    assert study.troubles.reason_to_stop == (
        "the same error again and again: worker lost, more often than a trial may: "
        "likely out of memory: 2 %"
    )
    study.record.close()


def test_a_worker_that_is_lost_after_it_said_why_its_trial_ends_is_not_tried_again(tmp_path):
    study = open_study(tmp_path, make_spec(), trials=1)
    assignment = study.next_assignment()
    study.take(assignment.attempt, Report(0, error_kind="DivergedError", error="KL is nan"))
    study.lose_attempt(assignment.attempt, "killed")
    assert (study.trials[0].state, study.trials[0].losses) == (State.FAILED, 0)
    assert study.trials[0].reason == "DivergedError: KL is nan"
    study.record.close()


def fail(study, kind: str, message: str) -> None:
    assignment = study.next_assignment()
    study.take(assignment.attempt, Report(0, error_kind=kind, error=message, is_last=True))
    study.end_attempt(assignment.attempt)


@pytest.mark.parametrize("num_trials", [2, 4])
def test_trials_that_have_all_failed_go_on_with_the_same_command(num_trials, tmp_path):
    for name in ("alone", "failed"):
        (tmp_path / name).mkdir()
    alone = open_study(tmp_path / "alone", make_spec(), trials=num_trials)
    drive(alone)
    alone.record.close()

    study = open_study(tmp_path / "failed", make_spec(), trials=num_trials)
    for number in range(num_trials):
        fail(study, "OutOfMemoryError", f"{number} MiB free")
    assert study.is_complete
    assert [trial.number for trial in study.failed_in_vain] == list(range(num_trials))
    study.record.close()
    study = open_study(tmp_path / "failed", make_spec(), trials=num_trials)
    assert not study.is_complete
    assert study.failed_in_vain == []
    assert study.carried_over == 0
    assert "no trial had succeeded" in study.notes[0]
    drive(study)
    study.record.close()
    assert outcome(study.trials) == outcome(alone.trials)
    told = optuna.load_study(
        study_name="simulated", storage=record_url(tmp_path / "failed")
    ).get_trials()
    assert {trial.state.name for trial in told} <= {"COMPLETE", "PRUNED"}
    study = open_study(tmp_path / "failed", make_spec(), trials=num_trials)
    assert study.is_complete
    study.record.close()


def test_trials_that_fail_once_more_stop_the_study_once_more(tmp_path):
    for _ in range(2):
        study = open_study(tmp_path, make_spec(), trials=3)
        for _ in range(3):
            fail(study, "DataError", "gone")
        assert study.is_complete
        study.record.close()
        assert [trial.reason for trial in study.trials.values()] == ["DataError: gone"] * 3


def test_what_diverged_stays_so_and_what_failed_beside_a_success_does(tmp_path):
    study = open_study(tmp_path, make_spec(), trials=3)
    fail(study, "DivergedError", "KL is nan")
    fail(study, "DataError", "gone")
    study.record.close()
    study = open_study(tmp_path, make_spec(), trials=3)
    assert [t.state for t in study.trials.values()] == [State.FAILED, State.UNFINISHED]
    fail(study, "DataError", "gone")
    simulated.train(study, study.next_assignment())
    assert study.trials[2].state is not State.FAILED
    study.record.close()
    study = open_study(tmp_path, make_spec(), trials=3)
    assert study.is_complete
    assert [t.state for t in study.trials.values()][:2] == [State.FAILED, State.FAILED]
    study.record.close()


def test_a_lost_node_is_not_counted_against_its_trial(tmp_path):
    study = open_study(tmp_path, make_spec(), trials=1)
    for _ in range(6):
        study.lose_attempt(study.next_assignment().attempt, "its node died", counts=False)
    assert study.trials[0].state is State.UNFINISHED
    study.record.close()


def test_a_full_disk_is_counted_against_no_trial(tmp_path):
    study = open_study(tmp_path, make_spec(), trials=1)
    for _ in range(4):
        assignment = study.next_assignment()
        study.take(assignment.attempt, Report(0, error_kind="StorageFullError", error="no space"))
        study.end_attempt(assignment.attempt)
        assert study.trials[0].state is State.UNFINISHED
    assert study.troubles.reason_to_stop == ""
    assert study.trials[0].losses == 0
    drive(study)
    assert study.trials[0].state is State.COMPLETE
    study.record.close()


@pytest.mark.parametrize("ends", ["lost, saving nothing", "by itself"])
def test_a_bucket_that_is_away_counts_against_no_trial_and_stops_the_study_in_the_end(
    ends, tmp_path
):
    study = open_study(tmp_path, make_spec(), trials=1)
    for cause in ("Could not connect", "Server returned nothing", "Failure when receiving"):
        assert study.troubles.reason_to_stop == ""
        away = Report(0, error_kind="StorageAwayError", error=cause)
        assignment = study.next_assignment()
        for _ in range(2):  # as Tune's scheduler and its callbacks do
            assert not study.take(assignment.attempt, away)
        if ends == "by itself":
            study.end_attempt(assignment.attempt)
        else:
            study.lose_attempt(assignment.attempt, "the storage was away", counts=False)
        assert (study.trials[0].state, study.trials[0].losses) == (State.UNFINISHED, 0)
    assert study.troubles.reason_to_stop == (
        f"the same error again and again: StorageAwayError: {tmp_path}"
    )
    drive(study)
    assert study.trials[0].state is State.COMPLETE
    study.record.close()


def test_a_diverged_trial_fails_with_its_reason_and_the_study_goes_on(tmp_path):
    study = open_study(tmp_path, make_spec(), trials=2)
    assignment = study.next_assignment()
    report = Report(0, error_kind="DivergedError", error="KL is nan at epoch 1", is_last=True)
    assert not study.take(assignment.attempt, report)
    study.take_checkpoint(assignment.attempt, 0, "trials/after-the-error")
    study.end_attempt(assignment.attempt)
    assert study.trials[0].state is State.FAILED
    assert study.trials[0].reason == "DivergedError: KL is nan at epoch 1"
    assert study.trials[0].checkpoints == []
    drive(study)
    assert study.trials[1].state is State.COMPLETE
    study.record.close()


def test_the_same_error_three_times_running_is_noticed(tmp_path):
    study = open_study(tmp_path, make_spec(), trials=5)
    for _ in range(3):
        assert study.troubles.reason_to_stop == ""
        assignment = study.next_assignment()
        study.take(assignment.attempt, Report(0, error_kind="DataError", error="gone"))
        study.end_attempt(assignment.attempt)
    assert study.troubles.reason_to_stop == "the same error again and again: DataError: gone"
    study.record.close()


def collapsed_from(epoch: int):
    def measure(config, at):
        metrics = simulated.metrics_at(config, at)
        if at >= epoch:
            metrics["latent/active_units"] = 0.0
            del metrics["sparsity/hoyer"]
        return metrics

    return measure


@pytest.mark.parametrize(
    ("epoch", "reason"),
    [
        (2, "collapsed: no active unit at epochs 3 and 9"),
        (20, "sparsity/hoyer is absent at the last epoch: not measured"),
    ],
)
def test_a_collapsed_trial_ends_as_such_and_optuna_hears_a_constraint(tmp_path, epoch, reason):
    study = open_study(tmp_path, make_spec(), trials=1)
    drive(study, collapsed_from(epoch))
    study.record.close()
    assert study.trials[0].state is State.COLLAPSED
    assert study.trials[0].reason == reason
    told = optuna.load_study(study_name="simulated", storage=record_url(tmp_path)).trials[0]
    assert told.state.name == "PRUNED"
    assert told.constraints == {"collapsed": 1000.0}


def test_the_newest_two_checkpoints_and_the_best_epochs_survive(tmp_path):
    def worsening(config, epoch):
        return simulated.metrics_at(config, epoch) | {"sparsity/hoyer": 1.0 / epoch}

    study = open_study(tmp_path, make_spec(first_rung=None), trials=1)
    drive(study, worsening)
    study.record.flush()
    assert [mark.epoch for mark in study.trials[0].checkpoints] == [1, 26, 27]
    left = sorted(path.name for path in next((tmp_path / "trials").iterdir()).iterdir())
    assert left == ["checkpoint_1", "checkpoint_26", "checkpoint_27"]
    study.record.close()


def test_taking_a_report_twice_changes_nothing(tmp_path):
    study = open_study(tmp_path, make_spec(), trials=1)
    assignment = study.next_assignment()
    first = Report(1, simulated.metrics_at(dict(assignment.config), 1))
    other = Report(1, {"sparsity/hoyer": 0.0})
    assert study.take(assignment.attempt, first) == study.take(assignment.attempt, other)
    study.record.flush()
    assert study.record.trials()[0].rows[1].metrics == first.metrics
    study.record.close()


def test_unfinished_trials_are_handed_out_before_new_ones_are_asked_for(tmp_path):
    study = open_study(tmp_path, make_spec())
    first, second = study.next_assignment(), study.next_assignment()
    study.take(second.attempt, Report(1, simulated.metrics_at(dict(second.config), 1)))
    study.record.close()
    study = open_study(tmp_path, make_spec())
    again = [study.next_assignment() for _ in range(3)]
    assert [a.number for a in again] == [0, 1, 2]
    assert [a.config for a in again[:2]] == [first.config, second.config]
    assert again[0].attempt != first.attempt
    study.record.close()


UNFIT = Report(0, facts={"host": "h2"}, error_kind="UnfitNodeError", error="h2 lacks the folder")


@pytest.mark.parametrize("ends", ["lost, saving nothing", "by itself"])
def test_a_machine_that_is_unfit_counts_against_no_trial_and_is_named_in_the_end(ends, tmp_path):
    study = open_study(tmp_path, make_spec(), trials=1)
    for _ in range(3):
        assert study.troubles.reason_to_stop == ""
        assignment = study.next_assignment()
        for _ in range(2):  # as Tune's scheduler and its callbacks do
            assert not study.take(assignment.attempt, UNFIT)
        if ends == "by itself":
            study.end_attempt(assignment.attempt)
        else:
            study.lose_attempt(assignment.attempt, "Unable to set up cluster storage")
        assert (study.trials[0].state, study.trials[0].losses) == (State.UNFINISHED, 0)
    assert study.troubles.reason_to_stop == "a machine could take no trial: h2 lacks the folder"
    assert "trial 0 was placed in vain: h2 lacks the folder" in study.notes
    study.record.close()


def test_a_machine_that_has_become_fit_is_not_held_against_the_study(tmp_path):
    study = open_study(tmp_path, make_spec(), trials=1)
    for _ in range(2):
        assignment = study.next_assignment()
        study.take(assignment.attempt, UNFIT)
        study.end_attempt(assignment.attempt)
    assignment = study.next_assignment()
    metrics = simulated.metrics_at(dict(assignment.config), 1)
    study.take(assignment.attempt, Report(1, metrics, facts={"host": "h2"}))
    study.lose_attempt(assignment.attempt, "its node died", counts=False)
    study.take(study.next_assignment().attempt, UNFIT)
    assert study.troubles.reason_to_stop == ""
    study.record.close()


def cut_off(study, times: int) -> None:
    for _ in range(times):
        study.lose_attempt(study.next_assignment().attempt, "its node died", counts=False)


def test_a_trial_that_its_nodes_never_let_train_stops_the_study_with_work_left(tmp_path):
    study = open_study(tmp_path, make_spec(), trials=1)
    cut_off(study, 20)
    assert study.troubles.reason_to_stop == ""
    cut_off(study, 1)
    assert study.troubles.reason_to_stop == (
        "trial 0 was cut off 21 times without coming to a new evaluation; last: its node died"
    )
    assert (study.trials[0].state, study.trials[0].losses) == (State.UNFINISHED, 0)
    study.record.close()


def test_a_trial_that_comes_on_may_lose_any_number_of_nodes(tmp_path):
    study = open_study(tmp_path, make_spec(), trials=1)
    for epoch in (1, 2, 3):
        cut_off(study, 19)
        assignment = study.next_assignment()
        report = Report(epoch, simulated.metrics_at(dict(assignment.config), epoch))
        study.take(assignment.attempt, report)
        study.lose_attempt(assignment.attempt, "its node died", counts=False)
    assert study.troubles.reason_to_stop == ""
    drive(study)
    assert study.trials[0].state is State.COMPLETE
    study.record.close()


def test_errors_that_differ_in_their_numbers_alone_are_the_same_and_the_last_is_shown(tmp_path):
    study = open_study(tmp_path, make_spec(), trials=5)
    for free in ("12.5 MiB", "1.20 GiB", "900 MiB"):
        assert study.troubles.reason_to_stop == ""
        assignment = study.next_assignment()
        error = f"CUDA out of memory; {free} free in process {len(free)}{len(study.trials)}"
        study.take(assignment.attempt, Report(0, error_kind="OutOfMemoryError", error=error))
        study.end_attempt(assignment.attempt)
    assert study.troubles.reason_to_stop == (
        "the same error again and again: OutOfMemoryError: CUDA out of memory; 900 MiB free in "
        "process 73"
    )
    study.record.close()


@pytest.mark.parametrize("saved", [0, 26])
def test_a_checkpoint_that_was_never_saved_is_named_nowhere(saved, tmp_path):
    study = open_study(tmp_path, make_spec(first_rung=None), trials=1)
    assignment = study.next_assignment()
    for epoch in range(1, 28):
        metrics = simulated.metrics_at(dict(assignment.config), epoch)
        study.take(assignment.attempt, Report(epoch, metrics, is_last=epoch == 27))
        if epoch <= saved:
            study.take_checkpoint(assignment.attempt, epoch, f"trials/{epoch}")
    assert study.saving == {assignment.attempt}
    study.lose_attempt(assignment.attempt, "CheckpointError: cannot write")
    assert study.saving == frozenset()
    (trial,) = study.trials.values()
    assert (trial.state, trial.last_epoch) == (State.COMPLETE, 27)
    assert 27 not in [mark.epoch for mark in trial.checkpoints]
    newest = "its newest is of epoch 26" if saved else "it has none"
    assert study.notes[-1] == (
        "trial 0 lost its worker (CheckpointError: cannot write) before its last checkpoint was "
        f"whole: its results stand, {newest}"
    )
    study.record.close()


def test_an_assignment_says_what_its_machine_must_have(tmp_path):
    study = open_study(tmp_path, make_spec(), trials=1)
    study.conditions = dataclasses.replace(study.conditions, num_gpus=0.25, code="c", mark="m")
    assignment = study.next_assignment()
    assert (assignment.num_gpus, assignment.code, assignment.mark) == (0.25, "c", "m")
    study.record.close()


def test_data_are_compared_with_the_studys_own_where_a_trial_has_those(tmp_path):
    published = {"plain": {}, "fewer": {"data/num_train": 65}}
    spec = make_spec(published=published, first=tuple(published))
    study = open_study(tmp_path, spec)
    study.conditions = dataclasses.replace(study.conditions, data_checksum="of the study's")
    checksums = [study.next_assignment().data_checksum for _ in published]
    assert checksums == ["of the study's", ""]
    study.record.close()
