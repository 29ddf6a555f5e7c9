import subprocess
import sys
from pathlib import Path

import click
import pytest

from tune_ddvae import errors, exit_codes
from tune_ddvae.cli import run

ROOT = Path(__file__).parents[1]
REFUSALS = sorted(
    (
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.DdvaeError)
    ),
    key=lambda kind: kind.__name__,
)
# A command that does what its first word says.
COMMAND = """
import sys, click
from tune_ddvae.cli import run
from tune_ddvae.errors import ConfigError
@click.command()
@click.argument("what")
def command(what):
    if what == "refuse":
        raise ConfigError("objective/beta must be at least 0, got -1")
    if what == "bug":
        {}["missing"]
    for number in range(100_000):
        click.echo(f"line {number}")
run(command, "command")
"""


def end_of(does, monkeypatch, *words: str) -> int:
    """Exit code of a command that does that."""

    @click.command()
    @click.option("--trials", type=click.IntRange(min=1))
    def command(trials) -> None:
        return does()

    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(SystemExit) as ended:
        run(command, "command")
    return ended.value.code or 0


def raises(error: BaseException):
    def does():
        raise error

    return does


def started(what: str, **pipes) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, what],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **pipes,
    )


@pytest.mark.parametrize("kind", REFUSALS, ids=[kind.__name__ for kind in REFUSALS])
def test_every_refusal_of_ours_is_one_message_and_exit_code_2(kind, monkeypatch, capsys):
    assert end_of(raises(kind("value, rule, mend")), monkeypatch) == exit_codes.REFUSED
    assert capsys.readouterr() == ("", "error: value, rule, mend\n")


def test_a_command_that_ends_well_has_exit_code_0(monkeypatch, capsys):
    assert end_of(lambda: click.echo("done"), monkeypatch) == exit_codes.COMPLETE
    assert capsys.readouterr() == ("done\n", "")


@pytest.mark.parametrize("code", [exit_codes.NO_SUCCESS, exit_codes.WORK_LEFT])
def test_a_commands_own_exit_code_is_the_processs(code, monkeypatch, capsys):
    assert end_of(raises(SystemExit(code)), monkeypatch) == code
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("words", [["--trials", "0"], ["--trials", "x"], ["--trails", "1"], ["x"]])
def test_a_wrong_word_is_exit_code_2_and_shows_how_to_get_help(words, monkeypatch, capsys):
    assert end_of(lambda: None, monkeypatch, *words) == exit_codes.REFUSED
    out, err = capsys.readouterr()
    assert out == ""
    assert words[-1] in err or words[0] in err
    assert "--help" in err


def test_asking_for_help_is_no_error(monkeypatch, capsys):
    assert end_of(lambda: None, monkeypatch, "--help") == exit_codes.COMPLETE
    assert "Usage:" in capsys.readouterr().out


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c_is_one_word_and_exit_code_130(error, monkeypatch, capsys):
    assert end_of(raises(error), monkeypatch) == exit_codes.INTERRUPTED
    assert capsys.readouterr().err.strip() == "interrupted"


@pytest.mark.parametrize("error", [KeyError("x"), OSError("disk"), RuntimeError("bug")])
def test_a_bug_of_ours_is_not_hidden(error, monkeypatch):
    with pytest.raises(type(error)) as caught:
        end_of(raises(error), monkeypatch)
    assert caught.value is error


def test_a_refusal_shows_no_traceback_and_a_bug_shows_one():
    refused, broken = started("refuse"), started("bug")
    out, err = refused.communicate(timeout=30)
    assert (refused.returncode, out) == (exit_codes.REFUSED, "")
    assert err == "error: objective/beta must be at least 0, got -1\n"
    _, err = broken.communicate(timeout=30)
    assert broken.returncode == 1
    assert err.startswith("Traceback")
    assert "KeyError: 'missing'" in err


def test_a_reader_that_has_gone_gets_no_traceback():
    talking = started("talk")
    assert talking.stdout.readline() == "line 0\n"
    talking.stdout.close()
    assert talking.stderr.read() == ""
    talking.stderr.close()
    talking.wait(timeout=30)


def test_a_reader_that_has_gone_is_no_failure():
    talking = started("talk")
    talking.stdout.readline()
    talking.stdout.close()
    talking.stderr.close()
    assert talking.wait(timeout=30) == exit_codes.COMPLETE


def test_every_exit_code_is_different():
    codes = [value for name, value in vars(exit_codes).items() if name.isupper()]
    assert len(set(codes)) == len(codes) == 6
