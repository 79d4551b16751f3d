"""The feature pyramid network: every map mixed with what the coarser ones say. B batch, C channels, H and W cells."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from composer.feature import Features
from composer.modules.dispatch import module
from composer.modules.grids import is_same_grid, resize_like
from composer.parts import FeaturePyramidNetworkNeck


class FPN(nn.Module):
    """A 1 × 1 convolution of each map, the next coarser sum added to it, and a 3 × 3 convolution of that.

    Names, and the draws of the weights, are those of torchvision's FeaturePyramidNetwork.
    """

    def __init__(self, width: int, features: Features) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList()
        self.layer_blocks = nn.ModuleList()
        for feature in features:
            self.inner_blocks.append(nn.Sequential(nn.Conv2d(feature.channels, width, kernel_size=1)))
            self.layer_blocks.append(nn.Sequential(nn.Conv2d(width, width, kernel_size=3, padding=1)))
        for block in (*self.inner_blocks, *self.layer_blocks):
            nn.init.kaiming_uniform_(block[0].weight, a=1)
            nn.init.zeros_(block[0].bias)
        self.as_next_finer = tuple(is_same_grid(*pair) for pair in pairwise(features))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give a map `(b, width, h_i, w_i)` for each of the maps `(b, c_i, h_i, w_i)`."""
        *finer, total = (inner(x) for inner, x in zip(self.inner_blocks, features, strict=True))
        totals = [total]
        for x, same in zip(reversed(finer), reversed(self.as_next_finer), strict=True):
            total = x + (total if same else resize_like(total, x, "nearest"))
            totals.append(total)
        return tuple(layer(x) for layer, x in zip(self.layer_blocks, reversed(totals), strict=True))


class FPNNeck(nn.Module):
    """The network under the name that published weights have it by."""

    def __init__(self, neck: FeaturePyramidNetworkNeck, features: Features) -> None:
        super().__init__()
        self.fpn = FPN(neck.out_channel, features)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give a map `(b, out_channel, h_i, w_i)` for each of the maps `(b, c_i, h_i, w_i)`."""
        pyramid: tuple[Tensor, ...] = self.fpn(features)
        return pyramid


@module.register(FeaturePyramidNetworkNeck)
def _(neck: FeaturePyramidNetworkNeck, features: Features) -> nn.Module:
    return FPNNeck(neck, features)
