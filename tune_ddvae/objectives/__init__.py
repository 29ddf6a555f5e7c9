"""What training maximises, and the bound that evaluation reports: functions of a VAE and a batch."""

from tune_ddvae.objectives.elbo import ElboTerms, elbo, posterior_kl
from tune_ddvae.objectives.inclusive_kl import inclusive_kl
from tune_ddvae.objectives.iwae import importance_weighted_bound
from tune_ddvae.objectives.mmd import mmd

__all__ = [
    "ElboTerms",
    "elbo",
    "importance_weighted_bound",
    "inclusive_kl",
    "mmd",
    "posterior_kl",
]
