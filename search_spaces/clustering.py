"""Does a clustered prior keep the clusters of the data, by overlap or by the divergence to it?

Run       python -m tune_ddvae.study clustering
Source    Mathieu et al. (2019), arXiv:1812.02833, section 6.2
Expect    with alpha 0 four clusters are kept at small beta and lost as beta passes 1; with beta 0
          the divergence to the prior keeps them at any alpha. It varies by seed.
"""

from optuna.distributions import FloatDistribution

from tune_ddvae.config import (
    DataConfig,
    LikelihoodConfig,
    MetricsConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimiserConfig,
    PriorConfig,
    TrainingConfig,
    TrialConfig,
)
from tune_ddvae.spec import StudySize, StudySpec

_PANELS = [(beta, 0.0) for beta in (0.01, 0.5, 1.0, 1.2)] + [
    (0.0, alpha) for alpha in (1.0, 3.0, 5.0, 8.0)
]

STUDY = StudySpec(
    rank_by={"log_likelihood/iwae": "max", "divergence/inclusive_kl": "min"},
    base=TrialConfig(
        data=DataConfig(name="pinwheel", num_validation=400),
        model=ModelConfig(latent_dim=2),
        prior=PriorConfig(kind="clustered"),
        likelihood=LikelihoodConfig(kind="normal"),
        objective=ObjectiveConfig(beta=1.0, alpha=0.0, divergence="inclusive_kl"),
        optimiser=OptimiserConfig(learning_rate=1e-3),
        training=TrainingConfig(epochs=500, batch_size=400, evaluate_every=25),
        metrics=MetricsConfig(iwae_num_samples=64, iwae_num_points=400),
    ),
    space={
        "objective/beta": FloatDistribution(0.0, 2.0),
        "objective/alpha": FloatDistribution(0.1, 10.0, log=True),
        "optimiser/learning_rate": FloatDistribution(3e-4, 1e-2, log=True),
    },
    size=StudySize(trials=60, first_rung=50),
    quick=StudySize(
        trials=15,
        first_rung=10,
        startup_trials=4,
        overrides={
            "training/epochs": 100,
            "training/evaluate_every": 10,
            "metrics/iwae_num_points": 200,
        },
    ),
    published={
        f"beta_{beta:g}_alpha_{alpha:g}": {"objective/beta": beta, "objective/alpha": alpha}
        for beta, alpha in _PANELS
    },
    first=("beta_1_alpha_0", "beta_0_alpha_1"),
)
