import io

import pytest
from rich.console import Console

from tune_ddvae.tuning.jobs.jobs import Cargo, Job
from tune_ddvae.tuning.studies.listed import Listed, Standing
from tune_ddvae.tuning.studies.screen import show
from tune_ddvae.tuning.trials import State

NOW = 2e9
TWO = {"sparsity/hoyer": "max", "log_likelihood/iwae": "max"}


def printed(*studies: Listed, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(studies, "/studies", console, now=NOW)
    return console.file.getvalue()


def study(**changes) -> Listed:
    facts = {
        "name": "sparsity",
        "standing": Standing.RUNNING,
        "counts": {State.COMPLETE: 3, State.STOPPED: 4, State.UNFINISHED: 2},
        "asked": 12,
        "rank_by": TWO,
        "best": 0.5,
        "front": 2,
        "changed": NOW - 90,
    }
    return Listed(**{**facts, **changes})


def row(text: str, name: str = "sparsity") -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return line


def test_a_row_says_how_a_study_stands():
    line = row(printed(study()))
    for part in ("running", "7 of 12", "front of 2", "1 min ago"):
        assert part in line


def test_one_metric_has_a_best_value_and_a_name():
    line = row(printed(study(rank_by={"log_likelihood/iwae": "max"}, best=-123.456)))
    assert "iwae -123.5" in line


def test_what_is_not_known_is_not_made_up():
    line = row(printed(study(asked=None, best=None, front=0, changed=None)))
    assert " of " not in line
    assert line.split().count("–") == 2
    unread = printed(study(standing=Standing.UNREADABLE, why="it is damaged"))
    assert "7 of 12" not in unread
    assert "sparsity: it is damaged" in unread


def test_more_trials_than_were_asked_for_last_are_all_of_them():
    assert "7 of 9" in row(printed(study(asked=5)))


def test_a_clock_that_goes_wrong_shows_no_negative_time():
    assert "0 s ago" in row(printed(study(changed=NOW + 500)))


def test_jobs_have_a_column_where_there_are_any():
    job = Job(id="sparsity-3", status="FAILED", cargo=Cargo(study="sparsity", storage="/s"))
    assert "job" not in printed(study())
    assert "sparsity-3 FAILED" in row(printed(study(job=job), study(name="other")))


def test_nothing_is_said_to_be_nothing():
    assert printed() == "no study in /studies\n"


def test_names_are_words_and_no_markup():
    assert "[red]x[/red]" in printed(study(name="[red]x[/red]"))


@pytest.mark.parametrize("odd", ["\x1b[2J", "\udcff", "\n", "\r", "\u202e", "\x9b", "\0"])
def test_nothing_that_is_shown_commands_the_terminal(odd):
    job = Job(id=f"j{odd}", status="FAILED")
    text = printed(study(name=f"a{odd}b", why=f"why{odd}not", job=job))
    text.encode()
    assert set(text) & set(odd) <= set("\n[2J")
    escaped = odd.encode("unicode_escape").decode()
    assert f"a{escaped}b " in text
    assert study(name=odd).to_json()["name"] == odd


def test_a_reason_stays_on_one_line_on_a_narrow_screen():
    text = printed(study(standing=Standing.STOPPED, why="the disk\nis full " * 10), width=60)
    (line,) = [line for line in text.splitlines() if line.startswith("sparsity: ")]
    assert line.count("is full") == 10


def test_a_long_name_is_whole_on_a_narrow_screen():
    name = "a" * 100
    text = printed(study(name=name), width=80)
    assert sum(line.count("a") for line in text.splitlines() if line.startswith("a")) >= 100
