"""One trial's whole configuration: a frozen dataclass per part, and the tables of what exists.

A configuration is written and stored flat, as ``{"part/field": value}``; these keys are the names on
the command line (``--set``), in study files, in the record and in MLflow. Decoding is strict: an
unknown key, a wrong type or a broken bound raises ``ConfigError`` naming key, value and valid ones.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tune_ddvae.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Value = bool | int | float | str | None
Direction = Literal["max", "min"]


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What the configuration must know of a data set before it is loaded."""

    shape: tuple[int, ...]
    max_train: int  # what train and validation share
    max_test: int
    likelihoods: tuple[str, ...]
    default_width: int
    # Where validation points are drawn by themselves, not split off the training points.
    max_validation: int | None = None
    has_factors: bool = False  # lies on a grid of generative factors; else the class is all we know
    has_mlp: bool = False  # plain layers, whose number is a setting


@dataclass(frozen=True, kw_only=True)
class MetricFacts:
    """A metric's meaning, as the README lists it."""

    unit: str
    direction: Direction | None  # None where neither way is better by itself
    meaning: str
    needs: str = ""  # a key of NEEDS
    is_expensive: bool = False  # measured at metrics/expensive_every, at rungs and at the end


_IMAGES = ("laplace", "normal", "bernoulli")
DATASETS: Mapping[str, DatasetFacts] = {
    "fashion_mnist": DatasetFacts(
        shape=(1, 32, 32), max_train=60_000, max_test=10_000, likelihoods=_IMAGES, default_width=32
    ),
    "pinwheel": DatasetFacts(
        shape=(2,),
        max_train=400,
        max_test=400,
        likelihoods=("laplace", "normal"),
        default_width=100,
        max_validation=400,
        has_mlp=True,
    ),
    "digits": DatasetFacts(
        shape=(1, 16, 16), max_train=1_547, max_test=250, likelihoods=_IMAGES, default_width=16
    ),
    "dsprites": DatasetFacts(
        shape=(1, 64, 64),
        max_train=732_280,
        max_test=5_000,
        likelihoods=_IMAGES,
        default_width=32,
        has_factors=True,
    ),
}

# Each kind with the fields it reads and their defaults; a field of another kind is refused.
PRIORS: Mapping[str, Mapping[str, Value]] = {
    "normal": {"scale": 1.0},
    "anisotropic": {"variance_scale": 1.0, "learns_variance": False},
    "student_t": {"df": 9.0},
    "sparse": {"gamma": 0.8, "spike_scale": 0.05},
    "clustered": {},
}
LIKELIHOODS: Mapping[str, Mapping[str, Value]] = {
    "laplace": {"scale": 0.1},
    "normal": {"scale": None},  # None: learned by the decoder
    "bernoulli": {},
}
DIVERGENCES = ("mmd", "inclusive_kl")
OBJECTIVES = ("decomp", "iwae")

METRICS: Mapping[str, MetricFacts] = {
    "sparsity/hoyer": MetricFacts(
        unit="0 to 1",
        direction="max",
        meaning="normalised Hoyer over the active dimensions",
        needs="two latent dimensions",
    ),
    "sparsity/hoyer_all": MetricFacts(
        unit="0 to 1",
        direction="max",
        meaning="the paper's Hoyer, over all dimensions; never rank by it",
        needs="two latent dimensions",
    ),
    "log_likelihood/iwae": MetricFacts(
        unit="nats", direction="max", meaning="importance-weighted bound on log p(x)"
    ),
    "log_likelihood/reconstruction": MetricFacts(
        unit="nats", direction="max", meaning="E_q(z|x) log p(x|z)"
    ),
    "latent/kl": MetricFacts(unit="nats", direction=None, meaning="KL(q(z|x) || p(z))"),
    "latent/active_units": MetricFacts(
        unit="dimensions", direction=None, meaning="posterior means vary by more than .01"
    ),
    "latent/components_used": MetricFacts(
        unit="components",
        direction=None,
        meaning="prior components nearest to at least 2 % of the posterior means",
        needs="a clustered prior",
    ),
    "divergence/mmd": MetricFacts(
        unit="1", direction="min", meaning="squared MMD of aggregate posterior and prior"
    ),
    "divergence/inclusive_kl": MetricFacts(
        unit="nats", direction="min", meaning="KL(p(z) || q(z)), q the aggregate posterior"
    ),
    "disentanglement/factor_vae": MetricFacts(
        unit="0 to 1",
        direction="max",
        meaning="FactorVAE score, Kim & Mnih (2018)",
        needs="known factors",
        is_expensive=True,
    ),
    "disentanglement/beta_vae": MetricFacts(
        unit="0 to 1",
        direction="max",
        meaning="beta-VAE score, Higgins et al. (2017)",
        needs="known factors",
        is_expensive=True,
    ),
    "disentanglement/mig": MetricFacts(
        unit="0 to 1",
        direction="max",
        meaning="mutual information gap, Chen et al. (2018)",
        needs="known factors",
        is_expensive=True,
    ),
    "disentanglement/dci": MetricFacts(
        unit="0 to 1",
        direction="max",
        meaning="disentanglement of DCI, Eastwood & Williams (2018)",
        needs="known factors",
        is_expensive=True,
    ),
    "disentanglement/sap": MetricFacts(
        unit="0 to 1",
        direction="max",
        meaning="separated attribute predictability, Kumar et al. (2018)",
        needs="known factors",
        is_expensive=True,
    ),
    "disentanglement/modularity": MetricFacts(
        unit="0 to 1",
        direction="max",
        meaning="modularity, Ridgeway & Mozer (2018)",
        needs="known factors",
        is_expensive=True,
    ),
    "disentanglement/class_mig": MetricFacts(
        unit="0 to 1",
        direction="max",
        meaning="mutual information gap over the class, the only factor that is known",
        needs="classes as the only known factor",
    ),
    "disentanglement/class_sap": MetricFacts(
        unit="0 to 1",
        direction="max",
        meaning="separated attribute predictability of the class, the only factor that is known",
        needs="classes as the only known factor",
    ),
}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data, and how much of it."""

    name: str = "fashion_mnist"
    num_train: int | None = None  # None: all that validation leaves
    num_validation: int = 0  # 0: metrics are measured on the test set, as in the paper
    num_test: int | None = None  # None: all
    seed: int = 0  # of splits and generated points; never the trial's

    def __post_init__(self) -> None:
        _in_own_types("data", self)
        _one_of("data/name", self.name, DATASETS)
        facts = DATASETS[self.name]
        _within("data/num_validation", self.num_validation, low=0, high=facts.max_validation)
        _within("data/num_test", self.num_test, low=1, high=facts.max_test)
        high = facts.max_train - (0 if facts.max_validation else self.num_validation)
        if high < 1:
            raise ConfigError(
                f"data/num_validation must leave training points, got {self.num_validation} of the "
                f"{facts.max_train} of {self.name}"
            )
        _within("data/num_train", self.num_train, low=1, high=high)
        _within("data/seed", self.seed, low=0)

    @property
    def train_size(self) -> int:
        """Number of training points as used."""
        if self.num_train is not None:
            return self.num_train
        facts = DATASETS[self.name]
        return facts.max_train - (0 if facts.max_validation else self.num_validation)

    @property
    def test_size(self) -> int:
        """Number of test points as used."""
        return DATASETS[self.name].max_test if self.num_test is None else self.num_test


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The networks; their kind follows from the data."""

    latent_dim: int = 50
    # Channels of the first convolution, or hidden units of an MLP; None: as published.
    width: int | None = None
    num_hidden_layers: int = 1  # of an MLP, encoder and decoder each

    def __post_init__(self) -> None:
        _in_own_types("model", self)
        _within("model/latent_dim", self.latent_dim, low=1, high=4096)
        _within("model/width", self.width, low=1, high=4096)
        _within("model/num_hidden_layers", self.num_hidden_layers, low=1, high=16)


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """p(z). Fields that the kind reads are filled with its defaults, all others stay None."""

    kind: str = "normal"
    scale: float | None = None  # normal: standard deviation
    # anisotropic: c, the mean of the variances, which follow the data's principal variances.
    variance_scale: float | None = None
    learns_variance: bool | None = None  # anisotropic: their shares are trained, their sum stays
    df: float | None = None  # student_t: degrees of freedom
    gamma: float | None = None  # sparse: weight of the spike
    spike_scale: float | None = None  # sparse: standard deviation of the spike

    def __post_init__(self) -> None:
        _in_own_types("prior", self)
        _fill_kind("prior", self, PRIORS)
        # Beyond these scales float32 has no finite density, or gradient of it, at the prior's samples.
        _within("prior/scale", self.scale, low=1e-6, high=1e6)
        _within("prior/variance_scale", self.variance_scale, low=1e-12, high=1e12)
        _within("prior/df", self.df, above=0.0)
        _within("prior/gamma", self.gamma, low=0.0, high=1.0)
        _within("prior/spike_scale", self.spike_scale, low=1e-6, high=1e6)


@dataclass(frozen=True, kw_only=True)
class LikelihoodConfig:
    """p(x|z). A Normal without a scale learns one in the decoder."""

    kind: str = "laplace"
    scale: float | None = None

    def __post_init__(self) -> None:
        _in_own_types("likelihood", self)
        _fill_kind("likelihood", self, LIKELIHOODS)
        _within("likelihood/scale", self.scale, above=0.0)


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What training maximises.

    decomp: E_q log p(x|z) - beta KL(q(z|x) || p(z)) - alpha D(q(z), p(z)), arXiv:1812.02833 eq. 7.
    iwae: E_q log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x), Burda et al. (2016); it has no weights.
    """

    kind: str = "decomp"
    beta: float = 1.0
    alpha: float = 0.0
    divergence: str = "mmd"  # D
    num_samples: int = 1  # K, codes drawn per point in training

    def __post_init__(self) -> None:
        _in_own_types("objective", self)
        _one_of("objective/kind", self.kind, OBJECTIVES)
        _within("objective/beta", self.beta, low=0.0)
        _within("objective/alpha", self.alpha, low=0.0)
        _one_of("objective/divergence", self.divergence, DIVERGENCES)
        _within("objective/num_samples", self.num_samples, low=1)
        if self.kind == "iwae" and (self.beta, self.alpha) != (1.0, 0.0):
            raise ConfigError(
                f"objective/beta must be 1 and objective/alpha 0 under objective/kind iwae, got "
                f"{self.beta:g} and {self.alpha:g}: its bound has no such weights"
            )


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """Adam, with AMSGrad as in the paper."""

    learning_rate: float = 5e-4
    beta1: float = 0.9
    beta2: float = 0.999
    amsgrad: bool = True

    def __post_init__(self) -> None:
        _in_own_types("optimiser", self)
        _within("optimiser/learning_rate", self.learning_rate, above=0.0)
        _within("optimiser/beta1", self.beta1, low=0.0, below=1.0)
        _within("optimiser/beta2", self.beta2, low=0.0, below=1.0)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, in what portions, and from which seed."""

    epochs: int = 80
    batch_size: int = 500
    evaluate_every: int = 1  # epochs between two evaluations: one step
    images_per_epoch: int | None = None  # drawn anew for each epoch; None: all training images
    seed: int = 0

    def __post_init__(self) -> None:
        _in_own_types("training", self)
        _within("training/epochs", self.epochs, low=1)
        # Batch norm and the unbiased MMD both divide by the batch size minus one.
        _within("training/batch_size", self.batch_size, low=2)
        _within("training/evaluate_every", self.evaluate_every, low=1)
        _within("training/images_per_epoch", self.images_per_epoch, low=2)
        _within("training/seed", self.seed, low=0, high=2**63 - 1)
        if self.epochs % self.evaluate_every:
            raise ConfigError(
                f"training/epochs must be a multiple of training/evaluate_every, got "
                f"{self.epochs} and {self.evaluate_every}"
            )


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """What each evaluation measures with."""

    iwae_num_samples: int = 64  # K of log_likelihood/iwae
    iwae_num_points: int = 200  # points that it is averaged over
    active_threshold: float = 0.01  # variance of the posterior mean, Burda et al. (2016)
    # Of the epochs that are evaluated, the expensive metrics are measured at those that this divides;
    # None: only at rungs and at the end.
    expensive_every: int | None = 1
    expensive_at_rungs: bool = True  # too; at the last epoch they are measured in any case
    # Every k-th value of a factor of eight or more is encoded: 4 makes 11,520 images of dSprites'
    # 737,280. On a GPU always the whole grid.
    grid_stride: int = 4
    grid_stride_at_end: int = 1  # the same for the last measurement of a trial
    factor_vae_group: int = 64  # L, points that share the fixed factor
    factor_vae_train_votes: int = 10_000
    factor_vae_test_votes: int = 5_000
    beta_vae_group: int = 64  # pairs that one point of the classifier is the mean of
    beta_vae_train_votes: int = 3_000
    beta_vae_test_votes: int = 1_500
    num_bins: int = 20  # equal-width bins of a code for MIG and modularity
    dci_train_points: int = 2_000
    dci_test_points: int = 1_000
    seed: int = 0  # evaluation's own generator, the same at every epoch

    def __post_init__(self) -> None:
        _in_own_types("metrics", self)
        _within("metrics/iwae_num_samples", self.iwae_num_samples, low=1)
        _within("metrics/iwae_num_points", self.iwae_num_points, low=1)
        _within("metrics/active_threshold", self.active_threshold, low=0.0)
        _within("metrics/factor_vae_group", self.factor_vae_group, low=2)
        _within("metrics/factor_vae_train_votes", self.factor_vae_train_votes, low=1)
        _within("metrics/factor_vae_test_votes", self.factor_vae_test_votes, low=1)
        _within("metrics/expensive_every", self.expensive_every, low=1)
        _within("metrics/grid_stride", self.grid_stride, low=1, high=32)
        _within("metrics/grid_stride_at_end", self.grid_stride_at_end, low=1, high=32)
        _within("metrics/beta_vae_group", self.beta_vae_group, low=1)
        _within("metrics/beta_vae_train_votes", self.beta_vae_train_votes, low=10)
        _within("metrics/beta_vae_test_votes", self.beta_vae_test_votes, low=1)
        _within("metrics/num_bins", self.num_bins, low=2)
        _within("metrics/dci_train_points", self.dci_train_points, low=10)
        _within("metrics/dci_test_points", self.dci_test_points, low=1)
        _within("metrics/seed", self.seed, low=0)


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """Everything that one trial's numbers follow from."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    likelihood: LikelihoodConfig = field(default_factory=LikelihoodConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)

    def __post_init__(self) -> None:
        for name, kind in _part_types().items():
            part = getattr(self, name)
            if not isinstance(part, kind):
                raise ConfigError(
                    f"{name} must be a {kind.__name__}, got {part!r} of type {type(part).__name__}"
                )
        if self.prior.kind == "clustered" and self.model.latent_dim != 2:
            raise ConfigError(
                f"model/latent_dim must be 2 under prior/kind clustered, got {self.model.latent_dim}"
            )
        facts = DATASETS[self.data.name]
        num_inputs = math.prod(facts.shape)
        if self.prior.kind == "anisotropic" and self.model.latent_dim > num_inputs:
            raise ConfigError(
                f"model/latent_dim must be at most {num_inputs} under prior/kind anisotropic, got "
                f"{self.model.latent_dim}: {self.data.name} has no more principal variances"
            )
        if self.model.num_hidden_layers != 1 and not facts.has_mlp:
            with_mlp = [name for name, other in DATASETS.items() if other.has_mlp]
            raise ConfigError(
                f"model/num_hidden_layers must be 1 for data/name {self.data.name}, got "
                f"{self.model.num_hidden_layers}; it belongs to {_listed(with_mlp)}"
            )
        valid = facts.likelihoods
        if self.likelihood.kind not in valid:
            raise ConfigError(
                f"likelihood/kind must be one of {_listed(valid)} for data/name {self.data.name}, "
                f"got {self.likelihood.kind!r}"
            )
        if self.data.train_size < 2:
            raise ConfigError(
                f"data/num_train must be at least 2, got {self.data.train_size}: "
                "a batch of one is dropped in training"
            )
        images = self.training.images_per_epoch
        if images is not None and images > self.data.train_size:
            raise ConfigError(
                f"training/images_per_epoch must be at most the {self.data.train_size} training "
                f"points of {self.data.name}, got {images}"
            )

    @property
    def width(self) -> int:
        """Width of the networks as used."""
        return self.model.width or DATASETS[self.data.name].default_width

    @property
    def has_validation(self) -> bool:
        """Whether unprefixed metrics come from a validation split, not from the test set."""
        return self.data.num_validation > 0


NEEDS: Mapping[str, Callable[[TrialConfig], bool]] = {
    "two latent dimensions": lambda config: config.model.latent_dim >= 2,
    "a clustered prior": lambda config: config.prior.kind == "clustered",
    "known factors": lambda config: DATASETS[config.data.name].has_factors,
    "classes as the only known factor": lambda c: not DATASETS[c.data.name].has_factors,
}


def unmet_need(metric: str, config: TrialConfig) -> str:
    """What the metric needs and the configuration lacks; empty where it can have a value."""
    needs = METRICS[metric].needs
    return "" if not needs or NEEDS[needs](config) else needs


def _part_types() -> dict[str, type]:
    return {f.name: typing.cast(type, f.type) for f in dataclasses.fields(TrialConfig)}


def _field_types() -> dict[str, typing.Any]:
    return {
        f"{part}/{name}": kind
        for part, cls in _part_types().items()
        for name, kind in typing.get_type_hints(cls).items()
    }


FIELDS: Mapping[str, typing.Any] = _field_types()  # "part/field" -> its type


def to_flat(config: TrialConfig) -> dict[str, Value]:
    """Every field under its flat "part/field" key, in the order of definition."""
    return {
        f"{part}/{name}": value
        for part, fields in dataclasses.asdict(config).items()
        for name, value in fields.items()
    }


def from_flat(flat: Mapping[str, Value]) -> TrialConfig:
    """The configuration that these flat keys describe; absent keys take their defaults.

    Raises:
        ConfigError: An unknown key, a value of the wrong type or out of bounds, a contradiction.
    """
    parts: dict[str, dict[str, Value]] = {part: {} for part in _part_types()}
    for key, value in flat.items():
        part, _, name = key.partition("/")
        parts[checked_key(key) and part][name] = typed_value(key, value)
    return TrialConfig(**{part: cls(**parts[part]) for part, cls in _part_types().items()})


def with_overrides(config: TrialConfig, overrides: Mapping[str, Value]) -> TrialConfig:
    """The configuration with some flat keys replaced.

    Where an override changes a part's kind, the old kind's own fields are dropped first: they have no
    meaning under the new one.
    """
    flat = to_flat(config)
    for part, kinds in (("prior", PRIORS), ("likelihood", LIKELIHOODS)):
        kind = overrides.get(f"{part}/kind", flat[f"{part}/kind"])
        if kind != flat[f"{part}/kind"]:
            for name in {name for fields in kinds.values() for name in fields}:
                flat[f"{part}/{name}"] = None
    return from_flat({**flat, **overrides})


def checked_key(key: str) -> str:
    """The key itself if it names a field.

    Raises:
        ConfigError: Lists the nearest names, or the fields of the part.
    """
    if key in FIELDS:
        return key
    part = key.partition("/")[0]
    near = difflib.get_close_matches(key, FIELDS, n=3) or [
        name for name in FIELDS if name.startswith(f"{part}/")
    ]
    raise ConfigError(f"unknown key {key!r}; valid: {_listed(near or FIELDS)}")


def typed_value(key: str, value: Value) -> Value:
    """The value in its field's own type (an int where a float is meant becomes one).

    Raises:
        ConfigError: Names key, value and the type that the field has.
    """
    kind = FIELDS[checked_key(key)]
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for option in options:
        if option is type(None) and value is None:
            return None
        if option is float and type(value) in (int, float):
            return float(typing.cast(float, value))
        if type(value) is option:
            return value
    names = " or ".join("none" if o is type(None) else o.__name__ for o in options)
    raise ConfigError(f"{key} must be {names}, got {value!r} of type {type(value).__name__}")


def parse_value(key: str, text: str) -> Value:
    """The value that a command line's ``key=text`` means.

    Raises:
        ConfigError: As in ``typed_value``.
    """
    kind = FIELDS[checked_key(key)]
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    lowered = text.strip().lower()
    if type(None) in options and lowered in ("none", "null"):
        return None
    if bool in options and lowered in ("true", "false"):
        return lowered == "true"
    for option in (int, float):
        if option in options:
            try:
                return option(text)
            except ValueError:
                continue
    return typed_value(key, text)


def _in_own_types(part: str, config: "DataclassInstance") -> None:
    """Refuse fields of a wrong type, as ``from_flat`` does; an int meant as a float becomes one."""
    for f in dataclasses.fields(config):
        value = typed_value(f"{part}/{f.name}", getattr(config, f.name))
        object.__setattr__(config, f.name, value)


def _fill_kind(
    part: str,
    config: PriorConfig | LikelihoodConfig,
    kinds: Mapping[str, Mapping[str, Value]],
) -> None:
    """Fill the kind's own fields with its defaults; refuse fields of other kinds."""
    _one_of(f"{part}/kind", config.kind, kinds)
    own = kinds[config.kind]
    for f in dataclasses.fields(config):
        if f.name == "kind":
            continue
        value = getattr(config, f.name)
        if f.name in own:
            if value is None:
                object.__setattr__(config, f.name, own[f.name])
        elif value is not None:
            readers = [kind for kind, fields in kinds.items() if f.name in fields]
            raise ConfigError(
                f"{part}/{f.name} has no meaning under {part}/kind {config.kind}, got {value!r}; "
                f"it belongs to {_listed(readers)}"
            )


def _one_of(key: str, value: str, valid: Iterable[str]) -> None:
    if value not in valid:
        raise ConfigError(f"{key} must be one of {_listed(valid)}, got {value!r}")


def _within(
    key: str,
    value: int | float | None,
    *,
    low: int | float | None = None,
    high: int | float | None = None,
    above: int | float | None = None,
    below: int | float | None = None,
) -> None:
    """Refuse a value outside its bounds; NaN and infinity lie outside all of them."""
    if value is None:
        return
    rules = [
        (f"at least {low}", low is None or value >= low),
        (f"at most {high}", high is None or value <= high),
        (f"above {above}", above is None or value > above),
        (f"below {below}", below is None or value < below),
        ("finite", abs(value) < float("inf")),
    ]
    broken = [rule for rule, holds in rules if not holds]
    if broken:
        raise ConfigError(f"{key} must be {' and '.join(broken)}, got {value}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
