"""Time of the importance-weighted bound over that of a plain one, with equal noise.

Run       python -m tests.benchmarks.bench_iwae
Goal      at most 1/2.5 at K = 1,000 in float32, equal to 1e-4
"""

import copy
import math
import time
from collections.abc import Callable

import click
import torch
from torch import Tensor, distributions
from torch.nn import functional

from tune_ddvae.config import PriorConfig, TrialConfig
from tune_ddvae.models import VAE, make_vae
from tune_ddvae.objectives import importance_weighted_bound

NUM_SAMPLES, NUM_POINTS, CHUNK = 1000, 8, 128


@torch.no_grad()
def bound_plain(vae: VAE, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """All codes at once, through transposed convolutions in PyTorch's own layout."""
    posterior = vae.encode(inputs)
    # Drawn in the same portions, so that the noise is equal.
    portion = CHUNK // NUM_POINTS
    left = range(NUM_SAMPLES, 0, -portion)
    codes = torch.cat([posterior.sample(min(portion, num), generator) for num in left])
    log_likelihood = _decode_plain(vae, codes, inputs)
    log_posterior = distributions.Normal(posterior.mean, posterior.scale).log_prob(codes).sum(-1)
    weights = log_likelihood + vae.prior.log_prob(codes) - log_posterior
    return weights.logsumexp(0) - math.log(NUM_SAMPLES)


def _decode_plain(vae: VAE, codes: Tensor, inputs: Tensor) -> Tensor:
    decoder = vae.decoder
    hidden = functional.conv_transpose2d(
        codes.flatten(0, 1)[:, :, None, None], decoder.spread.weight
    )
    output = functional.conv_transpose2d(decoder.hidden(hidden), decoder.output.weight, None, 2, 1)
    location = output.view(*codes.shape[:2], *inputs.shape[1:])
    return distributions.Laplace(location, 0.1).log_prob(inputs).flatten(2).sum(-1)


def _measure(function: Callable[[torch.Generator], Tensor]) -> tuple[float, Tensor]:
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        bound = function(torch.Generator().manual_seed(1))
        best = min(best, time.perf_counter() - start)
    return best, bound


def main() -> None:
    """Measure both and print the ratio last."""
    generator = torch.Generator().manual_seed(0)
    vae = make_vae(TrialConfig(prior=PriorConfig(kind="sparse")), generator).eval()
    plain_vae = copy.deepcopy(vae).to(memory_format=torch.contiguous_format)
    inputs = torch.rand(NUM_POINTS, 1, 32, 32, generator=generator)
    plain_s, expected = _measure(lambda generator: bound_plain(plain_vae, inputs, generator))
    fast_s, found = _measure(
        lambda generator: importance_weighted_bound(vae, inputs, NUM_SAMPLES, generator, CHUNK)
    )
    difference = ((found - expected) / expected).abs().max().item()
    num_images = NUM_SAMPLES * NUM_POINTS
    click.echo(f"plain {num_images / plain_s:.0f} images/s, chunked {num_images / fast_s:.0f}")
    click.echo(f"relative difference of the bounds {difference:.1e}")
    click.echo(f"chunked / plain: 1/{plain_s / fast_s:.1f}")


if __name__ == "__main__":
    main()
