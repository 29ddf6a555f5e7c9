"""What all nodes are asked before the first trial, with machines that are folders of this one."""

import dataclasses
import platform

import pytest

from tune_ddvae import data
from tune_ddvae.config import DataConfig
from tune_ddvae.data import placing
from tune_ddvae.errors import DataError, ResourceError, StorageError
from tune_ddvae.tuning.cluster import nodes, preflight
from tune_ddvae.tuning.cluster.cluster import Answer, Node
from tune_ddvae.tuning.cluster.facts import Check, Devices, State
from tune_ddvae.tuning.cluster.resources import Available

H1 = Node("1", "h1", "10.0.0.1", num_cpus=4.0, num_gpus=0.0)
H2 = Node("2", "h2", "10.0.0.2", num_cpus=4.0, num_gpus=1.0)
HEAD = Node("0", "h0", "10.0.0.9", num_cpus=0.0, num_gpus=0.0, is_head=True)
DIGITS = DataConfig(name="digits")


@pytest.fixture
def asks(monkeypatch):
    """Answers for the nodes: ``asks(h1=..., h2=...)`` says what each does with the question."""

    def install(**does) -> None:
        def on_each_node(function, *args, timeout_s, nodes):
            assert timeout_s > 0
            answers = {}
            for node in nodes:
                act = does.get(node.host, function)
                try:
                    value = act(*args)
                except Exception as error:  # noqa: BLE001 - as Ray brings it back
                    answers[node.id] = Answer(node.host, node.address, error=str(error))
                else:
                    answers[node.id] = Answer(node.host, node.address, value=value)
            return answers

        monkeypatch.setattr(preflight, "on_each_node", on_each_node)

    install()
    return install


def silent(*_):
    raise TimeoutError("no answer within 90 s")


# -- versions ------------------------------------------------------------------------------------


def runs(**changes):
    def facts(sees_devices: bool):
        ours = preflight.facts(sees_devices=False)
        versions = {**ours.versions, **changes.pop("versions", {})}
        return dataclasses.replace(ours, versions=versions, **changes)

    return facts


def test_equal_nodes_are_let_pass(asks):
    preflight.check_versions((H1, H2), needs_gpu=False)


@pytest.mark.parametrize("name", ["ray", "torch", "python", "tune_ddvae"])
def test_another_version_on_one_host_is_refused_naming_host_and_both(name, asks):
    asks(h2=runs(versions={name: "0.0.7"}))
    with pytest.raises(ResourceError) as refused:
        preflight.check_versions((H1, H2), needs_gpu=False)
    assert "h2 (10.0.0.2)" in str(refused.value)
    assert f"{name} 0.0.7" in str(refused.value)
    assert nodes.versions()[name] in str(refused.value)
    assert "h1" not in str(refused.value)


def test_other_code_on_one_host_is_refused(asks):
    asks(h1=runs(digest="0" * 64))
    with pytest.raises(ResourceError, match=r"h1 .10\.0\.0\.1.: 00000000 runs there"):
        preflight.check_versions((H1, H2), needs_gpu=False)


def test_a_host_on_which_training_cannot_be_loaded_is_refused_with_the_mend(asks):
    asks(h1=runs(loading=Check(State.BAD, "scipy is not installed", "install it")))
    with pytest.raises(ResourceError, match="scipy is not installed; install it"):
        preflight.check_versions((H1,), needs_gpu=False)


def test_a_host_that_does_not_answer_is_refused_by_name(asks):
    asks(h1=silent)
    with pytest.raises(ResourceError, match=r"h1 .10\.0\.0\.1.: no answer within 90 s"):
        preflight.check_versions((H1, H2), needs_gpu=False)


def test_gpus_that_torch_cannot_use_are_refused_only_where_a_trial_takes_one(asks):
    asks(h2=runs(devices=Devices(4)))
    preflight.check_versions((H1, H2), needs_gpu=False)
    with pytest.raises(ResourceError, match="h2 .*Ray gives out 1 GPU, torch can use 0"):
        preflight.check_versions((H2,), needs_gpu=True)
    asks(h2=runs(devices=Devices(4, ("H200",))))
    preflight.check_versions((H2,), needs_gpu=True)


def test_of_many_hosts_a_few_are_named_and_the_rest_counted(asks):
    many = [dataclasses.replace(H1, id=str(n), host=f"n{n}") for n in range(9)]
    asks(**{node.host: silent for node in many})
    with pytest.raises(ResourceError) as refused:
        preflight.check_versions(many, needs_gpu=False)
    assert "n2" in str(refused.value)
    assert "n3" not in str(refused.value)
    assert str(refused.value).endswith("and 6 more nodes")


# -- storage -------------------------------------------------------------------------------------


def elsewhere(folder):
    """A node on which the storage's path leads to another folder."""
    folder.mkdir()
    return lambda _, look: preflight.try_storage(folder, look)


def test_one_storage_for_all_is_let_pass_and_left_as_it_was(tmp_path, asks):
    preflight.check_storage(tmp_path, (H1, H2))
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_only_the_driver_sees_is_refused_naming_host_and_path(tmp_path, asks):
    storage = tmp_path / "studies"
    storage.mkdir()
    asks(h2=elsewhere(tmp_path / "of h2"))
    with pytest.raises(StorageError) as refused:
        preflight.check_storage(storage, (H1, H2))
    assert f"h2 (10.0.0.2): does not see what this machine writes to {storage}" in str(
        refused.value
    )
    assert "--storage" in str(refused.value)
    assert "h1" not in str(refused.value)
    assert list(storage.iterdir()) == []


def test_a_node_that_may_only_read_is_refused(tmp_path, asks, monkeypatch):
    def reads_only(storage, look):
        tried = preflight.try_storage(storage, look)
        return dataclasses.replace(tried, writing=Check(State.BAD, "cannot write to it", "mend"))

    asks(h1=reads_only)
    with pytest.raises(StorageError, match=r"h1 .*cannot write to it; mend"):
        preflight.check_storage(tmp_path, (H1,))


def test_what_a_node_writes_must_reach_the_driver(tmp_path, asks):
    def one_way(storage, look):
        return dataclasses.replace(preflight.try_storage(storage, look), name="never seen")

    asks(h1=one_way)
    with pytest.raises(StorageError, match="what it writes to .* is not seen on this machine"):
        preflight.check_storage(tmp_path, (H1,))


def test_a_storage_that_the_driver_itself_cannot_write_to_is_refused(tmp_path, asks):
    with pytest.raises(StorageError, match="cannot write to"):
        preflight.check_storage(tmp_path / "not there", (H1,))


# -- data ----------------------------------------------------------------------------------------


def test_data_without_files_are_only_compared(asks):
    assert preflight.place_data(DIGITS, None, data.checksum(DIGITS), (H1, H2)) is None


def test_other_data_on_one_host_are_refused_naming_it(asks):
    asks(h2=lambda *_: "0" * 64)
    with pytest.raises(DataError) as refused:
        preflight.place_data(DIGITS, None, data.checksum(DIGITS), (H1, H2))
    assert "h2 (10.0.0.2): its digits data have checksum 0000000000000000" in str(refused.value)
    assert data.checksum(DIGITS)[:16] in str(refused.value)


def test_a_host_that_cannot_have_the_data_is_refused_in_its_own_words(asks):
    def lacks(*_):
        raise DataError("no mirror answers")

    asks(h1=lacks)
    with pytest.raises(DataError, match=r"h1 .*no mirror answers"):
        preflight.place_data(DIGITS, None, data.checksum(DIGITS), (H1,))


def test_a_host_that_lacks_the_files_is_brought_the_drivers(asks, monkeypatch):
    store = {}
    parcel = placing.Parcel("key", {"a": b"1"})
    brought = []

    def put(value):
        store["ref"] = value
        return "ref"

    monkeypatch.setattr(preflight.ray, "put", put)
    monkeypatch.setattr(preflight.placing, "pack", lambda *_: parcel)
    monkeypatch.setattr(
        preflight, "fetching", lambda reference: lambda: brought.append(store[reference])
    )

    def lacks_all(config, given, wanted, fetch):
        fetch()

    monkeypatch.setattr(preflight.placing, "settle", lacks_all)
    assert preflight.place_data(DIGITS, None, data.checksum(DIGITS), (H1, H2)) == "ref"
    assert brought == [parcel, parcel]


# -- who is asked --------------------------------------------------------------------------------


def test_only_nodes_that_could_hold_a_trial_are_asked(monkeypatch):
    monkeypatch.setattr(preflight, "alive_nodes", lambda: (HEAD, H1, H2))
    assert preflight.trial_nodes(Available(1.0, 0.0)) == (H1, H2)
    assert preflight.trial_nodes(Available(1.0, 0.25)) == (H2,)
    assert preflight.trial_nodes(Available(8.0, 0.0)) == ()
    large = dataclasses.replace(H1, memory_gb=64.0)
    monkeypatch.setattr(preflight, "alive_nodes", lambda: (HEAD, large, H2))
    assert preflight.trial_nodes(Available(1.0, 0.0, 32.0)) == (large,)


def test_this_machine_agrees_with_itself(asks):
    facts = preflight.facts(sees_devices=True)
    assert facts.host == platform.node()
    assert preflight._differs(facts, facts, H1, needs_gpu=True) == ""
