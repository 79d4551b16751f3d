"""Modules of the necks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from composer.layouts import MAP, MAP_PER_FRAME, TOKENS, TOKENS_PER_FRAME, Feature, Features
from composer.modules.base import module, resize_like
from composer.parts import (
    AddBottleneckLayer,
    AddFeatures,
    AggregateTokens,
    ConcatFeatures,
    FeaturePyramidNetworkNeck,
    IdentityDecoder,
    InterpolateToPyramidal,
    LearnedInterpolateToPyramidal,
    MaxpoolToPyramidal,
    PermuteDims,
    ReshapeTokensToImage,
    SelectIndices,
    TemporalPooling,
)
from composer.parts.rules import to_exact_grid


@module.register(SelectIndices)
class Select(nn.Module):
    """Select tensors by position."""

    def __init__(self, neck: SelectIndices, features: Features) -> None:
        super().__init__()
        self.indices = neck.indices

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the tensors at `indices`, of any shapes, in that order."""
        return tuple(features[index] for index in self.indices)


@module.register(IdentityDecoder)
def _(decoder: IdentityDecoder, features: Features) -> nn.Module:
    return Select(SelectIndices(indices=(decoder.out_index,)), features)


@module.register(PermuteDims)
class Permute(nn.Module):
    """Reorder the axes of every tensor."""

    def __init__(self, neck: PermuteDims, features: Features) -> None:
        super().__init__()
        self.order = neck.new_order

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return contiguous tensors whose axis `i` is axis `order[i]` of the input."""
        return tuple(x.permute(self.order).contiguous() for x in features)


@module.register(ReshapeTokensToImage)
class TokensToMaps(nn.Module):
    """Lay tokens `(b, prefix + t*h*w, c)` out as maps `(b, t*c, h, w)`, frame by frame; pass maps through.

    Tokens per frame `(b, t, prefix + h*w, c)` become maps per frame `(b, t, c, h, w)`.
    The grid follows from the image size, never from the number of tokens: where the two disagree, torch raises.
    """

    def __init__(self, neck: ReshapeTokensToImage, features: Features) -> None:
        super().__init__()
        # Tokens with channels second could match the cells of a grid by chance, and would be scrambled silently.
        if not all(f.axes in (MAP, TOKENS, MAP_PER_FRAME, TOKENS_PER_FRAME) for f in features):
            raise ValueError(f'takes tokens "{TOKENS}" and maps "{MAP}" (got {[f.axes for f in features]})')
        self.dropped = tuple(f.prefix if neck.remove_cls_token else 0 for f in features)
        self.frames = tuple(neck.effective_time_dim or f.frames for f in features)
        self.strides = tuple(map(compute_stride_terms, features))

    def forward(self, features: Sequence[Tensor], *, image_size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Return a map for each tensor; `image_size` is the reference's height and width in pixels."""
        layouts = zip(features, self.dropped, self.frames, self.strides, strict=True)
        return tuple(reshape_to_map(*layout, image_size) for layout in layouts)


StrideTerms = tuple[int, int, int]
"""Numerator and denominator of a stride, and the cells lost at the border: integers, to multiply symbolic sizes by."""


def compute_stride_terms(feature: Feature) -> StrideTerms | None:
    """Return the stride of tokens; None for a map."""
    if "n" not in feature.axes:
        return None
    assert feature.stride is not None
    return feature.stride.numerator, feature.stride.denominator, int(to_exact_grid(feature).offset / feature.stride)


def reshape_to_map(x: Tensor, dropped: int, frames: int, stride: StrideTerms | None, size: tuple[int, int]) -> Tensor:
    """Return a map of the tokens `x_BNC` behind the first `dropped`, with their frames among the channels.

    Tokens per frame `x_BTNC` become a map per frame. Without a stride, `x` is a map already.
    """
    if stride is None:
        return x
    pixels, cells, lost = stride
    rows, columns = (side * cells // pixels - lost for side in size)
    x_BTHWC = x[..., dropped:, :].reshape(x.shape[0], frames, rows, columns, x.shape[-1])
    x_BTCHW = x_BTHWC.permute(0, 1, 4, 2, 3)
    # Contiguous, because convolutions copy it otherwise, and an export with symbolic sizes cannot tell whether it is.
    return (x_BTCHW if x.dim() == 4 else x_BTCHW.flatten(1, 2)).contiguous()


@module.register(AddBottleneckLayer)
class AppendBottleneck(nn.Module):
    """Append a copy of the last map with half its channels."""

    def __init__(self, neck: AddBottleneckLayer, features: Features) -> None:
        super().__init__()
        channels = features[-1].channels
        self.bottleneck = nn.Conv2d(channels, channels // 2, kernel_size=1)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the maps `(b, c, h, w)` and one more `(b, c // 2, h, w)`."""
        return (*features, self.bottleneck(features[-1]))


@module.register(ConcatFeatures)
class Concat(nn.Module):
    """Concatenate branches level by level along the channel axis of each level's layout."""

    def __init__(self, neck: ConcatFeatures, *branches: Features) -> None:
        super().__init__()
        self.axes = tuple(feature.axes.split().index("c") for feature in branches[0])

    def forward(self, *branches: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return one tensor for each level: `c` is the sum over the branches, all other axes are equal."""
        levels = zip(self.axes, *branches, strict=True)
        return tuple(torch.cat(level, dim=axis) for axis, *level in levels)


@module.register(AddFeatures)
class Add(nn.Module):
    """Add branches level by level."""

    def __init__(self, neck: AddFeatures, *branches: Features) -> None:
        super().__init__()

    def forward(self, *branches: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return one tensor for each level, of the shape that it has in every branch."""
        return tuple(_sum_branches(level) for level in zip(*branches, strict=True))


def _sum_branches(level: tuple[Tensor, ...]) -> Tensor:
    # Not sum(level), which adds the first tensor to 0.
    total, *others = level
    for x in others:
        total = total + x
    return total


@module.register(AggregateTokens)
class Aggregate(nn.Module):
    """Pool the tokens, or the cells, of the tensors at `positions`, or pick one token of each."""

    def __init__(self, neck: AggregateTokens, features: Features) -> None:
        super().__init__()
        self.pooling = neck.pooling
        self.positions = neck.positions
        self.maps = tuple("h" in features[index].axes for index in neck.positions)
        self.dropped = tuple(features[index].prefix if neck.drop_cls else 0 for index in neck.positions)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return a vector `(b, c)` for each chosen feature, or `(b, t, c)` for one with frames."""
        chosen = zip(self.positions, self.maps, self.dropped, strict=True)
        return tuple(
            self._pool_tokens(features[index].flatten(-2).mT if is_map else features[index][..., dropped:, :])
            for index, is_map, dropped in chosen
        )

    def _pool_tokens(self, x_NC: Tensor) -> Tensor:
        match self.pooling:
            case "mean":
                return x_NC.mean(-2)
            case "max":
                # Not amax, which shares the gradient among equal tokens: behind a ReLU many are equal.
                return x_NC.max(-2).values
            case "min":
                return x_NC.min(-2).values
        return x_NC[..., 0 if self.pooling == "cls" else int(self.pooling), :]


@module.register(TemporalPooling)
class PoolFrames(nn.Module):
    """Pool each tensor along its frame axis, after averaging the frames of each subset."""

    def __init__(self, neck: TemporalPooling, features: Features) -> None:
        super().__init__()
        self.pooling = neck.pooling
        self.lengths = neck.subset_lengths
        layouts = [feature.axes.split() for feature in features]
        self.axes = tuple((axes.index("t"), axes.index("c")) for axes in layouts)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return each tensor without its axis t; with `keep`, one that still has it."""
        return tuple(self._pool_frames(x, *axes) for x, axes in zip(features, self.axes, strict=True))

    def _pool_frames(self, x: Tensor, t: int, c: int) -> Tensor:
        if self.lengths is not None:
            x = torch.stack([subset.mean(t) for subset in x.split_with_sizes(self.lengths, t)], t)
        match self.pooling:
            case "mean":
                return x.mean(t)
            case "max":
                # Not amax, which shares the gradient among equal frames: behind a ReLU many are equal.
                return x.max(t).values
            case "diff":
                first, second = x.unbind(t)
                return first - second
            case "concat":
                # Without the axis t, an axis behind it moves up by one.
                return torch.cat(x.unbind(t), c - 1 if c > t else c)
        return x


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

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return a map `(b, width, h_i, w_i)` for each of the maps `(b, c_i, h_i, w_i)`."""
        *finer, total = (inner(x) for inner, x in zip(self.inner_blocks, features, strict=True))
        totals = [total]
        for x in reversed(finer):
            total = x + resize_like(total, x, "nearest")
            totals.append(total)
        return tuple(layer(x) for layer, x in zip(self.layer_blocks, reversed(totals), strict=True))
