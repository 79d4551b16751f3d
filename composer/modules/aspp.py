"""The heads of atrous spatial pyramid pooling. B batch, C channels, H and W cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from composer.feature import Features
from composer.modules.convolutions import build_conv_norm_act
from composer.modules.dispatch import module
from composer.modules.grids import is_same_grid, resize_like
from composer.parts import ASPPRegressionHead, ASPPSegmentationHead


class ASPP(nn.Module):
    """Convolutions of several dilations beside the mean over the whole map, fused, and dropout of whole channels."""

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
        """Give one map `(b, channels, h, w)` on the grid of the first of the chosen maps `(b, c_i, h_i, w_i)`."""
        x_BCHW = self._concat_maps(features)
        # One cell brought to a grid by interpolation is that cell everywhere.
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
    """From `(b, c, h, w)` to a `(b, width, h, w)` for each dilation."""

    def __init__(self, incoming: int, width: int, dilations: Sequence[int]) -> None:
        super().__init__()
        branches = (build_conv_norm_act(incoming, width, 3 if d > 1 else 1, d) for d in dilations)
        self.model_sequence = nn.ModuleList(branches)

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        return [branch(x_BCHW) for branch in self.model_sequence]


class ASPPSegmentation(ASPP):
    """Class scores for each cell."""

    def __init__(self, head: ASPPSegmentationHead, features: Features) -> None:
        super().__init__(head, features)
        self.conv_seg = nn.Conv2d(head.channels, head.num_classes, kernel_size=1)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give class scores `(b, num_classes, h, w)` on the grid of the first of the chosen maps."""
        return (self.conv_seg(self.fuse(features)),)


class ASPPRegression(ASPP):
    """Numbers for each cell."""

    def __init__(self, head: ASPPRegressionHead, features: Features) -> None:
        super().__init__(head, features)
        self.conv_reg = nn.Conv2d(head.channels, head.out_channels, kernel_size=1)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give numbers `(b, out_channels, h, w)` on the grid of the first of the chosen maps."""
        return (self.conv_reg(self.fuse(features)),)


@module.register(ASPPSegmentationHead)
def _(head: ASPPSegmentationHead, features: Features) -> nn.Module:
    return ASPPSegmentation(head, features)


@module.register(ASPPRegressionHead)
def _(head: ASPPRegressionHead, features: Features) -> nn.Module:
    return ASPPRegression(head, features)
