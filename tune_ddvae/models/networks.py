"""Encoders and decoders as in arXiv:1812.02833; the name of the data picks the pair.

An encoder takes points (batch *shape) to mean and scale (batch latent). A decoder takes codes
(batch latent) to the likelihood's parameters, each (batch *shape): a location or logits, and a
scale where one is learned. Parameters are defined in the order in which the paper lists the layers.
"""

import copy
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tune_ddvae.models.likelihoods import Parameters

# A learned scale below the first divides by nearly nothing; one above the second overflows the KL.
SMALLEST_SCALE = 1e-6
LARGEST_SCALE = 1e3

Shape = tuple[int, ...]


class MlpEncoder(nn.Module):
    """Pinwheel's encoder: one hidden layer."""

    def __init__(self, shape: Shape, latent_dim: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(math.prod(shape), width), nn.ReLU())
        self.mean = nn.Linear(width, latent_dim)
        self.scale = nn.Linear(width, latent_dim)

    def forward(
        self, inputs: Float[Tensor, " batch *shape"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        """Mean and scale of the posterior."""
        hidden = self.hidden(inputs.flatten(1))
        return self.mean(hidden), _positive(self.scale(hidden))


class MlpDecoder(nn.Module):
    """Pinwheel's decoder: one hidden layer."""

    def __init__(self, shape: Shape, latent_dim: int, width: int, *, learns_scale: bool) -> None:
        super().__init__()
        self.shape = shape
        self.hidden = nn.Sequential(nn.Linear(latent_dim, width), nn.ReLU())
        self.location = nn.Linear(width, math.prod(shape))
        self.scale = nn.Linear(width, math.prod(shape)) if learns_scale else None

    def forward(self, codes: Float[Tensor, "batch latent"]) -> Parameters:
        """The likelihood's parameters, each (batch *shape)."""
        hidden = self.hidden(codes)
        location = self.location(hidden).view(-1, *self.shape)
        if self.scale is None:
            return (location,)
        return location, _positive(self.scale(hidden)).view(-1, *self.shape)


class ConvEncoder(nn.Module):
    """Fashion-MNIST's encoder: convolutions halve the image down to 4 x 4, doubling the channels."""

    def __init__(self, shape: Shape, latent_dim: int, width: int) -> None:
        super().__init__()
        channels = (shape[0], *_channels(shape, width))
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(itertools.pairwise(channels)):
            layers.append(nn.Conv2d(before, after, 4, 2, 1, bias=False))
            if i > 0:
                layers.append(nn.BatchNorm2d(after))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        self.hidden = nn.Sequential(*layers)
        self.mean = nn.Conv2d(channels[-1], latent_dim, 4)
        self.scale = nn.Conv2d(channels[-1], latent_dim, 4)

    def forward(
        self, inputs: Float[Tensor, "batch channel height width"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        """Mean and scale of the posterior."""
        # With one channel both layouts are the same numbers, and the slower one would be taken.
        count, channels, *size = inputs.shape
        laid_out = inputs.permute(0, 2, 3, 1).reshape(-1).view(count, *size, channels)
        hidden = _pixels_last(self.hidden(laid_out.permute(0, 3, 1, 2)))
        mean, scale = (
            functional.linear(hidden, _pixels_last(head.weight), head.bias)
            for head in (self.mean, self.scale)
        )
        return mean, _positive(scale)


class ConvDecoder(nn.Module):
    """Fashion-MNIST's decoder: the encoder's layers the other way round."""

    def __init__(self, shape: Shape, latent_dim: int, width: int, *, learns_scale: bool) -> None:
        super().__init__()
        self.size = shape[1:]
        self.learns_scale = learns_scale
        num_outputs = shape[0] * (2 if learns_scale else 1)
        channels = tuple(reversed(_channels(shape, width)))
        self.spread = nn.ConvTranspose2d(latent_dim, channels[0], 4, bias=False)
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
        # To one or two channels, a product and a fold take a third of a transposed convolution.
        patches = hidden.permute(0, 2, 3, 1).flatten(1, 2) @ self.output.weight.flatten(1)
        output = functional.fold(patches.transpose(1, 2), self.size, 4, padding=1, stride=2)
        if not self.learns_scale:
            return (output,)
        location, scale = output.chunk(2, dim=1)
        return location, _positive(scale)


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy for evaluation whose transposed convolutions do the batch norm after them as well."""
    folded = copy.deepcopy(network).eval()
    for layers in [module for module in folded.modules() if isinstance(module, nn.Sequential)]:
        for i, (layer, norm) in enumerate(itertools.pairwise(layers)):
            if isinstance(layer, nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
                layers[i] = fuse_conv_bn_eval(layer, norm, transpose=True)
                layers[i + 1] = nn.Identity()
    return folded


def _channels(shape: Shape, width: int) -> tuple[int, ...]:
    """Channels after each halving of the image down to 4 x 4, the first as wide as asked."""
    num_halvings = (shape[-1] // 4).bit_length() - 1
    return tuple(width * 2**i for i in range(num_halvings))


def _pixels_last(images: Float[Tensor, "n channel 4 4"]) -> Float[Tensor, "n features"]:
    """One row per image or filter. A 4 x 4 filter on a 4 x 4 image is a plain matrix product."""
    return images.permute(0, 2, 3, 1).flatten(1)


def _positive(raw: Tensor) -> Tensor:
    """A scale between the bounds above."""
    return functional.softplus(raw).clamp(max=LARGEST_SCALE) + SMALLEST_SCALE


@dataclass(frozen=True)
class Networks:
    """The kind of networks that suits a data set."""

    encoder: Callable[[Shape, int, int], nn.Module]  # of shape, latent_dim, width
    decoder: Callable[..., nn.Module]  # of shape, latent_dim, width and learns_scale


_CONVOLUTIONAL = Networks(ConvEncoder, ConvDecoder)
NETWORKS: Mapping[str, Networks] = {
    "fashion_mnist": _CONVOLUTIONAL,
    "digits": _CONVOLUTIONAL,
    "pinwheel": Networks(MlpEncoder, MlpDecoder),
}
