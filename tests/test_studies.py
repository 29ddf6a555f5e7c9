import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from tests.job_server import TOKEN, running
from tests.tuning.studies.test_listing import make
from tune_ddvae.__main__ import COMMANDS
from tune_ddvae.studies import main
from tune_ddvae.tuning.jobs.jobs import ADDRESS_VARIABLE, Cargo
from tune_ddvae.tuning.storage.lock import sole_driver
from tune_ddvae.tuning.studies import resuming

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)


@pytest.fixture
def cluster():
    with running() as cluster:
        yield cluster


@pytest.fixture
def became(monkeypatch):
    """What the command would have become."""
    calls = []

    def become(words, folder):
        calls.append((list(words), folder))
        raise SystemExit(0)

    monkeypatch.setattr(resuming, "become_study", become)
    return calls


def invoke(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def add_job(cluster, storage, job_id="a-1", status="RUNNING", words=("sparsity", "--quick")):
    cargo = Cargo(study="a", storage=str(storage), words=(*words, "--storage", str(storage)))
    cluster.add(job_id, status, metadata=cargo.metadata())


def test_list_is_exact_as_json_and_readable_without(tmp_path):
    study = make(tmp_path, "a", trials=4, ended_as="complete")
    (listed,) = json.loads(invoke("list", "--storage", tmp_path, "--json").output)
    assert listed["name"] == "a"
    assert listed["trials"]["ended"] == len(study.trials)
    plain = invoke("list", "--storage", tmp_path).output
    assert f"Studies in {tmp_path}" in plain
    assert "4 of 4" in plain
    assert "\x1b" not in plain


def test_list_asks_the_cluster_of_the_environment_too(cluster, tmp_path, monkeypatch):
    make(tmp_path, "a", trials=1, ended_as="complete")
    add_job(cluster, tmp_path)
    monkeypatch.setenv(ADDRESS_VARIABLE, cluster.address)
    (listed,) = json.loads(invoke("list", "--storage", tmp_path, "--json").output)
    assert listed["job"] == {"id": "a-1", "status": "RUNNING", "exit_code": None}
    assert listed["state"] == "complete"


def test_list_shows_jobs_whose_storage_is_elsewhere(cluster):
    add_job(cluster, "/shared/elsewhere")
    shown = invoke("list", "--storage", "/shared/elsewhere", "--address", cluster.address)
    assert shown.exit_code == 0
    assert "a-1 RUNNING" in shown.output
    assert "was not seen from here" in shown.output


def test_list_says_that_there_is_no_record_where_it_looked_for_one(cluster, tmp_path):
    add_job(cluster, tmp_path)
    shown = invoke("list", "--storage", tmp_path, "--address", cluster.address)
    assert "a: it has no record yet" in shown.output


def test_logs_prints_the_newest_jobs(cluster, tmp_path):
    add_job(cluster, tmp_path, "a-1", "FAILED")
    add_job(cluster, tmp_path, "a-2", "SUCCEEDED")
    cluster.jobs["a-2"]["start_time"] += 1000
    cluster.logs |= {"a-1": "before\n", "a-2": "now\n"}
    shown = invoke("logs", "a", "--address", cluster.address)
    assert shown.stdout == "now\n"
    assert "a-2: SUCCEEDED" in shown.stderr


def test_logs_of_a_study_that_is_no_job_says_where_to_look(tmp_path):
    make(tmp_path, "a", trials=1, ended_as="complete")
    shown = invoke("logs", "a", "--storage", tmp_path)
    assert shown.exit_code == 0
    assert "terminal" in shown.output
    assert str(tmp_path / "a" / "record.db") in shown.output


def test_stop_ends_the_job(cluster, tmp_path):
    add_job(cluster, tmp_path)
    stopped = invoke("stop", "a", "--address", cluster.address)
    assert stopped.exit_code == 0, stopped.output
    assert cluster.jobs["a-1"]["status"] == "STOPPED"
    again = invoke("stop", "a", "--address", cluster.address)
    assert again.exit_code == 0
    assert "does not run" in again.output


def test_resume_sends_a_job_again_by_its_words(cluster, tmp_path, became):
    add_job(cluster, tmp_path, status="STOPPED")
    invoke("resume", "a", "--address", cluster.address)
    ((words, folder),) = became
    assert words == ["sparsity", "--quick", "--storage", str(tmp_path), "--submit", cluster.address]
    assert folder == ""


def test_resume_goes_on_here_by_the_recorded_words_in_their_folder(tmp_path, became):
    make(tmp_path, "a", driven=False, ended_as="interrupted")
    shown = invoke("resume", "a", "--storage", tmp_path)
    ((words, folder),) = became
    assert words == ["simulated", "--storage", str(tmp_path)]
    assert folder == str(tmp_path)
    assert shlex.join(words) in shown.stderr


def test_resume_leaves_a_study_alone_that_runs(tmp_path, became):
    make(tmp_path, "a", driven=False, ended_as="interrupted")
    with sole_driver(tmp_path / "a"):
        shown = invoke("resume", "a", "--storage", tmp_path)
    assert shown.exit_code == 0
    assert f"running already: process {os.getpid()}" in shown.output
    assert not became


def test_resume_sends_no_second_job_for_a_study_that_a_driver_holds(cluster, tmp_path, became):
    make(tmp_path, "a", driven=False, ended_as="interrupted")
    add_job(cluster, tmp_path, status="FAILED")
    with sole_driver(tmp_path / "a"):
        shown = invoke("resume", "a", "--storage", tmp_path, "--address", cluster.address)
    assert shown.exit_code == 0
    assert f"running already: process {os.getpid()}" in shown.output
    assert not became


def test_stop_asks_the_cluster_of_the_environment_too(cluster, tmp_path, monkeypatch):
    make(tmp_path, "a", driven=False, ended_as="interrupted")
    add_job(cluster, tmp_path)
    monkeypatch.setenv(ADDRESS_VARIABLE, cluster.address)
    stopped = invoke("stop", "a", "--storage", tmp_path)
    assert stopped.exit_code == 0, stopped.output
    assert cluster.jobs["a-1"]["status"] == "STOPPED"


def hold_as_a_dead_driver(server, database, *, for_s: float) -> None:
    lease = "SELECT study_id, 'gone', 'vm', 27051, 1e9, clock_timestamp() + interval '{} seconds' "
    with server.connected(database) as connection:
        connection.execute(
            text(f"INSERT INTO ddvae_leases {lease.format(for_s)} FROM ddvae_studies")
        )


def test_resume_waits_for_the_lease_of_a_driver_that_died(server, tmp_path, became):
    database = server.new_database()
    make(tmp_path, "a", url=database, driven=False, ended_as="interrupted")
    hold_as_a_dead_driver(server, database, for_s=1.5)
    shown = invoke("resume", "a", "--record", database)
    assert re.search(r"held by process 27051 on vm.*runs out within [12] s", shown.stderr)
    assert "running already" not in shown.output
    assert became


def studies(*words, cwd=ROOT, env=None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "tune_ddvae.studies", *map(str, words)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=90,
    )


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a\0", "", "x" * 5000])
@pytest.mark.parametrize("what", ["logs", "stop", "resume"])
def test_a_name_is_never_a_path(what, name, tmp_path):
    make(tmp_path, "a", trials=1, ended_as="complete")
    shown = invoke(what, name, "--storage", tmp_path / "a")
    assert "unknown study" in str(shown.exception)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "asks for a token: set RAY_AUTH_MODE=token"),
        (
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "9" * 40},
            "refuses the token that is here",
        ),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": ""}, "there is no token here"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}, ""),
    ],
)
def test_a_cluster_with_a_token_says_which_mend_it_needs(cluster, tmp_path, env, said):
    cluster.token = TOKEN
    done = studies("list", "--address", cluster.address, env={"HOME": str(tmp_path), **env})
    if said:
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    else:
        assert done.returncode == 0, done.stderr
    assert "9" * 40 not in done.stderr + done.stdout


def test_every_command_and_option_has_help_under_both_names():
    assert COMMANDS.commands["studies"] is main
    for name, each in main.commands.items():
        assert each.help, name
        for parameter in each.params:
            assert not parameter.opts[0].startswith("-") or parameter.help, (name, parameter.name)
