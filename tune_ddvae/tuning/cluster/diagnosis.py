"""What is wrong with which machine, from what all of them said of themselves. Pure comparisons."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from tune_ddvae.tuning.cluster.facts import MAKE_ROOM, Check, DataSeen, NodeFacts, State
from tune_ddvae.tuning.cluster.resources import Available, num_fitting
from tune_ddvae.tuning.wording import file_size, plural

CHECKS = ("answer", "versions", "code", "devices", "data", "storage", "disk", "memory", "clock")
MAY_DIFFER = ("numpy",)  # named, and no reason to refuse
CLOCK_S = 2.0  # leases and points carry times
LITTLE_BYTES = 1_000_000_000  # free for what passes: Ray's session, and the data cache
SHARE = "name a folder that every machine shares, or a bucket: --storage s3://BUCKET/PATH"
NOTHING = Check(State.ABSENT, "")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a study takes of machines."""

    trial: Available
    trial_memory: int  # bytes
    storage_bytes: int = 0  # free in the storage
    handed_over: frozenset[str] = frozenset()  # data sets that the driver gives to who lacks them


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine: what Ray says of it, and what it said itself."""

    host: str
    address: str = ""
    num_cpus: float = 0.0  # that Ray gives out
    num_gpus: float = 0.0
    memory_gb: float = 0.0
    facts: NodeFacts | None = None
    seen: tuple[str, ...] | None = None  # of all probes, once all had written
    ahead_s: float | None = None  # its clock of the driver's; None where it was not told
    error: str = ""  # why it said nothing

    @property
    def size(self) -> Available:
        """What Ray gives out there."""
        return Available(self.num_cpus, self.num_gpus, self.memory_gb)


@dataclass(frozen=True)
class Row:
    """How one machine came out."""

    host: str
    checks: Mapping[str, Check]


def rows(driver: Machine, nodes: Sequence[Machine], wanted: Wanted) -> tuple[Row, ...]:
    """A row for the driver and one for each node, with every check in it.

    Args:
        driver: The process that would drive the study, on its machine.
        nodes: Of the cluster; none where the driver's machine is all there is.
        wanted: What the study takes.
    """
    found = [Row(f"{driver.host} (driver)", _driver_checks(driver, nodes, wanted))]
    may_spare = any(num_placed(node, wanted) for node in nodes)
    for node in nodes:
        checks = _node_checks(node, nodes, driver, wanted)
        is_spared = may_spare and not num_placed(node, wanted)
        found.append(Row(node.host, _spared(checks) if is_spared else checks))
    return tuple(found)


def _driver_checks(driver: Machine, nodes: Sequence[Machine], wanted: Wanted) -> dict[str, Check]:
    facts = _facts(driver)
    alone = not nodes
    return {
        "answer": answer_of(facts, "the driver"),
        "versions": Check(State.GOOD, "") if facts.loading.state is State.GOOD else facts.loading,
        "code": Check(State.GOOD, "") if facts.digest else NOTHING,  # its digest is in the heading
        "devices": _devices(driver, facts, wanted) if alone else NOTHING,
        "data": data_of(facts, facts),
        "storage": facts.writing or NOTHING,
        "disk": disk_of(facts, wanted.storage_bytes),
        "memory": memory_of(driver, facts, wanted) if alone else NOTHING,
        "clock": NOTHING,
    }


def _node_checks(
    node: Machine, nodes: Sequence[Machine], driver: Machine, wanted: Wanted
) -> dict[str, Check]:
    if node.facts is None:
        mend = "see to the machine, or take it out of the cluster: `ray stop` there"
        return {"answer": Check(State.BAD, node.error, mend)}
    reference = _facts(driver)
    return {
        "answer": answer_of(node.facts, node.address),
        "versions": versions_of(node.facts, reference),
        "code": code_of(node.facts, reference),
        "devices": _devices(node, node.facts, wanted),
        "data": data_of(node.facts, reference, wanted.handed_over),
        "storage": storage_of(node, nodes, driver),
        "disk": disk_of(node.facts),
        "memory": memory_of(node, node.facts, wanted),
        "clock": clock_of(node.ahead_s),
    }


def answer_of(facts: NodeFacts, who: str) -> Check:
    """Whether everything could be looked at there."""
    if facts.problems:
        return Check(State.DOUBTFUL, "; ".join(facts.problems))
    return Check(State.GOOD, who)


def versions_of(facts: NodeFacts, reference: NodeFacts) -> Check:
    """Whether all that trains is installed there, in the driver's versions."""
    if facts.loading.state is not State.GOOD:
        return facts.loading
    others = {
        name: f"{name} {facts.versions.get(name) or 'is missing'}, the driver has {wanted}"
        for name, wanted in reference.versions.items()
        if _release(facts.versions.get(name, "")) != _release(wanted)
    }
    if not others:
        return Check(State.GOOD, "equal")
    is_bad = any(name not in MAY_DIFFER for name in others)
    return Check(
        State.BAD if is_bad else State.DOUBTFUL,
        "; ".join(others.values()),
        "install the driver's versions there, or start both from one image",
    )


def code_of(facts: NodeFacts, reference: NodeFacts) -> Check:
    """Whether the project's code that runs there is the driver's."""
    if not facts.digest:
        return Check(State.ABSENT, "")  # what is missing for that is said under versions
    if facts.digest != reference.digest:
        return Check(
            State.BAD,
            f"{facts.digest[:8]} runs there, the driver has {reference.digest[:8]}",
            "take away the tune_ddvae that hides the one the driver sends: in PYTHONPATH, or where "
            "Ray was started",
        )
    return Check(State.GOOD, "equal")


def devices_of(machine: Machine, facts: NodeFacts) -> Check:
    """Whether torch can compute on the GPUs that Ray gives out there."""
    given, seen, problem = machine.num_gpus, len(facts.devices.gpus), facts.devices.problem
    cpus = f"{machine.num_cpus:g} {plural('CPU', machine.num_cpus)}"
    if given > seen:
        return Check(
            State.BAD,
            f"Ray gives out {_gpus(given)}, torch can use {seen}{problem and f': {problem}'}",
            "install a torch that fits the GPU and its driver, or start Ray there with "
            f"--num-gpus={seen}",
        )
    if problem:
        return Check(
            State.DOUBTFUL,
            f"{cpus}; its GPU cannot be used: {problem}",
            "install a torch that fits the GPU and its driver; until then trials run on CPUs",
        )
    if seen > given:
        return Check(
            State.DOUBTFUL,
            f"{cpus}; torch sees {_gpus(seen)}, Ray gives out {given:g}",
            f"start Ray there with --num-gpus={seen}",
        )
    return Check(State.GOOD, f"{cpus}, {_gpus(given)}" if given else cpus)


def data_of(
    facts: NodeFacts, reference: NodeFacts, handed_over: Collection[str] = frozenset()
) -> Check:
    """Whether the data lie there, intact, and are the driver's; or will come from the driver."""
    theirs = {data.name: data.checksum for data in reference.data}
    checks = [_data_set(data, theirs.get(data.name, "")) for data in facts.data]
    comes = [
        data.name
        for data, check in zip(facts.data, checks, strict=True)
        if check.state in (State.BAD, State.DOUBTFUL) and data.name in handed_over
    ]
    left = [check for data, check in zip(facts.data, checks, strict=True) if data.name not in comes]
    here = len(facts.data) - len(comes)
    if not comes:
        good = facts.data[0].name if here == 1 else f"{here} sets"
    else:
        good = f"{here} here, {len(comes)} handed over" if here else "handed over"
    return _together(left, good if facts.data else "")


def _data_set(data: DataSeen, wanted: str) -> Check:
    if not data.checksum or not wanted or data.checksum == wanted:
        return data.check
    words = f"{data.name} is {data.checksum[:14]}, the driver's {wanted[:14]}"
    return Check(State.BAD, words, "put the same files on every machine, or on none")


def storage_of(node: Machine, nodes: Sequence[Machine], driver: Machine) -> Check:
    """Whether what a node writes into the storage is read by the driver and the other nodes."""
    writing = node.facts.writing if node.facts else None
    if writing is None:
        return NOTHING
    if writing.state is not State.GOOD:
        # One that is full may well be shared, and a bucket's own words have their mend.
        is_elsewhere = writing.mend not in ("", MAKE_ROOM)
        return replace(writing, mend=SHARE) if is_elsewhere else writing
    if node.seen is None:
        return Check(State.DOUBTFUL, "written, but it did not answer when the others had written")
    if not _reads(node, driver):
        return Check(State.BAD, "not shared: what the driver writes is not there", SHARE)
    if not _reads(driver, node):
        return Check(State.BAD, "not shared: what it writes does not reach the driver", SHARE)
    unseen = [
        other.host
        for other in nodes
        if other is not node and _reads(driver, other) and not _reads(node, other)
    ]
    if unseen:
        words = f"not shared: what {', '.join(unseen)} wrote is not there"
        return Check(State.BAD, words, SHARE)
    return Check(State.GOOD, "shared")


def disk_of(facts: NodeFacts, storage_bytes: int = 0) -> Check:
    """Whether there is room where trials write on that machine."""
    checks = []
    writing = facts.writing or NOTHING
    # A storage that cannot be written to for another reason is said to be that, and no more.
    has_storage = writing.state is not State.BAD or writing.mend == MAKE_ROOM
    spaces = [space for space in facts.spaces if has_storage or not space.is_storage]
    for space in spaces:
        words = f"{file_size(space.free_bytes)} free in {space.place}"
        if space.is_storage and space.free_bytes < storage_bytes:
            words = f"{words}, the study needs {file_size(storage_bytes)}"
            mend = "free some there, ask for fewer trials, or name another --storage"
            checks.append(Check(State.BAD, words, mend))
        elif space.free_bytes < LITTLE_BYTES:
            mend = (
                "free some there, or name other folders: TMPDIR for Ray, TUNE_DDVAE_CACHE for data"
            )
            checks.append(Check(State.DOUBTFUL, words, MAKE_ROOM if space.is_storage else mend))
    if not spaces:
        return _together(checks, "")
    least = min(spaces, key=lambda space: space.free_bytes)
    where = "" if has_storage else f" in {least.place}"  # else it would pass for the storage's
    return _together(checks, f"{file_size(least.free_bytes)}{where}")


def memory_of(machine: Machine, facts: NodeFacts, wanted: Wanted) -> Check:
    """Whether its free memory holds a trial, and as many as its CPUs and GPUs do."""
    free = facts.free_memory
    if free is None:
        return NOTHING
    words = file_size(free)
    if free < wanted.trial_memory:
        return Check(
            State.BAD,
            f"{words} free, a trial takes some {file_size(wanted.trial_memory)}",
            "end what else runs there",
        )
    held, placed = free // wanted.trial_memory, num_placed(machine, wanted)
    if held < placed:
        return Check(
            State.DOUBTFUL,
            f"{words} free for {placed} trials, each takes some {file_size(wanted.trial_memory)}",
            f"run fewer at once: --max-concurrent {held}, or more --cpus-per-trial",
        )
    return Check(State.GOOD, words)


def clock_of(ahead_s: float | None) -> Check:
    """Whether its clock agrees with the driver's."""
    if ahead_s is None:
        return NOTHING
    if abs(ahead_s) > CLOCK_S:
        return Check(
            State.DOUBTFUL,
            f"{abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} the driver's",
            "let both follow one time server: timedatectl set-ntp true, or chrony",
        )
    return Check(State.GOOD, f"{ahead_s:+.1f} s")


def num_placed(machine: Machine, wanted: Wanted) -> int:
    """How many trials at once Ray would place there."""
    return num_fitting(machine.size, wanted.trial)


def _devices(machine: Machine, facts: NodeFacts, wanted: Wanted) -> Check:
    check = devices_of(machine, facts)
    if check.state is State.BAD and not wanted.trial.num_gpus:
        return replace(check, state=State.DOUBTFUL, words=f"{check.words} (no trial takes any)")
    return check


def _facts(driver: Machine) -> NodeFacts:
    if driver.facts is None:
        raise ValueError("the driver must have looked at itself before others are compared with it")
    return driver.facts


def _reads(reader: Machine, writer: Machine) -> bool:
    """Whether one sees what the other wrote; false too where either has said nothing of it."""
    if reader.seen is None or writer.facts is None:
        return False
    return writer.facts.probe in reader.seen


def _spared(checks: Mapping[str, Check]) -> dict[str, Check]:
    """The checks of a machine on which no trial will run: what it lacks keeps no study from running."""
    return {
        name: replace(check, state=State.DOUBTFUL, words=f"{check.words} (no trial runs there)")
        if check.state is State.BAD and name != "answer"
        else check
        for name, check in checks.items()
    }


def _together(checks: Sequence[Check], good: str) -> Check:
    """The worst of several, with the words of all that are as bad; ``good`` where all are well."""
    for state in (State.BAD, State.DOUBTFUL, State.ABSENT):
        found = [check for check in checks if check.state is state]
        if found:
            mends = dict.fromkeys(check.mend for check in found if check.mend)
            return Check(state, "; ".join(check.words for check in found), "; ".join(mends))
    return Check(State.GOOD, good) if good else NOTHING


def _release(text: str) -> str:
    """A version without what it was built for: a head without GPUs may have torch for CPUs."""
    return text.partition("+")[0]


def _gpus(count: int | float) -> str:
    return f"{count:g} {plural('GPU', count)}"
