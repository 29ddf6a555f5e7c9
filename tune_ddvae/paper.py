"""Every figure of the paper, from its own settings: ``python -m tune_ddvae.paper [--quick]``.

Each part is a command that could be typed by itself, and goes on where it stopped: so does this one.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from tune_ddvae import exit_codes
from tune_ddvae.cli import PatientConsole
from tune_ddvae.errors import StorageError
from tune_ddvae.tuning.storage.bucket import is_address

STUDIES = ("sparsity", "clustering", "independence")
OPENING = "opening"
# In the reduced size: one epoch of Fashion-MNIST, 10,000 sprites a run; a pinwheel run takes seconds.
REDUCED = {
    "sparsity": (
        "--quick --epochs 3 --set training/images_per_epoch=20000 --set data/num_train=none "
        "--set objective/beta=1"
    ),
    "clustering": "",
    "independence":  # Small batches: 156 steps of the paper's 64 leave most settings collapsed.
    "--quick --epochs 2 --set training/images_per_epoch=5000 --set training/batch_size=16"
    + "".join(
        f" --only {prior}_beta_{beta}"
        for beta in (1, 4, 16)
        for prior in ("normal", "pca_fixed", "pca_learned", "student_t_9")
    ),
}


@click.command()
@click.option("--quick", is_flag=True, help="Reduced size: two seeds, minutes in place of days.")
@click.option(
    "--replicates", type=click.IntRange(min=1), help="Seeds of each setting (8; with --quick 2)."
)
@click.option("--storage", default="./studies", show_default=True, help="Where studies are kept.")
@click.option("--tracking-uri", help="MLflow; default MLFLOW_TRACKING_URI, else SQLite in storage.")
@click.option(
    "--data-dir",
    type=click.Path(),
    help="Folder with FashionMNIST/raw/ and dsprites-dataset/, as downloads lay them out.",
)
def main(
    *,
    quick: bool,
    replicates: int | None,
    storage: str,
    tracking_uri: str | None,
    data_dir: str | None,
) -> None:
    """Train the published settings of all three studies and draw every figure of the paper."""
    if is_address(storage):
        raise StorageError(
            f"--storage {storage}: the paper's figures are drawn into a folder of this machine; name a "
            "folder, or send each study to the bucket with tune_ddvae.study NAME --published"
        )
    console = PatientConsole()
    place = Path(storage).expanduser().absolute()
    shared = ["--storage", str(place)]
    shared += ["--tracking-uri", tracking_uri] if tracking_uri else []
    shared += ["--data-dir", data_dir] if data_dir else []
    _check_data(None if data_dir is None else Path(data_dir))
    for study in STUDIES:
        size = REDUCED[study].split() if quick else []
        seeds = replicates or (2 if quick else 8)
        _run("study", [study, "--published", "--replicates", str(seeds), *size, *shared], console)
    _opening(place / OPENING, console)
    ending = "-published-quick" if quick else "-published"
    names = [f"{name}{ending if REDUCED[name] else '-published'}" for name in STUDIES]
    for folder in (*(f"{name}/report" for name in names), OPENING):
        for picture in sorted(place.glob(f"{folder}/**/*.png")):
            console.print(str(picture), soft_wrap=True, highlight=False)


def _run(command: str, words: Sequence[str], console: Console) -> None:
    """Run one of our commands; where it stops with work left or fails, so does this one."""
    line = [sys.executable, "-m", f"tune_ddvae.{command}", *words]
    console.rule(f"{command} {' '.join(words[:1])}")
    # A session of its own: each signal reaches it once, from us, and it takes its time to stop.
    with subprocess.Popen(line, start_new_session=True) as child, _passing_on(child):  # noqa: S603
        code = child.wait()
    if code != exit_codes.COMPLETE:
        console.print(f"{command} ended with exit code {code}; the same command goes on")
        sys.exit(code if code > 0 else 128 - code)


@contextmanager
def _passing_on(child: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Let the child have the signals that would end us; a closed terminal terminates it."""
    meant = {
        signal.SIGINT: signal.SIGINT,
        signal.SIGTERM: signal.SIGTERM,
        signal.SIGHUP: signal.SIGTERM,
    }
    before = {
        number: signal.signal(number, lambda *_, passed=passed: child.send_signal(passed))
        for number, passed in meant.items()
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_data(data_dir: Path | None) -> None:
    """Refuse missing data of the last study before the first one has trained for hours."""
    from tune_ddvae import data
    from tune_ddvae.catalogue import find_study

    for study in STUDIES:
        data.place(find_study(study).spec.base.data, data_dir)


def _opening(folder: Path, console: Console) -> None:
    """The opening picture, from three models that are trained first."""
    # torch and matplotlib take seconds to load: a wrong option never waits for them.
    from tune_ddvae.analysis.model import find_checkpoints, open_checkpoint
    from tune_ddvae.analysis.opening import OPENING as SETTINGS
    from tune_ddvae.analysis.opening import opening_picture
    from tune_ddvae.plots.style import save_figure

    models = []
    for title, overrides in SETTINGS.items():
        place = folder / title.replace(" ", "-")
        words = ["--model", "pinwheel", "--save-dir", str(place), "--save-freq", "500"]
        words += [word for key, value in overrides.items() for word in _set(key, value)]
        _run("train", words, console)
        models.append(open_checkpoint(find_checkpoints(place).at(None, str(place))))
    try:
        save_figure(opening_picture(models, list(SETTINGS)), folder, "opening")
    except OSError as error:
        raise StorageError(f"cannot write the opening picture into {folder}: {error}") from error


def _set(key: str, value: object) -> Iterator[str]:
    yield from ("--set", f"{key}={value}")


if __name__ == "__main__":
    from tune_ddvae.cli import run

    run(main, "python -m tune_ddvae.paper")
