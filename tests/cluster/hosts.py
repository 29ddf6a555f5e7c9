"""Hosts of their own on this machine: namespaces with addresses, sshd, and folders that others lack.

Every namespace is held by a process of ours and goes with it, so that whatever happens to a test
nothing but a temporary folder stays behind. Needs root and a few of Debian's packages.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

import tune_ddvae

PACKAGES = {  # program -> Debian's package
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "rsync": "rsync",
    "ip": "iproute2",
    "unshare": "util-linux",
}
HEAD, *WORKERS, LAPTOP = NAMES = ("h0", "h1", "h2", "h3")
ADDRESSES = {name: f"10.77.0.{10 + index}" for index, name in enumerate(NAMES)}
ROOT = Path(tune_ddvae.__file__).parent.parent
HOME = Path.home()
TEMPORARY = Path("/tmp")  # noqa: S108 - each host has its own
# What every host has at the same path, as if it had been installed there.
INSTALLED = (ROOT, Path(sys.prefix), Path(sys.base_prefix))
SEARCHED = (
    f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)
ENVIRONMENT = {
    "PATH": SEARCHED,
    "HOME": str(HOME),
    "USER": "root",
    "SHELL": "/bin/bash",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
STARTS_WITHIN_S = 30.0

# Process 1 of a host: it makes the host's own world, and then is its sshd, which reaps orphans.
INIT = """set -e
echo here
read -r _
hostname "$1"
cd "$2"; shift 2
for path; do  # what must stay visible below the folders that are replaced next
    case "$path" in /tmp/*) own=tmp/${path#/tmp/};; *) own=home/${path#"$HOME"/};; esac
    mkdir -p "$own"
    mount --rbind "$path" "$own"
done
mount --bind hosts /etc/hosts
mount --rbind ssh /etc/ssh
mount --rbind home "$HOME"
mount --rbind tmp /tmp
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd
cd /
exec "$SSHD" -D -e
"""
BRIDGE = "ip link add br0 type bridge && ip link set br0 up && echo up && exec sleep inf"
SSHD_CONFIG = """HostKey /etc/ssh/host_key
ListenAddress {address}
AuthorizedKeysFile /etc/ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
StrictModes no
PidFile none
"""


def missing() -> str:
    """Why no hosts can be had here; nothing where they can."""
    if os.geteuid() != 0:
        return "hosts of their own need root"
    absent = {package for program, package in PACKAGES.items() if not _program(program)}
    return f"packages are missing: {', '.join(sorted(absent))}" if absent else ""


class Host:
    """One of the hosts; made by ``Hosts``."""

    def __init__(self, name: str, hosts: "Hosts") -> None:
        self.name = name
        self.address = ADDRESSES[name]
        self.folder = hosts.folder / name  # seen from outside
        self._hosts = hosts
        self._holder: subprocess.Popen[str] | None = None
        self._init = 0  # its process 1, as this machine counts

    @property
    def is_up(self) -> bool:
        return self._holder is not None and self._holder.poll() is None

    def run(
        self,
        words: Sequence[Any],
        *,
        timeout: float = 120.0,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """A command on this host, once it has ended."""
        return subprocess.run(
            self._entering(words, cwd),
            env={**ENVIRONMENT, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(
        self,
        words: Sequence[Any],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        stdout: Any = subprocess.PIPE,
        stderr: Any = subprocess.PIPE,
    ) -> "subprocess.Popen[str]":
        """A command running on this host; it ends with its Popen. ``send`` gives it a signal."""
        return subprocess.Popen(
            self._entering(words, cwd),
            env={**ENVIRONMENT, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
        )

    def pids(self, text: str) -> list[int]:
        """Processes of this host whose command line holds the text, as this machine counts."""
        here = _pid_namespace(self._init)
        return [
            process.pid
            for process in psutil.process_iter(["cmdline"])
            if text in " ".join(process.info["cmdline"] or ())
            and _pid_namespace(process.pid) == here
        ]

    def path(self, path: Path | str) -> Path:
        """Where a path below this host's own /tmp or home lies, seen from outside."""
        path = Path(path)
        for inside, own in ((TEMPORARY, "tmp"), (HOME, "home")):
            if path.is_relative_to(inside):
                return self.folder / own / path.relative_to(inside)
        return path

    def boot(self) -> None:
        """Make the host's namespaces and put it on the network; a fresh /tmp, its home as it was."""
        _clear(self.folder / "tmp")
        self._hosts.furnish(self)
        with (self.folder / "sshd.log").open("w") as log:
            self._holder = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL", "unshare"),
                    *("--net", "--mount", "--pid", "--uts", "--ipc", "--mount-proc"),
                    *("--fork", "--kill-child", "bash", "-c", INIT, "init"),
                    *(self.name, self.folder, *self._hosts.visible()),
                ],
                env={**ENVIRONMENT, "SSHD": _program("sshd")},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "here\n", (self.folder / "sshd.log").read_text()
        self._init = inside(self._holder)
        self._hosts.plug_in(self, self._init)
        self._holder.stdin.write("go\n")
        self._holder.stdin.close()
        until = time.monotonic() + STARTS_WITHIN_S
        while not self._listens():
            assert time.monotonic() < until, (self.folder / "sshd.log").read_text()
            time.sleep(0.02)  # sshd tells nobody that it listens

    def end(self) -> None:
        """End every process of the host at once."""
        if self._holder is None:
            return
        if self._init and self._holder.poll() is None:
            os.kill(self._init, signal.SIGKILL)  # the kernel ends all others before it is gone
        else:
            self._holder.kill()
        with self._holder:  # waits for it
            self._holder, self._init = None, 0

    def _listens(self) -> bool:
        assert self.is_up, (self.folder / "sshd.log").read_text()
        return self.run(["bash", "-c", f"exec 3<>/dev/tcp/{self.address}/22"]).returncode == 0

    def _entering(self, words: Sequence[Any], cwd: Path | str | None) -> list[str]:
        assert self.is_up, f"{self.name} is down"
        enter = ["nsenter", "-t", str(self._init), "-m", "-p", "-n", "-u", "-i", "--"]
        # Killing nsenter would leave the command behind.
        linked = ["setpriv", "--pdeathsig", "KILL", "env", f"--chdir={cwd or HOME}", "--"]
        return [*enter, *linked, *map(str, words)]


class Hosts:
    """Head h0, workers h1 and h2, and the laptop h3, joined by a bridge that nothing else is on.

    ``shared`` is a folder that all of them and this process see at one path; ``private`` is at one
    path too, but another folder on each host, which this process sees as ``host.path(private)``.
    """

    def __init__(self) -> None:
        # Sockets lie below the hosts' /tmp: their paths have to stay short.
        self.folder = Path(tempfile.mkdtemp(prefix="hosts-", dir=TEMPORARY))
        self.shared = self.folder / "shared"
        self.private = self.folder / "private"
        self._bridge: subprocess.Popen[str] | None = None
        self._all = {name: Host(name, self) for name in NAMES}

    def __getitem__(self, name: str) -> Host:
        return self._all[name]

    def __iter__(self) -> Iterator[Host]:
        return iter(self._all.values())

    def __enter__(self) -> "Hosts":
        try:
            self.shared.mkdir()
            _make_key(self.folder / "key")
            self._bridge = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "bash", "-c", BRIDGE],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert self._bridge.stdout is not None
            assert self._bridge.stdout.readline() == "up\n", "no bridge could be made"
            for host in self:
                host.boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process of every host, and remove what they wrote."""
        for host in self:
            host.end()
        if self._bridge is not None:
            self._bridge.kill()
            with self._bridge:  # waits for it
                self._bridge = None
        shutil.rmtree(self.folder)

    def cut(self, host: Host) -> None:
        """Pull the host's network cable."""
        self._on_bridge("ip", "link", "set", _port(host), "down")

    def mend(self, host: Host) -> None:
        """Put the cable in again."""
        self._on_bridge("ip", "link", "set", _port(host), "up")

    def kill(self, host: Host) -> None:
        """Take the host's power away: nobody on it says a last word to the others."""
        self._on_bridge("ip", "link", "delete", _port(host))
        host.end()

    def bring_up(self, host: Host) -> None:
        """Boot a host that was killed: home as it was, /tmp empty, nothing running but sshd."""
        host.boot()

    def furnish(self, host: Host) -> None:
        """Lay out what the host finds at its start; what is there already stays."""
        home, ssh = host.folder / "home", host.folder / "ssh"
        for path in (home / ".ssh", ssh, host.path(self.private)):
            path.mkdir(parents=True, exist_ok=True)
        (home / ".bashrc").write_text(f"export PATH={SEARCHED}\n")
        if host.name == LAPTOP:
            shutil.copy(self.folder / "key", home / ".ssh" / "id_ed25519")
        names = [f"{address} {name}" for name, address in ADDRESSES.items()]
        (host.folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *names, ""]))
        shutil.copy(self.folder / "key.pub", ssh / "authorized_keys")
        (ssh / "sshd_config").write_text(SSHD_CONFIG.format(address=host.address))
        if not (ssh / "host_key").exists():
            _make_key(ssh / "host_key")

    def visible(self) -> list[Path]:
        """Folders below /tmp and the home folder that every host must see."""
        replaced = (TEMPORARY, HOME)
        paths = (self.shared, *INSTALLED)
        return [path for path in paths if any(map(path.is_relative_to, replaced))]

    def plug_in(self, host: Host, init: int) -> None:
        """Give the host its address, and its cable a place on the bridge."""
        port = _port(host)
        # A card of its own: the others would look for a new one for half a minute after a reboot.
        card = "02:00:" + ":".join(f"{int(part):02x}" for part in host.address.split("."))
        peer = ("peer", "name", "eth0", "address", card, "netns", init)
        self._on_bridge("ip", "link", "add", port, "type", "veth", *peer)
        self._on_bridge("ip", "link", "set", port, "master", "br0", "up")
        inside = ("nsenter", "-t", init, "-n", "ip")
        _check(*inside, "link", "set", "lo", "up")
        _check(*inside, "addr", "add", f"{host.address}/24", "dev", "eth0")
        _check(*inside, "link", "set", "eth0", "up")

    def _on_bridge(self, *words: object) -> None:
        assert self._bridge is not None
        _check("nsenter", "-t", self._bridge.pid, "-n", *words)


def inside(process: "subprocess.Popen[str]") -> int:
    """The process that a Popen of ``Host.start`` waits for, as this machine counts."""
    while not (children := psutil.Process(process.pid).children()):
        assert process.poll() is None, process.args
        time.sleep(0.01)  # nsenter is still on its way in
    return children[0].pid


def send(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Send a signal to the command that a host runs."""
    os.kill(inside(process), number)


def _pid_namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""  # it has just ended


def _port(host: Host) -> str:
    return f"v{host.name}"


def _program(name: str) -> str | None:
    return shutil.which(name, path=SEARCHED)


def _make_key(path: Path) -> None:
    _check("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)


def _check(*words: object) -> None:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
