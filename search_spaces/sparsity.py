"""Does a sparse prior make codes sparse, and what does that cost?

Run       python -m tune_ddvae.study sparsity
Source    Mathieu et al. (2019), arXiv:1812.02833, section 6.3
Expect    sparsity/hoyer rises with alpha under a sparse prior and falls with alpha under a normal one
          (published, 80 epochs, beta 1: .36 to .55 from alpha 0 to 100 at gamma .8; .24 to .20 at
          gamma 0), at a cost in log_likelihood/iwae. In the quick size the order shows, the values
          do not.
"""

from optuna.distributions import FloatDistribution, IntDistribution

from tune_ddvae.config import (
    DataConfig,
    LikelihoodConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimiserConfig,
    PriorConfig,
    TrainingConfig,
    TrialConfig,
    Value,
)
from tune_ddvae.spec import Choice, StudySize, StudySpec


def _setting(gamma: float, alpha: float, beta: float) -> dict[str, Value]:
    prior: dict[str, Value] = {"prior/kind": "normal"}  # gamma 0 is the normal prior
    if gamma > 0:
        prior = {"prior/kind": "sparse", "prior/gamma": gamma}
    return {**prior, "objective/alpha": alpha, "objective/beta": beta}


STUDY = StudySpec(
    rank_by={"sparsity/hoyer": "max", "log_likelihood/iwae": "max"},
    base=TrialConfig(
        data=DataConfig(name="fashion_mnist", num_validation=5_000),
        model=ModelConfig(latent_dim=50),
        prior=PriorConfig(kind="sparse", gamma=0.8),
        likelihood=LikelihoodConfig(kind="laplace", scale=0.1),
        objective=ObjectiveConfig(beta=1.0, alpha=100.0, divergence="mmd"),
        optimiser=OptimiserConfig(learning_rate=5e-4),
        training=TrainingConfig(epochs=80, batch_size=500),
    ),
    space={
        "objective/beta": FloatDistribution(0.1, 5.0, log=True),
        "objective/alpha": FloatDistribution(1.0, 1000.0, log=True),
        "model/latent_dim": IntDistribution(10, 64),
        "optimiser/learning_rate": FloatDistribution(1e-4, 2e-3, log=True),
        "prior/kind": Choice(
            {
                "normal": {},
                "sparse": {"prior/gamma": FloatDistribution(0.5, 0.95)},
                "student_t": {"prior/df": FloatDistribution(2.0, 50.0, log=True)},
            }
        ),
    },
    size=StudySize(trials=100, first_rung=5),
    quick=StudySize(
        trials=12,
        first_rung=1,
        startup_trials=4,
        overrides={
            "training/epochs": 9,
            "training/batch_size": 100,
            "data/num_train": 3_000,
            "data/num_validation": 500,
            "data/num_test": 1_000,
            "metrics/iwae_num_samples": 16,
            "metrics/iwae_num_points": 100,
        },
    ),
    published={
        f"gamma_{gamma:g}_alpha_{alpha:g}" + ("" if beta == 1.0 else f"_beta_{beta:g}"): _setting(
            gamma, alpha, beta
        )
        for beta in (1.0, 0.1, 5.0)
        for gamma in (0.0, 0.8)
        for alpha in (0.0, 10.0, 100.0, 500.0, 1000.0)
    },
    first=("gamma_0.8_alpha_100", "gamma_0_alpha_0", "gamma_0.8_alpha_0", "gamma_0_alpha_100"),
)
