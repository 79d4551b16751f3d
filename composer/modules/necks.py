"""Modules of the necks that select, lay out, join or pool features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from composer.layouts import MAP, MAP_PER_FRAME, TOKENS, TOKENS_PER_FRAME, Feature, Features
from composer.modules.base import module
from composer.parts import (
    AddBottleneckLayer,
    AddFeatures,
    AggregateTokens,
    ConcatFeatures,
    PermuteDims,
    ReshapeTokensToImage,
    SelectIndices,
    TemporalPooling,
)
from composer.parts.rules import to_exact_grid


class Select(nn.Module):
    """Tensors by position, as they are."""

    def __init__(self, indices: Sequence[int]) -> None:
        super().__init__()
        self.indices = tuple(indices)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give the tensors at `indices`, of whatever shapes, in that order."""
        return tuple(features[index] for index in self.indices)


class Permute(nn.Module):
    """Every tensor with its axes in another order, and contiguous in it."""

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__()
        self.order = tuple(order)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give for each tensor one whose axis `i` is its axis `order[i]`."""
        return tuple(x.permute(self.order).contiguous() for x in features)


class TokensToMaps(nn.Module):
    """Tokens `(b, prefix + t*h*w, c)` laid out as maps `(b, t*c, h, w)`, frame by frame; maps pass through.

    Tokens per frame `(b, t, prefix + h*w, c)` become maps per frame `(b, t, c, h, w)`.
    The grid is counted in the image, never guessed from the number of tokens: where the two disagree, torch raises.
    """

    def __init__(self, neck: ReshapeTokensToImage, features: Features) -> None:
        super().__init__()
        # Tokens whose channels come second could pass for a grid of as many cells, and would be scrambled in silence.
        if not all(f.axes in (MAP, TOKENS, MAP_PER_FRAME, TOKENS_PER_FRAME) for f in features):
            raise ValueError(f'takes tokens "{TOKENS}" and maps "{MAP}" (got {[f.axes for f in features]})')
        self.dropped = tuple(f.prefix if neck.remove_cls_token else 0 for f in features)
        self.frames = tuple(neck.effective_time_dim or f.frames for f in features)
        self.strides = tuple(_compute_stride_terms(f) for f in features)

    def forward(self, features: Sequence[Tensor], *, image_size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Give a map for each tensor; `image_size` is the reference's height and width in pixels."""
        laid_out = []
        for x, dropped, frames, stride in zip(features, self.dropped, self.frames, self.strides, strict=True):
            laid_out.append(
                x
                if stride is None
                else _reshape_to_map(x[..., dropped:, :], frames, _compute_grid_size(image_size, stride))
            )
        return tuple(laid_out)


def _compute_stride_terms(feature: Feature) -> tuple[int, int, int] | None:
    """The stride of tokens as two integers, which a symbolic size can be multiplied with, and the cells that the grid
    has less than whole strides; None for a map.
    """
    if "n" not in feature.axes:
        return None
    assert feature.stride is not None
    return feature.stride.numerator, feature.stride.denominator, int(to_exact_grid(feature).offset / feature.stride)


def _compute_grid_size(image_size: tuple[int, int], stride: tuple[int, int, int]) -> tuple[int, int]:
    height, width = image_size
    pixels, cells, lost = stride
    return height * cells // pixels - lost, width * cells // pixels - lost


def _reshape_to_map(x: Tensor, frames: int, grid: tuple[int, int]) -> Tensor:
    """A map of `x_BNC`, whose frames go into the channels, or a map per frame of `x_BTNC`."""
    x_BTHWC = x.reshape(x.shape[0], frames, *grid, x.shape[-1])
    x_BTCHW = x_BTHWC.permute(0, 1, 4, 2, 3)
    # Contiguous, because convolutions copy it otherwise, and an export with symbolic sizes cannot tell whether it is.
    return (x_BTCHW if x.dim() == 4 else x_BTCHW.flatten(1, 2)).contiguous()


class AppendBottleneck(nn.Module):
    """All maps, and the last one once more with half its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bottleneck = nn.Conv2d(channels, channels // 2, kernel_size=1)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give the maps `(b, c, h, w)` and one more `(b, c // 2, h, w)`."""
        return (*features, self.bottleneck(features[-1]))


class Concat(nn.Module):
    """Branches joined level by level along the axis of the channels, wherever that is in a level's layout."""

    def __init__(self, axes: Sequence[int]) -> None:
        super().__init__()
        self.axes = tuple(axes)

    def forward(self, *branches: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give one tensor for each level: `c` is the sum over the branches, all else is equal in them."""
        levels = zip(self.axes, *branches, strict=True)
        return tuple(torch.cat(level, dim=axis) for axis, *level in levels)


class Add(nn.Module):
    """Branches added up level by level."""

    def forward(self, *branches: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give one tensor for each level, of the shape that it has in every branch."""
        return tuple(_sum_branches(level) for level in zip(*branches, strict=True))


def _sum_branches(level: tuple[Tensor, ...]) -> Tensor:
    # Not sum(level), which would begin with 0 and so run over the first tensor once more.
    total, *others = level
    for x in others:
        total = total + x
    return total


@module.register(SelectIndices)
def _(neck: SelectIndices, features: Features) -> nn.Module:
    return Select(neck.indices)


@module.register(PermuteDims)
def _(neck: PermuteDims, features: Features) -> nn.Module:
    return Permute(neck.new_order)


@module.register(ReshapeTokensToImage)
def _(neck: ReshapeTokensToImage, features: Features) -> nn.Module:
    return TokensToMaps(neck, features)


@module.register(AddBottleneckLayer)
def _(neck: AddBottleneckLayer, features: Features) -> nn.Module:
    return AppendBottleneck(features[-1].channels)


@module.register(ConcatFeatures)
def _(neck: ConcatFeatures, *branches: Features) -> nn.Module:
    return Concat([f.axes.split().index("c") for f in branches[0]])


@module.register(AddFeatures)
def _(neck: AddFeatures, *branches: Features) -> nn.Module:
    return Add()


class Aggregate(nn.Module):
    """Pools the tokens, or the cells, of the tensors at its positions; or picks one token of each."""

    def __init__(self, neck: AggregateTokens, features: Features) -> None:
        super().__init__()
        self.pooling = neck.pooling
        self.positions = neck.positions
        self.maps = tuple("h" in features[index].axes for index in neck.positions)
        self.dropped = tuple(features[index].prefix if neck.drop_cls else 0 for index in neck.positions)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give a vector `(b, c)` for each of the chosen, or `(b, t, c)` where it has frames."""
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


@module.register(AggregateTokens)
def _(neck: AggregateTokens, features: Features) -> nn.Module:
    return Aggregate(neck, features)


class PoolFrames(nn.Module):
    """Pools each tensor along its own axis of frames, after the frames of each subset have been averaged."""

    def __init__(self, neck: TemporalPooling, features: Features) -> None:
        super().__init__()
        self.pooling = neck.pooling
        self.lengths = neck.subset_lengths
        layouts = [feature.axes.split() for feature in features]
        self.axes = tuple((axes.index("t"), axes.index("c")) for axes in layouts)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give for each tensor one without the axis t; with `keep`, one that has it still."""
        return tuple(self._pool_frames(x, *axes) for x, axes in zip(features, self.axes, strict=True))

    def _pool_frames(self, x: Tensor, t: int, c: int) -> Tensor:
        if self.lengths is not None:
            x = torch.stack([subset.mean(t) for subset in x.split_with_sizes(self.lengths, t)], t)
        if self.pooling == "mean":
            return x.mean(t)
        if self.pooling == "max":
            # Not amax, which shares the gradient among equal frames: behind a ReLU many are equal.
            return x.max(t).values
        if self.pooling == "diff":
            first, second = x.unbind(t)
            return first - second
        if self.pooling == "concat":
            # The frames are taken out of the layout, so that an axis behind t moves up by one.
            return torch.cat(x.unbind(t), c - 1 if c > t else c)
        return x


@module.register(TemporalPooling)
def _(neck: TemporalPooling, features: Features) -> nn.Module:
    return PoolFrames(neck, features)
