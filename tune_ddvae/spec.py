"""A study as data: what varies, what it ranks by, its sizes and the paper's settings.

A ``StudySpec`` checks itself when it is built: both ends of every range are decoded into a
``TrialConfig``, so that a wrong name or bound stops before anything is created.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from tune_ddvae.config import (
    METRICS,
    Direction,
    TrialConfig,
    Value,
    checked_key,
    to_flat,
    unmet_need,
    with_overrides,
)
from tune_ddvae.errors import ConfigError

SEED = "training/seed"


@dataclass(frozen=True)
class Choice:
    """One option of several, each with the ranges that have a meaning only under it."""

    options: Mapping[str, Mapping[str, BaseDistribution]]


Space = Mapping[str, BaseDistribution | Choice]
Overrides = Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class StudySize:
    """How much a study trains."""

    trials: int | None  # None: as many as the hours allow
    first_rung: int | None  # epochs; None: no trial is stopped early
    reduction_factor: int = 3  # of each rung's trials one in so many goes on
    startup_trials: int = 10  # drawn at random before the sampler models anything
    overrides: Overrides = field(default_factory=dict)  # of the base configuration

    def __post_init__(self) -> None:
        _check_type("trials", self.trials, int, type(None))
        _check_type("first_rung", self.first_rung, int, type(None))
        _check_type("reduction_factor", self.reduction_factor, int)
        _check_type("startup_trials", self.startup_trials, int)
        _check_mapping("overrides", self.overrides)


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """One study. ``rank_by`` names metrics and directions; the first decides at rungs."""

    rank_by: Mapping[str, Direction]
    base: TrialConfig
    space: Space
    size: StudySize
    quick: StudySize  # the same study, small enough for a laptop
    published: Mapping[str, Overrides] = field(default_factory=dict)
    first: tuple[str, ...] = ()  # published settings trained before the search proposes
    # Published settings that alone are trained, in rounds: round r trains each of them with seed r.
    replicated: tuple[str, ...] = ()
    sampler: str = "tpe"  # or "random"

    def __post_init__(self) -> None:
        _check_types(self)
        _check_metrics(self.rank_by)
        _check_space(self.base, self.space, self.rank_by)
        for name, setting in self.published.items():
            _decoded(self.base, setting, f"published setting {name!r}")
        for field_name, names in (("first", self.first), ("replicated", self.replicated)):
            for name in names:
                if name not in self.published:
                    raise ConfigError(
                        f"{field_name} names {name!r}; published settings: "
                        f"{', '.join(self.published) or 'none'}"
                    )
        if self.sampler not in ("tpe", "random"):
            raise ConfigError(f"sampler must be tpe or random, got {self.sampler!r}")
        for size in (self.size, self.quick):
            resized = _decoded(self.base, size.overrides, "size")
            _check_space(resized, self.space, self.rank_by)
            _check_size(size, resized, next(iter(self.rank_by)))

    def resized(self, size: StudySize, pins: Overrides | None = None) -> "StudySpec":
        """The study at that size, with some keys pinned to one value for every trial.

        A pinned key is searched no longer; a published setting that says otherwise is left out.
        """
        pins = pins or {}
        _check_seed(pins)
        # A conditional key has a meaning only under its option: while that is still searched, the
        # pin stays in the space. With the choice pinned too, it belongs to the base, where one of
        # another option is refused.
        conditional = {
            key
            for choice, dist in self.space.items()
            if isinstance(dist, Choice) and choice not in pins
            for option in dist.options.values()
            for key in option
        }
        fixed = {key: value for key, value in pins.items() if key not in conditional}
        published = {
            name: setting
            for name, setting in self.published.items()
            if all(setting.get(key, value) == value for key, value in pins.items())
        }
        plain = dataclasses.replace(size, overrides={})
        return dataclasses.replace(
            self,
            base=with_overrides(self.base, {**size.overrides, **fixed}),
            space=_pinned(self.space, pins),
            size=plain,
            quick=plain,
            published=published,
            first=tuple(name for name in self.first if name in published),
        )

    def as_published(
        self,
        size: StudySize,
        replicates: int,
        pins: Overrides | None = None,
        only: Sequence[str] = (),
    ) -> "StudySpec":
        """The study of the published settings alone, each trained with seeds 0 to ``replicates`` - 1.

        Nothing is searched and nobody is stopped early; metrics are measured on the test set, as in
        the paper. More replicates make it longer, not another study.

        Args:
            size: How long each is trained.
            replicates: Seeds of each setting.
            pins: Keys fixed for all; a setting that says otherwise is left out.
            only: Names of the settings to train; none: all.

        Raises:
            ConfigError: There are no published settings, one of ``only`` is none of them, or the
                pins contradict all of them.
        """
        if not self.published:
            raise ConfigError("this study has no published settings to train")
        pins = {"data/num_validation": 0, **(pins or {})}
        if pins["data/num_validation"] != 0:
            raise ConfigError(
                "data/num_validation must be 0 for published settings, which are measured on the "
                f"test set as in the paper, got {pins['data/num_validation']}"
            )
        for name in only:
            if name not in self.published:
                raise ConfigError(
                    f"unknown published setting {name!r}; there are: {', '.join(self.published)}"
                )
        resized = self.resized(dataclasses.replace(size, first_rung=None), pins)
        names = tuple(name for name in resized.published if not only or name in only)
        if not names:
            raise ConfigError(
                f"no published setting agrees with {_assignments(pins)}; there are: "
                f"{', '.join(self.published)}"
            )
        longer = dataclasses.replace(resized.size, trials=len(names) * replicates)
        return dataclasses.replace(
            resized, space={}, first=(), replicated=names, size=longer, quick=longer
        )

    def planned(self, number: int) -> tuple[str, int | None] | None:
        """Published setting of trial ``number``, and its replicate where there are several.

        None where the sampler is to be asked.
        """
        if self.replicated:
            replicate, index = divmod(number, len(self.replicated))
            return self.replicated[index], replicate
        return (self.first[number], None) if number < len(self.first) else None

    @functools.cached_property
    def rungs(self) -> tuple[int, ...]:
        """Epochs at which trials are compared: start x factor^k below the last epoch."""
        return rungs(self.size, self.base.training.epochs)

    def identity(self) -> dict[str, Value]:
        """What makes this study itself, flat and printable; a record refuses to mix two of them."""
        facts: dict[str, Value] = {
            f"base/{key}": value for key, value in to_flat(self.base).items()
        }
        facts |= {f"rank_by/{metric}": way for metric, way in self.rank_by.items()}
        facts |= {
            f"space/{key}": distribution_to_json(dist)
            for key, dist in flat_space(self.space).items()
        }
        for name in self.first:
            facts[f"first/{name}"] = json.dumps(dict(self.published[name]), sort_keys=True)
        for name in self.replicated:
            facts[f"replicated/{name}"] = json.dumps(dict(self.published[name]), sort_keys=True)
        facts["sampler"] = self.sampler
        facts["startup_trials"] = self.size.startup_trials
        facts["reduction_factor"] = self.size.reduction_factor
        facts["rungs"] = json.dumps(self.rungs)
        return facts


def rungs(size: StudySize, epochs: int) -> tuple[int, ...]:
    """Rung epochs of a size below ``epochs``."""
    if size.first_rung is None:
        return ()
    epoch, found = size.first_rung, []
    while epoch < epochs:
        found.append(epoch)
        epoch *= size.reduction_factor
    return tuple(found)


def flat_space(space: Space) -> dict[str, BaseDistribution]:
    """Every searched key with its distribution, conditional ones included."""
    flat: dict[str, BaseDistribution] = {}
    for key, dist in space.items():
        if isinstance(dist, Choice):
            flat[key] = CategoricalDistribution(tuple(dist.options))
            for conditional in dist.options.values():
                flat.update(conditional)
        else:
            flat[key] = dist
    return flat


def _pinned(space: Space, pins: Overrides) -> Space:
    """The space without the pinned keys; the ranges of a pinned option stay."""
    left: dict[str, BaseDistribution | Choice] = {}
    for key, dist in space.items():
        if isinstance(dist, Choice):
            options = {name: _pinned_ranges(ranges, pins) for name, ranges in dist.options.items()}
            if key in pins:
                kept = options.get(str(pins[key]), {})
                left.update({k: d for k, d in kept.items() if k not in pins})
            else:
                left[key] = Choice(options)
        elif key not in pins:
            left[key] = dist
    return left


def _pinned_ranges(
    ranges: Mapping[str, BaseDistribution], pins: Overrides
) -> dict[str, BaseDistribution]:
    return {
        key: CategoricalDistribution((pins[key],)) if key in pins else dist
        for key, dist in ranges.items()
    }


def _check_types(spec: StudySpec) -> None:
    """Refuse fields of a wrong type: a study file is checked by nobody else."""
    _check_mapping("rank_by", spec.rank_by, str)
    _check_type("base", spec.base, TrialConfig)
    _check_mapping("space", spec.space, BaseDistribution, Choice)
    for key, dist in spec.space.items():
        if isinstance(dist, Choice):
            _check_mapping(f"options of {key}", dist.options, Mapping)
            for option, ranges in dist.options.items():
                _check_mapping(f"option {option!r} of {key}", ranges, BaseDistribution)
    _check_type("size", spec.size, StudySize)
    _check_type("quick", spec.quick, StudySize)
    _check_mapping("published", spec.published, Mapping)
    for name, setting in spec.published.items():
        _check_mapping(f"published setting {name!r}", setting)
    for field_name, names in (("first", spec.first), ("replicated", spec.replicated)):
        _check_type(field_name, names, tuple)
        for name in names:
            _check_type(f"a name in {field_name}", name, str)
    _check_type("sampler", spec.sampler, str)


def _check_mapping(name: str, value: object, *kinds: type) -> None:
    """Refuse what is no mapping from names to values of these types; none: of any."""
    _check_type(name, value, Mapping)
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        _check_type(f"a key of {name}", key, str)
        if kinds:
            _check_type(f"{key} in {name}", inner, *kinds)


def _check_type(name: str, value: object, *kinds: type) -> None:
    if isinstance(value, bool) or not isinstance(value, kinds):  # no field here is a truth value
        wanted = " or ".join(_KIND_NAMES.get(kind, kind.__name__) for kind in kinds)
        raise ConfigError(f"{name} must be {wanted}, got {value!r} of type {type(value).__name__}")


_KIND_NAMES: Mapping[type, str] = {
    type(None): "none",
    Mapping: "a mapping (name: value)",
    BaseDistribution: "a distribution of optuna.distributions",
}


def _check_metrics(rank_by: Mapping[str, Direction]) -> None:
    if not rank_by:
        raise ConfigError("rank_by must name at least one metric")
    for metric, way in rank_by.items():
        if metric not in METRICS:
            raise ConfigError(f"unknown metric {metric!r} in rank_by; valid: {', '.join(METRICS)}")
        if way not in ("max", "min"):
            raise ConfigError(f"direction of {metric} must be max or min, got {way!r}")


def _check_needs(rank_by: Iterable[str], config: TrialConfig) -> None:
    for metric in rank_by:
        lacking = unmet_need(metric, config)
        if lacking:
            raise ConfigError(
                f"rank_by names {metric}, which needs {lacking}; data/name {config.data.name} with "
                f"prior/kind {config.prior.kind} and model/latent_dim {config.model.latent_dim} "
                "cannot have it"
            )


def _check_size(size: StudySize, base: TrialConfig, ranked: str) -> None:
    epochs, every = base.training.epochs, base.training.evaluate_every
    if size.trials is not None and size.trials < 1:
        raise ConfigError(f"trials must be at least 1, got {size.trials}")
    if size.reduction_factor < 2:
        raise ConfigError(f"reduction_factor must be at least 2, got {size.reduction_factor}")
    if size.startup_trials < 1:
        raise ConfigError(f"startup_trials must be at least 1, got {size.startup_trials}")
    if size.first_rung is None:
        return
    if not 1 <= size.first_rung < epochs:
        raise ConfigError(
            f"first_rung must lie from 1 to below training/epochs, got {size.first_rung} of "
            f"{epochs}: no trial would reach it"
        )
    for rung in rungs(size, epochs):
        if rung % every:
            raise ConfigError(
                f"rung {rung} must be a multiple of training/evaluate_every {every}: nothing is "
                "measured there"
            )
        _check_due(ranked, rung, base)


def _check_due(ranked: str, rung: int, base: TrialConfig) -> None:
    """Refuse a rung at which the metric that decides there is not measured."""
    config = base.metrics
    if not METRICS[ranked].is_expensive or config.expensive_at_rungs:
        return
    if config.expensive_every is None or rung % config.expensive_every:
        raise ConfigError(
            f"{ranked} decides at rung {rung} and is not due there: metrics/expensive_at_rungs must "
            f"be true, or metrics/expensive_every divide {rung}, got {config.expensive_every}"
        )


def _assignments(pins: Overrides) -> str:
    return ", ".join(f"{key}={value}" for key, value in pins.items())


def _check_seed(keys: Iterable[str]) -> None:
    if SEED in keys:
        raise ConfigError(
            f"{SEED} follows from the study's seed and the trial's number; give --seed instead"
        )


def _check_space(base: TrialConfig, space: Space, rank_by: Iterable[str]) -> None:
    """Decode every end of every range, under every option of every choice."""
    _check_seed(space)
    for key, dist in space.items():
        checked_key(key)
        if isinstance(dist, Choice) and not dist.options:
            raise ConfigError(f"{key} must have at least one option to choose from")
    _check_shared(space)
    for branch in _branches(space):
        lows = {key: ends(dist)[0] for key, dist in branch.items()}
        _check_needs(rank_by, _decoded(base, lows, "search space"))
        for key, dist in branch.items():
            for end in ends(dist):
                decoded = _decoded(base, {**lows, key: end}, f"search space, an end of {key}")
                _check_needs(rank_by, decoded)


def _check_shared(space: Space) -> None:
    """Refuse one key under two options with two ranges: the sampler knows a key by its name."""
    known: dict[str, BaseDistribution] = {}
    for choice in space.values():
        for ranges in choice.options.values() if isinstance(choice, Choice) else ():
            for key, dist in ranges.items():
                if key in space or known.setdefault(key, dist) != dist:
                    raise ConfigError(f"{key} must have one range wherever it is searched, got two")


def _branches(space: Space) -> Iterator[dict[str, BaseDistribution]]:
    """The plain ranges that apply together, for each combination of options."""
    choices = {key: dist for key, dist in space.items() if isinstance(dist, Choice)}
    plain = {key: dist for key, dist in space.items() if not isinstance(dist, Choice)}
    for combination in itertools.product(*(choice.options for choice in choices.values())):
        branch: dict[str, BaseDistribution] = dict(plain)
        for (key, choice), option in zip(choices.items(), combination, strict=True):
            branch[key] = CategoricalDistribution((option,))
            branch.update(choice.options[option])
        yield branch


def ends(dist: BaseDistribution) -> tuple[Value, ...]:
    """Lowest and highest value of a range, or every choice."""
    if isinstance(dist, FloatDistribution | IntDistribution):
        return (dist.low, dist.high)
    if isinstance(dist, CategoricalDistribution):
        return tuple(dist.choices)
    raise ConfigError(f"unknown kind of distribution: {dist!r}")


def _decoded(base: TrialConfig, overrides: Overrides, where: str) -> TrialConfig:
    try:
        return with_overrides(base, overrides)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
