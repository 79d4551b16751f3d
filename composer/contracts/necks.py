"""What necks give. No torch here."""

from __future__ import annotations

from fractions import Fraction

from attrs import evolve

from composer.contracts.dispatch import contract
from composer.contracts.rules import (
    Outcome,
    Promise,
    Refusal,
    exactly,
    index_in,
    maps_only,
    scaled,
    too_narrow,
    towards_maps,
    whole,
)
from composer.feature import MAP, MAP_PER_FRAME, TOKENS, TOKENS_PER_FRAME, Feature, Features, counted
from composer.parts import (
    AddBottleneckLayer,
    PermuteDims,
    ReshapeTokensToImage,
    SelectIndices,
)
from composer.sizes import Sizes


@contract.register(SelectIndices)
def _(neck: SelectIndices, features: Features) -> Outcome:
    return index_in(features, neck.indices, "indices") or Promise(features=[features[i] for i in neck.indices])


@contract.register(PermuteDims)
def _(neck: PermuteDims, features: Features) -> Outcome:
    rank = len(neck.new_order)
    if sorted(neck.new_order) != list(range(rank)) or any(len(f.axes.split()) != rank for f in features):
        return Refusal(
            code="axes",
            kind="impossible",
            expected=f"takes features of {rank} axes, each named once in new_order {list(neck.new_order)}",
            about="new_order",
        )
    if any(f.axes.split()[neck.new_order[0]] != "b" for f in features):
        return Refusal(
            code="batch",
            kind="policy",
            expected="leaves the batch in front, because every other part takes it there",
            got=f"new_order {list(neck.new_order)}",
            repair="begin new_order with 0",
            about="new_order",
        )
    return Promise(features=[_permuted(feature, neck.new_order) for feature in features])


def _permuted(feature: Feature, order: tuple[int, ...]) -> Feature:
    axes = feature.axes.split()
    return evolve(feature, axes=" ".join(axes[axis] for axis in order))


@contract.register(ReshapeTokensToImage)
def _(neck: ReshapeTokensToImage, features: Features) -> Outcome:
    wrong_layout = _tokens_or_maps(features)
    if wrong_layout:
        return wrong_layout
    tokens = [feature for feature in features if "n" in feature.axes]
    return (
        _prefix_removed(neck, tokens)
        or _frames_as_stated(neck, tokens)
        or _rows_as_stated(neck, tokens)
        or Promise(features=[_gridded(f) for f in features], sizes=_rows(neck, tokens))
    )


def _tokens_or_maps(features: Features) -> Refusal | None:
    if features and all(f.axes in (TOKENS, MAP, TOKENS_PER_FRAME, MAP_PER_FRAME) for f in features):
        return None
    repair = towards_maps(features)
    return Refusal(
        code="layout",
        kind="impossible",
        expected=f'takes tokens "{TOKENS}", or maps "{MAP}", which pass through',
        repair=None if repair == "necks: [ReshapeTokensToImage]" else repair,
    )


def _prefix_removed(neck: ReshapeTokensToImage, tokens: list[Feature]) -> Refusal | None:
    if neck.remove_cls_token or not any(f.prefix for f in tokens):
        return None
    return Refusal(
        code="prefix",
        kind="impossible",
        expected="lays tokens out on a grid, where prefix tokens have no place",
        repair="remove_cls_token: true",
        about="remove_cls_token",
    )


def _frames_as_stated(neck: ReshapeTokensToImage, tokens: list[Feature]) -> Refusal | None:
    stated = neck.effective_time_dim
    if stated is None or all(f.frames == stated for f in tokens):
        return None
    frames = max(f.frames for f in tokens)
    return Refusal(
        code="frames",
        kind="impossible",
        expected=f"is told that tokens have {counted(stated, 'frame')}",
        repair=f"effective_time_dim: {frames}",
        about="effective_time_dim",
    )


def _rows_as_stated(neck: ReshapeTokensToImage, tokens: list[Feature]) -> Refusal | None:
    heights = {_height(f, neck.h or 1) for f in tokens}
    if neck.h is None or (len(heights) < 2 and all(height.denominator == 1 and height > 0 for height in heights)):
        return None
    return Refusal(
        code="rows",
        kind="policy",
        expected=f"is told that every grid has {counted(neck.h, 'row')}, which no one image height gives",
        repair="leave h out: the grid is known without it",
        about="h",
    )


def _rows(neck: ReshapeTokensToImage, tokens: list[Feature]) -> Sizes:
    """Sizes at which the grid is whole, and has the rows that are stated."""
    if neck.h is None or not tokens:
        return whole(*tokens)
    return evolve(whole(*tokens), height=int(_height(tokens[0], neck.h)))


def _height(feature: Feature, rows: int) -> Fraction:
    """The height of the image of which a grid that is whole has so many rows."""
    return scaled(feature.stride, rows) + exactly(feature).offset


def _gridded(feature: Feature) -> Feature:
    if "n" not in feature.axes:
        return feature
    if feature.axes == TOKENS_PER_FRAME:
        return evolve(feature, axes=MAP_PER_FRAME, prefix=0)
    return evolve(feature, axes=MAP, channels=feature.channels * feature.frames, prefix=0, frames=1)


@contract.register(AddBottleneckLayer)
def _(neck: AddBottleneckLayer, features: Features) -> Outcome:
    if refusal := maps_only(features[-1:]):
        return refusal
    last = features[-1]
    if last.channels < 2:
        return too_narrow("halves the channels of the last map, so it needs at least 2")
    return Promise(features=[*features, evolve(last, channels=last.channels // 2)])
