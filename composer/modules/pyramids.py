"""Necks that make a pyramid of maps. B batch, C channels, H and W cells."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from composer.feature import Features
from composer.modules.dispatch import module
from composer.parts import InterpolateToPyramidal, LearnedInterpolateToPyramidal, MaxpoolToPyramidal


class InterpolatePyramid(nn.Module):
    """Each map interpolated by a whole factor of its own."""

    def __init__(self, factors: Sequence[int], mode: str) -> None:
        super().__init__()
        self.factors = tuple(factors)
        self.mode = mode

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give maps `(b, c, h * factor, w * factor)` for maps `(b, c, h, w)`."""
        return tuple(self._upsample(x, factor) for x, factor in zip(features, self.factors, strict=True))

    def _upsample(self, x_BCHW: Tensor, factor: int) -> Tensor:
        return x_BCHW if factor == 1 else F.interpolate(x_BCHW, scale_factor=factor, mode=self.mode)


class MaxpoolPyramid(nn.Module):
    """Each map max-pooled by a kernel of its own, without overlap and rounding down."""

    def __init__(self, kernels: Sequence[int]) -> None:
        super().__init__()
        self.kernels = tuple(kernels)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give maps `(b, c, h // kernel, w // kernel)` for maps `(b, c, h, w)`."""
        return tuple(_pool_map(x, kernel) for x, kernel in zip(features, self.kernels, strict=True))


def _pool_map(x_BCHW: Tensor, kernel: int) -> Tensor:
    return x_BCHW if kernel == 1 else F.max_pool2d(x_BCHW, kernel_size=kernel)


class LearnedPyramid(nn.Module):
    """Four maps of one grid at four scales: learned ×4 and ×2, unchanged, max-pooled by 2."""

    def __init__(self, features: Features) -> None:
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
        """Give `(b, c0 // 4, 4h, 4w)`, `(b, c1 // 2, 2h, 2w)`, `(b, c2, h, w)` and `(b, c3, h // 2, w // 2)`."""
        return scale_pyramid(self.fpn1, self.fpn2, features)


def scale_pyramid(fpn1: nn.Module, fpn2: nn.Module, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Four maps at four scales, by the two learned steps of a `LearnedPyramid`."""
    first, second, third, fourth = features
    return fpn1(first), fpn2(second), third, _pool_map(fourth, 2)


@module.register(InterpolateToPyramidal)
def _(neck: InterpolateToPyramidal, features: Features) -> nn.Module:
    # The last map is enlarged too: n maps grow by scale_factor to the power n, ..., 1.
    return InterpolatePyramid([neck.scale_factor**power for power in range(len(features), 0, -1)], neck.mode)


@module.register(MaxpoolToPyramidal)
def _(neck: MaxpoolToPyramidal, features: Features) -> nn.Module:
    return MaxpoolPyramid([neck.kernel_size**power for power in range(len(features))])


@module.register(LearnedInterpolateToPyramidal)
def _(neck: LearnedInterpolateToPyramidal, features: Features) -> nn.Module:
    return LearnedPyramid(features)
