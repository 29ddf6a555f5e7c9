"""One Fashion-MNIST epoch against the float32 matrix rate of the same run, and evaluation's share.

Run    python -m tests.benchmarks.bench_epoch
Goal   epoch / limit at most 1.2 at alpha 0 and 1.5 at alpha 100; evaluation at most 15 %

The limit is 60,000 images of 54 MFLOP each, 3.2 TFLOP, at the rate at which this machine multiplies
large float32 matrices. Fewer images are scaled up to 60,000.
"""

import statistics
import time

import click
import torch

from search_spaces.sparsity import STUDY
from tune_ddvae.config import with_overrides
from tune_ddvae.data import load
from tune_ddvae.training.device import choose_device, describe_device
from tune_ddvae.training.trainer import Trainer

_IMAGES = 60_000
_EPOCH_FLOP = 3.2e12
_SIDE = 2048


def matrix_rate(device: torch.device, repeats: int = 20) -> float:
    """Median float32 FLOP a second of multiplying two large square matrices."""
    left, right = (torch.randn(_SIDE, _SIDE, device=device) for _ in range(2))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        float((left @ right)[0, 0])  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    return 2 * _SIDE**3 / statistics.median(seconds)


@click.command(help=__doc__)
@click.option("--images", default=12_000, show_default=True, help="Training images of an epoch.")
@click.option("--epochs", default=3, show_default=True, help="Timed epochs; the median counts.")
@click.option("--alpha", "alphas", multiple=True, type=float, default=(0.0, 100.0))
def main(images: int, epochs: int, alphas: tuple[float, ...]) -> None:
    device = choose_device()
    click.echo(f"{describe_device(device)}, {torch.get_num_threads()} threads, {images} images")
    lines = []
    for alpha in alphas:
        config = with_overrides(
            STUDY.base,
            {
                "data/num_train": images,
                "objective/alpha": alpha,
                "training/epochs": epochs + 2,  # one warms up; the last one measures the test set
            },
        )
        trainer = Trainer(config, load(config.data), device)
        trainer.step()
        ratios, shares = [], []
        before = matrix_rate(device)
        for _ in range(epochs):
            metrics = trainer.step().metrics
            after = matrix_rate(device)
            rate = (before + after) / 2  # of the same minute: the machine may be shared
            epoch = metrics["training/seconds"] * _IMAGES / images
            evaluation = metrics["training/evaluation_seconds"]
            click.echo(
                f"alpha {alpha:g}: {rate / 1e9:.0f} GFLOP/s, epoch {epoch:.1f} s, "
                f"evaluation {evaluation:.2f} s"
            )
            ratios.append(epoch / (_EPOCH_FLOP / rate))
            shares.append(evaluation / (epoch + evaluation))
            before = after
        lines.append(
            f"alpha {alpha:g}: epoch / limit {statistics.median(ratios):.2f}, "
            f"evaluation's share {statistics.median(shares):.1%}"
        )
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()
