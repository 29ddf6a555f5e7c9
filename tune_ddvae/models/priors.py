"""Priors p(z): joint log density, samples, and the KL to it where that has a closed form.

A generator lives on the device that its samples are wanted on.
"""

import abc
import math
import typing
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from tune_ddvae.config import PriorConfig
from tune_ddvae.errors import ConfigError
from tune_ddvae.models.densities import (
    normal_kl,
    normal_log_density,
    spike_and_slab_log_density,
    student_t_log_density,
)
from tune_ddvae.models.transport import DF_ENDS

CLUSTER_MEANS = ((0.0, 1.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 0.0))
CLUSTER_SCALE = math.sqrt(0.03)
# Principal variances below this share of the largest are what rounding leaves of none: of pixels that
# never change, say.
_SMALLEST_SHARE = 1e-9
# Heavier tails than a square in float32 can hold.
_FARTHEST_SAMPLE = 1e18


class Prior(nn.Module, abc.ABC):
    """p(z) over codes of ``latent_dim`` dimensions."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    @abc.abstractmethod
    def log_prob(self, codes: Float[Tensor, "*points latent"]) -> Float[Tensor, "*points"]:
        """Joint log density of each point, in nats."""

    @abc.abstractmethod
    def sample(self, num: int, generator: torch.Generator) -> Float[Tensor, "num latent"]:
        """Independent samples, one per row, on the generator's device."""

    def kl(
        self,
        mean: Float[Tensor, "batch latent"],  # noqa: ARG002  here no prior has a closed form
        scale: Float[Tensor, "batch latent"],  # noqa: ARG002
    ) -> Float[Tensor, "batch latent"] | None:
        """KL(N(mean, scale) || p) of each dimension in nats, or None without a closed form."""
        return None

    def _noise(self, num: int, generator: torch.Generator) -> Float[Tensor, "num latent"]:
        return torch.randn(num, self.latent_dim, generator=generator, device=generator.device)


class NormalPrior(Prior):
    """N(0, scale) in every dimension."""

    def __init__(self, latent_dim: int, scale: float = 1.0) -> None:
        super().__init__(latent_dim)
        self.scale = scale

    def log_prob(self, codes: Float[Tensor, "*points latent"]) -> Float[Tensor, "*points"]:
        """Joint log density of each point, in nats."""
        return normal_log_density(codes, 0.0, self.scale).sum(-1)

    def sample(self, num: int, generator: torch.Generator) -> Float[Tensor, "num latent"]:
        """Independent samples, one per row, on the generator's device."""
        return self.scale * self._noise(num, generator)

    def kl(
        self, mean: Float[Tensor, "batch latent"], scale: Float[Tensor, "batch latent"]
    ) -> Float[Tensor, "batch latent"]:
        """KL(N(mean, scale) || p) of each dimension, in nats."""
        return normal_kl(mean, scale, self.scale)


class AnisotropicPrior(Prior):
    """N(0, sqrt(variance_d)) in dimension d, where variance = c D softmax(v), arXiv:1812.02833.

    v starts as the logarithms of the data's principal variances. The variances sum to c D whatever v
    is, so that learning it moves shares from one dimension to another.

    Args:
        variance_scale: c, the mean of the variances.
        variances: The data's principal variances, largest first.
        learns_variance: Whether v is a parameter; else it is fixed. It is in the state either way.

    Raises:
        ConfigError: If a variance is nothing beside the largest: its logarithm would be rounding.
    """

    log_shares: Float[Tensor, " latent"]  # v

    def __init__(
        self,
        variance_scale: float,
        variances: Float64[Tensor, " latent"],
        *,
        learns_variance: bool = False,
    ) -> None:
        super().__init__(len(variances))
        self.variance_scale = variance_scale
        log_shares = _checked(variances).log().float()
        if learns_variance:
            self.log_shares = nn.Parameter(log_shares)
        else:
            self.register_buffer("log_shares", log_shares)

    @property
    def scale(self) -> Float[Tensor, " latent"]:
        """Standard deviation of each dimension; where v is learned gradients flow to it."""
        log_sum = math.log(self.variance_scale) + math.log(self.latent_dim)
        return (0.5 * (self.log_shares.log_softmax(0) + log_sum)).exp()

    def log_prob(self, codes: Float[Tensor, "*points latent"]) -> Float[Tensor, "*points"]:
        """Joint log density of each point, in nats."""
        return normal_log_density(codes, 0.0, self.scale).sum(-1)

    def sample(self, num: int, generator: torch.Generator) -> Float[Tensor, "num latent"]:
        """Independent samples, one per row, on the generator's device; gradients flow to a learned v."""
        return self.scale * self._noise(num, generator)

    def kl(
        self, mean: Float[Tensor, "batch latent"], scale: Float[Tensor, "batch latent"]
    ) -> Float[Tensor, "batch latent"]:
        """KL(N(mean, scale) || p) of each dimension, in nats."""
        return normal_kl(mean, scale, self.scale)


class StudentTPrior(Prior):
    """Student's t in every dimension."""

    def __init__(self, latent_dim: int, df: float) -> None:
        super().__init__(latent_dim)
        self.df = min(max(df, DF_ENDS[0]), DF_ENDS[1])

    def log_prob(self, codes: Float[Tensor, "*points latent"]) -> Float[Tensor, "*points"]:
        """Joint log density of each point, in nats."""
        return student_t_log_density(codes, self.df).sum(-1)

    def sample(self, num: int, generator: torch.Generator) -> Float[Tensor, "num latent"]:
        """Independent samples, one per row, on the generator's device; Bailey's (1994) polar way."""
        u, v = torch.rand(
            (2, num, self.latent_dim),
            generator=generator,
            device=generator.device,
            dtype=torch.float64,
        )
        # expm1 keeps the normal limit: as df grows this becomes -2 log(1 - u), Box and Muller's.
        squared_radius = self.df * torch.expm1(-2.0 / self.df * torch.log1p(-u))
        samples = squared_radius.sqrt() * torch.cos(2.0 * math.pi * v)
        return samples.clamp(-_FARTHEST_SAMPLE, _FARTHEST_SAMPLE).float()


class SparsePrior(Prior):
    """gamma N(0, spike_scale) + (1 - gamma) N(0, 1) in every dimension."""

    def __init__(self, latent_dim: int, gamma: float, spike_scale: float = 0.05) -> None:
        super().__init__(latent_dim)
        self.gamma = gamma
        self.spike_scale = spike_scale

    def log_prob(self, codes: Float[Tensor, "*points latent"]) -> Float[Tensor, "*points"]:
        """Joint log density of each point, in nats."""
        return spike_and_slab_log_density(codes, self.gamma, self.spike_scale).sum(-1)

    def sample(self, num: int, generator: torch.Generator) -> Float[Tensor, "num latent"]:
        """Independent samples, one per row, on the generator's device."""
        noise = self._noise(num, generator)
        is_spike = torch.empty_like(noise).bernoulli_(self.gamma, generator=generator) > 0
        return torch.where(is_spike, self.spike_scale * noise, noise)


class ClusteredPrior(Prior):
    """Four equal round clusters on the plane."""

    means: Float[Tensor, "component 2"]

    def __init__(self) -> None:
        super().__init__(latent_dim=2)
        self.register_buffer("means", torch.tensor(CLUSTER_MEANS), persistent=False)
        self.scale = CLUSTER_SCALE

    def log_prob(self, codes: Float[Tensor, "*points latent"]) -> Float[Tensor, "*points"]:
        """Joint log density of each point, in nats: the mixture counts once, not per dimension."""
        components = normal_log_density(codes.unsqueeze(-2), self.means, self.scale).sum(-1)
        return components.logsumexp(-1) - math.log(len(CLUSTER_MEANS))

    def sample(self, num: int, generator: torch.Generator) -> Float[Tensor, "num latent"]:
        """Independent samples, one per row, on the generator's device."""
        which = torch.randint(
            len(CLUSTER_MEANS), (num,), generator=generator, device=generator.device
        )
        return self.means[which] + self.scale * self._noise(num, generator)


def make_prior(
    config: PriorConfig, latent_dim: int, variances: Float64[Tensor, " latent"] | None = None
) -> Prior:
    """The prior that the configuration names; ``TrialConfig`` has checked it against latent_dim.

    Args:
        config: Kind and parameters.
        latent_dim: Size of the codes.
        variances: The data's principal variances, largest first; only the anisotropic prior reads
            them. Where a stored state is loaded next, any positive ones do.

    Raises:
        ConfigError: If the anisotropic prior gets no such variances, or the data vary in fewer
            directions than there are dimensions; names how many.
    """
    return _PRIORS[config.kind](config, latent_dim, variances)


def _anisotropic(
    config: PriorConfig, latent_dim: int, variances: Float64[Tensor, " latent"] | None
) -> Prior:
    if variances is None or len(variances) != latent_dim:
        num = 0 if variances is None else len(variances)
        raise ConfigError(
            f"prior/kind anisotropic needs the data's {latent_dim} largest principal variances, got "
            + (f"{num}: model/latent_dim can be {num} at most" if num else "none")
        )
    return AnisotropicPrior(
        _filled(config.variance_scale), variances, learns_variance=bool(config.learns_variance)
    )


def _checked(variances: Float64[Tensor, " latent"]) -> Float64[Tensor, " latent"]:
    """The variances, if each is more than what rounding leaves of none."""
    largest = variances[0]
    is_real = (variances > _SMALLEST_SHARE * largest) & variances.isfinite()
    if not is_real.all():
        first = int(is_real.long().argmin())
        raise ConfigError(
            f"prior/kind anisotropic takes model/latent_dim up to the number of directions in which the "
            f"training data vary, {first}; got {len(variances)}: principal variance number {first + 1} "
            f"is {variances[first].item():.3g}, no more than rounding beside the largest, "
            f"{largest.item():.3g}"
        )
    return variances


def _filled(value: float | None) -> float:
    """A field that the kind reads, which ``PriorConfig`` has filled."""
    return typing.cast(float, value)


_PRIORS: Mapping[str, Callable[[PriorConfig, int, Tensor | None], Prior]] = {
    "normal": lambda c, dim, _: NormalPrior(dim, _filled(c.scale)),
    "anisotropic": _anisotropic,
    "student_t": lambda c, dim, _: StudentTPrior(dim, _filled(c.df)),
    "sparse": lambda c, dim, _: SparsePrior(dim, _filled(c.gamma), _filled(c.spike_scale)),
    "clustered": lambda _c, _dim, _: ClusteredPrior(),
}
