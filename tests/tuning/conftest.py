import pytest

from tests.tuning.simulated import drive, make_spec, metrics_at, open_study
from tune_ddvae.tuning.storage import bucket


def _measure(config: dict, epoch: int) -> dict[str, float]:
    metrics = metrics_at(config, epoch)
    if epoch == 27:
        metrics |= {f"test/{name}": 0.9 * value for name, value in metrics.items()}
    return metrics


@pytest.fixture(scope="session")
def driven(tmp_path_factory):
    """A study of 15 trials that have all ended; only to be read."""
    study = open_study(tmp_path_factory.mktemp("driven"), make_spec(), trials=15)
    drive(study, _measure)
    yield study
    study.record.close()


@pytest.fixture(scope="module")
def s3():
    """A bucket on a server of the tests' own, asked but once where it is away."""
    from tests.bucket import running

    with running() as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(bucket, "ATTEMPTS", 1)
        patch.setattr(bucket, "ATTEMPTS_TO_REACH", 1)
        bucket._file_system.cache_clear()
        yield server
    bucket._file_system.cache_clear()


@pytest.fixture
def study(tmp_path):
    """A study of 4 trials that has not begun."""
    study = open_study(tmp_path, make_spec(), trials=4)
    yield study
    study.record.close()
