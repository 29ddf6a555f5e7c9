"""How numbers, times, sizes, names, settings and metrics are written on every screen of a study."""

from collections.abc import Iterable, Mapping

from tune_ddvae.config import TrialConfig, Value
from tune_ddvae.spec import Choice, StudySpec, flat_space
from tune_ddvae.tuning.trials import Row

ACTIVE_UNITS = "latent/active_units"


def number(value: Value) -> str:
    """Four significant digits, whole numbers and words as they are."""
    if not isinstance(value, float):
        return "none" if value is None else str(value)
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def figure(value: float) -> str:
    """A metric in four significant digits, zeros kept, so that a column of them lines up."""
    return number(value) if abs(value) >= 1e4 else f"{value:#.4g}".rstrip(".")


def duration(seconds: float) -> str:
    """Seconds in the two largest units that they fill."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole < 600 and whole % 60 else "")
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours < 24:
        return f"{hours} h" + (f" {minutes} min" if minutes else "")
    return f"{hours // 24} d" + (f" {hours % 24} h" if hours % 24 else "")


def file_size(num_bytes: int) -> str:
    """Bytes in the unit that reads best."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def plural(noun: str, count: int | float) -> str:
    """The noun as it stands behind that count."""
    return noun if count == 1 else f"{noun}s"


def shown(text: str) -> str:
    """The text on one line, harmless to a terminal: what cannot be printed is escaped."""
    # No surrogate, line break, escape sequence or turn of the writing's direction is printable.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_line(doc: str) -> str:
    """The first line of a docstring that says something."""
    return next((line.strip() for line in doc.splitlines() if line.strip()), "")


def measured_on(config: TrialConfig) -> str:
    """Which data the unprefixed metrics come from."""
    return "validation" if config.has_validation else "test"


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Each key's last part, or its first for ``part/kind``; the whole key where that is not unique."""
    keys = list(keys)
    short = {
        key: key.partition("/")[0] if key.endswith("/kind") else key.rpartition("/")[2]
        for key in keys
    }
    names = list(short.values())
    return {key: name if names.count(name) == 1 else key for key, name in short.items()}


def searched(spec: StudySpec, config: Mapping[str, Value]) -> dict[str, Value]:
    """The searched keys of a configuration that have a meaning in it, inside the space or not."""
    found: dict[str, Value] = {}
    for key, dist in spec.space.items():
        found[key] = config[key]
        if isinstance(dist, Choice):
            inner = dist.options.get(str(config[key]), {})
            found.update({conditional: config[conditional] for conditional in inner})
    return found


def params_text(spec: StudySpec, config: Mapping[str, Value]) -> str:
    """The searched keys of a configuration on one line, in short names."""
    names = short_names(flat_space(spec.space))
    return ", ".join(
        f"{names[key]} {number(value)}" for key, value in searched(spec, config).items()
    )


def measured(row: Row, metric: str) -> str:
    """One metric of an evaluation."""
    value = row.metrics.get(metric)
    if value is None:
        return "absent"
    return str(int(value)) if metric == ACTIVE_UNITS else figure(value)


def measured_text(spec: StudySpec, row: Row | None) -> str:
    """The ranked metrics of an evaluation on one line, each with what belongs beside it."""
    if row is None:
        return ""
    return ", ".join(f"{metric} {measured(row, metric)}" for metric in shown_metrics(spec))


def shown_metrics(spec: StudySpec) -> tuple[str, ...]:
    """What a study ranks by; sparsity never without the units that it was taken over."""
    shown: list[str] = []
    for metric in spec.rank_by:
        shown.append(metric)
        if metric.startswith("sparsity/") and ACTIVE_UNITS not in shown:
            shown.append(ACTIVE_UNITS)
    return tuple(dict.fromkeys(shown))
