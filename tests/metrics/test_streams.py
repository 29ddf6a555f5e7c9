import torch

from tune_ddvae.metrics.streams import stream


def _draws(seed, purpose):
    return torch.randn(4, generator=stream(seed, purpose)).tolist()


def test_seed_and_purpose_alone_decide():
    assert _draws(0, "noise") == _draws(0, "noise")


def test_seeds_that_differ_only_above_32_bits_draw_different_numbers():
    seeds = (0, 1, 2**32, 2**62, 2**63 - 1)
    assert len({tuple(_draws(seed, "noise")) for seed in seeds}) == len(seeds)


def test_purposes_draw_different_numbers():
    assert _draws(0, "noise") != _draws(0, "order")
