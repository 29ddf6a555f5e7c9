import os
import subprocess
import sys
from pathlib import Path

import pytest

from tune_ddvae.errors import RecordError
from tune_ddvae.tuning.jobs.jobs import Cargo, Job
from tune_ddvae.tuning.provenance import command as command_of
from tune_ddvae.tuning.studies.finding import Found
from tune_ddvae.tuning.studies.listed import Listed, Standing
from tune_ddvae.tuning.studies.resuming import (
    become_study,
    command,
    resumed_words,
    study_words,
    with_options,
)

ROOT = Path(__file__).parents[3]
WORDS = ["sparsity", "--quick", "--set", "a/b=c d; $(x)", "--storage", "/old"]


def listed(words=WORDS, **changes) -> Found:
    facts = {
        "name": "a",
        "standing": Standing.INTERRUPTED,
        "storage": "/new",
        "command": command_of("tune_ddvae.study", words),
    }
    return Found(study=Listed(**{**facts, **changes}))


def words_of(found: Found, **changes) -> list[str]:
    return resumed_words(
        found, **{"record": None, "tracking_uri": None, "address": None, **changes}
    )


def test_a_recorded_command_gives_its_words_back():
    assert study_words(command_of("tune_ddvae.study", WORDS)) == WORDS


@pytest.mark.parametrize(
    "recorded",
    [
        "",
        "rm -rf /",
        "python -c pass",
        "python -m tune_ddvae.paper --quick",
        "python -m tune_ddvae.study",
        "python -m tune_ddvae.study 'unclosed",
        "sh -c 'python -m tune_ddvae.study x'",
    ],
)
def test_what_is_no_study_command_is_never_run(recorded):
    with pytest.raises(RecordError, match="must name the command that goes on with it"):
        study_words(recorded)


@pytest.mark.parametrize("address", [None, "http://head:8265"])
def test_a_slurm_jobs_study_is_not_sent_to_the_cluster_that_ended_with_the_job(address):
    line = "sbatch cluster/slurm.sh sparsity --set 'a/b=c d'"
    with pytest.raises(RecordError) as raised:
        words_of(listed(command=line), address=address)
    assert str(raised.value).endswith(
        f"submitting that job again, in the folder where it was: {line}"
    )


def test_a_study_goes_on_where_it_lies_now():
    assert words_of(listed()) == [*WORDS[:-2], "--storage", "/new"]


def test_a_study_in_a_database_goes_on_with_the_address_that_was_given():
    words = ["sparsity", "--record", "postgresql://u:***@h/d"]
    found = listed(words, storage="")
    whole = "postgresql://u:hidden@h/d"
    assert words_of(found, record=whole) == ["sparsity", "--record", whole]
    assert "hidden" not in command(words_of(found, record=whole))


def test_a_password_that_is_missing_is_asked_for():
    found = listed(["sparsity", "--tracking-uri=http://u:***@h"])
    with pytest.raises(RecordError, match="no password is kept.*--tracking-uri"):
        words_of(found)
    assert words_of(found, tracking_uri="http://u:p@h")[:3] == [
        "sparsity",
        "--tracking-uri",
        "http://u:p@h",
    ]


def test_a_job_is_sent_again_by_its_own_words():
    cargo = Cargo(study="a", storage="/shared", words=tuple(WORDS))
    jobs = (
        Job(id="a-2", status="STOPPED", cargo=cargo),
        Job(id="a-1", status="STOPPED", cargo=Cargo(study="a", storage="/shared", words=("x",))),
    )
    words = words_of(Found(study=None, jobs=jobs), address="http://head:8265")
    assert words == [*WORDS, "--submit", "http://head:8265"]


def test_a_study_that_was_sent_is_sent_again_where_it_was_recorded():
    sent = [*WORDS, "--submit", "http://head:8265"]
    assert words_of(listed(sent))[-4:] == ["--submit", "http://head:8265", "--storage", "/new"]


def test_a_study_that_joined_a_cluster_is_sent_to_the_one_that_is_named():
    words = words_of(listed([*WORDS, "--address", "10.0.0.1:6379"]), address="http://head:8265")
    assert "--address" not in words
    assert words[-2:] == ["--submit", "http://head:8265"]


def test_nothing_known_is_refused():
    with pytest.raises(RecordError):
        words_of(listed(command=""))
    with pytest.raises(RecordError, match="cannot be seen from here"):
        words_of(Found(study=None))


def test_options_are_set_anew_wherever_and_however_they_stood():
    words = ["x", "--storage=/a", "--quick", "--storage", "/b", "--name", "c"]
    assert with_options(words, {"--storage": "/d", "--record": None}) == [
        "x",
        "--quick",
        "--name",
        "c",
        "--storage",
        "/d",
    ]


def test_the_study_command_is_ours_in_any_folder_and_has_the_words_as_they_are(tmp_path):
    """A package of our name lies where the study was started."""
    decoy = tmp_path / "tune_ddvae"
    decoy.mkdir()
    (decoy / "__init__.py").write_text("raise SystemExit('the decoy ran')")
    (tmp_path / "lab.py").write_text("STUDY = 7")
    script = (
        "from tune_ddvae.tuning.studies.resuming import become_study; import sys; "
        "become_study(sys.argv[2:], sys.argv[1])"
    )
    for words, said in (
        (["no such study; $(touch x)", "--quick"], "unknown study 'no such study; $(touch x)'"),
        (["./lab.py"], "must define STUDY"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path), *words],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        assert said in done.stderr
    assert not (tmp_path / "x").exists()


@pytest.fixture
def became(monkeypatch):
    calls = []

    def become(*words):
        calls.append(words)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", become)
    return calls


@pytest.mark.parametrize(
    "words",
    [
        ["lab.py"],
        ["--quick", "./lab.py"],
        ["labs/lab.py"],
        ["sparsity", "--data-dir", "files"],
        ["sparsity", "--data-dir=../files"],
        ["sparsity", "--tracking-uri", "sqlite:///runs.db"],
        ["sparsity", "--tracking-uri", "mlruns"],
    ],
)
def test_paths_from_a_folder_that_is_gone_are_not_taken_from_another(words, tmp_path, became):
    with pytest.raises(RecordError, match=f"{tmp_path / 'gone'}, which is gone"):
        become_study(words, str(tmp_path / "gone"))
    assert not became


def test_what_needs_no_folder_goes_on_without_it(tmp_path, became):
    words = ["sparsity", "--set", "model/prior=x.py", "--data-dir", "/files", "--hours", "0.5"]
    words += ["--storage", "s3://bucket/x", "--tracking-uri=sqlite:////runs.db", "--name", "a/b"]
    with pytest.raises(SystemExit):
        become_study(words, str(tmp_path / "gone"))
    assert len(became) == 1
