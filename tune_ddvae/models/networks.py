"""Encoders and decoders as in arXiv:1812.02833; the name of the data picks the pair.

An encoder takes points (batch *shape) to mean and scale (batch latent). A decoder takes codes
(batch latent) to the likelihood's parameters, each (batch *shape): a location or logits, and a
scale where one is learned. Parameters are defined in the order in which the paper lists the layers.
"""

import copy
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tune_ddvae.models.fashion_networks import FashionDecoder, FashionEncoder
from tune_ddvae.models.layers import Sizes
from tune_ddvae.models.mlp_networks import MlpDecoder, MlpEncoder
from tune_ddvae.models.sprite_networks import SpriteDecoder, SpriteEncoder


@dataclass(frozen=True)
class Networks:
    """The kind of networks that suits a data set."""

    encoder: Callable[[Sizes], nn.Module]
    decoder: Callable[..., nn.Module]  # of sizes and learns_scale


_FASHION = Networks(FashionEncoder, FashionDecoder)
NETWORKS: Mapping[str, Networks] = {
    "fashion_mnist": _FASHION,
    "digits": _FASHION,
    "dsprites": Networks(SpriteEncoder, SpriteDecoder),
    "pinwheel": Networks(MlpEncoder, MlpDecoder),
}


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy for evaluation whose transposed convolutions do the batch norm after them as well."""
    folded = copy.deepcopy(network).eval()
    for layers in [module for module in folded.modules() if isinstance(module, nn.Sequential)]:
        for i, (layer, norm) in enumerate(itertools.pairwise(layers)):
            if isinstance(layer, nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
                layers[i] = fuse_conv_bn_eval(layer, norm, transpose=True)
                layers[i + 1] = nn.Identity()
    return folded
