"""How every command ends: what we refuse is one message and a documented exit code."""

import os
import sys
from typing import NoReturn

import click

from tune_ddvae import exit_codes
from tune_ddvae.errors import DdvaeError


def run(command: click.Command) -> NoReturn:
    """Run a command; only our own bugs end in a traceback."""
    try:
        code = command.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = exit_codes.REFUSED
    except DdvaeError as error:
        click.echo(f"error: {error}", err=True)
        code = exit_codes.REFUSED
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = exit_codes.INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as with | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = exit_codes.COMPLETE
    sys.exit(code)
