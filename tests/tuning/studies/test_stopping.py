import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.job_server import running
from tune_ddvae import exit_codes
from tune_ddvae.errors import StudyLockedError
from tune_ddvae.tuning.jobs.jobs import Cargo
from tune_ddvae.tuning.jobs.server import JobServer
from tune_ddvae.tuning.storage.folders import slug
from tune_ddvae.tuning.storage.lock import Holder, birth_of, holder_of, sole_driver
from tune_ddvae.tuning.studies import stopping
from tune_ddvae.tuning.studies.finding import Found, find
from tune_ddvae.tuning.studies.listed import Listed, Standing
from tune_ddvae.tuning.studies.stopping import stop, stop_driver

ROOT = Path(__file__).parents[3]
# Ends as drivers do, or holds on for ever.
DRIVER = """
import signal, sys, time
from pathlib import Path
from tune_ddvae.tuning.storage.lock import sole_driver
from tune_ddvae.tuning.signals import terminate_cleanly
terminate_cleanly()
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with sole_driver(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def start(tmp_path):
    drivers = []

    def begin(manner: str = "", folder: Path = tmp_path) -> subprocess.Popen:
        drivers.append(
            subprocess.Popen(
                [sys.executable, "-c", DRIVER, str(folder), manner],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert drivers[-1].stdout.readline() == "held\n"
        return drivers[-1]

    yield begin
    for driver in drivers:
        driver.kill()
        driver.communicate()


@pytest.fixture
def study(tmp_path):
    def listed() -> Found:
        return Found(
            study=Listed(
                name="a",
                standing=Standing.RUNNING,
                holder=holder_of(tmp_path),
                record=f"sqlite:///{tmp_path}/record.db",
                storage=str(tmp_path.parent),
            )
        )

    return listed


def test_a_driver_on_this_host_is_ended_and_waited_for(start, study, tmp_path):
    driver = start()
    ending = stop(study(), None)
    assert ending.exit_code == exit_codes.COMPLETE
    assert f"process {driver.pid} on {socket.gethostname()}" in ending.text
    assert holder_of(tmp_path) is None
    assert driver.wait(10) == exit_codes.TERMINATED


def test_a_driver_that_does_not_end_is_told_of_and_left(start, study, monkeypatch):
    monkeypatch.setattr(stopping, "STOP_S", 0.5)
    driver = start("deaf")
    ending = stop(study(), None)
    assert ending.exit_code == exit_codes.WORK_LEFT
    assert "has not ended" in ending.text
    assert driver.poll() is None


def test_what_does_not_run_is_said_not_to(study):
    ending = stop(study(), None)
    assert ending.exit_code == exit_codes.COMPLETE
    assert "does not run" in ending.text
    assert "cannot be seen" not in ending.text


def test_what_only_jobs_tell_of_is_not_said_to_be_more_than_they_say():
    ending = stop(Found(study=None), None)
    assert ending.exit_code == exit_codes.COMPLETE
    assert (
        "does not run, as far as its jobs say: its record cannot be seen from here" in ending.text
    )


def test_a_driver_on_another_host_is_named_and_no_process_of_ours_is_touched(monkeypatch):
    sent = []
    monkeypatch.setattr(os, "kill", lambda *words: sent.append(words))
    holder = Holder("another-host", os.getpid(), time.time())
    with pytest.raises(StudyLockedError, match=f"process {os.getpid()} on another-host.*go there"):
        stop_driver(holder, lambda: True, "go there")
    assert not sent


def test_another_process_of_the_same_number_is_not_touched(monkeypatch):
    sent = []
    monkeypatch.setattr(os, "kill", lambda *words: sent.append(words))
    # As new as the driver, older than its note, and each time another for one reason alone.
    for changed in ({"boot": "another"}, {"pid_namespace": 1}, {"born": 1.0}):
        birth = {**birth_of(os.getpid()), **changed}
        holder = Holder(socket.gethostname(), os.getpid(), time.time(), birth)
        with pytest.raises(StudyLockedError, match="cannot be seen from here"):
            stop_driver(holder, lambda: True, "go there")
    assert not sent


def test_a_note_of_before_births_were_kept_gets_no_process_signalled(start, study, tmp_path):
    driver = start()
    note = json.loads((tmp_path / "driver.json").read_text())
    del note["birth"]
    (tmp_path / "driver.json").write_text(json.dumps(note))
    said = f"process {driver.pid} on {socket.gethostname()}.*left alone"
    with pytest.raises(StudyLockedError, match=said):
        stop(study(), None)
    assert driver.poll() is None
    assert holder_of(tmp_path) is not None


@pytest.mark.parametrize("pid", [0, -1, -4242, 1.5, "12", True, None])
def test_a_number_that_no_process_can_have_is_none(pid, study, tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(os, "kill", lambda *words: sent.append(words))
    with sole_driver(tmp_path):
        note = json.loads((tmp_path / "driver.json").read_text())
        (tmp_path / "driver.json").write_text(json.dumps({**note, "pid": pid}))
        with pytest.raises(StudyLockedError, match="an unknown process"):
            stop(study(), None)
    assert not sent


def test_a_driver_whose_record_cannot_be_read_is_ended_too(start, tmp_path):
    (tmp_path / "record.db").write_bytes(b"no database at all" * 100)
    driver = start()
    ending = stop(find(tmp_path.name, storage=str(tmp_path.parent)), None)
    assert ending.exit_code == exit_codes.COMPLETE
    assert driver.wait(10) == exit_codes.TERMINATED


@pytest.mark.parametrize("has_record", [True, False])
def test_a_driver_that_has_recorded_nothing_yet_is_ended_by_its_studys_name(
    has_record, start, tmp_path, monkeypatch
):
    name = "Mine, the first"
    folder = tmp_path / slug(name)
    folder.mkdir()
    if has_record:
        (folder / "record.db").touch()
    driver = start(folder=folder)
    ending = stop(find(name, storage=str(tmp_path)), None)
    assert ending.exit_code == exit_codes.COMPLETE
    assert driver.wait(10) == exit_codes.TERMINATED


def test_a_driver_that_has_just_gone_has_ended(start):
    driver = start()
    holder = Holder(socket.gethostname(), driver.pid, time.time())
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert stop_driver(holder, lambda: False, "").exit_code == exit_codes.COMPLETE


def test_an_unknown_driver_is_not_guessed(monkeypatch):
    with pytest.raises(StudyLockedError, match="an unknown process"):
        stop_driver(Holder(), lambda: True, "go there")


@pytest.mark.parametrize("pid", ["gone", "another's by now"])
def test_a_dead_driver_whose_lease_lasts_is_said_to_be_dead_and_until_when(pid, start):
    birth = birth_of(os.getpid())
    number = os.getpid()
    if pid == "gone":
        driver = start()
        driver.kill()
        driver.wait()
        number = driver.pid
    holder = Holder(socket.gethostname(), number, time.time(), {**birth, "born": 1.0}, 11.2)
    ending = stop_driver(holder, lambda: True, "go there")
    assert ending.exit_code == exit_codes.COMPLETE
    assert f"{holder} is dead: its lease runs out by itself within 12 s" in ending.text


@pytest.mark.parametrize("out_of_sight", [{"boot": "another"}, {"pid_namespace": 1}])
def test_a_driver_in_another_container_is_not_taken_for_dead(out_of_sight):
    birth = {**birth_of(os.getpid()), "born": 1.0, **out_of_sight}
    holder = Holder(socket.gethostname(), os.getpid(), time.time(), birth, 11.2)
    with pytest.raises(StudyLockedError, match="cannot be seen from here"):
        stop_driver(holder, lambda: True, "go there")


def job_found(cluster, job_id: str) -> Found:
    server = JobServer(cluster.address)
    return Found(study=None, jobs=(server.job(job_id),), server=server)


def test_a_job_is_ended_and_waited_for():
    with running() as cluster:
        cluster.add("a-1")
        ending = stop(job_found(cluster, "a-1"), None)
        assert cluster.jobs["a-1"]["status"] == "STOPPED"
    assert ending.exit_code == exit_codes.COMPLETE
    assert "job a-1 ended within" in ending.text


def test_a_job_that_ray_had_to_kill_is_told_of(monkeypatch):
    monkeypatch.setattr(stopping, "STOP_S", 0.5)
    with running() as cluster:
        job = cluster.add("a-1")
        asked = []
        cluster.on_stop = lambda _: asked.append(time.monotonic())

        def look(server, job_id):
            if time.monotonic() - asked[0] > 0.8:
                job["status"] = "STOPPED"
            return plain(server, job_id)

        found = job_found(cluster, "a-1")
        plain = JobServer.job
        monkeypatch.setattr(JobServer, "job", look)
        ending = stop(found, None)
    assert ending.exit_code == exit_codes.WORK_LEFT
    assert "was killed" in ending.text


def test_a_driver_that_goes_on_with_a_study_whose_job_died_is_ended(start, study, tmp_path):
    driver = start()
    with running() as cluster:
        cluster.add("a-1")
        found = dataclasses.replace(job_found(cluster, "a-1"), study=study().study)
        cluster.dead.add("a-1")
        ending = stop(found, None)
    assert ending.exit_code == exit_codes.COMPLETE
    assert f"process {driver.pid} on" in ending.text
    assert holder_of(tmp_path) is None


def test_a_driver_that_no_job_is_is_ended_after_the_jobs(start, study, tmp_path):
    driver = start()
    with running() as cluster:
        for job_id in ("a-1", "a-2"):
            cluster.add(job_id)
        server = JobServer(cluster.address)
        ending = stop(Found(study=study().study, jobs=tuple(server.jobs()), server=server), None)
        assert {job["status"] for job in cluster.jobs.values()} == {"STOPPED"}
    assert ending.exit_code == exit_codes.COMPLETE
    assert driver.wait(10) == exit_codes.TERMINATED
    assert holder_of(tmp_path) is None
    first, second, last = ending.text.splitlines()
    assert {first[:7], second[:7]} == {"job a-1", "job a-2"}
    assert last.startswith(f"process {driver.pid} on")


def test_a_driver_that_no_job_is_is_found_where_the_job_keeps_its_study(start, tmp_path):
    """Though it has recorded nothing yet, or another storage was looked at."""
    (tmp_path / "a").mkdir()
    driver = start(folder=tmp_path / "a")
    with running() as cluster:
        cluster.add("a-1", metadata=Cargo(study="a", storage=str(tmp_path)).metadata())
        elsewhere = str(tmp_path / "nowhere")
        found = find("a", storage=elsewhere, address=cluster.address, anywhere=True)
        ending = stop(found, None)
    assert ending.exit_code == exit_codes.COMPLETE
    assert driver.wait(10) == exit_codes.TERMINATED


def test_a_study_that_runs_on_elsewhere_after_its_job_has_ended_is_said_to(tmp_path):
    (tmp_path / "a").mkdir()
    with running() as cluster, sole_driver(tmp_path / "a"):
        note = tmp_path / "a" / "driver.json"
        note.write_text(json.dumps({**json.loads(note.read_text()), "host": "another-host"}))
        cluster.add("a-1", metadata=Cargo(study="a", storage=str(tmp_path)).metadata())
        ending = stop(find("a", storage=str(tmp_path), address=cluster.address), None)
        assert cluster.jobs["a-1"]["status"] == "STOPPED"
    assert ending.exit_code == exit_codes.WORK_LEFT
    assert "the study runs on" in ending.text
    assert f"process {os.getpid()} on another-host" in ending.text


def test_the_lease_of_a_job_that_was_killed_is_waited_for_and_not_taken_for_a_driver(monkeypatch):
    own = Holder("a-node-of-the-cluster", 7, 1e9, left_s=0.3)
    looks = iter([own, None])
    monkeypatch.setattr(Found, "holder", lambda _found, _record: next(looks))
    with running() as cluster:
        cluster.add("a-1")
        ending = stop(job_found(cluster, "a-1"), None)
    assert ending.text.startswith("job a-1 ended within")
    assert next(looks, "all used") == "all used"


def test_while_a_job_has_not_ended_its_driver_is_not_touched(start, study, monkeypatch):
    monkeypatch.setattr(stopping, "STOP_S", -14.7)  # and as long again as Ray needs to say so
    driver = start()
    with running() as cluster:
        cluster.add("a-1")
        cluster.on_stop = lambda _: None
        found = dataclasses.replace(job_found(cluster, "a-1"), study=study().study)
        ending = stop(found, None)
    assert ending.exit_code == exit_codes.WORK_LEFT
    assert "has not ended within" in ending.text
    assert driver.poll() is None


def test_a_job_that_died_with_its_head_has_ended_already():
    with running() as cluster:
        cluster.add("a-1")
        found = job_found(cluster, "a-1")
        cluster.dead.add("a-1")
        ending = stop(found, None)
    assert ending.exit_code == exit_codes.COMPLETE
    assert "had ended already" in ending.text


def test_the_driver_of_a_job_that_has_just_ended_by_itself_is_not_looked_for(study):
    own = Holder("a-node-of-the-cluster", 7, time.time())
    with running() as cluster:
        cluster.add("a-1")
        listed = dataclasses.replace(study().study, holder=own)
        found = dataclasses.replace(job_found(cluster, "a-1"), study=listed)
        cluster.dead.add("a-1")
        ending = stop(found, None)
    assert ending.exit_code == exit_codes.COMPLETE
    assert "had ended already" in ending.text
