"""Train one configuration: ``python -m tune_ddvae.train --model pinwheel``. The same command goes on."""

import difflib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from tune_ddvae.catalogue import find_study, known_studies
from tune_ddvae.cli import make_console, pins_of, reader_may_go
from tune_ddvae.config import FIELDS, OBJECTIVES, TrialConfig, Value, with_overrides
from tune_ddvae.errors import ConfigError
from tune_ddvae.training.options import (
    KEYS,
    REGULARISERS,
    VARIANCES,
    configured,
    differences,
)

LONGEST_NAME = 400
FOLDER = "runs"
# Each model with the study whose base configuration holds the paper's settings for it.
MODELS: Mapping[str, tuple[str, Mapping[str, Value]]] = {
    "dsprites": ("independence", {}),
    "pinwheel": ("clustering", {}),
    "fashion_mnist": ("sparsity", {}),
    "digits": (  # the smallest images, for a first try
        "sparsity",
        {
            "data/name": "digits",
            "data/num_validation": 0,
            "model/latent_dim": 8,
            "training/batch_size": 64,
        },
    ),
}
EPILOG = """Exit codes: 0 finished (with --from-run: and came out the same), 1 diverged, failed (with
--from-run: or came out differently), 2 refused, 3 stopped by a full disk, 130 interrupted, 143
terminated."""


@click.command(epilog=EPILOG)
@click.argument("setting", required=False, metavar="[STUDY/SETTING]")
@click.option("--from-run", metavar="RUN", help="Repeat the trial of this MLflow run, and compare.")
@click.option("--model", type=click.Choice(list(MODELS)), help="Data, networks and their defaults.")
@click.option("--obj", type=click.Choice(OBJECTIVES), help="Objective; decomp has weights.")
@click.option("--K", "K", type=int, help="Codes per point in training.")
@click.option("--beta", type=float, help="Weight of KL(q(z|x) || p(z)).")
@click.option("--alpha", type=float, help="Weight of the divergence of q(z) and p(z).")
@click.option("--regulariser", type=click.Choice(list(REGULARISERS)), help="That divergence.")
@click.option("--prior", help="Normal, StudentT, Sparse, Clustered or Anisotropic, in any case.")
@click.option("--gamma", type=float, help="Weight of the sparse prior's spike.")
@click.option("--df", type=float, help="Degrees of freedom of the Student-t prior.")
@click.option("--prior-variance", type=click.Choice(list(VARIANCES)), help="Of the normal prior.")
@click.option("--prior-variance-scale", type=float, help="Mean of its variances.")
@click.option("--learn-prior-variance", is_flag=True, help="Train the shares of its variances.")
@click.option("--latent-dim", type=int, help="Dimensions of a code.")
@click.option("--hidden-dim", type=int, help="Width of plain layers.")
@click.option("--num-hidden-layers", type=int, help="Number of plain layers.")
@click.option("--fBase", "fBase", type=int, help="Channels of the first convolution.")
@click.option("--epochs", type=int, help="How long; another number is another training.")
@click.option("--batch-size", type=int, help="Points a batch.")
@click.option("--lr", type=float, help="Adam's learning rate.")
@click.option("--beta1", type=float, help="Adam's first decay.")
@click.option("--beta2", type=float, help="Adam's second decay.")
@click.option("--seed", type=int, help="Of weights, order and noise (0).")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="PART/FIELD=VALUE",
    help="Set any field; repeatable.",
)
@click.option("--name", help="What it is called; default from model and settings.")
@click.option("--save-dir", type=click.Path(), help="Its own folder (runs/NAME).")
@click.option(
    "--save-freq",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Epochs between two checkpoints.",
)
@click.option("--skip-test", is_flag=True, help="Measure nothing but the training's own terms.")
@click.option("--no-cuda", is_flag=True, help="Compute on the CPU even where there is a GPU.")
@click.option("--data-dir", type=click.Path(), help="Where the data set's files are.")
@click.option("--tracking-uri", help="Log to this MLflow; with --from-run: where the run is.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(
    setting: str | None,
    *,
    from_run: str | None,
    model: str | None,
    settings: Sequence[str],
    name: str | None,
    save_dir: str | None,
    save_freq: int,
    skip_test: bool,
    no_cuda: bool,
    data_dir: str | None,
    tracking_uri: str | None,
    as_json: bool,
    **options: Value,
) -> None:
    """Train one configuration, or go on with it where it stopped.

    It is put together from the options, or is a setting that a study publishes, as in
    sparsity/gamma_0.8_alpha_100, or that of a tracked run. Metrics are measured on the test set.
    """
    console = make_console(as_json=as_json)
    given = {
        option.replace("_", "-"): value
        for option, value in options.items()
        if value is not None and value is not False  # 0 is a value like any other
    }
    request: dict[str, Any] = {
        "data_dir": None if data_dir is None else Path(data_dir).expanduser().absolute(),
        "save_every": save_freq,
        "is_evaluated": not skip_test,
        "may_use_gpu": not no_cuda,
    }
    if from_run is not None:
        _refuse_beside_run(setting, model, given, settings, skip_test=skip_test)
        request |= _repeated(from_run, tracking_uri)
    else:
        request |= _asked(setting, model, given, pins_of(settings))
        request["tracking_uri"] = tracking_uri
    request["name"] = _name(name, request["name"])
    request["folder"] = _folder(save_dir, request["name"])
    _run(request, console, as_json=as_json)


def _run(request: Mapping[str, Any], console: Console, *, as_json: bool) -> None:
    # torch takes seconds to load: a wrong word never waits for it.
    from tune_ddvae.tuning import provenance
    from tune_ddvae.tuning.addresses import without_password
    from tune_ddvae.tuning.one_training.session import Request, run_training
    from tune_ddvae.tuning.signals import terminate_cleanly

    terminate_cleanly()
    words = [without_password(word) for word in sys.argv[1:]]
    command = provenance.command("tune_ddvae.train", words)
    ended = run_training(Request(**{**request, "command": command}), console)
    with reader_may_go():  # the exit code is said in any case
        if as_json:
            click.echo(json.dumps(ended.result, indent=2))
        console.print(Text(ended.note), soft_wrap=True)
    sys.exit(ended.exit_code)


def _asked(
    setting: str | None, model: str | None, options: Mapping[str, Value], fixed: Mapping[str, Value]
) -> dict[str, Any]:
    """The configuration that options, or a published setting, mean."""
    if setting is not None:
        if model is not None:
            raise ConfigError(
                f"a published setting states its model: got {setting} and --model {model}"
            )
        base, published = _published(setting)
    elif model is not None:
        (study, changes), published = MODELS[model], {}
        base = with_overrides(find_study(study).spec.base, changes)
    else:
        raise ConfigError(
            f"name a --model ({', '.join(MODELS)}), a published setting (as in "
            "sparsity/gamma_0.8_alpha_100) or a tracked run with --from-run"
        )
    config = configured(base, options, published, fixed)
    what = setting or str(model)
    plain = configured(base, {}, published, {})
    return {
        "config": config,
        "name": default_name(what, config, plain),
        "setting": setting or "",
    }


def default_name(what: str, config: TrialConfig, plain: TrialConfig) -> str:
    """The model or setting, and how its configuration differs from the plain one."""
    changes = {**differences(config, plain), "training/seed": config.training.seed}
    parts = [
        f"{_short(key)} {value}"
        for key, value in changes.items()
        if value is not None  # another kind's field, or as published
    ]
    return ", ".join([what, *parts])


def _short(key: str) -> str:
    """The field as people call it: its last name, where no other field has that one too."""
    if KEYS.get(name := _last_name(key)) == key:  # the one whose option is called so
        return name
    return name if sum(_last_name(other) == name for other in FIELDS) == 1 else key


def _last_name(key: str) -> str:
    return key.removesuffix("/kind").rpartition("/")[2]


def _published(setting: str) -> tuple[TrialConfig, Mapping[str, Value]]:
    """Base and overrides of STUDY/SETTING."""
    study, _, name = setting.rpartition("/")
    if not study:
        raise ConfigError(
            f"a published setting must be STUDY/SETTING, got {setting!r}; studies: "
            f"{', '.join(known_studies())}"
        )
    spec = find_study(study).spec
    if name not in spec.published:
        near = difflib.get_close_matches(name, spec.published, n=5) or spec.published
        raise ConfigError(f"{study} publishes no setting {name!r}; there is: {', '.join(near)}")
    return spec.base, spec.published[name]


def _repeated(run_id: str, tracking_uri: str | None) -> dict[str, Any]:
    """The configuration of a tracked run, to be trained as far as that came."""
    from tune_ddvae.tuning.storage.folders import absolute
    from tune_ddvae.tuning.tracking.check import default_tracking_uri
    from tune_ddvae.tuning.tracking.tracked_run import fetch_run

    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    run = fetch_run(run_id, uri or default_tracking_uri(absolute("./studies")))
    if run.last_epoch < 1:
        raise ConfigError(
            f"{run} must have metrics to be compared with, but not an epoch of it is recorded: name "
            "another run"
        )
    return {"config": run.config, "name": f"repeat-{run.run_id[:12]}", "original": run}


def _refuse_beside_run(
    setting: str | None,
    model: str | None,
    options: Mapping[str, Value],
    settings: Sequence[str],
    *,
    skip_test: bool,
) -> None:
    others = {
        str(setting): setting is not None,
        "--model": model is not None,
        **{f"--{name}": True for name in options},
        "--set": bool(settings),
        "--skip-test": skip_test,
    }
    if any(others.values()):
        named = ", ".join(name for name, is_given in others.items() if is_given)
        raise ConfigError(f"--from-run repeats a run as it was, got {named} too")


def _name(name: str | None, default: str) -> str:
    if name is None:
        return default
    if not 0 < len(name.strip()) <= LONGEST_NAME:
        raise ConfigError(f"--name must have 1 to {LONGEST_NAME} characters, got {name!r}")
    return name


def _folder(save_dir: str | None, name: str) -> Path:
    from tune_ddvae.tuning.storage.folders import slug

    if save_dir is None:
        return Path(FOLDER).absolute() / slug(name, "training")
    if not save_dir.strip():
        raise ConfigError("--save-dir must name a folder, got nothing")
    return Path(save_dir).expanduser().absolute()


if __name__ == "__main__":
    from tune_ddvae.cli import run

    run(main, "python -m tune_ddvae.train")
