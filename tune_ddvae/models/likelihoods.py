"""Likelihoods p(x|z): log density of data points under what the decoder puts out."""

import abc
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from tune_ddvae.config import LikelihoodConfig
from tune_ddvae.models.densities import normal_log_density

# What a decoder puts out, each (sample batch *shape): a location or logits, and a scale if learned.
Parameters = tuple[Tensor, ...]


class Likelihood(abc.ABC):
    """p(x|z), given the decoder's parameters for z."""

    @property
    def has_learned_scale(self) -> bool:
        """Whether the decoder has to put out a scale as well."""
        return False

    @abc.abstractmethod
    def log_prob(
        self, inputs: Float[Tensor, " batch *shape"], parameters: Parameters
    ) -> Float[Tensor, "sample batch"]:
        """Log density of each point, summed over its values, in nats."""

    def mean(self, parameters: Parameters) -> Float[Tensor, "sample batch *shape"]:
        """Expected data point."""
        return parameters[0]


@dataclass(frozen=True)
class LaplaceLikelihood(Likelihood):
    """Laplace around the decoder's location, with one fixed scale."""

    scale: float

    def log_prob(
        self, inputs: Float[Tensor, " batch *shape"], parameters: Parameters
    ) -> Float[Tensor, "sample batch"]:
        """Log density of each point, summed over its values, in nats."""
        distance = _sum_over_values((inputs - parameters[0]).abs())
        return -distance / self.scale - inputs[0].numel() * math.log(2.0 * self.scale)


@dataclass(frozen=True)
class NormalLikelihood(Likelihood):
    """Normal around the decoder's mean; without a scale of its own, with the decoder's too."""

    scale: float | None = None

    @property
    def has_learned_scale(self) -> bool:
        """Whether the decoder has to put out a scale as well."""
        return self.scale is None

    def log_prob(
        self, inputs: Float[Tensor, " batch *shape"], parameters: Parameters
    ) -> Float[Tensor, "sample batch"]:
        """Log density of each point, summed over its values, in nats."""
        scale = parameters[1] if self.scale is None else self.scale
        return _sum_over_values(normal_log_density(inputs, parameters[0], scale))


@dataclass(frozen=True)
class BernoulliLikelihood(Likelihood):
    """Bernoulli on the decoder's logits, for values from 0 to 1."""

    def log_prob(
        self, inputs: Float[Tensor, " batch *shape"], parameters: Parameters
    ) -> Float[Tensor, "sample batch"]:
        """Log density of each point, summed over its values, in nats."""
        logits = parameters[0]
        return _sum_over_values(inputs * logits - functional.softplus(logits))

    def mean(self, parameters: Parameters) -> Float[Tensor, "sample batch *shape"]:
        """Expected data point."""
        return parameters[0].sigmoid()


def make_likelihood(config: LikelihoodConfig) -> Likelihood:
    """The likelihood that the configuration names."""
    return _LIKELIHOODS[config.kind](config)


_LIKELIHOODS: Mapping[str, Callable[[LikelihoodConfig], Likelihood]] = {
    # LikelihoodConfig has filled the fields that its kind reads.
    "laplace": lambda config: LaplaceLikelihood(typing.cast(float, config.scale)),
    "normal": lambda config: NormalLikelihood(config.scale),
    "bernoulli": lambda _config: BernoulliLikelihood(),
}


def _sum_over_values(
    values: Float[Tensor, "sample batch *shape"],
) -> Float[Tensor, "sample batch"]:
    return values.flatten(start_dim=2).sum(-1)
