"""What the networks share: their sizes, the bounds of a scale, and two faster ways to a layer."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

# A learned scale below the first divides by nearly nothing; one above the second overflows the KL.
SMALLEST_SCALE = 1e-6
LARGEST_SCALE = 1e3


@dataclass(frozen=True)
class Sizes:
    """What the layers of a pair of networks follow from.

    Attributes:
        shape: Of one data point.
        latent_dim: Size of the codes.
        width: Hidden units of an MLP, or channels of the first convolution.
        num_hidden_layers: Of an MLP; the convolutional networks' follow from the shape.
    """

    shape: tuple[int, ...]
    latent_dim: int
    width: int
    num_hidden_layers: int = 1


def positive(raw: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """A scale between the bounds above, by softplus."""
    return functional.softplus(raw).clamp(max=LARGEST_SCALE) + SMALLEST_SCALE


def scale_of(log_variance: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """A scale between the bounds above, from the logarithm of its square."""
    largest = 2.0 * math.log(LARGEST_SCALE)
    return (0.5 * log_variance.clamp(max=largest)).exp() + SMALLEST_SCALE


def channels_last(
    images: Float[Tensor, "batch channel height width"],
) -> Float[Tensor, "batch channel height width"]:
    """The same images, laid out in memory with the channels of a pixel side by side.

    With one channel both layouts are the same numbers, and a convolution would take the slower one.
    """
    count, channels, *size = images.shape
    return images.permute(0, 2, 3, 1).reshape(-1).view(count, *size, channels).permute(0, 3, 1, 2)


def doubled_to_pixels(
    hidden: Float[Tensor, "batch channel height width"],
    weight: Float[Tensor, "channel pixel 4 4"],
    bias: Float[Tensor, " pixel"] | None = None,
) -> Float[Tensor, "batch pixel double_height double_width"]:
    """A transposed convolution, 4 x 4 at stride 2 and padding 1, as a product and a fold.

    To one or two channels these take a third of its time.
    """
    size = tuple(2 * length for length in hidden.shape[2:])
    patches = hidden.permute(0, 2, 3, 1).flatten(1, 2) @ weight.flatten(1)
    pixels = functional.fold(patches.transpose(1, 2), size, 4, padding=1, stride=2)
    return pixels if bias is None else pixels + bias.view(-1, 1, 1)
