import shutil
import signal
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Let what tests start heed SIGHUP and SIGINT, which nohup and a shell's "&" have ignored.

    A process that is started ignores what its parent ignores, and not what that handles.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def ready_tracking(tmp_path_factory) -> Path:
    """An empty MLflow database, made once: its migrations take seconds."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path = tmp_path_factory.mktemp("tracking") / "mlflow.db"
    store = SqlAlchemyStore(f"sqlite:///{path}", str(path.parent / "mlartifacts"))
    store.engine.dispose()
    return path


@pytest.fixture
def workplace(tmp_path, ready_tracking) -> Path:
    """A folder to run studies in, with a tracking database that is ready."""
    (tmp_path / "studies").mkdir()
    shutil.copy(ready_tracking, tmp_path / "studies" / "mlflow.db")
    return tmp_path


@pytest.fixture(scope="session")
def server():
    """A PostgreSQL server of the tests' own, where its programs are installed."""
    from tests.postgres import running

    with running() as server:
        yield server


@pytest.fixture(scope="session")
def ray_address():
    """One Ray for all studies of the tests: starting one takes seconds."""
    import ray

    from tune_ddvae.tuning.cluster import cluster

    cluster.start_ray()
    yield ray.get_runtime_context().gcs_address
    cluster.stop_ray()
