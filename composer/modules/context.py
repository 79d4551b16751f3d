"""Modules that gather context at several scales: ASPP and UPerNet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from composer.layouts import Features
from composer.modules.base import module
from composer.modules.layers import AdaptiveAveragePool, build_conv_norm_act, is_same_grid, resize_like
from composer.modules.pyramids import LearnedPyramid, scale_pyramid
from composer.parts import ASPPRegressionHead, ASPPSegmentationHead, LearnedInterpolateToPyramidal, UperNetDecoder


class ASPP(nn.Module):
    """Fuse convolutions of several dilations with the mean over the whole map, and drop out whole channels."""

    def __init__(self, head: ASPPSegmentationHead | ASPPRegressionHead, features: Features) -> None:
        super().__init__()
        chosen = [features[index] for index in head.positions]
        incoming, width = sum(f.channels for f in chosen), head.channels
        self.positions = head.positions
        self.align_corners = head.align_corners
        self.as_first = tuple(is_same_grid(chosen[0], f) for f in chosen)
        # Modules are made in this order because published seeds were.
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), build_conv_norm_act(incoming, width, 1))
        self.aspp_modules = _Branches(incoming, width, head.dilations)
        self.bottleneck = build_conv_norm_act((len(head.dilations) + 1) * width, width, 3)
        self.dropout = nn.Dropout2d(head.head_dropout_ratio) if head.head_dropout_ratio else nn.Identity()

    def fuse(self, features: Sequence[Tensor]) -> Tensor:
        """Return one map `(b, channels, h, w)` on the grid of the first of the chosen maps `(b, c_i, h_i, w_i)`."""
        x_BCHW = self._concat_maps(features)
        # Interpolating a single cell repeats it.
        mean_BCHW = self.image_pool(x_BCHW).expand(-1, -1, *x_BCHW.shape[-2:])
        fused: Tensor = self.dropout(self.bottleneck(torch.cat([mean_BCHW, *self.aspp_modules(x_BCHW)], dim=1)))
        return fused

    def _concat_maps(self, features: Sequence[Tensor]) -> Tensor:
        maps = [features[index] for index in self.positions]
        aligned = [
            x if same else resize_like(x, maps[0], "bilinear", align_corners=self.align_corners)
            for x, same in zip(maps, self.as_first, strict=True)
        ]
        return aligned[0] if len(aligned) == 1 else torch.cat(aligned, dim=1)


class _Branches(nn.Module):
    """Apply a convolution for each dilation, `(b, c, h, w)` to `(b, width, h, w)`."""

    def __init__(self, incoming: int, width: int, dilations: Sequence[int]) -> None:
        super().__init__()
        branches = (build_conv_norm_act(incoming, width, 3 if d > 1 else 1, d) for d in dilations)
        self.model_sequence = nn.ModuleList(branches)

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        return [branch(x_BCHW) for branch in self.model_sequence]


@module.register(ASPPSegmentationHead)
class ASPPSegmentation(ASPP):
    """Compute class scores for each cell."""

    def __init__(self, head: ASPPSegmentationHead, features: Features) -> None:
        super().__init__(head, features)
        self.conv_seg = nn.Conv2d(head.channels, head.num_classes, kernel_size=1)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return class scores `(b, num_classes, h, w)` on the grid of the first of the chosen maps."""
        return (self.conv_seg(self.fuse(features)),)


@module.register(ASPPRegressionHead)
class ASPPRegression(ASPP):
    """Compute numbers for each cell."""

    def __init__(self, head: ASPPRegressionHead, features: Features) -> None:
        super().__init__(head, features)
        self.conv_reg = nn.Conv2d(head.channels, head.out_channels, kernel_size=1)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return numbers `(b, out_channels, h, w)` on the grid of the first of the chosen maps."""
        return (self.conv_reg(self.fuse(features)),)


@module.register(UperNetDecoder)
class UperNet(nn.Module):
    """Pool the coarsest map at several scales, build a feature pyramid up to the finest map, and fuse all levels."""

    def __init__(self, decoder: UperNetDecoder, features: Features) -> None:
        super().__init__()
        width = decoder.channels
        widths = [f.channels for f in features]
        self.align_corners = decoder.align_corners
        self.scales = decoder.scale_modules
        # Modules are made in this order because published seeds were.
        if self.scales:
            learned = LearnedPyramid(LearnedInterpolateToPyramidal(), features)
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
        # Scaled maps are always resized; the first map is on its own grid in any case.
        self.as_next_finer = tuple(not self.scales and is_same_grid(*pair) for pair in pairwise(features))
        others = (not self.scales and is_same_grid(features[0], f) for f in features[1:])
        self.as_finest = (True, *others)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return one map `(b, channels, h, w)` on the grid of the first of the maps `(b, c_i, h_i, w_i)`."""
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
        """Fuse the coarsest map with its averages over grids of a few cells."""
        averages = [self._resize_like(x_BCHW, pooling(x_BCHW), same=False) for pooling in self.psp_modules]
        fused: Tensor = self.bottleneck(torch.cat([x_BCHW, *averages], dim=1))
        return fused

    def _resize_like(self, like: Tensor, x_BCHW: Tensor, *, same: bool) -> Tensor:
        return x_BCHW if same else resize_like(x_BCHW, like, "bilinear", align_corners=self.align_corners)
