"""What the commands share: their console, fields set by name, and how each of them ends."""

import math
import os
import sys
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, NoReturn

import click
from click.core import ParameterSource
from rich.console import Console

from tune_ddvae import exit_codes
from tune_ddvae.config import Value, parse_value
from tune_ddvae.errors import BrokenOffError, ConfigError, DdvaeError, StorageFullError

LOG_WIDTH = 160


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
        with suppress(OSError):
            error.show()
        code = exit_codes.REFUSED
    except (BrokenOffError, StorageFullError) as error:
        _tell(f"error: {error}")
        code = exit_codes.WORK_LEFT
    except DdvaeError as error:
        _tell(f"error: {error}")
        code = exit_codes.REFUSED
    except (KeyboardInterrupt, click.Abort):
        _tell("interrupted: what was recorded is kept; the same command goes on")
        code = exit_codes.INTERRUPTED
    except SystemExit as error:  # a signal's says in a note how to go on
        for note in getattr(error, "__notes__", ()):
            _tell(note)
        raise
    except Exception:  # noqa: BLE001 - 1, Python's own code for it, means that no trial succeeded
        traceback.print_exc()
        code = exit_codes.OWN_FAULT
    sys.exit(code)


@contextmanager
def reader_may_go() -> Iterator[None]:
    """Let our output go where nobody takes it: what is left is said to nobody.

    A reader that has gone, as with ``| head``, did so on purpose; that a disk is full is told.
    """
    try:
        yield
    except OSError as error:
        if not _is_of_output(error):
            raise
        _give_up(sys.stdout, error)
    try:
        sys.stdout.flush()
    except OSError as error:
        _give_up(sys.stdout, error)


class FiniteRange(click.FloatRange):
    """A float within bounds, and no nan, which lies within any: no comparison with it fails."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number that the text means; a usage error where it is none."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class PatientConsole(Console):
    """Falls silent where nobody takes its output; Rich's own would end the command with 1."""

    def _write_buffer(self) -> None:
        try:
            super()._write_buffer()
        except OSError as error:
            self.quiet = True
            _give_up(self.file, error)


def make_console(*, as_json: bool) -> Console:
    """Where people read; results go to stdout alone under --json."""
    console = PatientConsole(stderr=as_json)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = LOG_WIDTH  # a log has no edge, and a folded path cannot be copied
    return console


def pins_of(settings: Sequence[str]) -> dict[str, Value]:
    """Value by flat key of what was given as ``--set part/field=value``.

    Raises:
        ConfigError: One is not of that form, names no field or no value of its type.
    """
    found: dict[str, Value] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set must be part/field=value, got {setting!r}")
        found[key.strip()] = parse_value(key.strip(), text)
    return found


def words_given(context: click.Context, but: Collection[str] = ()) -> list[str]:
    """The options that a command was given on its line, as words that give it the same again.

    Args:
        context: Of the command.
        but: Parameters to leave out, by their Python names.
    """
    words: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        if not isinstance(parameter, click.Option) or name in but or not is_given(context, name):
            continue
        option, value = parameter.opts[0], context.params[name]
        if parameter.is_flag:
            words.append(option)
        else:
            values = value if parameter.multiple else [value]
            words += [word for each in values for word in (option, str(each))]
    return words


def is_given(context: click.Context, name: str) -> bool:
    """Whether an option was given on the command's line, and not left at its default."""
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _is_of_output(error: OSError) -> bool:
    """Whether it was raised by writing what we show, and not by the command's own work."""
    if isinstance(error, BrokenPipeError):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_globals.get("__name__") == click.echo.__module__


def _give_up(file: IO[str], error: OSError) -> None:
    """Say the rest to nobody; what is still buffered would fail again when the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)
    if not isinstance(error, BrokenPipeError):
        _tell(f"the rest of the output is lost: it cannot be written ({error.strerror or error})")


def _tell(message: str) -> None:
    with suppress(OSError):  # nobody listens there either
        click.echo(message, err=True)
