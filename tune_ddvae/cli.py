"""How every command ends: what we refuse is one message and a documented exit code."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click
from rich.console import Console

from tune_ddvae import exit_codes
from tune_ddvae.errors import DdvaeError


def run(command: click.Command, name: str) -> NoReturn:
    """Run a command that the user calls by that name; only our own bugs end in a traceback."""
    try:
        # Not command.main: that ends with 1 where the reader of our output has gone.
        code = exit_codes.COMPLETE
        with reader_may_go(), command.make_context(name, sys.argv[1:]) as context:
            command.invoke(context)
    except click.exceptions.Exit as error:  # --help and the like
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = exit_codes.REFUSED
    except DdvaeError as error:
        click.echo(f"error: {error}", err=True)
        code = exit_codes.REFUSED
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = exit_codes.INTERRUPTED
    sys.exit(code)


@contextmanager
def reader_may_go() -> Iterator[None]:
    """Let the reader of our output go, as with ``| head``: what is left is said to nobody."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout.fileno())


class PatientConsole(Console):
    """Falls silent where its reader has gone; Rich's own would end the command with 1."""

    def on_broken_pipe(self) -> None:
        """Say what is left to nobody."""
        self.quiet = True
        _silence(self.file.fileno())


def _silence(file_descriptor: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), file_descriptor)
