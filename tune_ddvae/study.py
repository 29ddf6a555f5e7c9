"""Run a study: ``python -m tune_ddvae.study NAME``. The same command again continues it."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from tune_ddvae.catalogue import StudyFile, find_study, known_studies
from tune_ddvae.cli import FiniteRange, make_console, pins_of, reader_may_go, words_given
from tune_ddvae.config import Value
from tune_ddvae.errors import ConfigError
from tune_ddvae.spec import StudySpec

MOST_HOURS = 87_600.0  # ten years: more than any clock here is asked for
EPILOG = """Exit codes: 0 complete with at least one success, 1 no trial succeeded, 2 refused, 3 stopped
with work left, 70 an error of our own, 130 interrupted, 143 terminated. With --submit: 0 sent or running
there already."""


@click.command(epilog=EPILOG)
@click.argument("name", required=False)
@click.option("--list", "list_studies", is_flag=True, help="List the known studies.")
@click.option("--dry-run", is_flag=True, help="Print the whole plan and create nothing.")
@click.option("--quick", is_flag=True, help="The study's small size, under a name of its own.")
@click.option("--trials", type=click.IntRange(min=1), help="How many trials in all.")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of a whole trial.")
@click.option("--first-rung", help="Epochs before any trial is stopped early, or none.")
@click.option("--max-concurrent", type=click.IntRange(min=1), help="Most trials at once.")
@click.option("--cpus-per-trial", type=FiniteRange(min=0, min_open=True), help="What one takes.")
@click.option("--gpus-per-trial", type=FiniteRange(min=0), help="May be a fraction.")
@click.option(
    "--memory-per-trial",
    type=FiniteRange(min=0.001, max=1e6),
    metavar="GB",
    help="Memory one takes: no more run at once than have it.",
)
@click.option(
    "--hours", type=FiniteRange(min=0, min_open=True, max=MOST_HOURS), help="Stop after so long."
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The study's seed."
)
@click.option(
    "--storage",
    default="./studies",
    show_default=True,
    help="Where studies are kept: a folder, or with --record a bucket (s3://...).",
)
@click.option("--record", metavar="URL", help="Keep the record in a PostgreSQL database.")
@click.option("--tracking-uri", help="MLflow; default MLFLOW_TRACKING_URI, else SQLite in storage.")
@click.option("--data-dir", type=click.Path(), help="Where the data set's files are.")
@click.option("--address", help="Join the Ray cluster at this address.")
@click.option(
    "--submit",
    metavar="URL",
    help="Send it as a job to the cluster with this dashboard, and return at once.",
)
@click.option("--name", "study_name", help="Keep the study under this name.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="PART/FIELD=VALUE",
    help="Fix any field for all trials; repeatable.",
)
@click.option("--published", is_flag=True, help="Train the paper's settings and nothing else.")
@click.option(
    "--replicates", type=click.IntRange(min=1), help="Seeds of each published setting (1)."
)
@click.option(
    "--only", multiple=True, metavar="SETTING", help="Of the published settings; repeatable."
)
@click.option("--no-published", is_flag=True, help="Do not train published settings first.")
@click.option("--no-report", is_flag=True, help="Draw no figures once it is complete.")
@click.option("--json", "as_json", is_flag=True, help="Print the result (or plan) as JSON.")
def main(
    name: str | None,
    *,
    list_studies: bool,
    dry_run: bool,
    quick: bool,
    trials: int | None,
    epochs: int | None,
    first_rung: str | None,
    max_concurrent: int | None,
    cpus_per_trial: float | None,
    gpus_per_trial: float | None,
    memory_per_trial: float | None,
    hours: float | None,
    seed: int,
    storage: str,
    record: str | None,
    tracking_uri: str | None,
    data_dir: str | None,
    address: str | None,
    submit: str | None,
    study_name: str | None,
    settings: Sequence[str],
    published: bool,
    replicates: int | None,
    only: Sequence[str],
    no_published: bool,
    no_report: bool,
    as_json: bool,
) -> None:
    """Run the study NAME, continue it, or extend it with a larger --trials.

    NAME is a file of search_spaces, a path to one, or a dotted module.
    """
    console = make_console(as_json=as_json)
    if list_studies:
        _print_studies(as_json=as_json)
        return
    if name is None:
        raise click.UsageError(f"name a study: {', '.join(known_studies())}")
    file = find_study(name)
    spec = sized_spec(
        file.spec,
        quick=quick,
        pins={**pins_of(settings), **({} if epochs is None else {"training/epochs": epochs})},
        trials=trials,
        hours=hours,
        first_rung=first_rung,
        no_published=no_published,
        published=published,
        replicates=replicates,
        only=only,
    )
    if study_name is None:
        study_name = _default_name(file, quick=quick, published=published)
    if submit is not None:
        places: dict[str, str | None] = {
            "record": record,
            "tracking_uri": tracking_uri,
            "data_dir": data_dir,
            "address": address,
        }
        _submit(
            file, study_name, submit, storage, places, console, dry_run=dry_run, as_json=as_json
        )
        return
    options = {
        "name": study_name,
        "seed": seed,
        "hours": hours,
        "max_concurrent": max_concurrent,
        "cpus_per_trial": cpus_per_trial,
        "gpus_per_trial": gpus_per_trial,
        "memory_per_trial": memory_per_trial,
        "storage": storage,
        "record": record,
        "tracking_uri": tracking_uri,
        "data_dir": data_dir,
        "address": address,
        "report": not no_report,
        "words": _words(),
    }
    _run(file, spec, options, console, dry_run=dry_run, as_json=as_json)


def sized_spec(
    spec: StudySpec,
    *,
    quick: bool = False,
    pins: Mapping[str, Value] | None = None,
    trials: int | None = None,
    hours: float | None = None,
    first_rung: str | None = None,
    no_published: bool = False,
    published: bool = False,
    replicates: int | None = None,
    only: Sequence[str] = (),
) -> StudySpec:
    """The study at the size that the options ask for.

    Raises:
        ConfigError: The options contradict the study or each other.
    """
    size = spec.quick if quick else spec.size
    if published:
        others = {
            "--trials": trials is not None,
            "--first-rung": first_rung is not None,
            "--no-published": no_published,
        }
        if any(others.values()):
            given = ", ".join(name for name, is_given in others.items() if is_given)
            raise ConfigError(
                f"--published trains each published setting whole, got {given} too; "
                "--replicates says how often, --set and --epochs change what is trained"
            )
        return spec.as_published(size, replicates or 1, pins, only)
    for option, value in (("--replicates", replicates), ("--only", " ".join(only) or None)):
        if value is not None:
            raise ConfigError(f"{option} belongs to --published, got {option} {value} without it")
    if trials is not None or hours is not None:
        size = dataclasses.replace(size, trials=trials)  # --hours alone: as many as fit
    if first_rung is not None:
        size = dataclasses.replace(size, first_rung=_rung(first_rung))
    sized = spec.resized(size, pins)
    return dataclasses.replace(sized, first=()) if no_published else sized


def _run(
    file: StudyFile,
    spec: StudySpec,
    options: Mapping[str, Any],
    console: Console,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    # Ray, MLflow and torch take seconds to load: a wrong word never waits for them.
    from tune_ddvae.tuning.assemble import Options, make_plan, make_request
    from tune_ddvae.tuning.planning import screen as plan_screen
    from tune_ddvae.tuning.reporting import summary_screen
    from tune_ddvae.tuning.session import run_session
    from tune_ddvae.tuning.signals import ending_in_time, terminate_cleanly

    terminate_cleanly()
    asked = Options(**options)
    if dry_run:
        planned = make_plan(file, spec, asked, console)
        if as_json:
            click.echo(json.dumps(planned.to_json(), indent=2))
        else:
            console.print(plan_screen.render(planned))
        return
    with ending_in_time():
        request = make_request(file, spec, asked, console)
        ended = run_session(request, console)
    with reader_may_go():  # the exit code is said in any case
        if as_json:
            click.echo(json.dumps(ended.summary.to_json(), indent=2))
        else:
            summary_screen.show(ended.summary, console)
    sys.exit(ended.exit_code)


def _submit(
    file: StudyFile,
    name: str,
    submit: str,
    storage: str,
    places: Mapping[str, str | None],
    console: Console,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    from tune_ddvae.tuning.jobs import order, submission
    from tune_ddvae.tuning.jobs import screen as submission_screen

    given = words_given(click.get_current_context(), but=("submit", "dry_run", "as_json"))
    asked = order.make_order(file, name, given, submit=submit, storage=storage, **places)
    if dry_run:
        package = asked.weigh()
        if as_json:
            click.echo(json.dumps(order.plan_json(asked, package), indent=2))
        else:
            submission_screen.show_plan(asked, package, console)
        return
    with console.status(f"sending the study to {asked.address}", spinner="line"):
        sent = submission.submit(asked, lambda line: console.print(Text(line), soft_wrap=True))
    if as_json:
        click.echo(json.dumps(sent.to_json(), indent=2))
    else:
        submission_screen.show_sent(sent, console)


def _default_name(file: StudyFile, *, quick: bool, published: bool) -> str:
    return file.name + "-published" * published + "-quick" * quick


def _rung(text: str) -> int | None:
    if text.lower() == "none":
        return None
    if text.isdecimal():
        return int(text)
    raise ConfigError(f"--first-rung must be a number of epochs or none, got {text!r}")


def _print_studies(*, as_json: bool) -> None:
    questions = {name: find_study(name).question for name in known_studies()}
    if as_json:
        click.echo(json.dumps(questions, indent=2))
        return
    width = max(map(len, questions))
    for name, question in questions.items():
        click.echo(f"{name:{width}}  {question}")


def _words() -> list[str]:
    """The command's own words, without those that only look."""
    is_alone = click.get_current_context().parent is None  # else its own name is one of them
    given = sys.argv[1:] if is_alone else sys.argv[2:]
    return [word for word in given if word not in ("--dry-run", "--json")]


if __name__ == "__main__":
    from tune_ddvae.cli import run

    run(main, "python -m tune_ddvae.study")
