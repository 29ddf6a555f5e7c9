from pathlib import Path
from typing import Any

import pytest

from tests.faults.stricken import Undisturbed
from tests.faults.tally import Tally

REPORT = Path(__file__).parents[2] / ".make" / "faults.txt"
TALLY = pytest.StashKey[Tally]()
OUTPUT = "faults"  # what a process of several sends back


@pytest.fixture(scope="session")
def tally(request) -> Tally:
    """Counts the faults of all tests; written to a file at the end."""
    return _tally(request.config)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, ready_tracking, ray_address) -> Undisturbed:
    """The serial study that every disturbed one is compared with."""
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"), ray_address)


def pytest_sessionstart(session) -> None:
    if session.config.pluginmanager.hasplugin("dsession"):
        _tally(session.config)  # the time counts from here


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add what one of several processes has counted."""
    if counted := getattr(node, "workeroutput", {}).get(OUTPUT):
        _tally(node.config).take(*Tally.from_plain(counted))


def pytest_sessionfinish(session) -> None:
    tally = session.config.stash.get(TALLY, None)
    if tally is None:
        return
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[OUTPUT] = tally.to_plain()
    else:
        tally.write(REPORT, session.testsfailed)


def _tally(config: pytest.Config) -> Tally:
    return config.stash.setdefault(TALLY, Tally())
