"""``tune-ddvae COMMAND``: the same commands as ``python -m tune_ddvae.COMMAND``."""

from typing import NoReturn

import click

from tune_ddvae.analyse import main as analyse
from tune_ddvae.cli import run
from tune_ddvae.doctor import main as doctor
from tune_ddvae.paper import main as paper
from tune_ddvae.studies import main as studies
from tune_ddvae.study import main as study
from tune_ddvae.sync import main as sync
from tune_ddvae.train import main as train

COMMANDS = click.Group(
    "tune-ddvae",
    commands={
        "analyse": analyse,
        "doctor": doctor,
        "paper": paper,
        "studies": studies,
        "study": study,
        "sync": sync,
        "train": train,
    },
    help="Studies of disentangling VAEs, never lost and honest about seeds.",
)


def main() -> NoReturn:
    """Entry point of the console script."""
    run(COMMANDS, "tune-ddvae")


if __name__ == "__main__":
    main()
