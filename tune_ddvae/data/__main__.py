"""Prepares a data set ahead of any study: ``python -m tune_ddvae.data [NAME] [--fetch]``."""

from pathlib import Path

import click

from tune_ddvae import exit_codes
from tune_ddvae.config import DATASETS, DataConfig
from tune_ddvae.data import dsprites, place, prepare
from tune_ddvae.data.sources import DATA_VARIABLE, given_dir
from tune_ddvae.errors import DataError


class _Refusal(click.ClickException):
    exit_code = exit_codes.REFUSED


@click.command()
@click.argument("name", type=click.Choice(tuple(DATASETS)), default="fashion_mnist")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Folder with the data set's files; otherwise TUNE_DDVAE_DATA, or found, or fetched.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="data/seed.")
@click.option(
    "--fetch",
    is_flag=True,
    help="dsprites: download the published archive (26 MB), which is else drawn instead.",
)
def main(name: str, data_dir: Path | None, seed: int, fetch: bool) -> None:
    """Find or fetch the files of data set NAME, verify them and cache the images as used."""
    if fetch and name != "dsprites":
        raise click.UsageError(f"--fetch is for dsprites alone: {name} is fetched where need be")
    if fetch and given_dir(data_dir) is not None:
        raise click.UsageError(f"give --fetch or --data-dir (or {DATA_VARIABLE}), not both")
    config = DataConfig(name=name, seed=seed)
    try:
        if fetch:
            dsprites.fetch()
        path = prepare(config, data_dir)
        origin = place(config, data_dir)
    except DataError as error:
        raise _Refusal(str(error)) from error
    click.echo(f"{name} is ready: {path}, {origin}" if path else f"{name} needs no files")


if __name__ == "__main__":
    main()
