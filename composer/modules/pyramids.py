"""Modules of the necks that make or refine a pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from composer.layouts import Features
from composer.modules.base import module
from composer.modules.layers import is_same_grid, resize_like
from composer.parts import (
    FeaturePyramidNetworkNeck,
    InterpolateToPyramidal,
    LearnedInterpolateToPyramidal,
    MaxpoolToPyramidal,
)


@module.register(InterpolateToPyramidal)
class InterpolatePyramid(nn.Module):
    """Interpolate each of n maps by a whole factor: `scale_factor` to the power n, ..., 1."""

    def __init__(self, neck: InterpolateToPyramidal, features: Features) -> None:
        super().__init__()
        self.factors = tuple(neck.scale_factor**power for power in range(len(features), 0, -1))
        self.mode = neck.mode

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return maps `(b, c, h * factor, w * factor)` for maps `(b, c, h, w)`."""
        return tuple(self._upsample(x, factor) for x, factor in zip(features, self.factors, strict=True))

    def _upsample(self, x_BCHW: Tensor, factor: int) -> Tensor:
        return x_BCHW if factor == 1 else F.interpolate(x_BCHW, scale_factor=factor, mode=self.mode)


@module.register(MaxpoolToPyramidal)
class MaxpoolPyramid(nn.Module):
    """Max-pool each map without overlap, by `kernel_size` to the power 0, 1, ..., rounding down."""

    def __init__(self, neck: MaxpoolToPyramidal, features: Features) -> None:
        super().__init__()
        self.kernels = tuple(neck.kernel_size**power for power in range(len(features)))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return maps `(b, c, h // kernel, w // kernel)` for maps `(b, c, h, w)`."""
        return tuple(_pool_map(x, kernel) for x, kernel in zip(features, self.kernels, strict=True))


def _pool_map(x_BCHW: Tensor, kernel: int) -> Tensor:
    return x_BCHW if kernel == 1 else F.max_pool2d(x_BCHW, kernel_size=kernel)


@module.register(LearnedInterpolateToPyramidal)
class LearnedPyramid(nn.Module):
    """Bring four maps of one grid to four scales: learned ×4 and ×2, unchanged, max-pooled by 2."""

    def __init__(self, neck: LearnedInterpolateToPyramidal, features: Features) -> None:
        super().__init__()
        first, second, _, _ = (f.channels for f in features)
        self.fpn1 = nn.Sequential(
            nn.ConvTranspose2d(first, first // 2, kernel_size=2, stride=2),
            nn.BatchNorm2d(first // 2),
            nn.GELU(),
            nn.ConvTranspose2d(first // 2, first // 4, kernel_size=2, stride=2),
        )
        self.fpn2 = nn.Sequential(nn.ConvTranspose2d(second, second // 2, kernel_size=2, stride=2))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return `(b, c0 // 4, 4h, 4w)`, `(b, c1 // 2, 2h, 2w)`, `(b, c2, h, w)` and `(b, c3, h // 2, w // 2)`."""
        return scale_pyramid(self.fpn1, self.fpn2, features)


def scale_pyramid(fpn1: nn.Module, fpn2: nn.Module, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return four maps at four scales, made with the two learned steps of a `LearnedPyramid`."""
    first, second, third, fourth = features
    return fpn1(first), fpn2(second), third, _pool_map(fourth, 2)


@module.register(FeaturePyramidNetworkNeck)
class FPNNeck(nn.Module):
    """Hold the network under the name `fpn`, which published weights use."""

    def __init__(self, neck: FeaturePyramidNetworkNeck, features: Features) -> None:
        super().__init__()
        self.fpn = FPN(neck.out_channel, features)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return a map `(b, out_channel, h_i, w_i)` for each of the maps `(b, c_i, h_i, w_i)`."""
        pyramid: tuple[Tensor, ...] = self.fpn(features)
        return pyramid


class FPN(nn.Module):
    """Apply a 1 × 1 convolution to each map, add the next coarser sum, and apply a 3 × 3 convolution.

    Names and the random draws of the weights are those of torchvision's FeaturePyramidNetwork.
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
        """Return a map `(b, width, h_i, w_i)` for each of the maps `(b, c_i, h_i, w_i)`."""
        *finer, total = (inner(x) for inner, x in zip(self.inner_blocks, features, strict=True))
        totals = [total]
        for x, same in zip(reversed(finer), reversed(self.as_next_finer), strict=True):
            total = x + (total if same else resize_like(total, x, "nearest"))
            totals.append(total)
        return tuple(layer(x) for layer, x in zip(self.layer_blocks, reversed(totals), strict=True))
