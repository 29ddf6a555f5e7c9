"""Priors, likelihoods, networks, and the VAE that puts them together."""

from tune_ddvae.models.likelihoods import Likelihood
from tune_ddvae.models.priors import ClusteredPrior, Prior, make_prior
from tune_ddvae.models.vae import VAE, Posterior, make_vae

__all__ = ["VAE", "ClusteredPrior", "Likelihood", "Posterior", "Prior", "make_prior", "make_vae"]
