"""Before a Ray cluster is joined: whether it answers, lets us in, and is of our own versions.

Ray itself would try for 22 s to minutes, deaf to signals, and then say in each of these cases that it
could not connect.
"""

import os
import platform
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray._common.usage.usage_lib import get_cluster_metadata
from ray._private import ray_constants, services
from ray._private.authentication.authentication_token_generator import (
    generate_new_authentication_token,
)
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray._raylet import (  # type: ignore[attr-defined]  # its types leave these out
    AuthenticationMode,
    InnerGcsClient,
    get_authentication_mode,
)
from ray.exceptions import AuthenticationError, RayError

from tune_ddvae.errors import ResourceError

ANSWER_S = 3.0  # how long a cluster may take to take a connection
HEAD_S = 10.0  # how long its head may take to say who it is
NODE_S = 10.0  # how long a Ray that has just been started here may take to be known to the head
AUTO = "auto"
TOKEN_FILE = "~/.ray/auth_token"  # noqa: S105 - where, not what
START = "start a cluster with `ray start --head`, or leave --address out"


def check_cluster(address: str) -> str:
    """Host and port of the cluster's head; one that could not be joined is refused, in seconds.

    Raises:
        ResourceError: Nothing answers there; it is no Ray; it asks for a token, and there is none
            here or another, or one that others can read; its Ray or Python is of another version;
            or this machine is none of it.
    """
    place = _place(address)
    _check_answers(address, place)
    head = _head(address, place)
    _check_versions(address, head)
    _check_is_node(address, head)
    return place


def _place(address: str) -> str:
    """Host and port of the head; words of Ray's own, such as auto, are looked up."""
    scheme, separator, _ = address.partition("://")
    if separator:
        meant = (
            "the address of its dashboard belongs to --submit"
            if scheme.startswith("http")
            else "Ray's client protocol is not used here"
        )
        raise ResourceError(f"--address must be HOST:PORT of a Ray cluster, got {address}: {meant}")
    try:
        with loopback_kept():
            return str(services.canonicalize_bootstrap_address_or_die(address))
    except ConnectionError as error:
        raise ResourceError(f"no Ray cluster was found for --address {address}; {START}") from error
    except (ValueError, OSError) as error:
        raise ResourceError(
            f"--address must be HOST:PORT of a Ray cluster, got {address} ({error}); {START}"
        ) from error


@contextmanager
def loopback_kept() -> Iterator[None]:
    """Let Ray take loopback for what it is, for one that it starts and in an address that it joins.

    Wherever it is told 127.0.0.1, and where it is told nothing, it puts an address of the machine that
    others reach, so that all of it listens on every interface. Not so where clusters are not enabled, as
    on macOS and Windows. The environment variable for that is read when ray is imported, before it is
    known where a study runs; to join a cluster at another address it makes no difference.
    """
    enabled = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled


def _check_answers(address: str, place: str) -> None:
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ResourceError(f"nothing answers at --address {address} ({error}); {START}") from error


def _head(address: str, place: str) -> Any:
    """A connection to the head's directory, made with the token that is here."""
    has_mode = uses_token()
    source = _token_source()
    if has_mode and not source:  # Ray would end this process
        raise ResourceError(
            f"RAY_AUTH_MODE is token, so the Ray cluster at --address {address} asks for a token that "
            "is not here: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to it, or copy the cluster's "
            "~/.ray/auth_token"
        )
    check_token_is_private()
    try:
        return InnerGcsClient.standalone(place, None, int(HEAD_S * 1000))
    except AuthenticationError as error:
        if address == AUTO and maybe_enable_token_auth_if_token_available(warn_if_disabled=False):
            return _head(place, place)  # as Ray does itself, for a cluster of this machine's own
        if has_mode:
            why = f"refuses the token that is here, from {source}: put the cluster's there"
        else:
            also = "" if source else ", and RAY_AUTH_TOKEN or ~/.ray/auth_token to its token"
            why = f"asks for a token: set RAY_AUTH_MODE=token{also}"
        raise ResourceError(f"the Ray cluster at --address {address} {why}") from error
    except RayError as error:
        raise ResourceError(
            f"what answers at --address {address} is no Ray cluster's head, or a frozen one "
            f"({error}); give the port that `ray start --head` named (6379 unless told otherwise)"
        ) from error


def uses_token() -> bool:
    """Whether this process gives a token with every call of Ray's, and demands one."""
    return bool(get_authentication_mode() == AuthenticationMode.TOKEN)


def _token_source() -> str:
    """Where Ray would take a token from, in its own order; empty where there is none.

    Ray's own loader is not asked: once it has a token, this process demands it of a cluster that
    knows none, and every actor of it ends before it has begun.
    """
    for variable in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        if os.environ.get(variable):
            return variable
    return TOKEN_FILE if Path(TOKEN_FILE).expanduser().is_file() else ""


def check_token_is_private() -> None:
    """Refuse a token file of this account's that others can read, as ssh does with a key.

    Only one that is used here, and that this account could mend: what an administrator or Kubernetes
    lays down for it has other rules.

    Raises:
        ResourceError: Another account of this machine could run code as this one.
    """
    source = _token_source()
    if not uses_token() or source in ("", "RAY_AUTH_TOKEN"):
        return
    # Ray expands no ~ in a path that it is given.
    path = Path(TOKEN_FILE).expanduser() if source == TOKEN_FILE else Path(os.environ[source])
    if path.is_file() and (mode := _open_mode(path)):
        raise ResourceError(
            f"the token file {path} can be read by other accounts (mode {mode:o}), which could then "
            f"run code as this one: chmod 600 {path}"
        )


def keep_own_token() -> None:
    """See to it that nobody else can read the token of a Ray that is started here.

    Ray makes one where there is none, with the rights that files usually have.

    Raises:
        ResourceError: The file is open to others, and cannot be changed.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if _token_source() not in ("", TOKEN_FILE):
        return
    path = Path(TOKEN_FILE).expanduser()
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(path, generate_new_authentication_token())
        elif path.is_file() and _open_mode(path):
            path.chmod(0o600)
    except OSError as error:
        raise ResourceError(
            f"the token file {path} cannot be kept from other accounts ({error}): see to it that it is "
            "yours, with mode 600, or set RAY_AUTH_TOKEN to a token"
        ) from error


def _write_whole(path: Path, text: str) -> None:
    """Make a file that only we can read, with all that is in it at once; one that is there stays."""
    handle, written = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # with mode 600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        with suppress(FileExistsError):  # another study's, just now
            os.link(written, path)
    finally:
        Path(written).unlink()


def _open_mode(path: Path) -> int:
    """The rights of a file of this account's that others can read; 0 for any other."""
    facts = path.stat()
    if os.name != "posix" or facts.st_uid != os.geteuid():
        return 0
    mode = stat.S_IMODE(facts.st_mode)
    return mode if mode & (stat.S_IRGRP | stat.S_IROTH) else 0


def _check_versions(address: str, head: Any) -> None:
    """Refuse other versions by name; Ray raises on them too, in a paragraph of its own."""
    facts = get_cluster_metadata(head)
    here = {"ray_version": ray.__version__, "python_version": platform.python_version()}
    for key, name in (("ray_version", "Ray"), ("python_version", "Python")):
        if facts[key] != here[key]:
            raise ResourceError(
                f"the Ray cluster at --address {address} runs {name} {facts[key]}, and this is "
                f"{name} {here[key]}: use the same on every machine (constraints.txt has the versions)"
            )


def _check_is_node(address: str, head: Any) -> None:
    """Refuse to drive from a machine that has no part in the cluster; Ray would wait for a minute."""
    until = time.monotonic() + NODE_S
    while time.monotonic() < until:
        here = set(services.find_node_ids())  # type: ignore[no-untyped-call]
        if not here:
            break
        if any(node.hex() in here for node in head.get_all_node_info()):
            return
        time.sleep(0.5)
    raise ResourceError(
        f"this machine is not a node of the Ray cluster at --address {address}: run the command on "
        f"one that is, let this one join (`ray start --address={address} --num-cpus=0`), or send the "
        "study there with --submit"
    )
