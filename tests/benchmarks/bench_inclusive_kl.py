"""Time of a pinwheel training step with the inclusive KL over that of one without.

Run       python -m tests.benchmarks.bench_inclusive_kl
Goal      at most 2 at batch 400 on one thread
"""

import time
from collections.abc import Callable

import click
import torch
from torch import Tensor, distributions

from tune_ddvae.config import (
    DataConfig,
    LikelihoodConfig,
    ModelConfig,
    ObjectiveConfig,
    PriorConfig,
    TrialConfig,
)
from tune_ddvae.models import Posterior, Prior, make_vae
from tune_ddvae.objectives import elbo

NUM = 400


def inclusive_kl_plain(posterior: Posterior, prior_sample: Tensor, prior: Prior) -> Tensor:
    """The formula as it stands, with an array of num x batch x latent."""
    components = distributions.Normal(posterior.mean, posterior.scale)
    each = components.log_prob(prior_sample.unsqueeze(1)).sum(-1)
    aggregate = each.logsumexp(1) - torch.tensor(float(len(posterior.mean))).log()
    return (prior.log_prob(prior_sample) - aggregate).mean()


def _step(alpha: float, plain: bool = False) -> Callable[[], None]:
    config = TrialConfig(
        data=DataConfig(name="pinwheel"),
        model=ModelConfig(latent_dim=2),
        prior=PriorConfig(kind="clustered"),
        likelihood=LikelihoodConfig(kind="normal"),
        objective=ObjectiveConfig(alpha=0.0 if plain else alpha, divergence="inclusive_kl"),
    )
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(NUM, 2, generator=generator)
    vae = make_vae(config, generator)
    optimiser = torch.optim.Adam(vae.parameters(), lr=1e-3, amsgrad=True)

    def step() -> None:
        total = elbo(vae, inputs, config.objective, generator).total
        if plain:
            prior_sample = vae.prior.sample(NUM, generator)
            total = total - alpha * inclusive_kl_plain(vae.encode(inputs), prior_sample, vae.prior)
        optimiser.zero_grad()
        (-total).backward()
        optimiser.step()

    return step


def main() -> None:
    """Measure in turns and print the ratio last."""
    torch.set_num_threads(1)
    steps = {"without": _step(0.0), "plain": _step(1.0, plain=True), "with": _step(1.0)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(200):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    median = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
    click.echo(", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in median.items()))
    click.echo(f"plain / without: {median['plain'] / median['without']:.2f}")
    click.echo(f"with / without: {median['with'] / median['without']:.2f}")


if __name__ == "__main__":
    main()
