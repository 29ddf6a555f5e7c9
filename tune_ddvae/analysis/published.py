"""What the paper states for a configuration, to be shown beside what was measured here."""

from collections.abc import Mapping

from tune_ddvae.config import Value

# arXiv:1812.02833, the sparsity experiment: read off its figure, to within .004. Mean over networks.
_HOYER_ALL: Mapping[float, Mapping[float, float]] = {  # gamma -> alpha -> value
    0.8: {0.0: 0.362, 10.0: 0.447, 100.0: 0.552, 500.0: 0.556, 1000.0: 0.520},
    0.0: {0.0: 0.235, 10.0: 0.232, 100.0: 0.225, 500.0: 0.212, 1000.0: 0.197},
}
_EXPERIMENT: Mapping[str, Value] = {
    "data/name": "fashion_mnist",
    "model/latent_dim": 50,
    "likelihood/kind": "laplace",
    "objective/beta": 1.0,
}


def published_value(config: Mapping[str, Value], metric: str) -> float | None:
    """The paper's own value of the metric after its full training; None where it states none.

    Args:
        config: Of the trial, flat and whole.
        metric: As in ``config.METRICS``.
    """
    if metric != "sparsity/hoyer_all":
        return None
    if any(config[key] != value for key, value in _EXPERIMENT.items()):
        return None
    kind, alpha = config["prior/kind"], config["objective/alpha"]
    gamma = {"sparse": config["prior/gamma"], "normal": 0.0}.get(str(kind))
    if not isinstance(gamma, float) or not isinstance(alpha, float):
        return None
    return _HOYER_ALL.get(gamma, {}).get(alpha)
