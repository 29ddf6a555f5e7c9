import dataclasses
import math

import pytest
import torch

from tests.training.tiny import CPU, tiny
from tune_ddvae.data import FactorGrid, load
from tune_ddvae.errors import DivergedError
from tune_ddvae.metrics import encoding
from tune_ddvae.metrics.encoding import encode, encode_grid
from tune_ddvae.metrics.streams import stream
from tune_ddvae.models import make_vae


@pytest.fixture
def pinwheel():
    config = tiny("pinwheel")
    return make_vae(config, stream(0, "initial weights")).eval(), load(config.data)


@torch.no_grad()
def test_encoding_in_batches_is_encoding_at_once(pinwheel, monkeypatch):
    vae, dataset = pinwheel
    monkeypatch.setattr(encoding, "_BATCH", 33)
    encodings = encode(vae, dataset, dataset.train, CPU, stream(0, "codes"))
    posterior = vae.encode(dataset.train.inputs)
    torch.testing.assert_close(encodings.posterior.mean, posterior.mean)
    torch.testing.assert_close(encodings.posterior.scale, posterior.scale)


@torch.no_grad()
def test_rows_of_a_grid_are_encoded_in_their_order(pinwheel, monkeypatch):
    vae, dataset = pinwheel
    monkeypatch.setattr(encoding, "_MEANS_BATCH", {"cpu": 7})
    inputs = dataset.train.inputs[:60]
    grid = FactorGrid(inputs, (3, 4, 5), ("a", "b", "c"))
    rows = torch.arange(60).flip(0)[::2]
    heard = []
    means = encode_grid(vae, dataset, grid, rows, CPU, lambda: heard.append(None))
    torch.testing.assert_close(means, vae.encode(inputs[rows]).mean)
    assert len(heard) == math.ceil(30 / 7)


@torch.no_grad()
def test_images_packed_eight_pixels_to_a_byte_are_encoded_as_images(monkeypatch):
    config = tiny("digits")
    vae = make_vae(config, stream(0, "initial weights")).eval()
    pixels = torch.randint(2, (12, 1, 16, 16), generator=stream(0, "pixels"))
    weights = 2 ** torch.arange(7, -1, -1)
    packed = (pixels.view(12, 32, 8) * weights).sum(2).to(torch.uint8)
    dataset = dataclasses.replace(load(config.data), packed_shape=(1, 16, 16))
    grid = FactorGrid(packed, (3, 4), ("a", "b"))
    means = encode_grid(vae, dataset, grid, torch.arange(12), CPU)
    torch.testing.assert_close(means, vae.encode(pixels.float()).mean)


@torch.no_grad()
def test_encodings_of_a_grid_that_are_not_finite_are_named(pinwheel):
    vae, dataset = pinwheel
    vae.encoder.mean.weight.fill_(math.nan)
    grid = FactorGrid(dataset.train.inputs[:12], (3, 4), ("a", "b"))
    with pytest.raises(DivergedError, match="posterior mean is nan for 12 of the 12 points"):
        encode_grid(vae, dataset, grid, torch.arange(12), CPU)
