import pytest
import torch

from tune_ddvae.errors import ConfigError
from tune_ddvae.training.device import choose_device, describe_device, set_threads


@pytest.mark.parametrize(("num_cpus", "threads"), [(0, 1), (0.5, 1), (1, 1), (2, 2), (2.9, 2)])
def test_threads_are_the_trials_cpus(num_cpus, threads, monkeypatch):
    monkeypatch.delenv("TUNE_DDVAE_THREADS", raising=False)
    assert set_threads(num_cpus) == threads == torch.get_num_threads()


def test_the_users_own_number_of_threads_is_respected(monkeypatch):
    monkeypatch.setenv("TUNE_DDVAE_THREADS", "2")
    assert set_threads(1) == 2


@pytest.mark.parametrize("asked", ["0", "-1", "two", ""])
def test_a_number_of_threads_that_is_none_is_refused(asked, monkeypatch):
    monkeypatch.setenv("TUNE_DDVAE_THREADS", asked)
    with pytest.raises(ConfigError, match="TUNE_DDVAE_THREADS must be a whole number from 1"):
        set_threads(1)


def test_no_gpu_given_means_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_device() == torch.device("cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert choose_device() == torch.device("cuda")


def test_the_cpu_is_described():
    assert describe_device(torch.device("cpu")).startswith("cpu (")
