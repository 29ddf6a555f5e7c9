"""One published setting on all of Fashion-MNIST, in this process alone: numbers for the README.

Run    python -m tests.benchmarks.train_published [--alpha 100] [--epochs 3]
"""

import click

from search_spaces.sparsity import STUDY
from tune_ddvae.config import with_overrides
from tune_ddvae.data import load
from tune_ddvae.training.device import choose_device, describe_device
from tune_ddvae.training.trainer import Trainer
from tune_ddvae.tuning.provenance import commit

SHOWN = (
    "training/objective",
    "sparsity/hoyer_all",
    "sparsity/hoyer",
    "latent/active_units",
    "latent/kl",
    "log_likelihood/reconstruction",
    "log_likelihood/iwae",
    "divergence/mmd",
    "training/seconds",
    "training/evaluation_seconds",
)


@click.command(help=__doc__)
@click.option("--alpha", "alphas", multiple=True, type=float, default=(100.0, 0.0))
@click.option("--epochs", default=3, show_default=True)
def main(alphas: tuple[float, ...], epochs: int) -> None:
    device = choose_device()
    click.echo(f"commit {commit()}, {describe_device(device)}")
    click.echo(f"| alpha | epoch | {' | '.join(SHOWN)} |")
    click.echo("|---|---|" + "---|" * len(SHOWN))
    for alpha in alphas:
        config = with_overrides(
            STUDY.base,
            {
                **STUDY.published["gamma_0.8_alpha_100"],
                "objective/alpha": alpha,
                "data/num_validation": 0,  # as in the paper: all images train, the test set measures
                "training/epochs": epochs,
                "training/seed": 0,
            },
        )
        trainer = Trainer(config, load(config.data), device)
        while not trainer.is_done:
            result = trainer.step()
            values = " | ".join(f"{result.metrics[name]:.4g}" for name in SHOWN)
            click.echo(f"| {alpha:g} | {result.epoch} | {values} |")


if __name__ == "__main__":
    main()
