"""What cannot work on a cluster is refused before the first trial; code comes from the driver alone."""

import shutil
import time

import pytest

import tune_ddvae
from tests.cluster.cluster import ADDRESS, hidden_behind
from tests.cluster.hosts import ROOT
from tests.studies import command, record_path, trials_of, write_tiny
from tune_ddvae import exit_codes

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]

SHORT = ("--trials", 2, "--epochs", 2, "--first-rung", "none")
CLUSTER = (*SHORT, "--address", ADDRESS)
REFUSED_WITHIN_S = 60.0
STALE = "0.0.0.dev0+stale"


def test_a_storage_that_only_the_driver_sees_is_refused_and_the_others_named(cluster, place):
    folder = place("elsewhere")
    private = cluster.hosts.private / "studies"
    words = command(write_tiny(folder), folder, *CLUSTER)
    done = cluster.drive([*words, "--storage", private], folder)
    assert_refused(done, str(private), "h1", "h2")
    assert not record_path(cluster.head.path(cluster.hosts.private), "tiny").exists()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("--cpus-per-trial", 64), ("64 CPUs", "there are 2")),
        (("--gpus-per-trial", 1), ("1 GPU", "there are 0")),
        (("--gpus-per-trial", 0.5), ("0.5 GPU", "there are 0")),
    ],
    ids=["64 CPUs", "a GPU", "half a GPU"],
)
def test_more_than_any_host_has_is_refused_and_not_waited_for(cluster, place, asked, words):
    folder = place(f"asked-{asked[-1]}")
    started = time.monotonic()
    done = cluster.drive(command(write_tiny(folder), folder, *CLUSTER, *asked), folder)
    assert_refused(done, asked[0], *words)
    assert time.monotonic() - started < REFUSED_WITHIN_S
    assert not record_path(folder, "tiny").exists()


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, ("asks for a token", "RAY_AUTH_MODE=token")),
        ({"RAY_AUTH_TOKEN": "f" * 64}, ("refuses the token", "RAY_AUTH_TOKEN")),
    ],
    ids=["no token", "another token"],
)
def test_who_has_not_the_token_is_told_how_to_get_in(cluster, place, env, words):
    folder = place(f"uninvited-{len(env)}-{env.get('RAY_AUTH_TOKEN', 'none')[:4]}")
    done = cluster.drive(command(write_tiny(folder), folder, *CLUSTER), folder, env=env)
    assert_refused(done, ADDRESS, *words)


def test_a_machine_outside_the_cluster_is_told_to_submit(cluster, place):
    folder = place("outside")
    home = cluster.laptop
    done = cluster.drive(command(write_tiny(folder), folder, *CLUSTER), folder, on=home)
    assert_refused(done, "not a node", "--submit")


def test_stale_code_on_a_worker_is_not_run(cluster, place):
    """Neither where the project is installed there, nor in the folder that the driver runs in."""
    folder, installed = place("stale"), ROOT / "tune_ddvae"
    stale = folder / "stale" / "tune_ddvae"
    shutil.copytree(installed, stale, ignore=shutil.ignore_patterns("__pycache__"))
    init = stale / "__init__.py"
    init.write_text(init.read_text().replace(tune_ddvae.__version__, STALE))
    assert STALE in init.read_text()
    first, second = cluster.workers
    for worker in cluster.workers:
        shutil.copytree(stale, worker.path(cluster.hosts.private) / "tune_ddvae")
    words = command(write_tiny(folder), folder, *CLUSTER)
    with hidden_behind(first, installed, stale), hidden_behind(second, installed, stale):
        done = cluster.drive(words, cluster.hosts.private)
    assert done.returncode == exit_codes.COMPLETE, done.stdout + done.stderr
    trials = trials_of(folder, "tiny")
    assert {trial.facts["host"] for trial in trials} <= {"h1", "h2"}
    assert {trial.facts["tune_ddvae"] for trial in trials} == {tune_ddvae.__version__}


def assert_refused(done, *words) -> None:
    """Refused by a message of ours that says so much."""
    assert done.returncode == exit_codes.REFUSED, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
