"""Look after studies: ``python -m tune_ddvae.studies list|logs|stop|resume``.

Those of this machine, of a storage that others share, and those that were sent to a cluster.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
from rich.text import Text

from tune_ddvae import exit_codes
from tune_ddvae.cli import PatientConsole, is_given, make_console, reader_may_go

Command = TypeVar("Command", bound=Callable[..., None])
EPILOG = """Exit codes: 0 done, 2 refused. stop: 0 it does not run (any more), 3 it had to be killed, or
has not ended. resume: those of study."""


def _places(command: Command) -> Command:
    """Options that say where studies are."""
    for option in (
        click.option(
            "--address",
            metavar="URL",
            envvar="RAY_API_SERVER_ADDRESS",
            show_envvar=True,
            help="Of a cluster's dashboard: ask for its jobs too.",
        ),
        click.option("--record", metavar="URL", help="Records are in this PostgreSQL database."),
        click.option(
            "--storage", default="./studies", show_default=True, help="Where studies are kept."
        ),
    ):
        command = option(command)
    return command


@click.group(epilog=EPILOG)
def main() -> None:
    """Look after studies, here and on a cluster."""


@main.command("list")
@_places
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def list_command(*, storage: str, record: str | None, address: str | None, as_json: bool) -> None:
    """Every study of a storage, what changed last first; reads only."""
    from tune_ddvae.tuning.addresses import without_password
    from tune_ddvae.tuning.record.postgresql import server_address
    from tune_ddvae.tuning.storage.place import place_at
    from tune_ddvae.tuning.studies import listing
    from tune_ddvae.tuning.studies import screen as listing_screen
    from tune_ddvae.tuning.studies.listed import with_jobs

    console = make_console(as_json=as_json)
    studies = listing.list_studies(storage, record, may_be_missing=address is not None)
    place = str(place_at(storage)) if record is None else without_password(server_address(record))
    where = place if record is None else without_password(record)
    if address is not None:
        from tune_ddvae.tuning.jobs.server import JobServer

        looked_at = place if record is not None or Path(place).is_dir() else ""
        studies = with_jobs(studies, JobServer(address).jobs(), looked_at)
        where += f" and at {address}"
    with reader_may_go():
        if as_json:
            click.echo(json.dumps([study.to_json() for study in studies], indent=2))
        else:
            listing_screen.show(studies, where, console)


@main.command()
@click.argument("name")
@_places
@click.option("--follow", is_flag=True, help="Go on until the job ends.")
def logs(name: str, *, storage: str, record: str | None, address: str | None, follow: bool) -> None:
    """What the newest job of study NAME printed; where to look, if it is no job."""
    from tune_ddvae.tuning.signals import signals_end
    from tune_ddvae.tuning.studies import finding

    found = finding.find(
        name, storage=storage, record=record, address=address, anywhere=_is_anywhere()
    )
    if found.server is None or not found.jobs:
        for line in finding.where_it_prints(found):
            click.echo(line)
        return
    job = found.jobs[0]
    with reader_may_go():
        if follow:
            with signals_end("the job goes on"):
                found.server.follow(job.id, lambda text: click.echo(text, nl=False))
        else:
            click.echo(found.server.log(job.id), nl=False)
    click.echo(f"job {job.id}: {found.server.job(job.id).status}", err=True)


@main.command()
@click.argument("name")
@_places
def stop(name: str, *, storage: str, record: str | None, address: str | None) -> None:
    """End study NAME as Ctrl-C does, and wait until it has: its jobs, and its driver on this host."""
    from tune_ddvae.tuning.signals import terminate_cleanly
    from tune_ddvae.tuning.studies import finding, stopping
    from tune_ddvae.tuning.wording import shown

    terminate_cleanly()
    found = finding.find(
        name, storage=storage, record=record, address=address, anywhere=_is_anywhere()
    )
    waiting = Text(f"waiting for {shown(name)} to end")  # a name is no markup
    with PatientConsole(stderr=True).status(waiting, spinner="line"):
        ending = stopping.stop(found, record)
    click.echo(ending.text)
    sys.exit(ending.exit_code)


@main.command()
@click.argument("name")
@_places
@click.option("--tracking-uri", help="MLflow, where its address was recorded without its password.")
def resume(
    name: str, *, storage: str, record: str | None, address: str | None, tracking_uri: str | None
) -> None:
    """Go on with study NAME by the words of its last start; a job is sent again."""
    from tune_ddvae.tuning.jobs.holding import living
    from tune_ddvae.tuning.studies import finding, resuming
    from tune_ddvae.tuning.wording import shown

    found = finding.find(
        name, storage=storage, record=record, address=address, anywhere=_is_anywhere()
    )
    study = found.study
    holder = living(lambda: found.holder(record), lambda line: click.echo(line, err=True))
    if holder is not None:
        click.echo(f"study {shown(name)} is running already: {holder}")
        sys.exit(exit_codes.COMPLETE)
    words = resuming.resumed_words(found, record=record, tracking_uri=tracking_uri, address=address)
    PatientConsole(stderr=True).print(Text(shown(resuming.command(words))), soft_wrap=True)
    resuming.become_study(words, "" if study is None or found.jobs else study.folder)


def _is_anywhere() -> bool:
    """Whether the storage was left at its default, which means nothing to a cluster."""
    return not is_given(click.get_current_context(), "storage")


if __name__ == "__main__":
    from tune_ddvae.cli import run

    run(main, "python -m tune_ddvae.studies")
