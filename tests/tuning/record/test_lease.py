"""One live driver on a server: who holds a study, and what one that has lost it can still do."""

import os
import re
import socket
import time

import pytest
from optuna.trial import TrialState
from sqlalchemy import text

from tests.tuning.simulated import drive, make_spec, metrics_at, open_study, outcome, train
from tune_ddvae.errors import RecordLostError, StudyLockedError
from tune_ddvae.tuning.record import lease, postgresql
from tune_ddvae.tuning.record.lease import current_holders
from tune_ddvae.tuning.record.opening import open_ledger
from tune_ddvae.tuning.record.tables import SESSIONS
from tune_ddvae.tuning.trials import Report, Row

# Long enough for a busy machine: a driver that gets no turn for so long has lost its lease.
SHORT_S = 3.0

pytestmark = pytest.mark.field
TABLES = ("ddvae_trials", "ddvae_rows", "ddvae_checkpoints", "ddvae_sessions", "trials")


@pytest.fixture
def url(server, monkeypatch):
    monkeypatch.setattr(postgresql, "LEASE_S", SHORT_S)
    monkeypatch.setattr(postgresql, "IDLE_SHARE", 1)  # a busy machine rests for a second at times
    return server.new_database()


def freeze(study) -> None:
    """Let a driver show no sign of life any more; what it calls in its other threads still runs."""
    lease = study.record._lease
    lease._releasing.set()
    lease._thread.join()


def holdings(server, url: str) -> dict[str, list]:
    with server.connected(url) as connection:
        return {
            table: sorted(map(repr, connection.execute(text(f"SELECT * FROM {table}")).all()))  # noqa: S608
            for table in TABLES
        }


def wait_for_expiry() -> None:
    time.sleep(SHORT_S + 0.2)  # the server's clock is what is awaited


def test_a_second_driver_is_refused_with_the_holder_and_when_its_lease_runs_out(tmp_path, url):
    study = open_study(tmp_path, make_spec(), url=url)
    with pytest.raises(StudyLockedError) as refused:
        open_study(tmp_path, make_spec(), url=url)
    message = str(refused.value)
    assert f"process {os.getpid()} on {socket.gethostname()}" in message
    assert re.search(
        r"started \d{4}-\d\d-\d\d \d\d:\d\d:\d\d; its lease runs out in [123] s", message
    )
    study.next_assignment()
    study.record.close()
    study = open_study(tmp_path, make_spec(), url=url)  # let go of at the end, not run out
    assert len(study.trials) == 1
    study.record.close()


def test_a_lease_is_renewed_for_as_long_as_its_driver_lives(tmp_path, url):
    study = open_study(tmp_path, make_spec(), url=url)
    time.sleep(2 * SHORT_S)
    with pytest.raises(StudyLockedError):
        open_study(tmp_path, make_spec(), url=url)
    study.next_assignment()
    study.record.close()


def test_a_driver_that_lost_its_lease_writes_nothing_beside_the_next(tmp_path, url, server):
    old = open_study(tmp_path, make_spec(), url=url)
    train(old, old.next_assignment())
    assignment = old.next_assignment()
    freeze(old)
    wait_for_expiry()
    new = open_study(tmp_path, make_spec(), url=url)
    before = holdings(server, url)

    old.take(assignment.attempt, Report(1, metrics_at(dict(assignment.config), 1)))
    with pytest.raises(StudyLockedError, match=rf"is held now by process {os.getpid()} on"):
        old.record.flush()
    storage, optuna_study = old.record._storage, old.record._optuna_study_id
    for write in (
        lambda: storage.create_new_trial(optuna_study),
        lambda: storage.set_trial_state_values(old.record._optuna_ids[1], TrialState.FAIL),
        lambda: storage.set_trial_user_attr(old.record._optuna_ids[1], "key", "value"),
    ):
        with pytest.raises(StudyLockedError):
            write()
    assert holdings(server, url) == before
    for look in (old.record.check, old.next_assignment, old.record.close):
        with pytest.raises(StudyLockedError):
            look()
    assert holdings(server, url) == before

    drive(new)  # which also shows that no lock was left behind
    assert new.is_complete
    new.record.close()


def test_a_driver_that_was_frozen_knows_it_by_the_clock_before_it_asks(tmp_path, url, monkeypatch):
    study = open_study(tmp_path, make_spec(), url=url)
    study.record.check_held()
    freeze(study)
    away = lease._clock() + SHORT_S + 1
    monkeypatch.setattr(lease, "_clock", lambda: away)
    study.record.check()
    for look in (study.record.check_held, study.record.check):
        with pytest.raises(StudyLockedError, match="frozen, or cut off"):
            look()
    study.record.close()


def test_a_lease_that_ran_out_is_lost_even_if_nobody_took_it(tmp_path, url, server):
    study = open_study(tmp_path, make_spec(), url=url)
    assignment = study.next_assignment()
    freeze(study)
    wait_for_expiry()
    before = holdings(server, url)
    study.record.add_row(assignment.number, Row(1, 1.0, {}, {}))
    with pytest.raises(StudyLockedError, match="frozen, or cut off"):
        study.record.flush()
    assert holdings(server, url) == before
    with pytest.raises(StudyLockedError):
        study.record.close()


def test_a_driver_hears_of_its_loss_without_writing(tmp_path, url, server):
    study = open_study(tmp_path, make_spec(), url=url)
    server.execute("UPDATE ddvae_leases SET token = 'of another'", url.rpartition("/")[2])
    study.record._lease._thread.join(
        timeout=10
    )  # it looks after the lease for as long as there is one
    for look in (study.record.check, study.next_assignment, study.record.close):
        with pytest.raises(StudyLockedError):
            look()


def test_a_driver_frozen_between_check_and_commit_holds_up_nobody_for_long(tmp_path, url, server):
    old = open_study(tmp_path, make_spec(), url=url)
    freeze(old)
    facts = {"study_id": old.record.study_id, "token": "t", "started": 1.0, "seen": 2.0}
    with old.record.engine.connect() as connection:
        connection.execute(SESSIONS.insert(), {**facts, "host": "h", "pid": 1})
        old.record._lease._check_held(connection)  # all that a commit does, but for the commit
        wait_for_expiry()
        new = open_study(tmp_path, make_spec(), url=url)
        with pytest.raises(RecordLostError):
            connection.commit()
    assert holdings(server, url)["ddvae_sessions"] == []
    old.record.close()
    drive(new)
    new.record.close()


def test_studies_in_one_database_do_not_stand_in_each_others_way(tmp_path, url):
    studies = [
        open_study(tmp_path / name, make_spec(), trials=3, url=url, name=name)
        for name in ("first", "second")
    ]
    for study in studies:
        drive(study)
        study.record.close()
    assert outcome(studies[0].trials) == outcome(studies[1].trials)


def test_a_record_of_before_drivers_were_recorded_is_opened_as_it_is(tmp_path, url, server):
    open_study(tmp_path, make_spec(), url=url).record.close()
    server.execute("DROP TABLE ddvae_drivers", url.rpartition("/")[2])
    ledger = open_ledger(url, "simulated")
    ledger.check_held()
    ledger.close()


def test_a_holder_says_how_long_its_lease_has_left(tmp_path, url, server):
    study = open_study(tmp_path, make_spec(), url=url)
    with server.connected(url) as connection:
        (holder,) = current_holders(connection).values()
    assert 0 < holder.left_s <= SHORT_S
    study.record.close()
