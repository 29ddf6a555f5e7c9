"""Two studies started in the same second, each on a Ray of its own, with one new tracking file."""

import contextlib
import socket

import psutil
import pytest

from tests.studies import Tracked, driving, ended, trials_of, wait_until, write_tiny
from tune_ddvae import exit_codes

pytestmark = [pytest.mark.field, pytest.mark.timeout(280)]

RAYS_USUAL_PORTS = (6379, 8265)
NAMES = ("one", "other")


@contextlib.contextmanager
def taken(ports):
    """Something listens on these ports; where another process does already, that will do."""
    with contextlib.ExitStack() as stack:
        for port in ports:
            listener = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                listener.bind(("127.0.0.1", port))
                listener.listen()
        yield


class Side:
    """One of the two studies."""

    def __init__(self, folder, name, uri, stack):
        self.name, self.folder, self.own = name, folder, set()
        study = write_tiny(folder, trials=4)
        words = ("--name", name, "--max-concurrent", "1", "--tracking-uri", uri)
        self.driver = stack.enter_context(driving(study, folder, *words))

    def watch(self):
        """Note every process that this driver has started."""
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(self.driver.pid).children(recursive=True)
            self.own |= {child.pid for child in children}

    def finish(self):
        self.done = ended(self.driver)
        self.trials = trials_of(self.folder, self.name)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    place = tmp_path_factory.mktemp("shared")
    uri = f"sqlite:///{place}/mlflow.db"
    with taken(RAYS_USUAL_PORTS), contextlib.ExitStack() as stack:
        sides = [Side(tmp_path_factory.mktemp(name), name, uri, stack) for name in NAMES]

        def both_have_ended():
            for side in sides:
                side.watch()
            return sides[1].driver.poll() is not None

        wait_until(sides[0].driver, both_have_ended, timeout_s=200)
        wait_until(sides[1].driver, both_have_ended, timeout_s=200)
        for side in sides:
            side.finish()
    return sides, uri


def test_both_end_well_though_rays_usual_ports_are_taken(together):
    for side in together[0]:
        assert side.done.returncode == exit_codes.COMPLETE, side.done.stderr
        assert len(side.trials) == 4


def test_every_point_of_both_is_in_the_one_database_once(together):
    sides, uri = together
    for side in sides:
        tracked = Tracked(side.folder, side.name, "tiny", uri)
        tracked.assert_equals(side.trials)
        assert tracked.parent.info.status == "FINISHED"


def test_neither_uses_a_worker_of_the_other(together):
    one, other = together[0]
    for side in (one, other):
        assert {trial.facts["pid"] for trial in side.trials} <= side.own
    assert not one.own & other.own


def test_both_searches_are_the_same_study(together):
    """Same file, same seed: sharing a machine and a database changes no number."""
    one, other = together[0]
    assert [trial.config for trial in one.trials] == [trial.config for trial in other.trials]
    assert [trial.values for trial in one.trials] == [trial.values for trial in other.trials]
