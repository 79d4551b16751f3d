"""Modules of the necks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from attrs import evolve
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F

from composer import parts
from composer.layouts import Feature, Features, parse_pattern
from composer.modules.base import module, resize_like
from composer.parts.rules import to_exact_grid


class Select(nn.Module):
    """Select tensors by position; without positions, all."""

    def __init__(self, indices: Sequence[int] | None = None) -> None:
        super().__init__()
        self.indices = indices

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the tensors at `indices`, of any shapes, in that order."""
        return tuple(features if self.indices is None else (features[index] for index in self.indices))


@module.register(parts.SelectIndices)
def _(neck: parts.SelectIndices, features: Features) -> nn.Module:
    return Select(neck.indices)


@module.register(parts.IdentityDecoder)
def _(decoder: parts.IdentityDecoder, features: Features) -> nn.Module:
    return Select((decoder.out_index,))


@module.register(parts.EmbeddingHead)
def _(head: parts.EmbeddingHead, features: Features) -> nn.Module:
    return Select()


def _pick_max(x: Tensor, axes: Sequence[int]) -> Tensor:
    # Not amax, as einops does, which shares the gradient among equal values: behind a ReLU many are equal.
    return x.flatten(axes[0]).max(-1).values


def _pick_min(x: Tensor, axes: Sequence[int]) -> Tensor:
    return x.flatten(axes[0]).min(-1).values


def _subtract(x: Tensor, axes: Sequence[int]) -> Tensor:
    first, second = x.unbind(axes[0])
    return first - second


ImageSize = tuple[int, int]

Reduction = str | Callable[[Tensor, Sequence[int]], Tensor]

_REDUCTIONS: Mapping[object, Reduction] = {"mean": "mean", "max": _pick_max, "min": _pick_min, "diff": _subtract}
"""The reductions of einops by their names in parts. A function gets the axes to reduce as the last ones."""


class Layout(NamedTuple):
    """The pattern of a tensor, and what einops cannot know of it: its frames, its prefix, and its grid.

    `grid` is set where the pattern spells the grid of tokens out, which are axis `tokens`: the numerator and the
    denominator of the stride, and the cells lost at the border, as integers, to multiply symbolic sizes by.
    """

    pattern: str
    frames: int | None
    tokens: int
    prefix: int
    grid: tuple[int, int, int] | None


def _build_layout(pattern: str, feature: Feature) -> Layout:
    axes = feature.axes.split()
    before, after = parse_pattern(pattern)
    is_changed, names = before != after, set(chain.from_iterable(before))
    spelled_out = "n" in axes and "h" in names
    grid = None
    if spelled_out:
        assert feature.stride is not None
        lost = to_exact_grid(feature).offset / feature.stride
        grid = feature.stride.numerator, feature.stride.denominator, int(lost)
    return Layout(
        pattern=pattern if is_changed else "",
        frames=feature.frames if "t" in names else None,
        tokens=axes.index("n") if spelled_out else 0,
        prefix=feature.prefix if spelled_out else 0,
        grid=grid,
    )


@module.register(parts.RearrangeNeck)
class Rearrange(nn.Module):
    """Lay tensors out anew, each by the pattern of its feature."""

    def __init__(self, neck: parts.RearrangeNeck, features: Features, reduction: str | None = None) -> None:
        super().__init__()
        self.reduction = _REDUCTIONS.get(reduction or neck.reduction)
        self.layouts = tuple(_build_layout(neck.get_pattern(feature), feature) for feature in features)

    def forward(self, features: Sequence[Tensor], *, image_size: ImageSize | None = None) -> tuple[Tensor, ...]:
        """Return a tensor for each of `features`. `image_size` is the reference's height and width in pixels.

        The grid of tokens follows from it, never from their number: where the two disagree, einops raises.
        """
        pairs = zip(features, self.layouts, strict=True)
        return tuple(self._rearrange(x, layout, image_size) for x, layout in pairs)

    def _rearrange(self, x: Tensor, layout: Layout, image_size: ImageSize | None) -> Tensor:
        if not layout.pattern:
            return x
        lengths = {} if layout.frames is None else {"t": layout.frames}
        if layout.grid is not None:
            assert image_size is not None
            pixels, cells, lost = layout.grid
            lengths["h"], lengths["w"] = (side * cells // pixels - lost for side in image_size)
            x = x[(slice(None),) * layout.tokens + (slice(layout.prefix, None),)]
        if self.reduction is not None:
            return reduce(x, layout.pattern, self.reduction, **lengths)
        # Convolutions copy it otherwise, and an export with symbolic sizes cannot tell whether it is contiguous.
        return rearrange(x, layout.pattern, **lengths).contiguous()


@module.register(parts.ReshapeTokensToImage)
def _(neck: parts.ReshapeTokensToImage, features: Features) -> nn.Module:
    return Rearrange(neck, tuple(_apply_stated(neck, f) if "n" in f.axes else f for f in features))


def _apply_stated(neck: parts.ReshapeTokensToImage, tokens: Feature) -> Feature:
    """Return tokens as the fields of the neck state them."""
    prefix = tokens.prefix if neck.remove_cls_token else 0
    return evolve(tokens, frames=neck.effective_time_dim or tokens.frames, prefix=prefix)


@module.register(parts.AddBottleneckLayer)
class AppendBottleneck(nn.Module):
    """Append a copy of the last map with half its channels."""

    def __init__(self, neck: parts.AddBottleneckLayer, features: Features) -> None:
        super().__init__()
        channels = features[-1].channels
        self.bottleneck = nn.Conv2d(channels, channels // 2, kernel_size=1)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the maps `(b, c, h, w)` and one more `(b, c // 2, h, w)`."""
        return (*features, self.bottleneck(features[-1]))


@module.register(parts.ConcatFeatures)
class Concat(nn.Module):
    """Concatenate branches level by level along the channel axis of each level's layout."""

    def __init__(self, neck: parts.ConcatFeatures, *branches: Features) -> None:
        super().__init__()
        self.axes = tuple(feature.axes.split().index("c") for feature in branches[0])

    def forward(self, *branches: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return one tensor for each level: `c` is the sum over the branches, all other axes are equal."""
        levels = zip(self.axes, *branches, strict=True)
        return tuple(torch.cat(level, dim=axis) for axis, *level in levels)


@module.register(parts.AddFeatures)
class Add(nn.Module):
    """Add branches level by level."""

    def __init__(self, neck: parts.AddFeatures, *branches: Features) -> None:
        super().__init__()

    def forward(self, *branches: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return one tensor for each level, of the shape that it has in every branch."""
        first, *others = branches
        return tuple(sum(level, start) for start, *level in zip(first, *others, strict=True))


@module.register(parts.AggregateTokens)
class Aggregate(Rearrange):
    """Pool the tokens, or the cells, of the tensors at `positions`, or pick one token of each."""

    def __init__(self, neck: parts.AggregateTokens, features: Features) -> None:
        chosen = tuple(features[index] for index in neck.positions)
        super().__init__(neck, chosen, str(neck.pooling))
        self.token = neck.token
        self.dropped = tuple(
            (index, feature.prefix if neck.drop_cls else 0)
            for index, feature in zip(neck.positions, chosen, strict=True)
        )

    def forward(self, features: Sequence[Tensor], *, image_size: ImageSize | None = None) -> tuple[Tensor, ...]:
        """Return a vector `(b, c)` for each chosen feature, or `(b, t, c)` for one with frames."""
        chosen = [features[index][..., dropped:, :] if dropped else features[index] for index, dropped in self.dropped]
        return super().forward(chosen) if self.token is None else tuple(x[..., self.token, :] for x in chosen)


@module.register(parts.TemporalPooling)
class PoolFrames(Rearrange):
    """Pool each tensor along its frame axis, after averaging the frames of each subset."""

    def __init__(self, neck: parts.TemporalPooling, features: Features) -> None:
        axes = tuple(feature.axes.split().index("t") for feature in features)
        super().__init__(neck, tuple(map(neck.average_subsets, features)), neck.pooling)
        self.axes, self.lengths = axes, neck.subset_lengths

    def forward(self, features: Sequence[Tensor], *, image_size: ImageSize | None = None) -> tuple[Tensor, ...]:
        """Return each tensor without its axis t; with `keep`, one that still has it."""
        if self.lengths is not None:
            features = [_average_subsets(x, self.lengths, t) for x, t in zip(features, self.axes, strict=True)]
        return super().forward(features)


def _average_subsets(x: Tensor, lengths: tuple[int, ...], t: int) -> Tensor:
    return torch.stack([subset.mean(t) for subset in x.split_with_sizes(lengths, t)], t)


@module.register(parts.InterpolateToPyramidal)
class InterpolatePyramid(nn.Module):
    """Interpolate each of n maps by a whole factor: `scale_factor` to the power n, ..., 1."""

    def __init__(self, neck: parts.InterpolateToPyramidal, features: Features) -> None:
        super().__init__()
        self.factors = tuple(neck.scale_factor**power for power in range(len(features), 0, -1))
        self.mode = neck.mode

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return maps `(b, c, h * factor, w * factor)` for maps `(b, c, h, w)`."""
        return tuple(self._upsample(x, factor) for x, factor in zip(features, self.factors, strict=True))

    def _upsample(self, x_BCHW: Tensor, factor: int) -> Tensor:
        return x_BCHW if factor == 1 else F.interpolate(x_BCHW, scale_factor=factor, mode=self.mode)


@module.register(parts.MaxpoolToPyramidal)
class MaxpoolPyramid(nn.Module):
    """Max-pool each map without overlap, by `kernel_size` to the power 0, 1, ..., rounding down."""

    def __init__(self, neck: parts.MaxpoolToPyramidal, features: Features) -> None:
        super().__init__()
        self.kernels = tuple(neck.kernel_size**power for power in range(len(features)))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return maps `(b, c, h // kernel, w // kernel)` for maps `(b, c, h, w)`."""
        return tuple(_pool_map(x, kernel) for x, kernel in zip(features, self.kernels, strict=True))


def _pool_map(x_BCHW: Tensor, kernel: int) -> Tensor:
    return x_BCHW if kernel == 1 else F.max_pool2d(x_BCHW, kernel_size=kernel)


@module.register(parts.LearnedInterpolateToPyramidal)
class LearnedPyramid(nn.Module):
    """Bring four maps of one grid to four scales: learned ×4 and ×2, unchanged, max-pooled by 2."""

    def __init__(self, neck: parts.LearnedInterpolateToPyramidal, features: Features) -> None:
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


@module.register(parts.FeaturePyramidNetworkNeck)
class FPN(nn.Module):
    """Apply a 1 × 1 convolution to each map, add the next coarser sum, and apply a 3 × 3 convolution.

    Names and the random draws of the weights are those of torchvision's FeaturePyramidNetwork, under the name `fpn`.
    """

    def __init__(self, neck: parts.FeaturePyramidNetworkNeck, features: Features) -> None:
        super().__init__()
        width = neck.out_channel
        inner, layer = nn.ModuleList(), nn.ModuleList()
        for feature in features:
            inner.append(nn.Sequential(nn.Conv2d(feature.channels, width, kernel_size=1)))
            layer.append(nn.Sequential(nn.Conv2d(width, width, kernel_size=3, padding=1)))
        self.fpn = nn.ModuleDict({"inner_blocks": inner, "layer_blocks": layer})
        for block in (*inner, *layer):
            nn.init.kaiming_uniform_(block[0].weight, a=1)
            nn.init.zeros_(block[0].bias)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return a map `(b, out_channel, h_i, w_i)` for each of the maps `(b, c_i, h_i, w_i)`."""
        inner: Any = self.fpn["inner_blocks"]
        layer: Any = self.fpn["layer_blocks"]
        *finer, total = (block(x) for block, x in zip(inner, features, strict=True))
        totals = [total]
        for x in reversed(finer):
            total = x + resize_like(total, x, "nearest")
            totals.append(total)
        return tuple(block(x) for block, x in zip(layer, reversed(totals), strict=True))
