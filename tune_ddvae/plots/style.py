"""One look for all figures, and how they are written.

Figures are five inches wide at most: shrunk to a paper's column of 3.25 inches, the smallest letters
are five and a half points high.
"""

import contextlib
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from tune_ddvae.errors import StorageError

WIDTH = 5.0  # inches
_LETTERS_PER_INCH = 14.5  # of the titles' size, on average
_LINE = 0.165  # inches from one line of a title to the next

# Petroff (2021), arXiv:2107.02270: ten colours chosen to be told apart with any colour vision.
# The greys come last.
COLOURS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#832db6",
    "#92dadd",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#94a4a2",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # seven by ten: no two of 70 classes look alike
ACTIVE, INACTIVE, REFERENCE = COLOURS[0], "#c8c8c8", "#303030"
DENSITY_MAP = "viridis"

_RC: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with Matplotlib: the same letters on every machine
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.titlepad": 5.0,
    "axes.labelsize": 9.5,
    "figure.titlesize": 9.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.2,
    "figure.dpi": 100.0,
    "savefig.dpi": 220.0,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.04,
    "pdf.fonttype": 42,  # letters stay letters: a PDF can be searched and edited
}
# Starts from the library's defaults, so that nobody's own settings change a figure. A decorator.
styled = matplotlib.style.context(["default", dict(_RC)])


def new_figure(
    height: float, title: str, layout: Literal["constrained", "compressed"] = "constrained"
) -> Figure:
    """An empty figure with a title above it; its parts are laid out without overlap.

    Args:
        height: Inches below the title.
        title: Lines that are too long for the width are broken.
        layout: "compressed" for panels that keep their shape.
    """
    letters = int(WIDTH * _LETTERS_PER_INCH)
    lines = [part for line in title.splitlines() for part in _wrapped(line, letters)]
    figure = Figure(figsize=(WIDTH, height + _LINE * (len(lines) + 1)), layout=layout)
    figure.suptitle("\n".join(lines))
    return figure


def _wrapped(line: str, letters: int) -> list[str]:
    """Lines of at most so many letters, broken after commas where that is enough."""
    if len(line) <= letters or max(map(len, line.split(", "))) >= letters:
        return textwrap.wrap(line, letters)
    lines: list[str] = []
    for part in line.split(", "):
        if lines and len(lines[-1]) + len(part) + 3 <= letters:  # two commas and a space
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return [*(f"{full}," for full in lines[:-1]), lines[-1]]


def class_style(number: int) -> tuple[str, str]:
    """Colour and marker of a class, by its index; a pair comes back after 70 classes only."""
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]


def class_legend(figure: Figure, axes: Axes, num_columns: int = 5) -> None:
    """A legend of what ``axes`` shows, below all panels; markers are large enough to see."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=num_columns,
            markerscale=2.0,
            borderpad=0.8,
        )


def subscript(letter: str, index: int) -> str:
    """A dimension's name, as figures write it."""
    return f"{letter}$_{{{index}}}$"


def thinned(labels: Sequence[str], most: int) -> list[str]:
    """The labels with all but every k-th blank, so that at most ``most`` are left."""
    step = -(-len(labels) // most)
    return [label if i % step == 0 else "" for i, label in enumerate(labels)]


def colour_map(name: str) -> Colormap:
    """A colour map that leaves what has no value white."""
    return matplotlib.colormaps[name].with_extremes(bad="white")


@styled
def save_figure(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write NAME.png and NAME.pdf; the same figure gives the same bytes at any time.

    A file that is there already is replaced in one step: no reader ever meets half a figure.

    Args:
        figure: What to write.
        folder: Where to; made if it is missing.
        name: Of both files, without an ending.

    Raises:
        StorageError: The folder cannot be written to; names the file.
    """
    metadata: Mapping[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None},
    }
    png, pdf = (folder / f"{name}.{ending}" for ending in metadata)
    for path, (ending, facts) in zip((png, pdf), metadata.items(), strict=True):
        aside = path.with_name(f".{path.name}.part")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(aside, format=ending, metadata=facts)
            aside.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            raise StorageError(
                f"cannot write the figure {path}: {error.strerror or error}; "
                "name a folder that can be written to and has space left"
            ) from error
    return png, pdf
