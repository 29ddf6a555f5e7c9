"""Measure and draw a trained model: ``python -m tune_ddvae.analyse RUN_OR_DIR``.

RUN is a trial's run in MLflow, DIR a checkpoint's folder or one with checkpoints in it. Everything is
measured on the test set, whatever the trial was ranked on.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from tune_ddvae import exit_codes
from tune_ddvae.cli import make_console, reader_may_go
from tune_ddvae.errors import TrackingError

MOST_SAMPLES = 1_000_000  # a thousand times the usual: more would take days
EPILOG = """Exit codes: 0 done, 1 a value is not as recorded, 2 refused, 3 MLflow did not take what was
found (it is in the folder all the same), 130 interrupted, 143 terminated."""


def _which(_context: click.Context, _parameter: click.Parameter, text: str) -> str | int:
    if text in ("last", "best"):
        return text
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise click.BadParameter(f"must be last, best or an epoch, got {text!r}")


@click.command(epilog=EPILOG)
@click.argument("run_or_dir", required=False)
@click.option("--save-dir", metavar="DIR", help="The same as DIR.")
@click.option("--disentanglement", is_flag=True, help="Scores on the factors, or on the class.")
@click.option("--sparsity", is_flag=True, help="Hoyer sparsity and active units.")
@click.option("--logp", is_flag=True, help="Importance-weighted likelihood, reconstruction and KL.")
@click.option(
    "--iwae-samples",
    type=click.IntRange(min=1, max=MOST_SAMPLES),
    help="K of the likelihood.  [1000]",
)
@click.option("--points", type=click.IntRange(min=1), help="Test points for it.  [1000]")
@click.option("--figures", is_flag=True, help="Every figure that applies, as PNG and PDF.")
@click.option(
    "--as-recorded",
    is_flag=True,
    help="Measure as training did, and compare with what the run recorded.",
)
@click.option(
    "--checkpoint",
    "which",
    default="last",
    show_default=True,
    callback=_which,
    metavar="last|best|EPOCH",
    help="Which epoch's; best as the study calls it.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data set's files are.")
@click.option(
    "--tracking-uri", help="MLflow; default MLFLOW_TRACKING_URI, else SQLite in the storage."
)
@click.option(
    "--storage", help="Folder or bucket (s3://...) of studies, if not where RUN says.  [./studies]"
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for results.")
@click.option("--no-cuda", is_flag=True, help="Compute on the CPU even where there is a GPU.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(
    run_or_dir: str | None,
    *,
    save_dir: str | None,
    disentanglement: bool,
    sparsity: bool,
    logp: bool,
    iwae_samples: int | None,
    points: int | None,
    figures: bool,
    as_recorded: bool,
    which: str | int,
    data_dir: Path | None,
    tracking_uri: str | None,
    storage: str | None,
    out: Path | None,
    no_cuda: bool,
    as_json: bool,
) -> None:
    """Measure and draw the model behind RUN_OR_DIR: a trial's MLflow run, or a checkpoint's folder.

    Without --disentanglement, --sparsity, --logp or --figures: all metrics, and the figures too.
    """
    if (run_or_dir is None) == (save_dir is None):
        raise click.UsageError("name one run of MLflow or one folder")
    if not (run_or_dir or save_dir or "").strip():
        given = "RUN_OR_DIR" if save_dir is None else "--save-dir"
        raise click.UsageError(f"{given} must name a run of MLflow or a folder, got nothing")
    asked = {"disentanglement": disentanglement, "sparsity": sparsity, "logp": logp}
    kinds = tuple(kind for kind, is_asked in asked.items() if is_asked)
    measures_logp = (logp or not (kinds or figures)) and not as_recorded
    if (iwae_samples or points) and not measures_logp:
        raise click.UsageError(
            "--iwae-samples and --points belong to --logp; --as-recorded takes the trial's own"
        )
    request = {
        "place": str(save_dir if run_or_dir is None else run_or_dir),
        "is_folder": run_or_dir is None,
        "kinds": kinds,
        "with_figures": figures,
        "as_recorded": as_recorded,
        "which": which,
        "num_samples": iwae_samples or 1000,
        "num_points": points or 1000,
        "data_dir": data_dir,
        "tracking_uri": tracking_uri,
        "storage": storage,
        "out": out,
        "may_use_cuda": not no_cuda,
    }
    # Torch, MLflow and Matplotlib take seconds to load: a wrong word never waits for them.
    from tune_ddvae.tuning.signals import signals_end

    with signals_end("the analysis is not finished; the same command begins it anew"):
        code = _run(request, make_console(as_json=as_json), as_json=as_json)
    sys.exit(code)


def _run(words: Mapping[str, Any], console: Console, *, as_json: bool) -> int:
    """Analyse, add it to the run if there is one, and show it; the exit code."""
    from tune_ddvae.tuning.analysing import analysing
    from tune_ddvae.tuning.analysing import screen as analysis_screen
    from tune_ddvae.tuning.analysing.files import add_to_run

    found = analysing.analyse(analysing.Request(**words), console)
    code = exit_codes.NO_SUCCESS if found.facts.get("differing") else exit_codes.COMPLETE
    is_in_run = found.run is not None
    try:
        if found.run is not None:
            with console.status("adding it to the run"):
                add_to_run(found.run, found.facts, found.files)
    except TrackingError as error:
        console.print(f"warning: {error}", markup=False, soft_wrap=True)
        code, is_in_run = exit_codes.WORK_LEFT, False
    with reader_may_go():  # the exit code is said in any case
        if as_json:
            click.echo(json.dumps(found.facts, indent=2))
        else:
            analysis_screen.show(found.facts, console, is_in_run=is_in_run)
    return code


if __name__ == "__main__":
    from tune_ddvae.cli import run

    run(main, "python -m tune_ddvae.analyse")
