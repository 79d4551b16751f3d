"""The UPerNet decoder. B batch, C channels, H and W cells."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from composer.feature import Features
from composer.modules.convolutions import build_conv_norm_act
from composer.modules.dispatch import module
from composer.modules.grids import is_same_grid, resize_like
from composer.modules.pooling import AdaptiveAveragePool
from composer.modules.pyramids import LearnedPyramid, scale_pyramid
from composer.parts import UperNetDecoder


class UperNet(nn.Module):
    """Pyramid pooling on the coarsest map, a feature pyramid from there to the finest, and all levels fused."""

    def __init__(self, decoder: UperNetDecoder, features: Features) -> None:
        super().__init__()
        width = decoder.channels
        widths = [f.channels for f in features]
        self.align_corners = decoder.align_corners
        self.scales = decoder.scale_modules
        # Modules are made in this order because published seeds were.
        if self.scales:
            learned = LearnedPyramid(features)
            self.fpn1, self.fpn2 = learned.fpn1, learned.fpn2
            widths = [widths[0] // 4, widths[1] // 2, *widths[2:]]
        *finer, coarsest = widths
        self.psp_modules = nn.ModuleList(
            nn.Sequential(AdaptiveAveragePool(cells), build_conv_norm_act(coarsest, width, 1))
            for cells in decoder.pool_scales
        )
        self.bottleneck = build_conv_norm_act(coarsest + len(decoder.pool_scales) * width, width, 3)
        self.lateral_convs = nn.ModuleList()
        self.fpn_convs = nn.ModuleList()
        for channels in finer:
            self.lateral_convs.append(build_conv_norm_act(channels, width, 1))
            self.fpn_convs.append(build_conv_norm_act(width, width, 3))
        self.fpn_bottleneck = build_conv_norm_act(len(features) * width, width, 3)
        # What is scaled is resized without asking whether it has to be; the first is on its own grid in any case.
        self.as_next_finer = tuple(not self.scales and is_same_grid(*pair) for pair in pairwise(features))
        others = (not self.scales and is_same_grid(features[0], f) for f in features[1:])
        self.as_finest = (True, *others)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give one map `(b, channels, h, w)` on the grid of the first of the maps `(b, c_i, h_i, w_i)`."""
        *finer, coarsest = scale_pyramid(self.fpn1, self.fpn2, features) if self.scales else features
        laterals = [lateral(x) for lateral, x in zip(self.lateral_convs, finer, strict=True)]
        laterals.append(self._pool_pyramid(coarsest))
        for level in reversed(range(len(finer))):
            above = self._resize_like(laterals[level], laterals[level + 1], same=self.as_next_finer[level])
            laterals[level] = laterals[level] + above
        levels = [fpn(x) for fpn, x in zip(self.fpn_convs, laterals[:-1], strict=True)] + laterals[-1:]
        aligned = [self._resize_like(levels[0], x, same=same) for x, same in zip(levels, self.as_finest, strict=True)]
        return (self.fpn_bottleneck(torch.cat(aligned, dim=1)),)

    def _pool_pyramid(self, x_BCHW: Tensor) -> Tensor:
        """The coarsest map beside its averages over grids of a few cells, fused."""
        averages = [self._resize_like(x_BCHW, pooling(x_BCHW), same=False) for pooling in self.psp_modules]
        fused: Tensor = self.bottleneck(torch.cat([x_BCHW, *averages], dim=1))
        return fused

    def _resize_like(self, like: Tensor, x_BCHW: Tensor, *, same: bool) -> Tensor:
        return x_BCHW if same else resize_like(x_BCHW, like, "bilinear", align_corners=self.align_corners)


@module.register(UperNetDecoder)
def _(decoder: UperNetDecoder, features: Features) -> nn.Module:
    return UperNet(decoder, features)
