"""Fashion-MNIST's networks in arXiv:1812.02833: convolutions with batch norm, as in a DCGAN."""

import itertools

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tune_ddvae.models.layers import Sizes, channels_last, doubled_to_pixels, positive
from tune_ddvae.models.likelihoods import Parameters


class FashionEncoder(nn.Module):
    """Convolutions halve the image down to 4 x 4, doubling the channels."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        channels = (sizes.shape[0], *_channels(sizes))
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(itertools.pairwise(channels)):
            layers.append(nn.Conv2d(before, after, 4, 2, 1, bias=False))
            if i > 0:
                layers.append(nn.BatchNorm2d(after))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        self.hidden = nn.Sequential(*layers)
        self.mean = nn.Conv2d(channels[-1], sizes.latent_dim, 4)
        self.scale = nn.Conv2d(channels[-1], sizes.latent_dim, 4)

    def forward(
        self, inputs: Float[Tensor, "batch channel height width"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        """Mean and scale of the posterior."""
        hidden = _pixels_last(self.hidden(channels_last(inputs)))
        mean, scale = (
            functional.linear(hidden, _pixels_last(head.weight), head.bias)
            for head in (self.mean, self.scale)
        )
        return mean, positive(scale)


class FashionDecoder(nn.Module):
    """The encoder's layers the other way round."""

    def __init__(self, sizes: Sizes, *, learns_scale: bool) -> None:
        super().__init__()
        self.learns_scale = learns_scale
        num_outputs = sizes.shape[0] * (2 if learns_scale else 1)
        channels = tuple(reversed(_channels(sizes)))
        self.spread = nn.ConvTranspose2d(sizes.latent_dim, channels[0], 4, bias=False)
        layers: list[nn.Module] = []
        for i, after in enumerate(channels):
            if i > 0:
                layers.append(nn.ConvTranspose2d(channels[i - 1], after, 4, 2, 1, bias=False))
            layers += [nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.hidden = nn.Sequential(*layers)
        self.output = nn.ConvTranspose2d(channels[-1], num_outputs, 4, 2, 1, bias=False)

    def forward(self, codes: Float[Tensor, "batch latent"]) -> Parameters:
        """The likelihood's parameters, each (batch channel height width)."""
        spread = (codes @ _pixels_last(self.spread.weight)).view(len(codes), 4, 4, -1)
        hidden = self.hidden(spread.permute(0, 3, 1, 2))
        output = doubled_to_pixels(hidden, self.output.weight)
        if not self.learns_scale:
            return (output,)
        location, scale = output.chunk(2, dim=1)
        return location, positive(scale)


def _channels(sizes: Sizes) -> tuple[int, ...]:
    """Channels after each halving of the image down to 4 x 4, the first as wide as asked."""
    num_halvings = (sizes.shape[-1] // 4).bit_length() - 1
    return tuple(sizes.width * 2**i for i in range(num_halvings))


def _pixels_last(images: Float[Tensor, "n channel 4 4"]) -> Float[Tensor, "n features"]:
    """One row per image or filter. A 4 x 4 filter on a 4 x 4 image is a plain matrix product."""
    return images.permute(0, 2, 3, 1).flatten(1)
