"""Necks that pool tokens or frames: declarations and contracts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from attrs import Attribute, evolve, field, frozen

from composer.layouts import MAP, MAP_PER_FRAME, TOKENS, TOKENS_PER_FRAME, Feature, Features, format_count
from composer.parts.base import Neck, contract
from composer.parts.rules import ContractResult, Outputs, Rejection, drop_frames, require_indices
from composer.parts.validators import (
    BOOL,
    INDEX,
    NON_EMPTY,
    Choice,
    IntRange,
    convert_int_list,
    convert_optional_int_list,
)

AGGREGATIONS = ("mean", "max", "min", "cls")
MAX_PREFIX = 1024
GRID_LAYOUTS = (TOKENS, MAP, TOKENS_PER_FRAME, MAP_PER_FRAME)


@frozen
class _Pooling:
    """Validate the name of a pooling, or the position of a token of the prefix."""

    known: ClassVar[tuple[str, ...]] = AGGREGATIONS

    def __call__(self, _: object, attribute: Attribute[Any], value: Any) -> None:
        position = type(value) is int and 0 <= value < MAX_PREFIX
        if not position and not (isinstance(value, str) and value in self.known):
            ways = f"{', '.join(self.known)}, or a whole number from 0 to {MAX_PREFIX - 1}"
            raise ValueError(f"{attribute.name} must be one of {ways} (got {value!r})")


def _convert_indices(value: int | Iterable[int] | None) -> tuple[int, ...]:
    """Convert one position, several, or None for the last, into a tuple."""
    if value is None:
        return (-1,)
    return (value,) if type(value) is int else convert_int_list(value)  # type: ignore[arg-type]


@frozen(kw_only=True)
class AggregateTokens(Neck):
    """Pool each feature at `indices` into a vector: the mean, maximum or minimum of its tokens, or a prefix token.

    `indices` is a list, or one position; null is the last. `pooling: cls` is the first token of the prefix, and a
    whole number is that token of the prefix. The prefix is pooled along with the grid unless `drop_cls` drops all of
    it. Tokens or maps per frame are pooled frame by frame.
    """

    pooling: str | int = field(default="mean", validator=_Pooling())
    indices: tuple[int, ...] | int | None = field(
        default=None, converter=_convert_indices, validator=[NON_EMPTY, INDEX]
    )
    drop_cls: bool = field(default=False, validator=BOOL)

    def __attrs_post_init__(self) -> None:
        if self.drop_cls and (self.pooling == "cls" or isinstance(self.pooling, int)):
            raise ValueError(f"drop_cls and pooling: {self.pooling} exclude each other: that token would be dropped")

    @property
    def positions(self) -> tuple[int, ...]:
        """Return `indices` as a tuple."""
        assert isinstance(self.indices, tuple)
        return self.indices


@contract.register(AggregateTokens)
def _(neck: AggregateTokens, features: Features) -> ContractResult:
    if rejection := require_indices(features, neck.positions, "indices"):
        return rejection
    chosen = tuple(features[index] for index in neck.positions)
    return (
        _require_grids(chosen)
        or _require_prefix_token(neck, chosen)
        or _require_droppable_prefix(neck, chosen)
        or Outputs(features=[_build_vector(feature) for feature in chosen])
    )


def _require_grids(chosen: Features) -> Rejection | None:
    """Reject other layouts: their second to last axis would be pooled as tokens."""
    wrong = [feature for feature in chosen if feature.axes not in GRID_LAYOUTS]
    if not wrong:
        return None
    return Rejection(
        code="layout",
        kind="wrong_output",
        expected=f'takes tokens "{TOKENS}", maps "{MAP}", or either per frame',
        fix="leave this neck out: a vector has nothing to be pooled" if wrong[0].stride is None else None,
    )


def _require_prefix_token(neck: AggregateTokens, chosen: Features) -> Rejection | None:
    """Reject a grid token as prefix token: its position would change with the image size."""
    token = 0 if neck.pooling == "cls" else neck.pooling
    prefix = min(feature.prefix for feature in chosen)
    if isinstance(token, str) or token < prefix:
        return None
    name = "the class token" if neck.pooling == "cls" else f"token {token} of the prefix"
    return Rejection(
        code="prefix",
        kind="wrong_output",
        expected=f"takes {name}, which not every feature at indices has",
        fix=f"use a pooling from 0 to {prefix - 1}" if prefix > 1 else "pooling: cls" if prefix else "pooling: mean",
        about="pooling",
    )


def _require_droppable_prefix(neck: AggregateTokens, chosen: Features) -> Rejection | None:
    if not neck.drop_cls or all(feature.prefix for feature in chosen):
        return None
    return Rejection(
        code="prefix",
        kind="policy",
        expected="drops the prefix, which not every feature at indices has",
        fix="drop_cls: false",
        about="drop_cls",
    )


def _build_vector(feature: Feature) -> Feature:
    if "t" in feature.axes:
        return Feature(channels=feature.channels, stride=None, axes="b t c", frames=feature.frames)
    return Feature(channels=feature.channels, stride=None, axes="b c")


POOLINGS = ("mean", "max", "diff", "concat", "keep")


@frozen(kw_only=True)
class TemporalPooling(Neck):
    """Pool features along their frame axis t, at any position in their layout.

    `mean` and `max` are taken over the frames, `diff` is the first minus the second of exactly two, `concat`
    concatenates the channels of all frames, and `keep` leaves the frames unchanged. With `subset_lengths`, such as
    [2, 3] of five frames, the frames of each subset are averaged first, and the averages are pooled.
    """

    pooling: str = field(default="mean", validator=Choice(POOLINGS))
    subset_lengths: tuple[int, ...] | None = field(
        default=None,
        converter=convert_optional_int_list,
        validator=[NON_EMPTY, IntRange(1, 1024, optional=True, entries=1024)],
    )


@contract.register(TemporalPooling)
def _(neck: TemporalPooling, features: Features) -> ContractResult:
    return (
        _require_frames(features)
        or _require_subset_sum(neck, features)
        or _require_pair(neck, features)
        or Outputs(features=[_pool_frames(neck, feature) for feature in features])
    )


def _require_frames(features: Features) -> Rejection | None:
    frameless = [feature for feature in features if "t" not in feature.axes]
    if not frameless:
        return None
    among = any(feature.frames > 1 for feature in frameless)
    return Rejection(
        code="layout",
        kind="raises",
        expected='takes features with an axis of frames, such as maps "b t c h w"',
        fix="use ReshapeTokensToImage instead, which lays frames that are among the tokens out in the channels"
        if among
        else "give the input frames, or leave this neck out",
    )


def _require_subset_sum(neck: TemporalPooling, features: Features) -> Rejection | None:
    lengths = neck.subset_lengths
    unequal = [f.frames for f in features if lengths is not None and f.frames != sum(lengths)]
    if lengths is None or not unequal:
        return None
    frames = unequal[0]
    return Rejection(
        code="frames",
        kind="raises",
        expected=f"divides {format_count(sum(lengths), 'frame')} into the subsets {list(lengths)}",
        got=format_count(frames, "frame"),
        fix="leave subset_lengths out"
        if len(lengths) > frames
        else f"subset_lengths: {_split_frames(frames, len(lengths))}",
        about="subset_lengths",
    )


def _require_pair(neck: TemporalPooling, features: Features) -> Rejection | None:
    other = [feature for feature in features if _count_pooled_frames(neck, feature) != 2]
    if neck.pooling != "diff" or not other:
        return None
    frames = other[0].frames
    subsets = f", in {format_count(_count_pooled_frames(neck, other[0]), 'subset')}" if neck.subset_lengths else ""
    return Rejection(
        code="count",
        kind="raises",
        expected="takes the difference of exactly two frames or subsets",
        got=f"{format_count(frames, 'frame')}{subsets}",
        fix="pooling: mean"
        if frames < 2
        else "leave subset_lengths out"
        if frames == 2
        else f"subset_lengths: {_split_frames(frames, 2)}",
        about="pooling",
    )


def _split_frames(frames: int, count: int) -> list[int]:
    """Split frames into `count` subsets of nearly equal length, the longer ones last."""
    return [(frames + index) // count for index in range(count)]


def _count_pooled_frames(neck: TemporalPooling, feature: Feature) -> int:
    """Return the number of frames to pool: one per subset, where there are subsets."""
    return feature.frames if neck.subset_lengths is None else len(neck.subset_lengths)


def _pool_frames(neck: TemporalPooling, feature: Feature) -> Feature:
    count = _count_pooled_frames(neck, feature)
    if neck.pooling == "keep":
        return evolve(feature, frames=count)
    pooled = drop_frames(feature)
    return evolve(pooled, channels=count * pooled.channels) if neck.pooling == "concat" else pooled
