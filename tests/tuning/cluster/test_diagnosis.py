import dataclasses

import pytest

from tests.tuning.machines import GOOD, HOSTS, VERSIONS, WANTED, examined, facts, machine
from tune_ddvae.tuning.cluster.diagnosis import (
    CHECKS,
    clock_of,
    code_of,
    num_placed,
    rows,
    versions_of,
)
from tune_ddvae.tuning.cluster.facts import MAKE_ROOM, Check, DataSeen, Devices, Space, State
from tune_ddvae.tuning.cluster.resources import Available
from tune_ddvae.tuning.doctor.doctoring import Finding

SHARED = ("probe of the driver", *(f"probe of {host}" for host in HOSTS))


def only(**hosts) -> Finding:
    """The one finding where each host named has these facts."""
    (finding,) = examined(**hosts).findings
    return finding


def test_three_hosts_that_agree_are_well():
    examination = examined()
    assert examination.findings == ()
    assert examination.can_run
    assert [row.host for row in examination.rows] == ["h0 (driver)", *HOSTS]
    assert all(tuple(row.checks) == CHECKS for row in examination.rows)


# -- each kind of miss is named on its host, with its mend ------------------------------------


@pytest.mark.parametrize(
    ("package", "version"), [("torch", "2.13.0+cu130"), ("python", "3.11.9"), ("ray", "2.59.0")]
)
def test_another_version_on_one_host_is_named(package, version):
    found = only(h1={"versions": VERSIONS | {package: version}})
    assert (found.where, found.what, found.check.state) == ("h1", "versions", State.BAD)
    assert found.check.words == f"{package} {version}, the driver has {VERSIONS[package]}"
    assert "install the driver's versions there" in found.check.mend


def test_a_torch_built_for_other_devices_is_the_same_torch():
    assert examined(h1={"versions": VERSIONS | {"torch": "2.14.1+cpu"}}).findings == ()


def test_another_numpy_is_named_and_keeps_nothing_from_running():
    examination = examined(h1={"versions": VERSIONS | {"numpy": "2.4.5"}})
    assert examination.can_run
    (found,) = examination.findings
    assert found.check.words == "numpy 2.4.5, the driver has 2.4.6"


def test_a_missing_package_is_said_once():
    missing = Check(State.BAD, "torch is not installed", "pip install torch")
    unread = DataSeen("pinwheel", Check(State.ABSENT, "cannot be read without torch"))
    found = only(h2={"loading": missing, "data": (unread,)})
    assert (found.where, found.what, found.check) == ("h2", "versions", missing)


def test_other_code_on_one_host_is_named():
    found = only(h1={"digest": "fedcba9876543210"})
    assert (found.where, found.what, found.check.state) == ("h1", "code", State.BAD)
    assert found.check.words == "fedcba98 runs there, the driver has 01234567"
    assert "PYTHONPATH" in found.check.mend


def test_code_that_cannot_be_told_is_no_finding():
    assert code_of(facts("h1", digest=""), facts("h0")).state is State.ABSENT


def test_a_host_that_is_silent_is_a_row_that_says_so():
    examination = examined(h1={"facts": None, "seen": None, "error": "no answer within 90 s"})
    assert not examination.can_run
    found = next(found for found in examination.findings if found.where == "h1")
    assert (found.what, found.check.words) == ("answer", "no answer within 90 s")
    assert found.check.mend
    assert len(examination.rows) == 4


def test_what_could_not_be_looked_at_is_told():
    found = only(h1={"problems": ("free memory could not be looked at: OSError: x",)})
    assert (found.what, found.check.state) == ("answer", State.DOUBTFUL)
    assert "free memory could not be looked at" in found.check.words


# -- devices ----------------------------------------------------------------------------------


def gpus(**changes) -> dict:
    on_gpu = dataclasses.replace(WANTED, trial=Available(1.0, 1.0))
    well = {"num_gpus": 1.0, "devices": Devices(2, ("H200",))}
    return {"wanted": on_gpu, **{host: {**well, **changes.get(host, {})} for host in HOSTS}}


def test_gpus_that_compute_are_well():
    examination = examined(**gpus())
    assert examination.findings == ()
    assert examination.rows[1].checks["devices"].words == "2 CPUs, 1 GPU"


def test_a_gpu_that_torch_cannot_use_is_named():
    found = only(**gpus(h1={"devices": Devices(2, (), "RuntimeError: driver too old")}))
    assert (found.where, found.what, found.check.state) == ("h1", "devices", State.BAD)
    assert "Ray gives out 1 GPU, torch can use 0: RuntimeError: driver too old" in found.check.words
    assert "--num-gpus=0" in found.check.mend


def test_a_gpu_that_ray_does_not_give_out_is_worth_a_word():
    found = only(h1={"devices": Devices(2, ("H200",))})
    assert (found.where, found.check.state) == ("h1", State.DOUBTFUL)
    assert found.check.mend == "start Ray there with --num-gpus=1"


def test_a_gpu_that_no_trial_takes_may_be_broken():
    examination = examined(h1={"num_gpus": 1.0})
    assert examination.can_run
    assert "no trial takes any" in examination.findings[0].check.words


# -- data -------------------------------------------------------------------------------------


MISSING = DataSeen("pinwheel", Check(State.DOUBTFUL, "pinwheel is not here", "fetch it"), "sum")
DAMAGED = DataSeen("pinwheel", Check(State.BAD, "pinwheel: images.gz is damaged; replace it"))
OTHER = DataSeen("pinwheel", GOOD, "another sum")
GIVES = dataclasses.replace(WANTED, handed_over=frozenset({"pinwheel"}))


def test_missing_data_are_named():
    found = only(h1={"data": (MISSING,)})
    assert (found.where, found.what, found.check) == ("h1", "data", MISSING.check)


def test_damaged_data_are_named():
    found = only(h1={"data": (DAMAGED,)})
    assert (found.what, found.check.state) == ("data", State.BAD)
    assert found.check.words == DAMAGED.check.words


def test_other_data_than_the_drivers_are_named():
    found = only(h1={"data": (OTHER,)})
    assert (found.what, found.check.state) == ("data", State.BAD)
    assert found.check.words == "pinwheel is another sum, the driver's sum"
    assert found.check.mend == "put the same files on every machine, or on none"


@pytest.mark.parametrize("seen", [MISSING, DAMAGED, OTHER])
def test_data_that_the_driver_hands_over_are_no_finding_and_said_to_be(seen):
    examination = examined(wanted=GIVES, h1={"data": (seen,)})
    assert examination.findings == ()
    assert examination.rows[2].checks["data"].words == "handed over"
    assert examination.rows[1].checks["data"].words == "pinwheel"


def test_the_driver_hands_nothing_to_itself():
    examination = examined(wanted=GIVES, driver={"data": (DAMAGED,)})
    assert [found.where for found in examination.findings] == ["h0 (driver)"]


# -- storage ----------------------------------------------------------------------------------


def test_a_storage_that_one_host_cannot_write_to_is_named():
    refused = Check(State.BAD, "cannot write to /studies: Read-only file system", "name another")
    found = only(h2={"writing": refused})
    assert (found.where, found.what) == ("h2", "storage")
    assert found.check.words == refused.words
    assert "every machine shares" in found.check.mend


def test_a_full_storage_is_to_be_emptied_and_its_room_is_told():
    full = Check(State.BAD, "cannot write to /studies: No space left on device", MAKE_ROOM)
    none = (Space("/studies", 0, is_storage=True), Space("/passing", 6 * 10**10))
    examination = examined(h2={"writing": full, "spaces": none})
    storage, disk = examination.findings
    assert (storage.where, storage.what, storage.check) == ("h2", "storage", full)
    assert (disk.where, disk.what, disk.check.words) == ("h2", "disk", "0 B free in /studies")
    assert disk.check.mend == MAKE_ROOM


def test_a_buckets_own_advice_stays():
    refused = Check(State.BAD, "storage s3://b/x cannot be used: no key. Look at the credentials")
    assert only(h2={"writing": refused}).check == refused


def test_a_folder_of_the_hosts_own_is_named():
    own = {"seen": ("probe of h2",)}
    others = {"seen": tuple(name for name in SHARED if name != "probe of h2")}
    found = only(driver=others, h0=others, h1=others, h2=own)
    assert (found.where, found.what, found.check.state) == ("h2", "storage", State.BAD)
    assert "what the driver writes is not there" in found.check.words
    assert "--storage" in found.check.mend


def test_writes_that_do_not_reach_the_driver_are_named():
    found = only(driver={"seen": tuple(name for name in SHARED if name != "probe of h1")})
    assert found.where == "h1"
    assert "does not reach the driver" in found.check.words


def test_writes_that_one_node_alone_does_not_see_are_named_there():
    found = only(h1={"seen": tuple(name for name in SHARED if name != "probe of h2")})
    assert (found.where, found.check.words) == ("h1", "not shared: what h2 wrote is not there")


def test_a_folder_that_nobody_shares_is_named_on_every_host_but_the_drivers():
    """The driver and its node share the machine's folder."""
    here = {"seen": ("probe of the driver", "probe of h0")}
    examination = examined(
        driver=here, h0=here, h1={"seen": ("probe of h1",)}, h2={"seen": ("probe of h2",)}
    )
    assert [(found.where, found.what) for found in examination.findings] == [
        ("h1", "storage"),
        ("h2", "storage"),
    ]


def test_a_host_that_was_silent_the_second_time_is_not_said_to_share():
    found = only(h1={"seen": None})
    assert (found.where, found.what, found.check.state) == ("h1", "storage", State.DOUBTFUL)


# -- room and clock ---------------------------------------------------------------------------


def test_too_little_room_in_the_storage_is_named_of_the_driver_alone():
    full = (Space("/studies", 10**7, is_storage=True), Space("/passing", 10**10))
    wide = dataclasses.replace(WANTED, storage_bytes=2 * 10**10)
    found = next(
        found
        for found in examined(wanted=wide, driver={"spaces": full}).findings
        if found.check.state is State.BAD
    )
    assert (found.where, found.what) == ("h0 (driver)", "disk")
    assert found.check.words == "10 MB free in /studies, the study needs 20 GB"


def test_little_room_for_what_passes_is_worth_a_word():
    found = only(h2={"spaces": (Space("/passing", 10**8),)})
    assert (found.where, found.what, found.check.state) == ("h2", "disk", State.DOUBTFUL)
    assert "100 MB free in /passing" in found.check.words
    assert "TUNE_DDVAE_CACHE" in found.check.mend


def test_a_storage_that_cannot_be_written_to_is_not_said_to_be_full_too():
    refused = Check(State.BAD, "cannot write to /proc/x", "name another")
    none = (Space("/proc/x", 0, is_storage=True), Space("/passing", 10**10))
    examination = examined(driver={"writing": refused, "spaces": none})
    assert [found.what for found in examination.findings if found.where == "h0 (driver)"] == [
        "storage"
    ]
    assert examination.rows[0].checks["disk"].words == "10 GB in /passing"


def test_memory_for_no_trial_is_named():
    found = only(h1={"free_memory": 3 * 10**8})
    assert (found.where, found.what, found.check.state) == ("h1", "memory", State.BAD)
    assert found.check.words == "300 MB free, a trial takes some 1 GB"


def test_memory_for_fewer_trials_than_cpus_is_worth_a_word():
    found = only(h1={"free_memory": 10**9})
    assert (found.what, found.check.state) == ("memory", State.DOUBTFUL)
    assert found.check.words.startswith("1 GB free for 2 trials")
    assert "--max-concurrent" in found.check.mend


@pytest.mark.parametrize(("ahead_s", "words"), [(7.25, "7.2 s ahead of"), (-3.0, "3.0 s behind")])
def test_a_clock_that_is_off_is_named_and_a_study_could_run(ahead_s, words):
    examination = examined(h2={"ahead_s": ahead_s})
    assert examination.can_run
    (found,) = examination.findings
    assert (found.where, found.what) == ("h2", "clock")
    assert words in found.check.words
    assert "set-ntp" in found.check.mend


def test_a_clock_within_two_seconds_is_well():
    assert {clock_of(ahead).state for ahead in (-2.0, 0.0, 1.9)} == {State.GOOD}
    assert clock_of(None).state is State.ABSENT


# -- where no trial runs ----------------------------------------------------------------------


def test_what_a_host_without_trials_lacks_keeps_nothing_from_running():
    examination = examined(h0={"num_cpus": 0.0, "versions": VERSIONS | {"torch": "1.0"}})
    assert examination.can_run
    (found,) = examination.findings
    assert (found.where, found.check.state) == ("h0", State.DOUBTFUL)
    assert found.check.words.endswith("(no trial runs there)")


def test_where_no_trial_fits_anywhere_nothing_is_excused():
    large = dataclasses.replace(WANTED, trial=Available(64.0, 0.0))
    assert not examined(wanted=large, h1={"versions": VERSIONS | {"torch": "1.0"}}).can_run


def test_a_machine_alone_is_asked_for_its_own_devices_and_memory():
    (row,) = rows(machine("h0", free_memory=1), [], WANTED)
    assert row.checks["memory"].state is State.BAD
    assert row.checks["devices"].words == "2 CPUs"


def test_as_many_trials_are_placed_as_cpus_and_gpus_hold():
    on_gpu = dataclasses.replace(WANTED, trial=Available(1.0, 0.25))
    assert num_placed(machine("h0", num_cpus=3.0, num_gpus=1.0), on_gpu) == 3
    assert num_placed(machine("h0", num_cpus=3.0), on_gpu) == 0


def test_no_more_trials_are_placed_than_memory_holds():
    hungry = dataclasses.replace(WANTED, trial=Available(1.0, 0.0, 4.0))
    assert num_placed(machine("h0", num_cpus=3.0, memory_gb=8.5), hungry) == 2
    assert num_placed(machine("h0", num_cpus=3.0, memory_gb=3.9), hungry) == 0


def test_a_machine_is_equal_to_itself():
    assert versions_of(facts("h0"), facts("h0")).state is State.GOOD
