"""The order of things in ``paper``: its parts have tests of their own."""

import os
import signal
import subprocess
import sys

import pytest

from tune_ddvae import paper, study
from tune_ddvae.catalogue import find_study
from tune_ddvae.cli import pins_of
from tune_ddvae.errors import DataError, StorageError
from tune_ddvae.study import sized_spec

# A command that says so once it can be signalled, and takes longer than 0.3 s to stop.
SLOW = """
import signal, sys, time
def stop(number, frame):
    time.sleep(1)
    print("stopped by", signal.Signals(number).name, flush=True)
    sys.exit(128 + number)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
print("ready", flush=True)
time.sleep(60)
"""
OUTER = f"""
import subprocess, sys
from tune_ddvae import paper
from tune_ddvae.cli import PatientConsole
real = subprocess.Popen
subprocess.Popen = lambda line, **how: real([sys.executable, "-c", {SLOW!r}], **how)
paper._run("study", ["sparsity"], PatientConsole())
"""


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [("SIGINT", "SIGINT"), ("SIGTERM", "SIGTERM"), ("SIGHUP", "SIGTERM")],
)
def test_a_signal_reaches_the_part_that_runs_once_and_its_end_is_awaited(sent, arrives):
    command = [sys.executable, "-c", OUTER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, text=True, start_new_session=True) as outer:
        assert any(line == "ready\n" for line in iter(outer.stdout.readline, ""))
        os.killpg(outer.pid, getattr(signal, sent))
        said = outer.stdout.read()
        code = outer.wait(timeout=30)
    assert said.count("stopped by") == 1
    assert f"stopped by {arrives}" in said
    assert code == 128 + getattr(signal, arrives)


def test_missing_data_of_the_last_study_are_refused_before_the_first_one_trains(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(paper, "STUDIES", ("clustering", "independence"))
    monkeypatch.setattr(paper, "_run", lambda *_: pytest.fail("a study was started"))
    words = ["--storage", str(tmp_path / "studies"), "--data-dir", str(tmp_path)]
    with pytest.raises(DataError, match="must hold the archive of dSprites"):
        paper.main.main(words, standalone_mode=False)
    assert not (tmp_path / "studies").exists()


def test_a_bucket_is_refused_and_no_folder_is_called_so(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match="s3://lab/studies.*name a folder"):
        paper.main.main(["--quick", "--storage", "s3://lab/studies"], standalone_mode=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", paper.STUDIES)
def test_the_reduced_options_are_those_of_the_study_command(name):
    words = [name, "--published", *paper.REDUCED[name].split()]
    given = study.main.make_context("study", words).params
    spec = sized_spec(
        find_study(name).spec,
        quick=given["quick"],
        pins=pins_of(given["settings"]) | {"training/epochs": given["epochs"] or 500},
        published=True,
        only=given["only"],
    )
    images = (spec.base.training.images_per_epoch or spec.base.data.train_size) * (
        spec.base.training.epochs
    )
    assert images <= {"sparsity": 60_000, "independence": 10_000, "clustering": 200_000}[name]
    assert len(spec.replicated) >= 8
