"""What is shown of a study that is sent, or would be."""

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from tune_ddvae.tuning import provenance
from tune_ddvae.tuning.cluster.shipping import Package
from tune_ddvae.tuning.jobs.order import Order
from tune_ddvae.tuning.jobs.submission import Sent
from tune_ddvae.tuning.wording import file_size, plural

WIDTH = 12  # of the labels


def show_plan(order: Order, package: Package, console: Console) -> None:
    """Print what would be sent."""
    _show(console, f"Study {order.study}, as it would be sent; nothing was", _plan(order, package))


def show_sent(sent: Sent, console: Console) -> None:
    """Print what became of an order, and how to look at it."""
    order = sent.order
    if sent.holder is not None:
        title = f"Study {order.study} is running already, by {sent.holder}; nothing was sent"
    elif sent.package is None:
        title = f"Study {order.study} is already running there as job {sent.job}; nothing was sent"
    else:
        title = f"Study {order.study} is sent, as job {sent.job}"
    lines = [("to", order.address), ("storage", order.storage)]
    if sent.package is not None:
        lines.append(("package", _size_text(sent.package)))
    _show(console, title, lines)
    place = ["--record", order.record] if order.record else ["--storage", order.storage]
    where = [*place, "--address", order.address]
    studies = "tune_ddvae.studies"
    words = {
        "list": ["list", *where],
        "log": ["logs", order.study, "--follow", *where],
        "stop": ["stop", order.study, *where],
        "go on": ["resume", order.study, *where],
    }
    console.print(Text("Look at it", style="bold"))
    for label, line in words.items():
        _line(console, label, provenance.command(studies, line))


def _plan(order: Order, package: Package) -> Iterator[tuple[str, str]]:
    yield "to", order.address
    yield "storage", order.storage
    if order.record:
        yield "record", order.record
    yield "command", order.entrypoint
    for name, value in order.environment.items():
        yield "environment", f"{name}={value}"
    if not order.is_ours:
        yield "study file", order.file.path
    yield "package", _size_text(package)
    for position, largest in enumerate(package.largest()):
        yield "" if position else "largest", largest


def _size_text(package: Package) -> str:
    count = len(package.files)
    return f"{count} {plural('file', count)}, {file_size(package.bytes)}"


def _show(
    console: Console, title: str, lines: Iterator[tuple[str, str]] | list[tuple[str, str]]
) -> None:
    console.print(Text(title, style="bold"), soft_wrap=True)
    for label, value in lines:
        _line(console, label, value)


def _line(console: Console, label: str, value: str) -> None:
    """One line, however long: what is copied must not be folded."""
    console.print(Text(f"  {label:{WIDTH}}{value}"), soft_wrap=True)
