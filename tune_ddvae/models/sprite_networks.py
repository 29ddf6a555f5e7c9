"""dSprites' networks in arXiv:1812.02833: four convolutions without batch norm, and linear layers."""

import itertools

from jaxtyping import Float
from torch import Tensor, nn

from tune_ddvae.models.layers import Sizes, channels_last, doubled_to_pixels, positive, scale_of
from tune_ddvae.models.likelihoods import Parameters

_SIDE = 4  # of the image after four halvings of 64 x 64


class SpriteEncoder(nn.Module):
    """Convolutions halve the image down to 4 x 4; a linear layer, and heads for mean and log variance."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, num_hidden = sizes.width, 4 * sizes.width
        channels = (sizes.shape[0], width, width, 2 * width, 2 * width)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(channels):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.ReLU(inplace=True)]
        self.convolutions = nn.Sequential(*layers)
        self.hidden = nn.Linear(channels[-1] * _SIDE**2, num_hidden)
        self.mean = nn.Linear(num_hidden, sizes.latent_dim)
        self.log_variance = nn.Linear(num_hidden, sizes.latent_dim)

    def forward(
        self, inputs: Float[Tensor, "batch channel 64 64"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        """Mean and scale of the posterior."""
        # As published nothing bends between the hidden layer and the heads.
        hidden = self.hidden(self.convolutions(channels_last(inputs)).flatten(1))
        return self.mean(hidden), scale_of(self.log_variance(hidden))


class SpriteDecoder(nn.Module):
    """Two linear layers, and the encoder's convolutions the other way round."""

    def __init__(self, sizes: Sizes, *, learns_scale: bool) -> None:
        super().__init__()
        self.learns_scale = learns_scale
        width, num_hidden = sizes.width, 4 * sizes.width
        channels = (2 * width, 2 * width, 2 * width, width)
        self.hidden = nn.Sequential(
            nn.Linear(sizes.latent_dim, num_hidden),
            nn.ReLU(),
            nn.Linear(num_hidden, channels[0] * _SIDE**2),
            nn.ReLU(),
            nn.Unflatten(1, (channels[0], _SIDE, _SIDE)),
        )
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(channels):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.ReLU(inplace=True)]
        self.convolutions = nn.Sequential(*layers)
        num_outputs = sizes.shape[0] * (2 if learns_scale else 1)
        self.output = nn.ConvTranspose2d(channels[-1], num_outputs, 4, 2, 1)

    def forward(self, codes: Float[Tensor, "batch latent"]) -> Parameters:
        """The likelihood's parameters, each (batch channel 64 64)."""
        images = self.convolutions(self.hidden(codes))
        output = doubled_to_pixels(images, self.output.weight, self.output.bias)
        if not self.learns_scale:
            return (output,)
        location, scale = output.chunk(2, dim=1)
        return location, positive(scale)
