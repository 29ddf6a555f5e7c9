"""What the paper states for a configuration, to be shown beside what was measured here."""

from collections.abc import Mapping

from tune_ddvae.config import Value

PUBLISHED_EPOCHS = 80  # that the values below were measured after

# arXiv:1812.02833, the sparsity experiment: read off its figure, to within .004. Mean over networks.
_HOYER_ALL: Mapping[float, Mapping[float, float]] = {  # gamma -> alpha -> value
    0.8: {0.0: 0.362, 10.0: 0.447, 100.0: 0.552, 500.0: 0.556, 1000.0: 0.520},
    0.0: {0.0: 0.235, 10.0: 0.232, 100.0: 0.225, 500.0: 0.212, 1000.0: 0.197},
}
# Of each key what may stand there: anything else is another experiment. How long a trial trains, and
# in what batches, is free: the epochs are told beside the value.
_EXPERIMENT: Mapping[str, tuple[Value, ...]] = {
    "data/name": ("fashion_mnist",),
    "data/num_train": (None, 60_000),
    "data/num_validation": (0,),  # else validation takes some of the training points
    "model/latent_dim": (50,),
    "model/width": (None, 32),
    "likelihood/kind": ("laplace",),
    "likelihood/scale": (0.1,),
    "objective/kind": ("decomp",),
    "objective/beta": (1.0,),
    "objective/divergence": ("mmd",),
    "objective/num_samples": (1,),
    "optimiser/learning_rate": (5e-4,),
    "optimiser/beta1": (0.9,),
    "optimiser/beta2": (0.999,),
    "optimiser/amsgrad": (True,),
}
_PRIORS: Mapping[str, tuple[str, Value]] = {  # kind -> what else of it the paper fixes
    "normal": ("prior/scale", 1.0),
    "sparse": ("prior/spike_scale", 0.05),
}


def published_value(config: Mapping[str, Value], metric: str) -> float | None:
    """The paper's own value of the metric after PUBLISHED_EPOCHS; None where it states none.

    Args:
        config: Of the trial, flat and whole.
        metric: As in ``config.METRICS``.
    """
    if metric != "sparsity/hoyer_all":
        return None
    if any(config[key] not in values for key, values in _EXPERIMENT.items()):
        return None
    kind, alpha = str(config["prior/kind"]), config["objective/alpha"]
    if kind not in _PRIORS:
        return None
    key, value = _PRIORS[kind]
    if config[key] != value:
        return None
    gamma = config["prior/gamma"] if kind == "sparse" else 0.0
    if not isinstance(gamma, float) or not isinstance(alpha, float):
        return None
    return _HOYER_ALL.get(gamma, {}).get(alpha)
