import pytest

from tests.training.tiny import TINY, one_thread, tiny
from tune_ddvae.config import TrialConfig


@pytest.fixture(params=list(TINY))
def config(request) -> TrialConfig:
    return tiny(request.param)


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield
