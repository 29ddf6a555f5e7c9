"""slurm.sh on this machine, with stand-ins for Slurm, Ray and the study that note what happens."""

import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster_files.files import SLURM
from tune_ddvae.errors import RecordError
from tune_ddvae.tuning.studies.resuming import study_words

STANDIN = Path(__file__).parent / "standin"
TEXT = SLURM.read_text(encoding="utf-8")
NODES = ["n1", "n2", "n3"]
ENDS_WITHIN_S = 60
# No two tests of one machine at a time take the same folder for a job.
JOB_IDS = itertools.count(os.getpid() * 10_000)


def ray_folder(job_id: int) -> Path:
    """Where a job has Ray's own files on each node: paths of sockets must be short."""
    return Path("/tmp") / f"ray-{job_id}"  # noqa: S108 (the script checks whose it is)


class Job:
    """One run of the script in a folder of its own."""

    def __init__(
        self, folder: Path, *words: str, job_id: int | None = None, **settings: str
    ) -> None:
        self.id = next(JOB_IDS) if job_id is None else job_id
        self.home = folder / "home"
        self.ray_folder = ray_folder(self.id)
        self._notes = folder / "notes"
        self._notes.touch()
        for path in (self.home, folder / "joined"):
            path.mkdir()
        environment = {
            "PATH": f"{STANDIN}:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.home),
            "PYTHONPATH": str(STANDIN / "modules"),
            "SLURM_JOB_ID": str(self.id),
            "SLURM_JOB_NODELIST": "n[1-3]",
            "SLURM_CPUS_PER_TASK": "8",
            "TUNE_DDVAE_VENV": str(self._environment(folder)),
            "STANDIN_NOTES": str(self._notes),
            "STANDIN_JOINED": str(folder / "joined"),
            "STANDIN_PYTHON": sys.executable,
            **settings,
        }
        self.process = subprocess.Popen(
            ["bash", str(SLURM), *(words or ("sparsity",))],
            env=environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.stdout = self.stderr = ""

    def end(self) -> int:
        """The script's exit code."""
        self.stdout, self.stderr = self.process.communicate(timeout=ENDS_WITHIN_S)
        return self.process.returncode

    def notes(self, first: str = "") -> list[str]:
        """Lines that the stand-ins wrote, without their first word where one is asked for."""
        lines = self._notes.read_text(encoding="utf-8").splitlines()
        return [line.removeprefix(first) for line in lines if line.startswith(first)]

    def await_note(self, first: str) -> None:
        until = time.monotonic() + ENDS_WITHIN_S
        while not self.notes(first):
            assert self.process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)

    def ports(self) -> dict[str, int]:
        """Every port that any of its nodes is given, by option."""
        found = {}
        for line in self.notes("ray "):
            for option, port in re.findall(r"--([a-z-]*port)=([1-9]\d*)", line):
                assert found.setdefault(option, int(port)) == int(port)
        return found

    def processes(self) -> list[int]:
        """Those that the stand-ins were."""
        return [int(line.split()[1]) for line in self.notes("ray ")] + [
            int(line.split()[0]) for line in self.notes("study ")
        ]

    @staticmethod
    def _environment(folder: Path) -> Path:
        bin_folder = folder / "environment" / "bin"
        bin_folder.mkdir(parents=True)
        for name in ("ray", "python"):
            shutil.copy(STANDIN / name, bin_folder)
        return bin_folder.parent


@pytest.fixture
def run(tmp_path) -> Iterator:
    """Starts jobs that do not outlive a test that fails."""
    jobs = []

    def start(*words, **settings) -> Job:
        folder = tmp_path / f"job{len(jobs)}"
        folder.mkdir()
        jobs.append(Job(folder, *words, **settings))
        return jobs[-1]

    yield start
    for job in jobs:
        if job.process.poll() is None:
            job.process.terminate()
            job.end()
        shutil.rmtree(job.ray_folder, ignore_errors=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Job:
    """A job that went well, with awkward words."""
    job = Job(tmp_path_factory.mktemp("job"), "my study", "--set", "prior/kind=a b*$HOME")
    assert job.end() == 0, job.stderr
    return job


def test_the_study_gets_its_words_as_they_were_given(finished):
    ((_, *words),) = [line.split("\t") for line in finished.notes("study ")]
    assert words[:-2] == ["-m", "tune_ddvae.study", "my study", "--set", "prior/kind=a b*$HOME"]
    assert words[-2] == "--address"
    assert words[-1].endswith(f":{finished.ports()['port']}")


AWKWARD = ("my study", "--set", "prior/kind=a b*$HOME", "--epochs", "3")


@pytest.mark.parametrize(
    "shown", ["/home/me/lab/slurm.sh", f"/home/me/lab/slurm.sh {' '.join(AWKWARD)}"]
)
def test_the_study_is_told_that_the_job_goes_on_with_it(shown, run):
    """Not at the address of a cluster that ends with the job, nor by the name of Slurm's copy."""
    job = run(*AWKWARD, STANDIN_COMMAND=shown)
    assert job.end() == 0, job.stderr
    (line,) = job.notes("submitted as ")
    options = "sbatch "
    assert line.startswith(options)
    assert shlex.split(line.removeprefix(options)) == ["/home/me/lab/slurm.sh", *AWKWARD]


def test_a_script_of_the_submitting_folder_is_named_from_there(run):
    job = run(SLURM_SUBMIT_DIR="/home/me/lab", STANDIN_COMMAND="/home/me/lab/cluster/slurm.sh")
    assert job.end() == 0, job.stderr
    assert job.notes("submitted as ") == ["sbatch cluster/slurm.sh sparsity"]


def test_the_line_that_goes_on_has_no_password(run):
    job = run("sparsity", "--record", "postgresql://me:hidden@h/d")
    assert job.end() == 0, job.stderr
    (line,) = job.notes("submitted as ")
    assert "hidden" not in line
    assert line.endswith("'postgresql://me:***@h/d'")


def test_going_on_with_such_a_study_elsewhere_is_refused_with_that_line(run):
    job = run()
    assert job.end() == 0, job.stderr
    (line,) = job.notes("submitted as ")
    with pytest.raises(RecordError, match=re.escape(line)):
        study_words(line)


def test_every_node_runs_ray_once_and_one_is_the_head(finished):
    started = finished.notes("ray ")
    assert sorted(line.split()[0] for line in started) == NODES
    (head,) = [line for line in started if "--head" in line]
    assert head.startswith("n1 ")
    address = finished.notes("study ")[0].split("\t")[-1]
    for line in started:
        assert "--head" in line or f"--address={address}" in line
        assert {"--block", "--num-cpus=8", f"--temp-dir={finished.ray_folder}"} <= set(line.split())


def test_every_port_that_ray_takes_is_the_jobs_own(finished):
    """But those of its workers, which the system hands out, each once."""
    from ray.scripts.scripts import start

    options = {option for one in start.params for option in one.opts}
    taken = {option for option in options if option.endswith("port")}
    assert {f"--{option}" for option in finished.ports()} == taken - {
        *("--min-worker-port", "--max-worker-port"),
    }
    assert len(set(finished.ports().values())) == len(finished.ports())


def test_ray_accepts_each_nodes_ports(finished):
    """It refuses a port that two of its parts would take, its workers among them."""
    from ray._private.parameter import RayParams
    from ray.scripts.scripts import start

    for line in finished.notes("ray "):
        words = line.split()[3:]
        with start.make_context("start", words) as context:
            given = context.params
        ours = {"port": "gcs_server_port", "dashboard_agent_grpc_port": "metrics_agent_port"}
        ports = {
            ours.get(name, name): given[name]
            for name in given
            if name.endswith("_port") or name == "port"
        }
        params = RayParams(**ports)
        params.update_pre_selected_port()
        assert params.min_worker_port == params.max_worker_port == 0  # the system hands them out


def test_jobs_of_one_node_share_no_port(finished, run):
    """Ids that follow each other, and those furthest apart before the ports begin anew."""
    blocks = [set(finished.ports().values())]
    for distance in (1, 1999):
        job = run(job_id=finished.id + distance)
        assert job.end() == 0
        blocks.append(set(job.ports().values()))
    for one, other in itertools.combinations(blocks, 2):
        assert not one & other
    for block in blocks:
        assert max(block) - min(block) < 10
        assert min(block) >= 10_000
        assert max(block) < 32_768  # where those begin that the system hands out


def test_no_port_is_fixed():
    assert not re.search(r"port=[1-9]", TEXT)
    for known in ("6379", "8265", "10001", "52365"):
        assert known not in TEXT


def test_each_job_has_a_token_of_its_own_that_nobody_else_can_read(finished, run):
    job = run()
    assert job.end() == 0
    tokens = []
    for one in (finished, job):
        (line,) = set(one.notes("token "))  # the same on all nodes
        mode, rights, token = line.split()
        assert (mode, rights) == ("token", "600")
        assert re.fullmatch(r"[0-9a-f]{64}", token)
        assert token not in one.stdout + one.stderr
        tokens.append(token)
    assert tokens[0] != tokens[1]


def test_what_a_study_writes_has_the_users_rights(finished):
    """The token's are narrower; a storage may be a group's."""
    own = subprocess.run(["bash", "-c", "umask"], capture_output=True, text=True).stdout.strip()
    assert finished.notes("umask ") == [own]


def test_nothing_is_left(finished):
    assert not any((finished.home / ".tune-ddvae").iterdir())
    assert not finished.ray_folder.exists()
    assert len(finished.processes()) == 4
    assert not any(psutil.pid_exists(pid) for pid in finished.processes())


def test_ray_is_ended_after_the_study_and_its_head_last(finished):
    """Without the head each other node's Ray would wait for half a minute before it ends."""
    assert finished.notes("ended ")[0] == "study"
    assert sorted(finished.notes("ended ray ")) == NODES
    assert finished.notes("ended ray ")[-1] == "n1"


@pytest.mark.parametrize("code", [1, 2, 3])
def test_the_jobs_exit_code_is_the_studys(code, run):
    assert run(STANDIN_CODE=str(code)).end() == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_study_which_ends_before_ray(number, run):
    job = run(STANDIN_STUDY_S="infinity")
    job.await_note("study ")
    job.process.send_signal(number)
    assert job.end() == 143
    assert job.notes("signal ") == ["TERM"]
    assert job.notes("ended ")[0] == "study"
    assert sorted(job.notes("ended ray ")) == NODES
    assert not any(psutil.pid_exists(pid) for pid in job.processes())


def test_a_signal_while_nodes_are_awaited_starts_no_study(run):
    job = run(STANDIN_LATE="n2", TUNE_DDVAE_JOIN_S="1000")
    job.await_note("ray n3")
    job.process.terminate()
    assert job.end() == 143
    assert job.notes("study ") == []
    assert not any(psutil.pid_exists(pid) for pid in job.processes())


def test_a_node_that_does_not_come_is_not_awaited_for_ever(run):
    job = run(STANDIN_LATE="n2", TUNE_DDVAE_JOIN_S="2")
    assert job.end() == 1
    assert "only 2 of 3 nodes joined in time: n1, n3" in job.stderr
    assert job.notes("study ") == []


@pytest.mark.parametrize("node", ["n1", "n3"])
def test_a_node_whose_ray_ends_is_not_awaited(node, run):
    job = run(STANDIN_DIES=node, TUNE_DDVAE_JOIN_S="1000")
    assert job.end() == 1
    assert "not all of n1 n2 n3 run Ray" in job.stderr
    assert job.notes("study ") == []


def test_the_time_limit_has_the_job_run_again_where_that_is_asked_for(run):
    job = run(STANDIN_STUDY_S="infinity", TUNE_DDVAE_REQUEUE="1")
    job.await_note("study ")
    job.process.terminate()
    job.end()
    assert job.notes("scontrol ") == [f"requeue {job.id}"]


@pytest.mark.parametrize(
    ("number", "settings"),
    [
        (signal.SIGINT, {"TUNE_DDVAE_REQUEUE": "1"}),  # someone stopped it
        (signal.SIGTERM, {}),  # nobody asked for that
        (None, {"TUNE_DDVAE_REQUEUE": "1", "STANDIN_STUDY_S": "0"}),  # it is complete
    ],
)
def test_otherwise_a_job_is_not_run_again(number, settings, run):
    job = run(**{"STANDIN_STUDY_S": "infinity", **settings})
    if number is not None:
        job.await_note("study ")
        job.process.send_signal(number)
    job.end()
    assert job.notes("scontrol ") == []


def test_without_an_environment_nothing_is_started(run):
    job = run(TUNE_DDVAE_VENV="/nowhere")
    assert job.end() == 2
    assert "no environment with Ray in /nowhere" in job.stderr
    assert job.notes() == []


def test_outside_slurm_it_says_so(run):
    job = run(SLURM_JOB_ID="")
    assert job.end() != 0
    assert "this script is for sbatch" in job.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_that_somebody_else_has_laid_is_not_used(run):
    job_id = next(JOB_IDS)
    folder = ray_folder(job_id)
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    job = run(job_id=job_id)
    assert job.end() == 1
    assert f"{folder} is somebody else's" in job.stderr
    assert job.notes("study ") == []


def test_slurm_warns_the_script_ahead_of_the_time_limit():
    assert "#SBATCH --signal=B:TERM@120\n" in TEXT
