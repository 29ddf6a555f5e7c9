"""From the option names that the paper's users know to one configuration; contradictions refused.

An option is known here by its name on the command line, without the dashes in front.
"""

import math
from collections.abc import Iterator, Mapping

from tune_ddvae.config import DATASETS, PRIORS, TrialConfig, Value, to_flat, with_overrides
from tune_ddvae.errors import ConfigError

Options = Mapping[str, Value]
Overrides = Mapping[str, Value]

# What an option sets by itself; the others follow below.
KEYS: Mapping[str, str] = {
    "obj": "objective/kind",
    "K": "objective/num_samples",
    "beta": "objective/beta",
    "alpha": "objective/alpha",
    "regulariser": "objective/divergence",
    "prior": "prior/kind",
    "gamma": "prior/gamma",
    "df": "prior/df",
    "latent-dim": "model/latent_dim",
    "hidden-dim": "model/width",
    "fBase": "model/width",
    "num-hidden-layers": "model/num_hidden_layers",
    "epochs": "training/epochs",
    "batch-size": "training/batch_size",
    "seed": "training/seed",
    "lr": "optimiser/learning_rate",
    "beta1": "optimiser/beta1",
    "beta2": "optimiser/beta2",
}
REGULARISERS: Mapping[str, str] = {"mmd_dim": "mmd", "kld_inc": "inclusive_kl"}
VARIANCES: Mapping[str, str] = {"iso": "normal", "pca": "anisotropic"}  # of --prior-variance

_PRIOR_OF = {"gamma": "sparse", "df": "student_t"}
_VARIANCE_OPTIONS = ("prior-variance", "prior-variance-scale", "learn-prior-variance")
_PLAIN_BOUND: Mapping[str, Value] = {"objective/beta": 1.0, "objective/alpha": 0.0}


def configured(
    base: TrialConfig, options: Options, setting: Overrides, pins: Overrides
) -> TrialConfig:
    """The configuration that the options mean.

    Metrics are measured on the test set each time, as in the paper, unless pinned otherwise.

    Args:
        base: The model's defaults.
        options: Those that were given, by name without dashes.
        setting: What a published setting states; empty where none was named.
        pins: Fields that were given as such; they count last.

    Raises:
        ConfigError: Options contradict each other, the setting or the model, all of them named in one
            message; or a value breaks a rule.
    """
    kind = _prior_kind(base, options, setting, pins)
    problems = [
        *_said_twice(options, setting, pins),
        *_foreign_to_prior(options, kind),
        *_foreign_to_networks(options, base.data.name),
        *_foreign_to_objective(options),
    ]
    if problems:
        raise ConfigError("these options cannot go together: " + "; ".join(problems))
    overrides = {"data/num_validation": 0, **setting, **_overrides(options, kind)}
    if options.get("obj") == "iwae":
        overrides = {**_PLAIN_BOUND, **overrides}
    epochs = {**overrides, **pins}.get("training/epochs")
    if isinstance(epochs, int):  # a step that the study takes may not divide them
        overrides["training/evaluate_every"] = math.gcd(base.training.evaluate_every, epochs)
    return with_overrides(base, {**overrides, **pins})


def differences(config: TrialConfig, plain: TrialConfig) -> dict[str, Value]:
    """The fields of a configuration that are not as in another one."""
    before = to_flat(plain)
    return {key: value for key, value in to_flat(config).items() if value != before[key]}


def prior_kind(name: str) -> str:
    """The kind of a prior by its name in any spelling: StudentT, student-t, STUDENT_T.

    Raises:
        ConfigError: There is none of that name; lists them.
    """
    plain = {kind.replace("_", ""): kind for kind in PRIORS}
    asked = name.lower().replace("_", "").replace("-", "")
    if asked not in plain:
        valid = ", ".join(_spelled(kind) for kind in PRIORS)
        raise ConfigError(f"--prior must be one of {valid} (in any case), got {name!r}")
    return plain[asked]


def _prior_kind(base: TrialConfig, options: Options, setting: Overrides, pins: Overrides) -> str:
    """The prior's kind as used."""
    kind = str({"prior/kind": base.prior.kind, **setting, **pins}["prior/kind"])
    if "prior" in options:
        kind = prior_kind(str(options["prior"]))
    variance = options.get("prior-variance")
    if variance == "pca" and kind == "normal":
        return "anisotropic"
    return kind


def _overrides(options: Options, kind: str) -> dict[str, Value]:
    """What the options set, by flat key."""
    overrides: dict[str, Value] = {
        KEYS[name]: value for name, value in options.items() if name in KEYS
    }
    if "prior" in options or "prior-variance" in options:
        overrides["prior/kind"] = kind
    if "regulariser" in options:
        overrides["objective/divergence"] = REGULARISERS[str(options["regulariser"])]
    if "prior-variance-scale" in options:
        scale = float(str(options["prior-variance-scale"]))
        if not scale > 0:
            raise ConfigError(f"--prior-variance-scale must be above 0, got {scale:g}")
        is_iso = kind == "normal"  # whose setting is a standard deviation
        overrides["prior/scale" if is_iso else "prior/variance_scale"] = (
            math.sqrt(scale) if is_iso else scale
        )
    if options.get("learn-prior-variance"):
        overrides["prior/learns_variance"] = True
    return overrides


def _said_twice(options: Options, setting: Overrides, pins: Overrides) -> Iterator[str]:
    states_prior = "prior/kind" in setting
    for name in options:
        key = KEYS.get(name)
        if key in pins:
            yield f"--{name} and --set {key} say the same"
        if key in setting:
            yield f"--{name}: the published setting states {key} already, {setting[str(key)]}"
        elif states_prior and name in _VARIANCE_OPTIONS:
            yield f"--{name}: the published setting states the prior already"


def _foreign_to_prior(options: Options, kind: str) -> Iterator[str]:
    for name, owner in _PRIOR_OF.items():
        if name in options and kind != owner:
            yield f"--{name} belongs to --prior {_spelled(owner)}, this one is {_spelled(kind)}"
    with_variance = ("normal", "anisotropic")
    for name in _VARIANCE_OPTIONS:
        if name in options and kind not in with_variance:
            yield f"--{name} belongs to --prior Normal, this one is {_spelled(kind)}"
    if kind == "anisotropic" and options.get("prior-variance") == "iso":
        yield "--prior-variance iso makes the Normal, not the Anisotropic prior"
    if kind == "normal" and options.get("learn-prior-variance"):
        yield "--learn-prior-variance starts from the data's variances: add --prior-variance pca"


def _foreign_to_networks(options: Options, data: str) -> Iterator[str]:
    has_mlp = DATASETS[data].has_mlp
    for name in ("hidden-dim", "num-hidden-layers"):
        if name in options and not has_mlp:
            yield f"--{name} belongs to plain layers, {data} has convolutions: --fBase is their width"
    if "fBase" in options and has_mlp:
        yield f"--fBase belongs to convolutions, {data} has plain layers: --hidden-dim is their width"


def _foreign_to_objective(options: Options) -> Iterator[str]:
    if options.get("obj") != "iwae":
        return
    for name, plain in (("beta", 1.0), ("alpha", 0.0)):
        if options.get(name, plain) != plain:
            yield f"--{name} {options[name]} belongs to --obj decomp: the bound of iwae has no weights"
    if "regulariser" in options:
        yield "--regulariser belongs to --obj decomp: the bound of iwae has no divergence"


def _spelled(kind: str) -> str:
    return "".join(part.capitalize() for part in kind.split("_"))
