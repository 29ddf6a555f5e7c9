import io
import shlex

import pytest
from click.testing import CliRunner
from rich.console import Console

from tests.job_server import running
from tune_ddvae.catalogue import find_study
from tune_ddvae.studies import main
from tune_ddvae.tuning.jobs.order import make_order
from tune_ddvae.tuning.jobs.screen import show_sent
from tune_ddvae.tuning.jobs.submission import Sent, submit
from tune_ddvae.tuning.storage.lock import Holder

STUDY = find_study("sparsity")
LABELS = ("log", "stop", "go on", "list")


@pytest.fixture
def cluster():
    with running() as cluster:
        yield cluster


def order_of(cluster, storage: str, record: str | None = None):
    options = ("--storage", storage, *(("--record", record) if record else ()))
    return make_order(
        STUDY, "sparsity", options, submit=cluster.address, storage=storage, record=record
    )


def printed(sent: Sent) -> str:
    console = Console(file=io.StringIO(), width=80)
    show_sent(sent, console)
    return console.file.getvalue()


def lines_of(text: str) -> dict[str, list[str]]:
    """The words of each command that is shown, without the Python that runs it."""
    found = {}
    for label in LABELS:
        (line,) = [line for line in text.splitlines() if line.startswith(f"  {label} ")]
        words = shlex.split(line.removeprefix(f"  {label} "))
        found[label] = words[words.index("tune_ddvae.studies") + 1 :]
    return found


def test_what_is_printed_names_this_study_where_another_storage_has_one_of_its_name(
    cluster, tmp_path
):
    places = [tmp_path / "one", tmp_path / "two"]
    for place in places:
        place.mkdir()
    first, second = [submit(order_of(cluster, str(place))) for place in places]
    cluster.logs |= {first.job: "of one\n", second.job: "of two\n"}
    lines = lines_of(printed(first))
    cluster.jobs[first.job]["status"] = "FAILED"  # else a log is followed over a web socket
    log = CliRunner().invoke(main, [word for word in lines["log"] if word != "--follow"])
    assert log.stdout == "of one\n", log.exception
    cluster.jobs[first.job]["status"] = "RUNNING"
    stopped = CliRunner().invoke(main, lines["stop"])
    assert stopped.exit_code == 0, stopped.exception
    assert cluster.jobs[first.job]["status"] == "STOPPED"
    assert cluster.jobs[second.job]["status"] != "STOPPED"
    assert lines["go on"][-4:] == lines["list"][-4:] == lines["stop"][-4:]


def test_what_is_printed_names_the_database_of_a_study_that_has_its_record_there(cluster):
    order = order_of(cluster, "/shared", "postgresql://user@head/studies")
    for words in lines_of(printed(Sent(order=order, job="sparsity-1", package=None))).values():
        assert words[words.index("--record") + 1] == order.cargo.record


def test_a_study_that_a_driver_holds_is_said_to_run_and_not_as_which_job(cluster):
    holder = Holder("vm", 27051, 1e9)
    sent = Sent(order=order_of(cluster, "/shared"), job=None, package=None, holder=holder)
    text = printed(sent)
    assert f"Study sparsity is running already, by {holder}; nothing was sent" in text
    assert "job" not in text.splitlines()[0]
