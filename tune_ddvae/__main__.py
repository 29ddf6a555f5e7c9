"""``tune-ddvae COMMAND``: the same commands as ``python -m tune_ddvae.COMMAND``."""

from typing import NoReturn

import click

from tune_ddvae.cli import run
from tune_ddvae.study import main as study

COMMANDS = click.Group(
    "tune-ddvae",
    commands={"study": study},
    help="Studies of disentangling VAEs, never lost and honest about seeds.",
)


def main() -> NoReturn:
    """Entry point of the console script."""
    run(COMMANDS, "tune-ddvae")


if __name__ == "__main__":
    main()
