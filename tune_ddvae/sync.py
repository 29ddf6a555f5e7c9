"""Send MLflow what it lacks of a study: ``python -m tune_ddvae.sync STUDY``.

For a study that ran while its tracking server was away, or whose driver was killed. The record is all
that is needed; what is there already is not sent twice.
"""

import sys

import click

from tune_ddvae import exit_codes
from tune_ddvae.cli import PatientConsole

EPILOG = """Exit codes: 0 MLflow shows everything that the record holds, 2 refused, 3 something is still
missing there."""


@click.command(epilog=EPILOG)
@click.argument("study")
@click.option(
    "--storage",
    default="./studies",
    show_default=True,
    help="Where studies are kept: a folder, or with --record a bucket (s3://...).",
)
@click.option("--record", metavar="URL", help="The record is in this PostgreSQL database.")
@click.option(
    "--tracking-uri",
    help="MLflow; default MLFLOW_TRACKING_URI, else wherever the study was tracked.",
)
def main(study: str, *, storage: str, record: str | None, tracking_uri: str | None) -> None:
    """Bring MLflow up to where the record of STUDY is.

    A study that is running does that by itself, and is left alone. Runs that a killed driver left
    open are closed, runs that were deleted in MLflow are made again.
    """
    from tune_ddvae.tuning.catch_up import catch_up
    from tune_ddvae.tuning.signals import terminate_cleanly
    from tune_ddvae.tuning.wording import plural

    terminate_cleanly()
    console = PatientConsole(stderr=True)
    with console.status(f"bringing MLflow up to date with {study}", spinner="line"):
        sent = catch_up(
            study,
            storage=storage,
            record=record,
            tracking_uri=tracking_uri,
            notes=lambda note: console.print(note, markup=False, soft_wrap=True),
        )
    for one in sent:
        evaluations, runs = plural("evaluation", one.rows_sent), plural("run", one.runs_sent)
        click.echo(
            f"sent {one.rows_sent} {evaluations}; {one.runs_sent} {runs} described or closed"
        )
        click.echo(str(one))
    if not all(one.is_whole for one in sent):
        sys.exit(exit_codes.WORK_LEFT)


if __name__ == "__main__":
    from tune_ddvae.cli import run

    run(main, "python -m tune_ddvae.sync")
