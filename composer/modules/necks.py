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
    IdentityDecoder,
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
        self.strides = tuple(_compute_stride_terms(f) for f in features)

    def forward(self, features: Sequence[Tensor], *, image_size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Return a map for each tensor; `image_size` is the reference's height and width in pixels."""
        layouts = zip(features, self.dropped, self.frames, self.strides, strict=True)
        return tuple(
            x
            if stride is None
            else _reshape_to_map(x[..., dropped:, :], frames, _compute_grid_size(image_size, stride))
            for x, dropped, frames, stride in layouts
        )


def _compute_stride_terms(feature: Feature) -> tuple[int, int, int] | None:
    """Return the numerator and denominator of the stride of tokens, and the cells lost at the border; None for a map.

    Integers, because a symbolic size can be multiplied with them.
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
    """Return a map of `x_BNC` with its frames among the channels, or a map per frame of `x_BTNC`."""
    x_BTHWC = x.reshape(x.shape[0], frames, *grid, x.shape[-1])
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
