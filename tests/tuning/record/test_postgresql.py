"""The record on a server: the same as in a file, whatever becomes of the connection."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import optuna
import psycopg2
import pytest

from tests.postgres import PASSWORD
from tests.tuning.simulated import drive, make_spec, open_study, outcome
from tune_ddvae import exit_codes
from tune_ddvae.errors import ConfigError, RecordError, RecordLostError
from tune_ddvae.tuning.record import postgresql
from tune_ddvae.tuning.record.postgresql import engine_options, num_on_server, server_address
from tune_ddvae.tuning.tracking.tracking import Outcome, sync
from tune_ddvae.tuning.trials import Report, Row, State

UNREACHABLE = "postgresql://u:s3cret@127.0.0.1:1/db"


@pytest.fixture
def url(server):
    return server.new_database()


@pytest.fixture(scope="module")
def in_a_file(tmp_path_factory):
    study = open_study(tmp_path_factory.mktemp("file"), make_spec())
    drive(study)
    study.record.close()
    return outcome(study.trials)


def assert_mirrored(url: str, trials) -> None:
    """Optuna's own tables say the same."""
    told = optuna.load_study(study_name="simulated", storage=url).trials
    assert [t.number for t in told] == [t.number for t in trials]
    for mine, theirs in zip(trials, told, strict=True):
        assert (
            theirs.state.name == {State.COMPLETE: "COMPLETE", State.STOPPED: "PRUNED"}[mine.state]
        )
        assert theirs.params == (mine.params or {})
        assert tuple(theirs.values or ()) == (mine.values or ())


def test_a_study_on_a_server_is_the_same_as_one_in_a_file(in_a_file, tmp_path, url):
    study = open_study(tmp_path, make_spec(), url=url)
    drive(study)
    study.record.close()
    assert outcome(study.trials) == in_a_file
    study = open_study(tmp_path, make_spec(), url=url)
    assert outcome(study.trials) == in_a_file
    assert study.is_complete
    study.record.close()
    assert_mirrored(url, list(study.trials.values()))
    assert num_on_server(url, "simulated") == 15
    assert num_on_server(url, "another") == 0


def test_a_study_goes_on_from_what_another_driver_recorded(in_a_file, tmp_path, url):
    for trials in (4, 9, 15):
        study = open_study(tmp_path, make_spec(), trials=trials, url=url)
        drive(study)
        study.record.close()
    assert outcome(study.trials) == in_a_file


def test_a_server_that_restarts_in_the_middle_loses_nothing(in_a_file, tmp_path, url, server):
    study = open_study(tmp_path, make_spec(), url=url)
    seen = []

    def restart() -> None:
        for num_trials in (2, 6, 10):
            while len(study.trials) < num_trials:
                time.sleep(0.001)  # the study's own progress is what is awaited
            seen.append(len(study.trials))
            server.restart()

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        drive(study)
    finally:
        thread.join()
    study.record.close()
    assert seen[-1] < 15
    assert outcome(study.trials) == in_a_file
    study = open_study(tmp_path, make_spec(), url=url)
    assert outcome(study.trials) == in_a_file
    study.record.close()
    assert_mirrored(url, list(study.trials.values()))


def test_a_commit_whose_answer_is_lost_is_not_done_twice(in_a_file, tmp_path, url, monkeypatch):
    monkeypatch.setattr(postgresql, "RETRY_S", 0.01)
    study = open_study(tmp_path, make_spec(), url=url)
    dialect = study.record.engine.dialect
    commit, commits = dialect.do_commit, [0]

    def cut_off(connection) -> None:
        commit(connection)
        commits[0] += 1
        if commits[0] % 3 == 0:
            connection.close()
            raise psycopg2.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(dialect, "do_commit", cut_off)
    drive(study)
    study.record.close()
    assert commits[0] > 60
    assert outcome(study.trials) == in_a_file
    assert_mirrored(url, list(study.trials.values()))


def test_a_server_that_stays_away_ends_the_study_without_its_password(
    tmp_path, url, server, monkeypatch
):
    monkeypatch.setattr(postgresql, "PATIENCE_S", 1.0)
    study = open_study(tmp_path, make_spec(), url=url)
    assignment = study.next_assignment()
    server.stop()
    try:
        study.record.add_row(assignment.number, Row(1, 1.0, {}, {}))
        with pytest.raises(RecordLostError, match="the same command goes on") as lost:
            study.record.flush()
        assert PASSWORD not in str(lost.value)
        with pytest.raises(RecordLostError):
            study.record.close()
    finally:
        server.start()


def test_two_drivers_make_a_new_database_at_the_same_second(tmp_path, server):
    url = server.new_database(template="template1")
    names = ["first", "second", "third"]

    def opened(name: str):
        return open_study(tmp_path / name, make_spec(), trials=1, url=url, name=name)

    with ThreadPoolExecutor(len(names)) as pool:
        studies = list(pool.map(opened, names))
    for study in studies:
        drive(study)
        study.record.close()
        assert study.is_complete


def test_mlflow_is_brought_up_to_date_from_a_server(workplace, url):
    study = open_study(workplace, make_spec(), trials=3, url=url)
    drive(study)
    tracking = f"sqlite:///{workplace / 'studies' / 'mlflow.db'}"
    shown = sync(study.record, tracking, "simulated", outcome=Outcome.COMPLETE)
    assert shown.is_whole, shown
    study.record.close()


def test_text_that_a_server_refuses_or_finds_too_long_is_recorded_all_the_same(tmp_path, url):
    study = open_study(tmp_path, make_spec(), trials=1, url=url)
    assignment = study.next_assignment()
    study.record.begin_session()
    odd = "half a \ud83d pair and a \0"
    study.take(assignment.attempt, Report(0, error_kind="RuntimeError", error=odd))
    study.end_attempt(assignment.attempt)
    study.record.seen(ended_as="the same error again and again: " + "x" * 100)
    study.record.flush()
    assert study.record.trials()[0].reason == "RuntimeError: half a ? pair and a ?"
    study.record.close()


def test_another_programs_study_of_that_name_is_left_alone(tmp_path, url):
    optuna.create_study(study_name="simulated", storage=url)
    with pytest.raises(RecordError, match="another program's"):
        open_study(tmp_path, make_spec(), url=url)
    assert optuna.load_study(study_name="simulated", storage=url).trials == []


# -- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        "sqlite:///record.db",
        "mysql://u:s3cret@host/db",
        "postgres://u:s3cret@host/db",
        "postgresql://u:s3cret@host",
        "postgresql://u:s3cret@host:port/db",
        "postgresql+asyncpg://u:s3cret@host/db",
        "postgresql://u:s3c ret@host/db",
        "record.db",
        "",
    ],
)
def test_an_address_of_anything_else_is_refused_with_the_form_of_a_right_one(wrong):
    with pytest.raises(ConfigError, match="--record must be") as refused:
        server_address(wrong)
    assert "s3c" not in str(refused.value)


@pytest.mark.parametrize("url", ["postgresql://u:p@s3cret@h/d", "postgresql://u:p/q@s3cret@h/d"])
def test_a_password_with_an_at_sign_in_it_is_refused_and_not_shown(url):
    with pytest.raises(ConfigError, match="in a password write %40") as refused:
        server_address(url)
    assert "s3c" not in str(refused.value)
    assert server_address("postgresql://u:p%40s@h/d?options=-cx%3D@") != ""


def test_what_an_address_sets_itself_goes_before_our_own():
    url = "postgresql://u@h/d?connect_timeout=3&options=-csearch_path%3Dmine"
    reaching = engine_options(url)["connect_args"]
    assert "connect_timeout" not in reaching
    assert reaching["options"].startswith("-csearch_path=mine -c idle_in_transaction")


def test_a_server_that_cannot_be_used_is_refused_without_a_password(server, monkeypatch):
    name = server.new_database().rpartition("/")[2]
    closed = server.url(name).replace(str(server.port), "1")
    for url, cause in (
        (server.url(name, password="wr0ng"), "password authentication failed"),  # noqa: S106
        (server.url("nowhere"), 'database "nowhere" does not exist'),
        (closed, "Connection refused"),
    ):
        with pytest.raises(RecordError, match=cause) as refused:
            num_on_server(url, "simulated")
        assert "***@127.0.0.1" in str(refused.value)
        assert PASSWORD not in str(refused.value)
        assert "wr0ng" not in str(refused.value)
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(RecordError, match=r"pip install 'tune-ddvae\[postgresql\]'"):
        num_on_server(server.url(name), "simulated")


def test_a_user_who_may_not_make_tables_is_told_what_is_missing(server):
    url = server.new_database(template="template1")
    name = url.rpartition("/")[2]
    server.execute(f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'")
    with pytest.raises(RecordError, match="GRANT CREATE ON SCHEMA public TO guest"):
        num_on_server(server.url(name, user="guest"), "simulated")
    assert num_on_server(url, "simulated") == 0  # and makes nothing
    with server.connected(url) as connection:
        assert not connection.dialect.get_table_names(connection)


def test_the_command_refuses_a_server_that_it_cannot_reach_and_makes_nothing(tmp_path):
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tune_ddvae.study", "clustering", "--record", UNREACHABLE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == exit_codes.REFUSED
    assert done.stderr.startswith(
        "error: the record postgresql+psycopg2://u:***@127.0.0.1:1/db cannot be"
    )
    assert done.stderr.count("\n") == 1
    assert "s3cret" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
    assert time.monotonic() - started < 60
