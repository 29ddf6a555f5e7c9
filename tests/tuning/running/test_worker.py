import dataclasses
import errno
import faulthandler
import platform
import shutil
import time
import traceback
from pathlib import Path

import pytest
from ray.train._internal import storage as ray_storage

from tests.tuning.simulated import flat_base
from tune_ddvae.errors import CheckpointError
from tune_ddvae.training import checkpoint
from tune_ddvae.training.trainer import Trainer
from tune_ddvae.tuning.running.losses import judge
from tune_ddvae.tuning.running.trainable import ASSIGNMENT, TrialTrainable
from tune_ddvae.tuning.running.worker import Watchdog, Worker
from tune_ddvae.tuning.storage import place
from tune_ddvae.tuning.storage.bucket import Bucket, bucket_at, delete, upload
from tune_ddvae.tuning.trials import Assignment

SMALL = {
    "training/epochs": 3,
    "training/batch_size": 32,
    "data/num_train": 64,
    "data/num_test": 64,
    "data/num_validation": 64,
    "model/width": 4,
    "metrics/iwae_num_samples": 2,
    "metrics/iwae_num_points": 16,
}


def make_assignment(
    storage: Path | Bucket, *checkpoints: str, number: int = 0, **changes
) -> Assignment:
    config = flat_base() | SMALL | {k.replace("__", "/"): v for k, v in changes.items()}
    return Assignment(
        number=number,
        attempt="a",
        config=config,
        checkpoints=checkpoints,
        storage=str(storage),
        data_dir=None,
        num_cpus=1.0,
        stall_s=600.0,
    )


def test_data_other_than_the_studys_are_refused_by_name(tmp_path):
    worker = Worker()
    wanted = dataclasses.replace(make_assignment(tmp_path), data_checksum="0" * 64)
    worker.assign(wanted)
    report = worker.step()
    assert report.error_kind == "UnfitNodeError"
    assert f"{platform.node()} has other digits data" in report.error
    assert "study's 0000000000000000" in report.error


def numbers(report):
    return {k: v for k, v in report.metrics.items() if not k.endswith("seconds")}


def train(worker: Worker, folder: Path | None = None) -> list:
    reports = []
    while not reports or not reports[-1].is_last:
        reports.append(worker.step())
        if folder is not None:
            worker.save(folder / str(reports[-1].epoch))
    return reports


@pytest.fixture
def straight(tmp_path):
    worker = Worker()
    worker.assign(make_assignment(tmp_path))
    return train(worker, tmp_path)


def test_a_trial_goes_on_where_its_checkpoint_stopped(straight, tmp_path):
    worker = Worker()
    worker.assign(make_assignment(tmp_path, "1"))
    again = train(worker)
    assert [report.epoch for report in again] == [2, 3]
    assert [numbers(r) for r in again] == [numbers(r) for r in straight[1:]]


@pytest.mark.parametrize("damage", ["truncated", "missing", "flipped"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(straight, tmp_path, damage):
    state = tmp_path / "2" / "state.pt"
    content = bytearray(state.read_bytes())
    if damage == "missing":
        shutil.rmtree(tmp_path / "2")
    else:
        content[len(content) // 2] ^= 0xFF
        state.write_bytes(content[: len(content) // 2] if damage == "truncated" else content)
    worker = Worker()
    worker.assign(make_assignment(tmp_path, "2", "1"))
    again = train(worker)
    assert [report.epoch for report in again] == [2, 3]
    assert [numbers(r) for r in again] == [numbers(r) for r in straight[1:]]
    assert "trial 0 passed over a checkpoint" in again[0].notes[0]


class InBucket:
    """The straight trial's checkpoints, in a bucket."""

    def __init__(self, s3, folder: Path) -> None:
        self.server = s3
        self.place = bucket_at(s3.address("studies/tiny"))
        for epoch in "123":
            upload(folder / epoch, self.place / epoch)

    def worker(self, *checkpoints: str) -> Worker:
        worker = Worker()
        worker.assign(make_assignment(self.place, *checkpoints))
        return worker


@pytest.fixture
def in_bucket(straight, s3, tmp_path):
    return InBucket(s3, tmp_path)


@pytest.mark.parametrize("damage", ["none", "truncated", "missing"])
def test_a_trial_goes_on_from_its_newest_intact_checkpoint_in_a_bucket(
    damage, straight, in_bucket, tmp_path
):
    if damage == "missing":
        delete(in_bucket.place / "2")
    elif damage == "truncated":
        (tmp_path / "2" / "state.pt").write_bytes(b"PK half")
        upload(tmp_path / "2", in_bucket.place / "2")
    again = train(in_bucket.worker("2", "1"))
    expected = straight[1:] if damage != "none" else straight[2:]
    assert [numbers(r) for r in again] == [numbers(r) for r in expected]
    passed_over = [str(note) for note in again[0].notes]
    if damage == "none":
        assert passed_over == []
    else:
        assert (
            f"passed over a checkpoint: {'no ' * (damage == 'missing')}checkpoint "
            in (passed_over[0])
        )
        assert f"{in_bucket.place.plain}/2" in passed_over[0]


def test_an_outage_of_the_bucket_is_waited_for_and_then_told_as_that(in_bucket, monkeypatch):
    monkeypatch.setattr(place, "RETRY_S", 0.0)
    monkeypatch.setattr(place, "PATIENCE_S", 0.2)
    with in_bucket.server.away() as refusing:
        report = in_bucket.worker("2", "1").step()
        assert refusing.num_calls > 1
    assert (report.error_kind, report.is_last) == ("StorageAwayError", True)
    assert f"storage {in_bucket.place} cannot be used" in report.error
    assert report.notes == ()
    assert in_bucket.worker("2", "1").step().epoch == 3


def test_an_outage_while_a_checkpoint_is_fetched_is_no_damage_to_it(in_bucket, monkeypatch):
    monkeypatch.setattr("tune_ddvae.tuning.running.worker.wait_for", lambda *_: None)
    with in_bucket.server.away():
        report = in_bucket.worker("2", "1").step()
    assert (report.error_kind, report.epoch, report.notes) == ("StorageAwayError", 0, ())


def test_nothing_of_one_trial_stays_for_the_next(straight, tmp_path):
    worker = Worker()
    worker.assign(make_assignment(tmp_path, model__latent_dim=3))
    train(worker)
    worker.assign(make_assignment(tmp_path, optimiser__learning_rate=1e6))
    assert train(worker)[-1].error_kind == "DivergedError"
    worker.assign(make_assignment(tmp_path))
    assert [numbers(r) for r in train(worker)] == [numbers(r) for r in straight]


def test_an_error_of_our_own_comes_back_as_a_last_report(tmp_path):
    worker = Worker()
    worker.assign(make_assignment(tmp_path, optimiser__learning_rate=1e6))
    report = worker.step()
    assert report.is_last
    assert report.error_kind == "DivergedError"
    assert "epoch 1" in report.error
    worker.save(tmp_path / "after")
    assert [path.name for path in (tmp_path / "after").iterdir()] == ["no-checkpoint.txt"]


FULL = OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_too_full_to_build_a_trial_on_is_named_as_that(tmp_path, monkeypatch):
    def full(*_args, **_facts):
        raise CheckpointError("cannot write") from FULL

    monkeypatch.setattr("tune_ddvae.tuning.running.worker.settle", full)
    worker = Worker()
    worker.assign(make_assignment(tmp_path))
    monkeypatch.setattr(Path, "write_text", full)  # not even the note can be written
    worker.save(tmp_path / "x")
    report = worker.step()
    assert (report.error_kind, report.is_last) == ("StorageFullError", True)


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_checkpoint_that_cannot_be_saved_makes_a_lost_worker_at_the_last_epoch_too(
    epoch, tmp_path, monkeypatch
):
    """Ray announces whatever a save that returns has left: here nothing would be there."""

    def full(*args):
        raise FULL

    worker = Worker()
    worker.assign(make_assignment(tmp_path))
    while (report := worker.step()).epoch < epoch:
        worker.save(tmp_path / str(report.epoch))
    assert report.is_last == (epoch == 3)
    monkeypatch.setattr("tune_ddvae.training.checkpoint.torch.save", full)
    with pytest.raises(CheckpointError) as caught:
        worker.save(tmp_path / "x")
    assert judge(traced(caught.value)).is_full
    assert not (tmp_path / "x" / "state.pt").exists()


def traced(error: Exception) -> str:
    """As Ray writes down what a task raised."""
    return "".join(traceback.format_exception(error))


def test_a_trial_that_goes_well_leaves_no_last_words(tmp_path):
    worker = Worker()
    worker.assign(make_assignment(tmp_path))
    assert (tmp_path / "trials" / "00000-a" / "last-words.txt").exists()
    train(worker)
    worker.assign(make_assignment(tmp_path / "other"))
    assert not (tmp_path / "trials" / "00000-a" / "last-words.txt").exists()


def test_an_error_while_building_is_reported_by_the_first_step(tmp_path):
    worker = Worker()
    worker.assign(make_assignment(tmp_path, prior__kind="nonsense"))
    report = worker.step()
    assert (report.error_kind, report.is_last, report.epoch) == ("ConfigError", True, 0)
    assert "prior/kind must be one of" in report.error


def test_a_bug_of_ours_says_where_it_is(tmp_path, monkeypatch):
    def broken(*args):
        raise KeyError("oops")

    monkeypatch.setattr("tune_ddvae.tuning.running.worker.load", broken)
    worker = Worker()
    worker.assign(make_assignment(tmp_path))
    report = worker.step()
    assert report.error_kind == "KeyError"
    assert "(test_worker.py:" in report.error


def test_what_was_really_used_is_reported(straight):
    facts = straight[0].facts
    assert (facts["device"], facts["threads"]) == ("cpu", 1)
    assert (facts["prior"], facts["likelihood"], facts["seed"]) == ("normal", "laplace", 0)
    assert facts["measured_on"] == "validation"


def test_the_watchdog_is_armed_at_most_once_a_second(monkeypatch):
    armed = []
    monkeypatch.setattr(
        faulthandler,
        "dump_traceback_later",
        lambda s, **how: armed.append((s, how)),
    )
    watchdog = Watchdog(600.0)
    for _ in range(1000):
        watchdog()
    assert armed == [(600.0, {"exit": True, "file": 2})]
    watchdog.rest()
    watchdog()
    assert len(armed) == 2


class Timer:
    """Stands in for faulthandler's, which would end this process."""

    def __init__(self) -> None:
        self.is_armed = False
        self.limits_s: list[float] = []

    def dump_traceback_later(self, timeout: float, **_how) -> None:
        self.is_armed = True
        self.limits_s.append(timeout)

    def cancel_dump_traceback_later(self) -> None:
        self.is_armed = False


@pytest.fixture
def timer(monkeypatch):
    timer = Timer()
    for name in ("dump_traceback_later", "cancel_dump_traceback_later"):
        monkeypatch.setattr(faulthandler, name, getattr(timer, name))
    return timer


def seen_by(timer: Timer, monkeypatch, owner, name: str) -> list[bool]:
    """Whether the watchdog was armed, each time that this function of the owner's was called."""
    seen, real = [], getattr(owner, name)

    def watch(*args, **facts):
        seen.append(timer.is_armed)
        return real(*args, **facts)

    monkeypatch.setattr(owner, name, watch)
    return seen


def test_each_step_is_watched_from_its_first_batch_however_short_the_one_before(
    tmp_path, timer, monkeypatch
):
    monkeypatch.setattr(time, "monotonic", lambda: 7.0)  # never a second later
    batches = seen_by(timer, monkeypatch, Trainer, "_train_batch")
    worker = Worker()
    worker.assign(make_assignment(tmp_path))
    for _ in range(3):
        assert not timer.is_armed
        assert worker.step().error_kind == ""
    assert not timer.is_armed
    assert batches == [True] * 6
    assert set(timer.limits_s) == {600.0}


def test_nothing_is_watched_any_more_once_a_step_has_failed(tmp_path, timer):
    worker = Worker()
    worker.assign(make_assignment(tmp_path, optimiser__learning_rate=1e6))
    assert worker.step().error_kind == "DivergedError"
    assert not timer.is_armed


def test_a_save_is_watched_until_ray_has_copied_it(tmp_path, timer, monkeypatch):
    written = seen_by(timer, monkeypatch, checkpoint, "save")
    copied = seen_by(timer, monkeypatch, TrialTrainable, "_report_class_trainable_checkpoint")
    trainable = TrialTrainable({ASSIGNMENT: make_assignment(tmp_path)})
    trainable.step()
    trainable.save(str(tmp_path / "x"))
    assert written == copied == [True]
    assert not timer.is_armed
    monkeypatch.setattr(TrialTrainable, "_report_class_trainable_checkpoint", None)
    with pytest.raises(TypeError):
        trainable.save(str(tmp_path / "y"))
    assert not timer.is_armed


@pytest.mark.parametrize("arrives", [True, False])
def test_a_checkpoint_that_is_saved_is_whole_in_the_storage(tmp_path, monkeypatch, arrives):
    def lose(source: str, destination: str, **_systems: object) -> None:
        """As pyarrow does where an upload is cut off: it only logs that."""

    if not arrives:
        monkeypatch.setattr(ray_storage, "_pyarrow_fs_copy_files", lose)
    monkeypatch.setattr(ray_storage, "_get_ray_train_session_dir", lambda: str(tmp_path / "ray"))
    storage = ray_storage.StorageContext(tmp_path, "trials", trial_dir_name="00000-a")
    assignment = make_assignment(tmp_path)
    trainable = TrialTrainable({ASSIGNMENT: assignment}, storage=storage)
    trainable.train()
    saved = Path(trainable.save().checkpoint.path).relative_to(tmp_path).as_posix()
    worker = Worker()
    worker.assign(dataclasses.replace(assignment, checkpoints=(saved,)))
    report = worker.step()
    assert (report.epoch, report.notes) == (2, ())
