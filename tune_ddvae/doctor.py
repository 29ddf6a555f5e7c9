"""What would a study lack here? ``python -m tune_ddvae.doctor [STUDY] [--address HOST:PORT]``.

Looks at every machine that would train, at the storage, at the record's database and at MLflow, and
says what to do about whatever is missing. It leaves nothing behind.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tune_ddvae import exit_codes
from tune_ddvae.catalogue import find_study
from tune_ddvae.cli import FiniteRange, make_console, reader_may_go

EPILOG = """Exit codes: 0 a study could run (what is marked ! is worth a look), 2 it could not, or an
option is refused."""


@click.command(epilog=EPILOG)
@click.argument("study", required=False)
@click.option("--address", help="Look at every node of the Ray cluster at this address.")
@click.option("--storage", default="./studies", show_default=True, help="Where studies are kept.")
@click.option("--record", metavar="URL", help="The record is in this PostgreSQL database.")
@click.option("--tracking-uri", help="MLflow; default MLFLOW_TRACKING_URI, else SQLite in storage.")
@click.option("--data-dir", type=click.Path(), help="Where the data set's files are.")
@click.option("--cpus-per-trial", type=FiniteRange(min=0, min_open=True), help="What one takes.")
@click.option("--gpus-per-trial", type=FiniteRange(min=0), help="May be a fraction.")
@click.option(
    "--memory-per-trial",
    type=FiniteRange(min=0.001, max=1e6),
    metavar="GB",
    help="Memory one takes: no more run at once than have it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def main(
    study: str | None,
    *,
    address: str | None,
    storage: str,
    record: str | None,
    tracking_uri: str | None,
    data_dir: str | None,
    cpus_per_trial: float | None,
    gpus_per_trial: float | None,
    memory_per_trial: float | None,
    as_json: bool,
) -> None:
    """Check whether STUDY (without one: any study) could run, on this machine or a cluster.

    Nothing is trained, fetched or left behind.
    """
    console = make_console(as_json=as_json)
    file = None if study is None else find_study(study)
    with _waiting(console) as tell:
        # Ray, MLflow and torch take seconds to load: a wrong word never waits for them.
        from tune_ddvae.tuning.doctor import screen as doctor_screen
        from tune_ddvae.tuning.doctor.doctoring import Question, examine
        from tune_ddvae.tuning.signals import terminate_cleanly

        terminate_cleanly()
        question = Question(
            file=file,
            address=address,
            storage=storage,
            record=record,
            tracking_uri=tracking_uri,
            data_dir=data_dir,
            cpus_per_trial=cpus_per_trial,
            gpus_per_trial=gpus_per_trial,
            memory_per_trial=memory_per_trial,
        )
        examination = examine(question, tell)
    with reader_may_go():  # the exit code is said in any case
        if as_json:
            click.echo(json.dumps(examination.to_json(), indent=2))
        else:
            console.print(doctor_screen.render(examination))
    sys.exit(exit_codes.COMPLETE if examination.can_run else exit_codes.REFUSED)


@contextmanager
def _waiting(console: Console) -> Iterator[Callable[[str], None]]:
    """Show what is being waited for, and for how long; in a log a line for each."""
    if not console.is_terminal:
        with redirect_stdout(console.file):  # Ray may print, and --json owns our stdout
            yield lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    columns = (SpinnerColumn("line"), TextColumn("{task.description}", markup=False))
    with (
        redirect_stdout(console.file),
        Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress,
    ):
        task = progress.add_task("loading")
        yield lambda text: progress.update(task, description=text)


if __name__ == "__main__":
    from tune_ddvae.cli import run

    run(main, "python -m tune_ddvae.doctor")
