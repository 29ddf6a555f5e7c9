import pytest

from tests.tuning.machines import VERSIONS, examined
from tests.tuning.screens import printed
from tune_ddvae.tuning.cluster.facts import Check, State
from tune_ddvae.tuning.doctor.screen import noted, render

OTHER_TORCH = {"versions": VERSIONS | {"torch": "2.13.0"}}
REFUSED = Check(State.BAD, "cannot write to /studies: Read-only file system", "name another")
AWAY = Check(State.DOUBTFUL, "MLflow at http://h0:5000 does not answer", "start that server")


def line_of(text: str, host: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"{host} "))


def test_all_green_has_a_mark_for_every_host_and_check_and_says_so():
    text = printed(render(examined()), 160)
    for host in ("h0 (driver)", "h1", "h2"):
        assert "✗" not in line_of(text, host)
        assert "✓ shared" in text
    assert line_of(text, "h1").count("✓") == 8  # every check but that it answered
    assert line_of(text, "h0 (driver)").count("–") == 3  # its node's row has devices and memory
    assert text.rstrip().endswith("All is well: a study could run.")
    assert "(1)" not in text


def test_each_miss_has_a_number_its_words_and_its_mend():
    examination = examined(h1=OTHER_TORCH, h2={"writing": REFUSED}, whole={"tracking": AWAY})
    text = printed(render(examination), 160)
    lines = text.splitlines()
    assert "✗ (1)" in line_of(text, "h1")
    assert "✗ (2)" in line_of(text, "h2")
    assert any(line.startswith("!  tracking  (3)") for line in lines)
    assert "(1)  ✗  h1, versions: torch 2.13.0, the driver has 2.14.1+cu130" in text
    assert "→ install the driver's versions there" in text
    assert "(2)  ✗  h2, storage: cannot write to /studies: Read-only file system" in text
    assert "(3)  !  study, tracking: MLflow at http://h0:5000 does not answer" in text
    assert "→ start that server" in text
    assert text.rstrip().endswith("A study could not run: see to (1), (2) first.")


def test_what_is_worth_a_word_does_not_say_that_a_study_could_not_run():
    text = printed(render(examined(whole={"tracking": AWAY})))
    assert text.rstrip().endswith("A study could run; 1 thing to look at.")


def test_the_same_miss_of_several_hosts_is_said_once():
    examination = examined(h1=OTHER_TORCH, h2=OTHER_TORCH)
    assert [note.where for note in noted(examination.findings)] == [("h1", "h2")]
    text = printed(render(examination), 160)
    assert text.count("→") == 1
    assert "✗ (1)" in line_of(text, "h1")
    assert "✗ (1)" in line_of(text, "h2")


def test_a_host_that_is_silent_is_a_row_that_refers_to_what_it_did_not_say():
    silent = {"facts": None, "seen": None, "error": "no answer within 90 s"}
    text = printed(render(examined(h2=silent)), 160)
    row = line_of(text, "h2")
    assert "✗ no answer within 90 s (1)" in row
    assert row.count("–") == 8
    assert "(1)  ✗  h2, answer: no answer within 90 s" in text


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_every_host_and_finding_is_on_the_screen_at_any_width(width):
    examination = examined(h1=OTHER_TORCH, whole={"tracking": AWAY})
    text = printed(render(examination), width)
    assert all(len(line) <= width for line in text.splitlines())
    for word in ("h0", "h1", "h2", "torch", "2.13.0", "(1)", "(2)"):
        assert word in text


def test_a_message_is_never_taken_for_markup():
    odd = Check(State.DOUBTFUL, "[bold]odd[/bold] :smile:", "[red]mend[/red]")
    text = printed(render(examined(whole={"tracking": odd})))
    assert "[bold]odd[/bold] :smile:" in text
    assert "[red]mend[/red]" in text


def test_words_that_have_no_room_are_left_out_and_numbers_stay():
    examination = examined(h1=OTHER_TORCH)
    wide, narrow = (printed(render(examination), width) for width in (120, 80))
    assert "✓ 2 CPUs" in line_of(wide, "h2")
    assert line_of(narrow, "h2").split() == ["h2", *("✓" for _ in range(8))]
    assert "✗ (1)" in line_of(narrow, "h1")
