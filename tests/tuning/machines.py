"""Three made-up hosts of a cluster, h0 the driver's, and what the doctor finds on them."""

from collections.abc import Mapping

from tune_ddvae.tuning.cluster import diagnosis
from tune_ddvae.tuning.cluster.diagnosis import Machine, Wanted
from tune_ddvae.tuning.cluster.facts import Check, DataSeen, Devices, NodeFacts, Space, State
from tune_ddvae.tuning.cluster.resources import Available
from tune_ddvae.tuning.doctor.doctoring import Examination

HOSTS = ("h0", "h1", "h2")
VERSIONS = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.14.1+cu130", "numpy": "2.4.6"}
GOOD = Check(State.GOOD, "well")
WANTED = Wanted(trial=Available(1.0, 0.0), trial_memory=10**9, storage_bytes=10**8)


def facts(host: str, **changes) -> NodeFacts:
    known = {
        "host": host,
        "versions": VERSIONS,
        "digest": "0123456789abcdef",
        "loading": Check(State.GOOD, "training loads"),
        "devices": Devices(2),
        "data": (DataSeen("pinwheel", GOOD, "sum"),),
        "writing": Check(State.GOOD, "written"),
        "probe": f"probe of {host}",
        "spaces": (Space("/studies", 10**11, is_storage=True), Space("/passing", 10**10)),
        "free_memory": 8 * 10**9,
    }
    return NodeFacts(**{**known, **changes})


def machine(host: str, **changes) -> Machine:
    """A machine whose facts are changed by ``facts``' names, itself by those of ``Machine``."""
    own = {name: changes.pop(name) for name in list(changes) if name in Machine.__annotations__}
    known = {
        "host": host,
        "address": f"10.77.0.1{host[1:]}",
        "num_cpus": 2.0,
        "facts": facts(host, **changes),
        "seen": ("probe of the driver", *(f"probe of {other}" for other in HOSTS)),
        "ahead_s": 0.0,
    }
    return Machine(**{**known, **own})


def examined(
    *, wanted: Wanted = WANTED, driver: Mapping | None = None, whole: Mapping | None = None, **hosts
) -> Examination:
    """What the doctor finds where each host named has these facts, and all others are well."""
    process = machine("h0", **{"probe": "probe of the driver", **(driver or {})})
    nodes = [machine(host, **hosts.get(host, {})) for host in HOSTS]
    return Examination(
        subject="any study on the cluster at 10.77.0.10:6379",
        driver="h0: python 3.11.7, ray 2.60.0",
        storage="/studies",
        rows=diagnosis.rows(process, nodes, wanted),
        whole={"tracking": GOOD, **(whole or {})},
    )
