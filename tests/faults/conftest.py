from pathlib import Path

import pytest

from tests.faults.stricken import Undisturbed
from tests.faults.tally import Tally

REPORT = Path(__file__).parents[2] / ".make" / "faults.txt"
TALLY = pytest.StashKey[Tally]()


@pytest.fixture(scope="session")
def tally(request) -> Tally:
    """Counts the faults of all tests; written to a file at the end."""
    return request.config.stash.setdefault(TALLY, Tally())


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, ready_tracking, ray_address) -> Undisturbed:
    """The serial study that every disturbed one is compared with."""
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"), ray_address)


def pytest_sessionfinish(session) -> None:
    tally = session.config.stash.get(TALLY, None)
    if tally is not None:
        tally.write(REPORT, session.testsfailed)
