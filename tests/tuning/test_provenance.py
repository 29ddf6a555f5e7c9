import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import tune_ddvae
from tests.tuning.jobs.test_order import order_of
from tune_ddvae.tuning import provenance

AS_SOMEONE = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A checkout with one commit that the package seems to run from."""
    package = tmp_path / "tune_ddvae" / "__init__.py"
    package.parent.mkdir()
    package.write_text("")
    monkeypatch.setattr(tune_ddvae, "__file__", str(package))
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", *AS_SOMEONE, *words], cwd=tmp_path, check=True)
    return tmp_path


def test_versions_name_what_the_numbers_rest_on():
    facts = provenance.versions()
    assert facts["tune_ddvae"] == tune_ddvae.__version__
    for package in ("torch", "ray", "optuna", "mlflow", "numpy"):
        assert facts[package] == version(package)
    assert "commit" in facts


def test_the_commit_is_that_of_the_checkout(checkout):
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout
    assert re.fullmatch("[0-9a-f]{12}", provenance.commit())
    assert head.startswith(provenance.commit())


def test_a_changed_checkout_is_marked(checkout):
    clean = provenance.commit()
    (checkout / "results.csv").write_text("not the project's")
    assert provenance.commit() == clean
    (checkout / "tune_ddvae" / "__init__.py").write_text("changed")
    assert provenance.commit() == f"{clean}+changes"


def test_an_installed_package_takes_no_commit_from_a_folder_it_happens_to_lie_in(
    checkout, monkeypatch
):
    installed = checkout / "venv" / "site-packages" / "tune_ddvae" / "__init__.py"
    monkeypatch.setattr(tune_ddvae, "__file__", str(installed))
    assert provenance.commit() == ""


def test_a_submitted_job_knows_the_commit_that_it_was_sent_from(checkout, monkeypatch):
    sent = order_of().job_environment[provenance.SUBMITTED_COMMIT]
    assert sent == provenance.commit() != ""
    shutil.rmtree(checkout / ".git")
    monkeypatch.setenv(provenance.SUBMITTED_COMMIT, sent)
    assert provenance.versions()["commit"] == sent


def test_without_git_there_is_no_commit_and_no_error(checkout, monkeypatch):
    monkeypatch.setenv("PATH", str(checkout))
    assert provenance.commit() == ""


def test_a_printed_command_can_be_copied_into_a_shell_as_it_is():
    words = ["a b", "it's", "$HOME", "--set", "prior/gamma=0.5", "*", ""]
    line = provenance.command("tune_ddvae.study", words)
    assert shlex.split(line)[1:] == ["-m", "tune_ddvae.study", *words]


def test_a_printed_command_runs_with_this_very_python():
    line = provenance.command("sysconfig", [])
    shown = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout
    assert f'scripts = "{Path(sys.executable).parent}"' in shown
