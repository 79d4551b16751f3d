"""What necks give. No torch here."""

from __future__ import annotations

from fractions import Fraction

from attrs import evolve

from composer.contracts.dispatch import contract
from composer.contracts.rules import (
    ContractResult,
    Outputs,
    Rejection,
    compute_exact_multiple,
    reject_narrow_maps,
    require_indices,
    require_maps,
    scale_stride,
    suggest_necks_to_maps,
    to_exact_grid,
)
from composer.feature import MAP, MAP_PER_FRAME, TOKENS, TOKENS_PER_FRAME, Feature, Features, format_count
from composer.parts import (
    AddBottleneckLayer,
    PermuteDims,
    ReshapeTokensToImage,
    SelectIndices,
)
from composer.sizes import SizeConstraint


@contract.register(SelectIndices)
def _(neck: SelectIndices, features: Features) -> ContractResult:
    return require_indices(features, neck.indices, "indices") or Outputs(features=[features[i] for i in neck.indices])


@contract.register(PermuteDims)
def _(neck: PermuteDims, features: Features) -> ContractResult:
    rank = len(neck.new_order)
    if sorted(neck.new_order) != list(range(rank)) or any(len(f.axes.split()) != rank for f in features):
        return Rejection(
            code="axes",
            kind="raises",
            expected=f"takes features of {rank} axes, each named once in new_order {list(neck.new_order)}",
            about="new_order",
        )
    if any(f.axes.split()[neck.new_order[0]] != "b" for f in features):
        return Rejection(
            code="batch",
            kind="policy",
            expected="leaves the batch in front, because every other part takes it there",
            got=f"new_order {list(neck.new_order)}",
            repair="begin new_order with 0",
            about="new_order",
        )
    return Outputs(features=[_permute_axes(feature, neck.new_order) for feature in features])


def _permute_axes(feature: Feature, order: tuple[int, ...]) -> Feature:
    axes = feature.axes.split()
    return evolve(feature, axes=" ".join(axes[axis] for axis in order))


@contract.register(ReshapeTokensToImage)
def _(neck: ReshapeTokensToImage, features: Features) -> ContractResult:
    wrong_layout = _require_tokens_or_maps(features)
    if wrong_layout:
        return wrong_layout
    tokens = [feature for feature in features if "n" in feature.axes]
    return (
        _require_prefix_removed(neck, tokens)
        or _require_stated_frames(neck, tokens)
        or _require_stated_rows(neck, tokens)
        or Outputs(features=[_reshape_to_grid(f) for f in features], sizes=_compute_row_sizes(neck, tokens))
    )


def _require_tokens_or_maps(features: Features) -> Rejection | None:
    if features and all(f.axes in (TOKENS, MAP, TOKENS_PER_FRAME, MAP_PER_FRAME) for f in features):
        return None
    repair = suggest_necks_to_maps(features)
    return Rejection(
        code="layout",
        kind="raises",
        expected=f'takes tokens "{TOKENS}", or maps "{MAP}", which pass through',
        repair=None if repair == "necks: [ReshapeTokensToImage]" else repair,
    )


def _require_prefix_removed(neck: ReshapeTokensToImage, tokens: list[Feature]) -> Rejection | None:
    if neck.remove_cls_token or not any(f.prefix for f in tokens):
        return None
    return Rejection(
        code="prefix",
        kind="raises",
        expected="lays tokens out on a grid, where prefix tokens have no place",
        repair="remove_cls_token: true",
        about="remove_cls_token",
    )


def _require_stated_frames(neck: ReshapeTokensToImage, tokens: list[Feature]) -> Rejection | None:
    stated = neck.effective_time_dim
    if stated is None or all(f.frames == stated for f in tokens):
        return None
    frames = max(f.frames for f in tokens)
    return Rejection(
        code="frames",
        kind="raises",
        expected=f"is told that tokens have {format_count(stated, 'frame')}",
        repair=f"effective_time_dim: {frames}",
        about="effective_time_dim",
    )


def _require_stated_rows(neck: ReshapeTokensToImage, tokens: list[Feature]) -> Rejection | None:
    heights = {_compute_image_height(f, neck.h or 1) for f in tokens}
    if neck.h is None or (len(heights) < 2 and all(height.denominator == 1 and height > 0 for height in heights)):
        return None
    return Rejection(
        code="rows",
        kind="policy",
        expected=f"is told that every grid has {format_count(neck.h, 'row')}, which no one image height gives",
        repair="leave h out: the grid is known without it",
        about="h",
    )


def _compute_row_sizes(neck: ReshapeTokensToImage, tokens: list[Feature]) -> SizeConstraint:
    """Sizes at which the grid is whole, and has the rows that are stated."""
    if neck.h is None or not tokens:
        return compute_exact_multiple(*tokens)
    return evolve(compute_exact_multiple(*tokens), height=int(_compute_image_height(tokens[0], neck.h)))


def _compute_image_height(feature: Feature, rows: int) -> Fraction:
    """The height of the image of which a grid that is whole has so many rows."""
    return scale_stride(feature.stride, rows) + to_exact_grid(feature).offset


def _reshape_to_grid(feature: Feature) -> Feature:
    if "n" not in feature.axes:
        return feature
    if feature.axes == TOKENS_PER_FRAME:
        return evolve(feature, axes=MAP_PER_FRAME, prefix=0)
    return evolve(feature, axes=MAP, channels=feature.channels * feature.frames, prefix=0, frames=1)


@contract.register(AddBottleneckLayer)
def _(neck: AddBottleneckLayer, features: Features) -> ContractResult:
    if refusal := require_maps(features[-1:]):
        return refusal
    last = features[-1]
    if last.channels < 2:
        return reject_narrow_maps("halves the channels of the last map, so it needs at least 2")
    return Outputs(features=[*features, evolve(last, channels=last.channels // 2)])
