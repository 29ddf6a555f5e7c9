"""Prepares a data set ahead of any study: ``python -m tune_ddvae.data [NAME]``."""

from pathlib import Path

import click

from tune_ddvae.config import DATASETS, DataConfig
from tune_ddvae.data import prepare
from tune_ddvae.errors import DataError


@click.command()
@click.argument("name", type=click.Choice(tuple(DATASETS)), default="fashion_mnist")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Folder with the data set's files; otherwise TUNE_DDVAE_DATA, or found, or fetched.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="data/seed.")
def main(name: str, data_dir: Path | None, seed: int) -> None:
    """Find or fetch the files of data set NAME, verify them and cache the resized images."""
    try:
        path = prepare(DataConfig(name=name, seed=seed), data_dir)
    except DataError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{name} is ready: {path}" if path else f"{name} needs no files")


if __name__ == "__main__":
    main()
