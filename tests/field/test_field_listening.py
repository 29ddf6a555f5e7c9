"""What a study's own Ray listens on: this machine's users share its network, and so may others."""

import http.client
import ipaddress
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator

import psutil
import pytest

from tests.studies import driving, num_rows, wait_until, write_tiny

pytestmark = [pytest.mark.field, pytest.mark.timeout(280)]

WITHOUT_TOKEN = urllib.request.build_opener(urllib.request.ProxyHandler({}))
REFUSED = (401, 403)


def listening(driver: subprocess.Popen) -> dict[tuple[str, int], str]:
    """Addresses and ports that the driver and all that it started listen on, and who does."""
    found = {}
    first = psutil.Process(driver.pid)
    for process in (first, *first.children(recursive=True)):
        try:
            for one in process.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN:
                    found[one.laddr.ip, one.laddr.port] = process.name()
        except psutil.NoSuchProcess:  # a worker that ended meanwhile
            continue
    return found


def is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def answers(address: str) -> Iterator[str]:
    """What an address gives to whoever asks without a token."""
    for path in ("/", "/metrics", "/api/version"):
        try:
            with WITHOUT_TOKEN.open(f"http://{address}{path}", timeout=5) as answer:
                yield f"{path}: {answer.status}"
        except urllib.error.HTTPError as error:
            if error.code not in REFUSED:
                yield f"{path}: {error.code}"
        except (OSError, http.client.HTTPException):  # no web server; or of Ray's own protocol
            continue


def test_a_study_on_one_machine_listens_on_loopback_only_and_tells_nobody_anything(workplace):
    study = write_tiny(workplace, trials=40)
    with driving(study, workplace, "--max-concurrent", "1", "--first-rung", "none") as driver:
        assert wait_until(driver, lambda: num_rows(workplace, "tiny") > 0), driver.communicate()
        found = listening(driver)
        assert {"gcs_server", "raylet"} <= set(found.values())
        assert {at: who for at, who in found.items() if not is_loopback(at[0])} == {}
        told = {(who, port): [*answers(f"127.0.0.1:{port}")] for (_, port), who in found.items()}
        assert not any(told.values()), told
