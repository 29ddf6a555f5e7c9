"""slurm.sh with the real Ray on hosts of their own, where a stand-in for srun starts it over ssh."""

import shutil
import signal

import pytest

from tests.cluster.hosts import HEAD, HOME, NAMES, ROOT, SEARCHED, TEMPORARY, Host, send
from tests.studies import num_rows, trials_of, wait_until, write_tiny
from tune_ddvae import exit_codes
from tune_ddvae.tuning.trials import State

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(580)]

NODES = NAMES[:3]
SCRIPT = ROOT / "cluster" / "slurm.sh"
STANDIN = ROOT / "tests" / "cluster_files" / "standin"
FIRST_HANDED_OUT = 32_768  # ports from here on are given by the system, each once
JOB, NEIGHBOUR, AGAIN = 4_711, 4_712, 4_713
TRIALS = 4


class Job:
    """A study as a Slurm job on the hosts; more than one may be there at a time."""

    def __init__(self, hosts, folder, job_id: int, *words, nodes: str = "h[0-2]") -> None:
        self.id = job_id
        self.folder = folder
        self.hosts = [hosts[name] for name in NODES]
        self.home = folder / "home"  # clusters share it
        self.home.mkdir(exist_ok=True)
        study = write_tiny(folder, trials=TRIALS, overrides={"training/epochs": 9})
        storage = ("--storage", folder / "studies", "--no-report", "--first-rung", "none")
        self.process = hosts[HEAD].start(
            ["bash", SCRIPT, study, *storage, "--cpus-per-trial", 1, *words],
            cwd=folder,
            env={
                "PATH": f"{STANDIN / 'over_ssh'}:{STANDIN}:{SEARCHED}",
                "HOME": str(self.home),
                "SLURM_JOB_ID": str(job_id),
                "SLURM_JOB_NODELIST": nodes,
                "SLURM_CPUS_PER_TASK": "1",
                "TUNE_DDVAE_VENV": str(ROOT / ".venv"),
                "TUNE_DDVAE_JOIN_S": "240",
            },
        )
        self.stdout = self.stderr = ""

    def end(self, timeout_s: float = 240.0) -> int:
        self.stdout, self.stderr = self.process.communicate(timeout=timeout_s)
        return self.process.returncode

    def await_rows(self, more_than: int) -> None:
        """Return once the record holds more rows than that."""
        is_so = wait_until(self.process, lambda: num_rows(self.folder, "tiny") > more_than, 240)
        assert is_so, (self.end(), self.said())

    def said(self) -> str:
        return self.stdout + self.stderr

    def close(self) -> None:
        """End it, if a test has not come to its end."""
        if self.process.poll() is None:
            send(self.process, signal.SIGTERM)
        if not self.process.stdout.closed:
            self.end()

    def left(self) -> list[str]:
        """What it left on its hosts."""
        found = [str(path) for path in (self.home / ".tune-ddvae").iterdir()]
        folder = TEMPORARY / f"ray-{self.id}"
        for host in self.hosts:
            found += [f"{host.name}: process {pid}" for pid in host.pids(str(folder))]
            found += [f"{host.name}: {folder}"] if host.path(folder).exists() else []
        return found


def listening(host: Host) -> set[tuple[str, int]]:
    """Addresses and ports that something on a host listens on."""
    lines = host.run(["ss", "-Hltn"]).stdout.splitlines()
    found = [line.split()[3].rpartition(":") for line in lines]
    return {(address, int(port)) for address, _, port in found}


@pytest.fixture(scope="module")
def together(hosts, place):
    """Two jobs side by side; one is stopped on its way, as ahead of its time limit, then goes on."""
    head = hosts[HEAD]
    shutil.copy(hosts.folder / "key", head.path(HOME) / ".ssh" / "id_ed25519")
    folders = [place("slurm"), place("neighbour")]
    before = {name: listening(hosts[name]) for name in NODES}
    jobs = [Job(hosts, folders[0], JOB, "--epochs", 4_000), Job(hosts, folders[1], NEIGHBOUR)]
    try:
        jobs[0].await_rows(0)
        ports = {name: listening(hosts[name]) - before[name] for name in NODES}
        send(jobs[0].process, signal.SIGTERM)
        codes = [job.end() for job in jobs]
    finally:
        for job in jobs:
            job.close()
    return folders, jobs, codes, ports


def test_a_job_that_is_told_to_end_records_what_it_did(together):
    folders, (job, _), (code, _), _ = together
    assert code == exit_codes.TERMINATED, job.said()
    trials = trials_of(folders[0], "tiny")
    assert sum(len(trial.rows) for trial in trials) > 0
    assert not any(trial.state is State.FAILED for trial in trials)
    assert [trial.losses for trial in trials] == [0] * len(trials)


def test_its_neighbour_on_the_same_nodes_notices_nothing(together):
    folders, (_, job), (_, code), _ = together
    assert code == exit_codes.COMPLETE, job.said()
    trials = trials_of(folders[1], "tiny")
    assert [trial.state for trial in trials] == [State.COMPLETE] * TRIALS
    assert [trial.losses for trial in trials] == [0] * TRIALS


def test_all_nodes_are_there_before_the_study_starts(together):
    _, jobs, _, _ = together
    for job in jobs:
        first = job.stdout.index("3 of 3 nodes joined: h0, h1, h2")
        assert first < job.said().index("tiny")


def test_every_port_is_one_of_the_jobs_or_handed_out_by_the_system(together):
    _, _, _, ports = together
    blocks = [
        range(12_000 + job_id % 2000 * 10, 12_000 + job_id % 2000 * 10 + 10)
        for job_id in (JOB, NEIGHBOUR)
    ]
    for name in NODES:
        taken = {port for _, port in ports[name] if port < FIRST_HANDED_OUT}
        for block in blocks:
            assert taken & set(block)
        assert all(any(port in block for block in blocks) for port in taken), (name, taken)


def test_nothing_is_left_on_any_node(together):
    _, jobs, _, _ = together
    for job in jobs:
        assert job.left() == []


def test_the_same_line_submitted_again_goes_on_with_fewer_nodes_too(together, hosts):
    folders, _, _, _ = together
    before = trials_of(folders[0], "tiny")
    job = Job(hosts, folders[0], AGAIN, "--epochs", 4_000, nodes="h[0-0]")
    try:
        job.await_rows(sum(len(trial.rows) for trial in before))
        send(job.process, signal.SIGTERM)
        assert job.end() == exit_codes.TERMINATED, job.said()
    finally:
        job.close()
    after = {trial.number: trial for trial in trials_of(folders[0], "tiny")}
    for trial in before:
        kept = after[trial.number].rows
        assert all(kept[epoch] == row for epoch, row in trial.rows.items())
