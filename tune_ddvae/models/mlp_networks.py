"""Pinwheel's networks in arXiv:1812.02833: linear layers, as published one hidden one each."""

import math

from jaxtyping import Float
from torch import Tensor, nn

from tune_ddvae.models.layers import Sizes, positive
from tune_ddvae.models.likelihoods import Parameters


class MlpEncoder(nn.Module):
    """Hidden layers of equal width, and a head each for mean and scale."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.hidden = _hidden_layers(math.prod(sizes.shape), sizes)
        self.mean = nn.Linear(sizes.width, sizes.latent_dim)
        self.scale = nn.Linear(sizes.width, sizes.latent_dim)

    def forward(
        self, inputs: Float[Tensor, " batch *shape"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        """Mean and scale of the posterior."""
        hidden = self.hidden(inputs.flatten(1))
        return self.mean(hidden), positive(self.scale(hidden))


class MlpDecoder(nn.Module):
    """As many hidden layers, and a head for the location and for the scale if one is learned."""

    def __init__(self, sizes: Sizes, *, learns_scale: bool) -> None:
        super().__init__()
        self.shape = sizes.shape
        num_outputs = math.prod(sizes.shape)
        self.hidden = _hidden_layers(sizes.latent_dim, sizes)
        self.location = nn.Linear(sizes.width, num_outputs)
        self.scale = nn.Linear(sizes.width, num_outputs) if learns_scale else None

    def forward(self, codes: Float[Tensor, "batch latent"]) -> Parameters:
        """The likelihood's parameters, each (batch *shape)."""
        hidden = self.hidden(codes)
        location = self.location(hidden).view(-1, *self.shape)
        if self.scale is None:
            return (location,)
        return location, positive(self.scale(hidden)).view(-1, *self.shape)


def _hidden_layers(num_inputs: int, sizes: Sizes) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (num_inputs, *[sizes.width] * (sizes.num_hidden_layers - 1)):
        layers += [nn.Linear(before, sizes.width), nn.ReLU()]
    return nn.Sequential(*layers)
