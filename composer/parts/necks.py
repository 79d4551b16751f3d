"""Necks that select, lay out, join or rescale features: declarations and contracts."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import reduce
from types import MappingProxyType
from typing import ClassVar

from attrs import evolve, field, frozen

from composer.layouts import (
    MAP,
    MAP_PER_FRAME,
    TOKENS,
    TOKENS_PER_FRAME,
    Feature,
    Features,
    describe_features,
    format_count,
    has_layout,
    parse_pattern,
    rearrange_feature,
    validate_pattern,
)
from composer.parts import rules
from composer.parts.base import Neck, contract
from composer.parts.rules import ContractResult, Kind, Outputs, Rejection
from composer.parts.validators import BOOL, CHANNELS, INDEX, NON_EMPTY, Choice, IntRange, convert_int_list
from composer.sizes import ANY_SIZE, SizeConstraint

INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic", "area")


@frozen(kw_only=True)
class SelectIndices(Neck):
    """Select features by position, in the given order; negative positions count from the end."""

    indices: tuple[int, ...] = field(converter=convert_int_list, validator=[NON_EMPTY, INDEX])


@contract.register(SelectIndices)
def _(neck: SelectIndices, features: Features) -> ContractResult:
    return rules.require_indices(features, neck.indices, "indices") or Outputs(
        features=[features[i] for i in neck.indices]
    )


@frozen
class RearrangeNeck(Neck):
    """Lay every feature out anew by an einops pattern, which is both the contract of the neck and its module.

    A neck of your own is a class with a `pattern`. Where axes are missing on the right, `reduction` is `mean`, `max` or
    `min` over them:

        class ToChannelsLast(composer.RearrangeNeck):
            pattern = "b c h w -> b h w c"

    The axes are those of `Feature.axes`. Tokens are one axis `n`, or their grid: `(h w)`, or `(t h w)` with frames
    among them; where the grid is spelled out, prefix tokens are dropped. `(t c)` makes channels of frames. Raises
    ValueError for a pattern that does not lead from one layout to another, when the class is made.
    """

    reads_stride: ClassVar[bool] = True
    pattern: ClassVar[str] = ""
    reduction: ClassVar[str | None] = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.get_pattern is RearrangeNeck.get_pattern:
            validate_pattern(cls.pattern, cls.reduction)

    def get_pattern(self, feature: Feature) -> str:  # noqa: ARG002
        """Return the pattern for a feature. Override it where the pattern depends on the feature or on fields."""
        return self.pattern


@contract.register(RearrangeNeck)
def _(neck: RearrangeNeck, features: Features) -> ContractResult:
    for feature in features:
        pattern = neck.get_pattern(feature)
        left, _ = parse_pattern(pattern)
        if not has_layout(feature, left):
            # einops counts the dimensions of a tensor, and cannot tell other axes from those of the pattern.
            kind: Kind = "wrong_output" if len(feature.axes.split()) == len(left) else "raises"
            expected = f'takes features laid out as "{pattern.partition("->")[0].strip()}"'
            return Rejection(code="layout", kind=kind, expected=expected)
    return rearrange_features(neck, features)


def rearrange_features(neck: RearrangeNeck, features: Features) -> Outputs:
    """Return the features after the patterns of a neck. Tokens whose grid is spelled out must have a whole grid."""
    patterns = [neck.get_pattern(feature) for feature in features]
    spelled_out = [f for f, pattern in zip(features, patterns, strict=True) if "n" in f.axes and "h" in pattern]
    return Outputs(
        features=[rearrange_feature(f, pattern) for f, pattern in zip(features, patterns, strict=True)],
        sizes=rules.compute_exact_multiple(*spelled_out),
    )


@frozen(kw_only=True)
class PermuteDims(RearrangeNeck):
    """Reorder the axes of every feature: axis `i` of the output is axis `new_order[i]` of the input."""

    reads_stride: ClassVar[bool] = False

    new_order: tuple[int, ...] = field(converter=convert_int_list, validator=[NON_EMPTY, IntRange(0, 4)])

    def get_pattern(self, feature: Feature) -> str:
        """Return `b c h w -> b h w c` for a map and the order 0, 2, 3, 1."""
        axes = feature.axes.split()
        return f"{feature.axes} -> {' '.join(axes[position] for position in self.new_order)}"


@contract.register(PermuteDims)
def _(neck: PermuteDims, features: Features) -> ContractResult:
    rank = len(neck.new_order)
    if sorted(neck.new_order) != list(range(rank)) or any(len(f.axes.split()) != rank for f in features):
        return Rejection(
            code="value",
            expected=f"takes features of {rank} axes, each named once in new_order {list(neck.new_order)}",
            about="new_order",
        )
    if any(f.axes.split()[neck.new_order[0]] != "b" for f in features):
        return Rejection(
            code="value",
            kind="policy",
            expected="leaves the batch in front, because every other part takes it there",
            got=f"new_order {list(neck.new_order)}",
            fix="begin new_order with 0",
            about="new_order",
        )
    return rearrange_features(neck, features)


_GRID_PATTERNS: Mapping[str, str] = MappingProxyType(
    {
        TOKENS: "b (t h w) c -> b (t c) h w",
        TOKENS_PER_FRAME: "b t (h w) c -> b t c h w",
        **{axes: f"{axes} -> {axes}" for axes in (MAP, MAP_PER_FRAME)},
    }
)


@frozen(kw_only=True)
class ReshapeTokensToImage(RearrangeNeck):
    """Lay tokens out on their grid, `(H / stride, W / stride)`; frames are folded into the channels.

    Tokens per frame, which have an axis of frames, become a map per frame. `remove_cls_token` drops all tokens of the
    prefix. `effective_time_dim` and `h` state the expected frames and rows; both are optional, since they are known.
    Maps, and maps per frame, pass through unchanged.
    """

    remove_cls_token: bool = field(default=True, validator=BOOL)
    effective_time_dim: int | None = field(default=None, validator=IntRange(1, 1024, optional=True))
    h: int | None = field(default=None, validator=IntRange(1, 16_384, optional=True))

    def get_pattern(self, feature: Feature) -> str:
        """Return the pattern of a layout: of tokens, or of a map, which stays as it is. Raises KeyError for others."""
        return _GRID_PATTERNS[feature.axes]


@contract.register(ReshapeTokensToImage)
def _(neck: ReshapeTokensToImage, features: Features) -> ContractResult:
    if not features or any(f.axes not in _GRID_PATTERNS for f in features):
        expected = f'takes tokens "{TOKENS}", or maps "{MAP}", which pass through'
        return Rejection(code="layout", expected=expected)
    tokens = [feature for feature in features if "n" in feature.axes]
    if any(f.prefix for f in tokens) and not neck.remove_cls_token:
        return Rejection(
            code="prefix",
            expected="lays tokens out on a grid, where prefix tokens have no place",
            fix="remove_cls_token: true",
            about="remove_cls_token",
        )
    stated = neck.effective_time_dim
    if stated is not None and any(f.frames != stated for f in tokens):
        return Rejection(
            code="frames",
            expected=f"expects tokens of {format_count(stated, 'frame')}",
            fix=f"effective_time_dim: {max(f.frames for f in tokens)}",
            about="effective_time_dim",
        )
    outputs = rearrange_features(neck, features)
    if neck.h is None or not tokens:
        return outputs
    # The image heights at which the exact grids have `h` rows.
    heights = {rules.scale_stride(f.stride, neck.h) + rules.to_exact_grid(f).offset for f in tokens}
    height = heights.pop()
    if heights or height.denominator != 1 or height <= 0:
        return Rejection(
            code="value",
            kind="policy",
            expected=f"expects every grid to have {format_count(neck.h, 'row')}, which no image height satisfies",
            fix="leave h out: the grid is known without it",
            about="h",
        )
    return evolve(outputs, sizes=evolve(outputs.sizes, height=int(height)))


@frozen(kw_only=True)
class ConcatFeatures(Neck):
    """Concatenate branches level by level along the channels."""


@contract.register(ConcatFeatures)
def _(neck: ConcatFeatures, *branches: Features) -> ContractResult:
    return _require_equal_levels(branches) or _require_equal_grids(branches) or _join(branches, concatenated=True)


@frozen(kw_only=True)
class AddFeatures(Neck):
    """Add branches level by level."""


@contract.register(AddFeatures)
def _(neck: AddFeatures, *branches: Features) -> ContractResult:
    levels = list(zip(*branches, strict=False))
    kind: Kind = "raises"
    if any(len({len(f.axes.split()) for f in level}) > 1 for level in levels):
        # torch aligns axes from the last one, so the batch of one branch may be added to the frames of another.
        kind = "wrong_output"
    elif all(map(_is_broadcastable, levels)):
        # torch broadcasts a single channel or frame over the others, which is not what was requested.
        kind = "policy"
    return (
        _require_equal_levels(branches)
        or _require_equal_grids(branches, kind)
        or _require_equal_channels(branches, kind)
        or _join(branches, concatenated=False)
    )


def _is_broadcastable(level: Features) -> bool:
    """Return whether torch would add features of different shapes without an error."""
    grids = {rules.get_grid_key(evolve(f, frames=1) if "t" in f.axes else f) for f in level}
    return len(grids) == 1 and all(
        len({*sizes} - {1}) <= 1 for sizes in ([f.channels for f in level], [f.frames for f in level])
    )


def _join(branches: tuple[Features, ...], *, concatenated: bool) -> Outputs:
    joined, sizes = [], ANY_SIZE
    for level in zip(*branches, strict=True):
        first, demanded = rules.align_grids(level)
        joined.append(evolve(first, channels=sum(f.channels for f in level)) if concatenated else first)
        sizes = rules.combine(sizes, demanded)
    return Outputs(features=joined, sizes=sizes)


def _require_equal_levels(branches: tuple[Features, ...]) -> Rejection | None:
    if len(branches) < 2:
        return Rejection(
            code="inputs",
            kind="policy",
            expected="joins at least two inputs",
            got=format_count(len(branches), "input"),
            fix="write the model as nodes, and say what it joins: from: [one, other]",
        )
    for position, branch in enumerate(branches[1:], start=1):
        if len(branch) != len(branches[0]):
            levels = format_count(min(len(branch), len(branches[0])), "level")
            return Rejection(
                code="count",
                expected=f"joins branches level by level, and its first input has "
                f"{format_count(len(branches[0]), 'level')}",
                got=format_count(len(branch), "level"),
                fix=f"bring both to {levels}, with SelectIndices, or with the out_indices or the depth of an encoder",
                input=position,
            )
    return None


def _require_equal_grids(branches: tuple[Features, ...], kind: Kind = "raises") -> Rejection | None:
    for position, branch in enumerate(branches[1:], start=1):
        for level, (one, other) in enumerate(zip(branches[0], branch, strict=True)):
            if rules.get_grid_key(one) != rules.get_grid_key(other):
                alike = "layout, stride and offset" if one.offset or other.offset else "layout and stride"
                return Rejection(
                    code="join",
                    kind=kind,
                    expected=f"joins level {level} with {describe_features((one,))}",
                    got=describe_features((other,)),
                    fix=f"give both branches the same {alike} at each level",
                    input=position,
                )
    return None


def _require_equal_channels(branches: tuple[Features, ...], kind: Kind) -> Rejection | None:
    widths = [[f.channels for f in level] for level in zip(*branches, strict=True)]
    for level, channels in enumerate(widths):
        if len(set(channels)) > 1:
            return Rejection(
                code="channels",
                kind=kind,
                expected=f"adds level {level} up, so its channels must be equal",
                got=f"{', '.join(map(str, channels))} channels",
                fix="join with ConcatFeatures",
            )
    return None


@frozen(kw_only=True)
class InterpolateToPyramidal(Neck):
    """Make a pyramid of n maps by interpolation: map i grows by `scale_factor` to the power n - i."""

    scale_factor: int = field(default=2, validator=IntRange(1, 8))
    mode: str = field(default="nearest", validator=Choice(INTERPOLATIONS))


@contract.register(InterpolateToPyramidal)
def _(neck: InterpolateToPyramidal, features: Features) -> ContractResult:
    factors = [neck.scale_factor**exponent for exponent in range(len(features), 0, -1)]
    return _require_scalable_maps(features, factors) or Outputs(
        features=[_scale_exactly(f, Fraction(1, factor)) for f, factor in zip(features, factors, strict=True)],
        sizes=rules.compute_exact_multiple(*features),
    )


def _require_scalable_maps(features: Features, factors: list[int]) -> Rejection | None:
    """Reject features that are not maps: torch would scale their last two axes. Scaling by 1 is harmless."""
    harmful = any(not rules.is_map(f) and factor > 1 for f, factor in zip(features, factors, strict=True))
    return rules.require_maps(features, "wrong_output" if harmful else "policy")


def _scale_exactly(feature: Feature, by: Fraction) -> Feature:
    return evolve(rules.to_exact_grid(feature), stride=rules.scale_stride(feature.stride, by))


@frozen(kw_only=True)
class MaxpoolToPyramidal(Neck):
    """Make a pyramid of maps by max-pooling: map i shrinks by `kernel_size` to the power i, rounding down."""

    kernel_size: int = field(default=2, validator=IntRange(1, 8))


@contract.register(MaxpoolToPyramidal)
def _(neck: MaxpoolToPyramidal, features: Features) -> ContractResult:
    kernels = [neck.kernel_size**exponent for exponent in range(len(features))]
    if rejection := _require_scalable_maps(features, kernels):
        return rejection
    pooled = [_pool_map(feature, kernel) for feature, kernel in zip(features, kernels, strict=True)]
    return Outputs(features=[out for out, _ in pooled], sizes=reduce(rules.combine, (sizes for _, sizes in pooled)))


def _pool_map(feature: Feature, kernel: int) -> tuple[Feature, SizeConstraint]:
    """Return a map after max-pooling by `kernel`, rounding down, and the sizes that this demands.

    floor(floor(x) / k) = floor(x / k), so a map that rounds down keeps rounding down, with its offset; one that rounds
    up has to be whole.
    """
    if kernel == 1:
        return feature, ANY_SIZE
    out = evolve(feature, stride=rules.scale_stride(feature.stride, kernel), rounding="floor")
    return out, rules.combine(
        rules.compute_exact_multiple(feature) if feature.rounding == "ceil" else ANY_SIZE,
        rules.compute_min_cells(out, 1),
    )


@frozen(kw_only=True)
class AddBottleneckLayer(Neck):
    """Append a copy of the last map, its channels halved by a 1 × 1 convolution."""


@contract.register(AddBottleneckLayer)
def _(neck: AddBottleneckLayer, features: Features) -> ContractResult:
    if rejection := rules.require_maps(features[-1:]):
        return rejection
    last = features[-1]
    if last.channels < 2:
        return rules.reject_narrow_maps("halves the channels of the last map, so it needs at least 2")
    return Outputs(features=[*features, evolve(last, channels=last.channels // 2)])


@frozen(kw_only=True)
class LearnedInterpolateToPyramidal(Neck):
    """Make a pyramid of exactly four maps: learned ×4 and ×2, unchanged, and max-pooled by 2."""


@contract.register(LearnedInterpolateToPyramidal)
def _(neck: LearnedInterpolateToPyramidal, features: Features) -> ContractResult:
    if len(features) != 4:
        fix = rules.suggest_more_levels("four levels") if len(features) < 4 else None
        return Rejection(code="count", expected="takes exactly four maps", fix=fix)
    first, second, third, fourth = features
    # The first two are convolved; the fourth would be pooled along its last two axes, the third passes through.
    unpooled: Kind = "policy" if rules.is_map(fourth) else "wrong_output"
    if rejection := rules.require_maps(
        features, unpooled if rules.is_map(first) and rules.is_map(second) else "raises"
    ):
        return rejection
    if first.channels < 4 or second.channels < 2:
        return rules.reject_narrow_maps(
            "quarters the channels of the first map and halves the second's, so they need 4 and 2"
        )
    pooled, least = _pool_map(fourth, 2)
    return Outputs(
        features=(
            evolve(_scale_exactly(first, Fraction(1, 4)), channels=first.channels // 4),
            evolve(_scale_exactly(second, Fraction(1, 2)), channels=second.channels // 2),
            third,
            pooled,
        ),
        sizes=rules.combine(rules.compute_exact_multiple(first, second), least),
    )


@frozen(kw_only=True)
class FeaturePyramidNetworkNeck(Neck):
    """Add to every map the coarser ones, finest map first; every output has `out_channel` channels."""

    out_channel: int = field(default=256, validator=CHANNELS)


@contract.register(FeaturePyramidNetworkNeck)
def _(neck: FeaturePyramidNetworkNeck, features: Features) -> ContractResult:
    return (
        rules.require_maps(features)
        or rules.require_finest_first(features)
        # Each map is resized to the grid of the next finer one, so no size has to be whole.
        or Outputs(features=[evolve(feature, channels=neck.out_channel) for feature in features])
    )
