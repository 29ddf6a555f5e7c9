import subprocess
import sys
from pathlib import Path

import click
import pytest

from tune_ddvae import errors, exit_codes
from tune_ddvae.cli import LOG_WIDTH, make_console, pins_of, run, words_given

ROOT = Path(__file__).parents[1]
REFUSALS = sorted(
    (
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, errors.DdvaeError)
        and kind not in (errors.StorageFullError, errors.BrokenOffError)
    ),
    key=lambda kind: kind.__name__,
)
# A command that does what its first word says.
COMMAND = """
import sys, click
from tune_ddvae.cli import PatientConsole, run
from tune_ddvae.errors import ConfigError
@click.command()
@click.argument("what")
def command(what):
    if what == "refuse":
        raise ConfigError("objective/beta must be at least 0, got -1")
    if what == "bug":
        {}["missing"]
    if what == "full elsewhere":
        with open("/dev/full", "w") as file:
            file.write("x")
    if what == "json":
        click.echo("x" * 100_000)
        sys.exit(3)
    if what == "rich":
        console = PatientConsole()
        console.print("line")
        console.print("another")
        sys.exit(3)
    if what == "end":
        click.echo("result")
        sys.exit(3)
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
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes}
    return subprocess.Popen([sys.executable, "-c", COMMAND, what], cwd=ROOT, text=True, **pipes)


@pytest.mark.parametrize("kind", REFUSALS, ids=[kind.__name__ for kind in REFUSALS])
def test_every_refusal_of_ours_is_one_message_and_exit_code_2(kind, monkeypatch, capsys):
    assert end_of(raises(kind("value, rule, mend")), monkeypatch) == exit_codes.REFUSED
    assert capsys.readouterr() == ("", "error: value, rule, mend\n")


def test_a_disk_that_fills_up_under_a_command_leaves_work_and_is_no_refusal(monkeypatch, capsys):
    full = errors.StorageFullError("no space left in storage /x")
    assert end_of(raises(full), monkeypatch) == exit_codes.WORK_LEFT
    assert capsys.readouterr() == ("", "error: no space left in storage /x\n")


def test_a_study_that_is_broken_off_leaves_work_and_is_no_refusal(monkeypatch, capsys):
    away = errors.BrokenOffError("the record's server went away")
    assert end_of(raises(away), monkeypatch) == exit_codes.WORK_LEFT
    assert capsys.readouterr() == ("", "error: the record's server went away\n")


@pytest.mark.parametrize("error", [KeyError("x"), OSError("disk"), RuntimeError("bug")])
def test_an_error_of_our_own_shows_its_place_and_is_no_studys_ending(error, monkeypatch, capsys):
    assert end_of(raises(error), monkeypatch) == exit_codes.OWN_FAULT
    told = capsys.readouterr().err
    assert told.startswith("Traceback")
    assert told.endswith(f"{type(error).__name__}: {error}\n")


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
def test_ctrl_c_is_one_line_that_says_how_to_go_on_and_exit_code_130(error, monkeypatch, capsys):
    assert end_of(raises(error), monkeypatch) == exit_codes.INTERRUPTED
    assert capsys.readouterr().err.strip() == (
        "interrupted: what was recorded is kept; the same command goes on"
    )


@pytest.mark.parametrize("code", [exit_codes.INTERRUPTED, exit_codes.TERMINATED])
def test_a_signals_note_is_told_and_its_exit_code_kept(code, monkeypatch, capsys):
    end = SystemExit(code)
    end.add_note("stopped: the same command goes on")
    assert end_of(raises(end), monkeypatch) == code
    assert capsys.readouterr() == ("", "stopped: the same command goes on\n")


def test_a_refusal_shows_no_traceback_and_a_bug_shows_one():
    refused, broken = started("refuse"), started("bug")
    out, err = refused.communicate(timeout=30)
    assert (refused.returncode, out) == (exit_codes.REFUSED, "")
    assert err == "error: objective/beta must be at least 0, got -1\n"
    _, err = broken.communicate(timeout=30)
    assert broken.returncode == exit_codes.OWN_FAULT
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


FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")


@needs_full
@pytest.mark.parametrize(
    ("what", "code"), [("talk", 0), ("json", 0), ("rich", 3), ("end", 0), ("refuse", 2)]
)
def test_a_full_disk_for_the_output_is_told_in_one_line(what, code):
    with FULL.open("w") as full:
        talking = started(what, stdout=full)
        _, err = talking.communicate(timeout=30)
    line = "the rest of the output is lost: it cannot be written (No space left on device)\n"
    assert err == ("error: objective/beta must be at least 0, got -1\n" if code == 2 else line)
    assert talking.returncode == code


@needs_full
@pytest.mark.parametrize(("what", "code"), [("talk", 0), ("rich", 3), ("refuse", 2)])
def test_where_nothing_can_be_said_at_all_the_exit_code_says_it(what, code):
    with FULL.open("w") as full:
        assert started(what, stdout=full, stderr=full).wait(timeout=30) == code


@needs_full
def test_a_full_disk_for_anything_else_is_not_hidden():
    broken = started("full elsewhere")
    _, err = broken.communicate(timeout=30)
    assert broken.returncode == exit_codes.OWN_FAULT
    assert "OSError: [Errno 28]" in err


def test_every_exit_code_is_different():
    codes = [value for name, value in vars(exit_codes).items() if name.isupper()]
    assert len(set(codes)) == len(codes) == 7


@pytest.mark.parametrize("as_json", [False, True])
def test_a_log_is_wide_and_leaves_results_alone(as_json, monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    console = make_console(as_json=as_json)
    console.print("x" * LOG_WIDTH)
    assert tuple(capsys.readouterr())[as_json] == "x" * LOG_WIDTH + "\n"


def test_a_width_that_is_asked_for_is_kept(monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    assert make_console(as_json=False).width == 70


def test_fields_are_set_by_name_to_values_of_their_type():
    assert pins_of(["objective/beta=2", " prior/kind=normal"]) == {
        "objective/beta": 2.0,
        "prior/kind": "normal",
    }
    with pytest.raises(errors.ConfigError, match="part/field=value, got 'objective/beta'"):
        pins_of(["objective/beta"])


def test_the_words_that_were_given_give_the_command_the_same_again():
    @click.command()
    @click.argument("name")
    @click.option("--trials", type=int, default=5)
    @click.option("--hours", type=float)
    @click.option("--set", "settings", multiple=True)
    @click.option("--quick", is_flag=True)
    @click.option("--submit")
    def command(**given) -> None:
        words.append(words_given(click.get_current_context(), but=("submit",)))
        seen.append(given)

    words, seen = [], []
    line = [
        "a",
        "--quick",
        "--set",
        "x/y=a b",
        "--hours=0.1",
        "--set",
        "z=--quick",
        "--submit",
        "u",
    ]
    command.main(line, standalone_mode=False)
    command.main(["a", *words[0]], standalone_mode=False)
    assert words[0] == words[1]
    assert "--submit" not in words[0]
    assert "--trials" not in words[0]
    assert seen[1] == seen[0] | {"submit": None}
