"""Modules of the decoders and of the heads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from composer import parts
from composer.layouts import VECTOR, Features
from composer.modules.base import (
    AdaptiveAveragePool,
    build_activation,
    build_conv_norm_act,
    make_contiguous_for_training,
    module,
    resize_like,
)
from composer.modules.necks import LearnedPyramid, scale_pyramid


@module.register(parts.FCNDecoder)
class FCN(nn.Module):
    """Double one map `num_convs` times."""

    def __init__(self, decoder: parts.FCNDecoder, features: Features) -> None:
        super().__init__()
        self.index = decoder.in_index
        widths = [features[self.index].channels] + [decoder.channels] * decoder.num_convs
        self.convs = nn.Sequential(*map(_build_upsample_block, widths, widths[1:]))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return one map `(b, channels, h * 2**num_convs, w * 2**num_convs)` for the map `(b, c, h, w)` at `index`."""
        y_BCHW: Tensor = self.convs(features[self.index])
        # A following dropout draws in memory order, so in train mode the usual order is kept.
        return (y_BCHW.contiguous() if self.training else y_BCHW,)


def _build_upsample_block(incoming: int, outgoing: int) -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(incoming, outgoing, kernel_size=2, stride=2),
        nn.Conv2d(outgoing, outgoing, kernel_size=3, padding=1),
        _LayerNorm2d(outgoing),
        nn.GELU(),
    )


class _LayerNorm2d(nn.Module):
    """Normalise each cell over its channels, `(b, c, h, w)` to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        # Without gradients the result stays in channels-last memory, where the permutation is free.
        y_BCHW: Tensor = self.ln(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return make_contiguous_for_training(y_BCHW, like=x_BCHW)


SQUEEZE_RATIO = 16
"""The factor by which scse reduces the channels in its channel gate."""

_NORMS: Mapping[bool | str, Callable[[int], nn.Module]] = {
    **dict.fromkeys((True, "batchnorm"), nn.BatchNorm2d),
    **dict.fromkeys((False, "identity"), nn.Identity),
    "instancenorm": nn.InstanceNorm2d,
}


@module.register(parts.UNetDecoder)
class UNet(nn.Module):
    """From the coarsest map up: enlarge, concatenate the next finer map, convolve twice; the last block has no skip."""

    def __init__(self, decoder: parts.UNetDecoder, features: Features) -> None:
        super().__init__()
        coarse_to_fine = features[::-1]
        skips = [f.channels for f in coarse_to_fine[1:]] + [0]
        incoming = [coarse_to_fine[0].channels, *decoder.channels[:-1]]
        widths = zip(incoming, skips, decoder.channels, strict=True)
        # Published weights are called decoder.decoder.blocks, so the blocks live one level down.
        self.decoder = nn.ModuleDict({"blocks": nn.ModuleList(_Block(decoder, *triple) for triple in widths)})

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return one map `(b, channels[-1], h, w)` on the grid of the first of the maps `(b, c_i, h_i, w_i)`."""
        blocks: Any = self.decoder["blocks"]
        x_BCHW, *skips = reversed(features)
        # All blocks but the last take a finer map; the last one refines the finest grid.
        *joining, last = blocks
        for block, skip_BCHW in zip(joining, skips, strict=True):
            x_BCHW = block(torch.cat([resize_like(x_BCHW, skip_BCHW, "nearest"), skip_BCHW], dim=1))
        return (last(x_BCHW),)


class _Block(nn.Module):
    def __init__(self, decoder: parts.UNetDecoder, incoming: int, skip: int, outgoing: int) -> None:
        super().__init__()
        norm = _NORMS[decoder.use_batchnorm]
        self.conv1 = _build_conv_block(incoming + skip, outgoing, norm)
        # Attention before the convolutions weighs the coarser map against the skip, so it needs a skip.
        self.attention1 = _build_attention(decoder.attention_type if skip else None, incoming + skip)
        self.conv2 = _build_conv_block(outgoing, outgoing, norm)
        self.attention2 = _build_attention(decoder.attention_type, outgoing)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self.attention2(self.conv2(self.conv1(self.attention1(x_BCHW))))
        return y_BCHW


def _build_conv_block(incoming: int, outgoing: int, norm: Callable[[int], nn.Module]) -> nn.Module:
    # A norm subtracts what a bias would add.
    convolution = _build_conv2d(incoming, outgoing, kernel=3, bias=norm is nn.Identity)
    return nn.Sequential(convolution, norm(outgoing), nn.ReLU(inplace=True))


def _build_conv2d(incoming: int, outgoing: int, kernel: int, *, bias: bool = True) -> nn.Conv2d:
    """Build a convolution that keeps the grid, with weights uniform in ±√(6 / fan-in) and bias 0.

    torch's own initialisation is skipped: drawing random weights is most of the time of a build.
    """
    layer: nn.Conv2d = skip_init(  # type: ignore[no-untyped-call]
        nn.Conv2d, incoming, outgoing, kernel, padding=kernel // 2, bias=bias, device=torch.get_default_device()
    )
    nn.init.kaiming_uniform_(layer.weight, mode="fan_in", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _build_attention(kind: str | None, channels: int) -> nn.Module:
    if kind is None:
        return nn.Identity()
    return nn.Sequential(OrderedDict(attention=_SCSE(channels)))


class _SCSE(nn.Module):
    """Multiply each value by the sum of two gates in 0..1: one for its channel, one for its cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # At least one: with no channels the gate would be constant and its weights would never learn.
        squeezed = max(channels // SQUEEZE_RATIO, 1)
        self.cSE = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            _build_conv2d(channels, squeezed, kernel=1),
            nn.ReLU(inplace=True),
            _build_conv2d(squeezed, channels, kernel=1),
            nn.Sigmoid(),
        )
        self.sSE = nn.Sequential(_build_conv2d(channels, 1, kernel=1), nn.Sigmoid())

    def forward(self, x_BCHW: Tensor) -> Tensor:
        gates_BCHW: Tensor = self.cSE(x_BCHW) + self.sSE(x_BCHW)
        return x_BCHW * gates_BCHW


@module.register(parts.UperNetDecoder)
class UperNet(nn.Module):
    """Pool the coarsest map at several scales, build a feature pyramid up to the finest map, and fuse all levels."""

    def __init__(self, decoder: parts.UperNetDecoder, features: Features) -> None:
        super().__init__()
        width = decoder.channels
        widths = [f.channels for f in features]
        self.align_corners = decoder.align_corners
        self.scales = decoder.scale_modules
        # Modules are made in this order because published seeds were.
        if self.scales:
            learned = LearnedPyramid(parts.LearnedInterpolateToPyramidal(), features)
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

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return one map `(b, channels, h, w)` on the grid of the first of the maps `(b, c_i, h_i, w_i)`."""
        *finer, coarsest = scale_pyramid(self.fpn1, self.fpn2, features) if self.scales else features
        laterals = [lateral(x) for lateral, x in zip(self.lateral_convs, finer, strict=True)]
        laterals.append(self._pool_pyramid(coarsest))
        for level in reversed(range(len(finer))):
            laterals[level] = laterals[level] + self._resize_like(laterals[level], laterals[level + 1])
        levels = [fpn(x) for fpn, x in zip(self.fpn_convs, laterals[:-1], strict=True)] + laterals[-1:]
        first, *others = levels
        aligned = [first, *(self._resize_like(first, x) for x in others)]
        return (self.fpn_bottleneck(torch.cat(aligned, dim=1)),)

    def _pool_pyramid(self, x_BCHW: Tensor) -> Tensor:
        """Fuse the coarsest map with its averages over grids of a few cells."""
        averages = [self._resize_like(x_BCHW, pooling(x_BCHW)) for pooling in self.psp_modules]
        fused: Tensor = self.bottleneck(torch.cat([x_BCHW, *averages], dim=1))
        return fused

    def _resize_like(self, like: Tensor, x_BCHW: Tensor) -> Tensor:
        return resize_like(x_BCHW, like, "bilinear", align_corners=self.align_corners)


@module.register(parts.LinearDecoder)
class Linear(nn.Module):
    """Apply one transposed convolution whose kernel is its stride: each cell becomes a square."""

    def __init__(self, decoder: parts.LinearDecoder, features: Features) -> None:
        super().__init__()
        self.index = decoder.in_index
        size = decoder.upsampling_size
        channels = features[self.index].channels
        self.conv = nn.ConvTranspose2d(channels, decoder.num_classes, kernel_size=size, stride=size)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return one map `(b, num_classes, h * size, w * size)` for the map `(b, c, h, w)` at `index`."""
        return (self.conv(features[self.index]),)


@module.register(parts.MLPDecoder)
class MLP(nn.Module):
    """Mix the channels of all inputs per cell: a hidden layer, an activation, and an output layer if requested."""

    def __init__(self, decoder: parts.MLPDecoder, features: Features) -> None:
        super().__init__()
        self.vectors = features[0].axes == VECTOR
        width = decoder.channels or features[decoder.out_index].channels
        self.hidden_layer = nn.Linear(sum(f.channels for f in features), width)
        self.activation = build_activation(decoder.activation)
        self.output_layer = nn.Identity() if decoder.out_dim is None else nn.Linear(width, decoder.out_dim)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return one map `(b, width, h, w)` for maps `(b, c_i, h, w)`, or one vector for vectors."""
        x = torch.cat(tuple(features), dim=1)
        if self.vectors:
            return (self._project(x),)
        return (self._project(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),)

    def _project(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.output_layer(self.activation(self.hidden_layer(x)))
        return mixed


@module.register(parts.ASPPSegmentationHead)
@module.register(parts.ASPPRegressionHead)
class ASPP(nn.Module):
    """Fuse convolutions of several dilations with the mean over the whole map, and compute scores or numbers."""

    def __init__(self, head: parts.ASPPSegmentationHead | parts.ASPPRegressionHead, features: Features) -> None:
        super().__init__()
        chosen = [features[index] for index in head.positions]
        incoming, width = sum(f.channels for f in chosen), head.channels
        self.positions = head.positions
        self.align_corners = head.align_corners
        # Modules are made in this order because published seeds were.
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), build_conv_norm_act(incoming, width, 1))
        branches = (build_conv_norm_act(incoming, width, 3 if d > 1 else 1, d) for d in head.dilations)
        self.aspp_modules = nn.ModuleDict({"model_sequence": nn.ModuleList(branches)})
        self.bottleneck = build_conv_norm_act((len(head.dilations) + 1) * width, width, 3)
        self.dropout = nn.Dropout2d(head.head_dropout_ratio) if head.head_dropout_ratio else nn.Identity()
        if isinstance(head, parts.ASPPSegmentationHead):
            self.last, outputs = "conv_seg", head.num_classes
        else:
            self.last, outputs = "conv_reg", head.out_channels
        self.add_module(self.last, nn.Conv2d(head.channels, outputs, kernel_size=1))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return one map `(b, outputs, h, w)` on the grid of the first of the chosen maps `(b, c_i, h_i, w_i)`."""
        x_BCHW = self._concat_maps(features)
        # Interpolating a single cell repeats it.
        mean_BCHW = self.image_pool(x_BCHW).expand(-1, -1, *x_BCHW.shape[-2:])
        branches: Any = self.aspp_modules["model_sequence"]
        parallel = [branch(x_BCHW) for branch in branches]
        fused = self.dropout(self.bottleneck(torch.cat([mean_BCHW, *parallel], dim=1)))
        return (getattr(self, self.last)(fused),)

    def _concat_maps(self, features: Sequence[Tensor]) -> Tensor:
        first, *others = (features[index] for index in self.positions)
        resized = (resize_like(x, first, "bilinear", align_corners=self.align_corners) for x in others)
        return torch.cat([first, *resized], dim=1) if others else first


@module.register(parts.SegmentationHead)
class Segmentation(nn.Module):
    """Apply 3 × 3 convolutions, dropout, a last convolution, bilinear upsampling, and the final activation."""

    def __init__(self, head: parts.SegmentationHead, features: Features) -> None:
        super().__init__()
        (feature,) = features
        widths = (feature.channels, *(head.channel_list or ()))
        self.head = nn.Sequential(
            nn.Sequential(*(_build_conv_relu(*pair, batch_norm=head.batch_norm) for pair in pairwise(widths))),
            nn.Dropout(head.dropout) if head.dropout else nn.Identity(),
            nn.Conv2d(widths[-1], head.num_classes, head.kernel_size, padding=head.kernel_size // 2),
        )
        self.upsampling = head.upsampling
        self.final_act = build_activation(head.final_act or "Identity")

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return class scores `(b, num_classes, h * upsampling, w * upsampling)` for one map `(b, c, h, w)`."""
        (x_BCHW,) = features
        y_BCHW = self.head(x_BCHW)
        if self.upsampling > 1:
            y_BCHW = F.interpolate(y_BCHW, scale_factor=self.upsampling, mode="bilinear", align_corners=True)
        return (self.final_act(y_BCHW),)


@module.register(parts.RegressionHead)
class Regression(nn.Module):
    """Apply learned doublings, 3 × 3 convolutions, dropout, a 1 × 1 convolution, and the final activation."""

    def __init__(self, head: parts.RegressionHead, features: Features) -> None:
        super().__init__()
        (feature,) = features
        widths = (feature.channels, *(head.channel_list or ()))
        stages: list[nn.Module] = []
        if head.learned_upscale_layers:
            doublings = (
                _PixelShuffleUpsample(feature.channels, batch_norm=head.batch_norm)
                for _ in range(head.learned_upscale_layers)
            )
            stages.append(nn.Sequential(*doublings))
        if head.channel_list is not None:
            blocks = (_build_conv_relu(*pair, batch_norm=head.batch_norm) for pair in pairwise(widths))
            stages.append(nn.Sequential(*blocks))
        dropout = nn.Dropout2d(head.dropout) if head.dropout else nn.Identity()
        self.head = nn.Sequential(*stages, dropout, nn.Conv2d(widths[-1], head.num_outputs, kernel_size=1))
        self.final_act = build_activation(head.final_act or "Identity")

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return numbers `(b, num_outputs, h * 2**layers, w * 2**layers)` for one map `(b, c, h, w)`."""
        (x_BCHW,) = features
        return (self.final_act(self.head(x_BCHW)),)


@module.register(parts.ClassificationHead)
@module.register(parts.ScalarHead)
class Scalars(nn.Module):
    """Apply linear layers, dropout, a linear layer, and pooling over positions, which may also come first."""

    def __init__(self, head: parts.ClassificationHead | parts.ScalarHead, features: Features) -> None:
        super().__init__()
        outputs = head.num_classes if isinstance(head, parts.ClassificationHead) else head.num_outputs
        (feature,) = features
        widths = (feature.channels, *(head.dim_list or ()))
        self.head = nn.Sequential(
            nn.Sequential(*(nn.Sequential(nn.Linear(*pair), nn.ReLU(inplace=True)) for pair in pairwise(widths))),
            nn.Dropout(head.dropout) if head.dropout else nn.Identity(),
            nn.Linear(widths[-1], outputs),
        )
        self.vector = feature.axes == VECTOR
        self.takes_max = isinstance(head, parts.ClassificationHead) and head.pooling == "max"
        # A single linear layer commutes with the mean, so the cheaper order is used.
        self.pool_first = head.linear_after_pool or not (head.dim_list or head.dropout or self.takes_max)
        self.final_act = build_activation(getattr(head, "final_act", None) or "Identity")

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return numbers `(b, outputs)` for one map `(b, c, h, w)` or one vector `(b, c)`."""
        (x,) = features
        if self.vector:
            return (self.final_act(self.head(x)),)
        x_BCN = x.flatten(2)
        y_BC = self.head(self._pool(x_BCN, 2)) if self.pool_first else self._pool(self.head(x_BCN.transpose(1, 2)), 1)
        return (self.final_act(y_BC),)

    def _pool(self, x: Tensor, axis: int) -> Tensor:
        # Its gradient goes to one position, and that of torch.amax to all that are equal.
        return x.max(axis).values if self.takes_max else x.mean(axis)


class _PixelShuffleUpsample(nn.Module):
    """Double a map, `(b, c, h, w)` to `(b, c, 2h, 2w)`: four values for each cell, laid out as a square."""

    def __init__(self, channels: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels * 4, kernel_size=3, padding=1)
        self.upscale = nn.PixelShuffle(2)
        self.bn = nn.BatchNorm2d(channels) if batch_norm else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self.relu(self.bn(self.upscale(self.conv(x_BCHW))))
        return y_BCHW


def _build_conv_relu(incoming: int, outgoing: int, *, batch_norm: bool = False) -> nn.Module:
    # The norm subtracts what a bias would add.
    norms = [nn.BatchNorm2d(outgoing)] if batch_norm else []
    convolution = nn.Conv2d(incoming, outgoing, kernel_size=3, padding=1, bias=not batch_norm)
    return nn.Sequential(convolution, *norms, nn.ReLU(inplace=True))
