"""Does a prior that is not rotationally invariant disentangle, and what does that cost?

Run       python -m tune_ddvae.study independence
Source    Mathieu et al. (2019), arXiv:1812.02833, section 6.1
Expect    disentanglement rises with beta as reconstruction falls; priors of unequal variances or heavy
          tails disentangle more at the same reconstruction than the isotropic normal. Seeds differ by
          more than most settings do: compare with --published --replicates.
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

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
    Value,
)
from tune_ddvae.spec import Choice, StudySize, StudySpec

_PRIORS: dict[str, dict[str, Value]] = {
    "normal": {"prior/kind": "normal"},
    "pca_fixed": {"prior/kind": "anisotropic", "prior/learns_variance": False},
    "pca_learned": {"prior/kind": "anisotropic", "prior/learns_variance": True},
    "student_t_9": {"prior/kind": "student_t", "prior/df": 9.0},
    "student_t_3": {"prior/kind": "student_t", "prior/df": 3.0},
    "student_t_30": {"prior/kind": "student_t", "prior/df": 30.0},
}

STUDY = StudySpec(
    rank_by={"disentanglement/factor_vae": "max", "log_likelihood/reconstruction": "max"},
    base=TrialConfig(
        data=DataConfig(name="dsprites", num_validation=5_000),
        model=ModelConfig(latent_dim=10),
        prior=PriorConfig(kind="normal"),
        likelihood=LikelihoodConfig(kind="bernoulli"),
        objective=ObjectiveConfig(beta=1.0, alpha=0.0),
        optimiser=OptimiserConfig(learning_rate=5e-4),
        training=TrainingConfig(epochs=20, batch_size=64),
        metrics=MetricsConfig(),
    ),
    space={
        "objective/beta": FloatDistribution(0.5, 16.0, log=True),
        "model/latent_dim": IntDistribution(6, 16),
        "prior/kind": Choice(
            {
                "normal": {},
                "anisotropic": {"prior/learns_variance": CategoricalDistribution((False, True))},
                "student_t": {"prior/df": FloatDistribution(3.0, 30.0, log=True)},
            }
        ),
    },
    size=StudySize(trials=60, first_rung=2),
    quick=StudySize(
        trials=8,
        first_rung=1,
        startup_trials=4,
        overrides={
            "training/epochs": 3,
            "training/images_per_epoch": 24_000,
            "data/num_validation": 1_000,
            "data/num_test": 1_000,
            "metrics/iwae_num_samples": 16,
            "metrics/iwae_num_points": 100,
            # The whole grid is minutes of encoding on a CPU.
            "metrics/grid_stride_at_end": 4,
        },
    ),
    published={
        f"{prior}_beta_{beta:g}": {**overrides, "objective/beta": beta}
        for beta in (1.0, 2.0, 4.0, 8.0, 16.0)
        for prior, overrides in _PRIORS.items()
    },
    first=("normal_beta_1", "pca_fixed_beta_1", "pca_learned_beta_1", "student_t_9_beta_1"),
)
