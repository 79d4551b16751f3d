"""Necks that pool tokens or frames: declarations and contracts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from attrs import Attribute, evolve, field, frozen

from composer.layouts import MAP, MAP_PER_FRAME, REDUCTIONS, TOKENS, TOKENS_PER_FRAME, Feature, Features, format_count
from composer.parts.base import contract
from composer.parts.necks import RearrangeNeck, rearrange_features
from composer.parts.rules import ContractResult, Rejection, require_indices
from composer.parts.validators import (
    BOOL,
    INDEX,
    NON_EMPTY,
    Choice,
    IntRange,
    convert_int_list,
    convert_optional_int_list,
)

AGGREGATIONS = (*REDUCTIONS, "cls")
MAX_PREFIX = 1024

_VECTOR_PATTERNS: Mapping[str, str] = MappingProxyType(
    {
        TOKENS: "b n c -> b c",
        TOKENS_PER_FRAME: "b t n c -> b t c",
        MAP: "b c h w -> b c",
        MAP_PER_FRAME: "b t c h w -> b t c",
    }
)


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
class AggregateTokens(RearrangeNeck):
    """Pool each feature at `indices` into a vector: the mean, maximum or minimum of its tokens, or a prefix token.

    `indices` is a list, or one position; null is the last. `pooling: cls` is the first token of the prefix, and a
    whole number is that token of the prefix. The prefix is pooled along with the grid unless `drop_cls` drops all of
    it. Tokens or maps per frame are pooled frame by frame.
    """

    reads_stride: ClassVar[bool] = False

    pooling: str | int = field(default="mean", validator=_Pooling())
    indices: tuple[int, ...] | int | None = field(
        default=None, converter=_convert_indices, validator=[NON_EMPTY, INDEX]
    )
    drop_cls: bool = field(default=False, validator=BOOL)

    def __attrs_post_init__(self) -> None:
        if self.drop_cls and self.token is not None:
            raise ValueError(f"drop_cls and pooling: {self.pooling} exclude each other: that token would be dropped")

    @property
    def positions(self) -> tuple[int, ...]:
        """Return `indices` as a tuple."""
        assert isinstance(self.indices, tuple)
        return self.indices

    @property
    def token(self) -> int | None:
        """Return the position of the token that is picked, or None for a mean, maximum or minimum."""
        return 0 if self.pooling == "cls" else self.pooling if isinstance(self.pooling, int) else None

    def get_pattern(self, feature: Feature) -> str:
        """Return the pattern of a layout. Raises KeyError for one without tokens or cells."""
        return _VECTOR_PATTERNS[feature.axes]


@contract.register(AggregateTokens)
def _(neck: AggregateTokens, features: Features) -> ContractResult:
    if rejection := require_indices(features, neck.positions, "indices"):
        return rejection
    chosen = tuple(features[index] for index in neck.positions)
    wrong = [feature for feature in chosen if feature.axes not in _VECTOR_PATTERNS]
    if wrong:
        return Rejection(
            code="layout",
            expected=f'takes tokens "{TOKENS}", maps "{MAP}", or either per frame',
            fix="leave this neck out: a vector has nothing to be pooled" if wrong[0].stride is None else None,
        )
    prefix = min(feature.prefix for feature in chosen)
    if neck.token is not None and neck.token >= prefix:
        # A token of the grid would be another one at each image size.
        name = "the class token" if neck.pooling == "cls" else f"token {neck.token} of the prefix"
        return Rejection(
            code="prefix",
            kind="wrong_output",
            expected=f"takes {name}, which not every feature at indices has",
            fix=f"use a pooling from 0 to {prefix - 1}" if prefix > 1 else f"pooling: {'cls' if prefix else 'mean'}",
            about="pooling",
        )
    if neck.drop_cls and not prefix:
        return Rejection(
            code="prefix",
            kind="policy",
            expected="drops the prefix, which not every feature at indices has",
            fix="drop_cls: false",
            about="drop_cls",
        )
    return rearrange_features(neck, chosen)


POOLINGS = ("mean", "max", "diff", "concat", "keep")


@frozen(kw_only=True)
class TemporalPooling(RearrangeNeck):
    """Pool features along their frame axis t, at any position in their layout.

    `mean` and `max` are taken over the frames, `diff` is the first minus the second of exactly two, `concat`
    concatenates the channels of all frames, and `keep` leaves the frames unchanged. With `subset_lengths`, such as
    [2, 3] of five frames, the frames of each subset are averaged first, and the averages are pooled.
    """

    reads_stride: ClassVar[bool] = False

    pooling: str = field(default="mean", validator=Choice(POOLINGS))
    subset_lengths: tuple[int, ...] | None = field(
        default=None,
        converter=convert_optional_int_list,
        validator=[NON_EMPTY, IntRange(1, 1024, optional=True, entries=1024)],
    )

    def get_pattern(self, feature: Feature) -> str:
        """Return `b t c h w -> b c h w` for a mean of maps per frame. Raises ValueError for features without frames."""
        axes = feature.axes.split()
        axes.remove("t")
        pooled = " ".join("(t c)" if axis == "c" and self.pooling == "concat" else axis for axis in axes)
        return f"{feature.axes} -> {feature.axes if self.pooling == 'keep' else pooled}"

    def average_subsets(self, feature: Feature) -> Feature:
        """Return a feature with one frame per subset, where there are subsets."""
        return feature if self.subset_lengths is None else evolve(feature, frames=len(self.subset_lengths))


@contract.register(TemporalPooling)
def _(neck: TemporalPooling, features: Features) -> ContractResult:
    frameless = [feature for feature in features if "t" not in feature.axes]
    if frameless:
        return Rejection(
            code="layout",
            expected='takes features with an axis of frames, such as maps "b t c h w"',
            fix="use ReshapeTokensToImage instead, which lays frames that are among the tokens out in the channels"
            if any(feature.frames > 1 for feature in frameless)
            else "give the input frames, or leave this neck out",
        )
    lengths = neck.subset_lengths
    frames = next((f.frames for f in features if lengths is not None and f.frames != sum(lengths)), None)
    if lengths is not None and frames is not None:
        return Rejection(
            code="frames",
            expected=f"divides {format_count(sum(lengths), 'frame')} into the subsets {list(lengths)}",
            got=format_count(frames, "frame"),
            fix="leave subset_lengths out"
            if len(lengths) > frames
            else f"subset_lengths: {_split_frames(frames, len(lengths))}",
            about="subset_lengths",
        )
    averaged = tuple(map(neck.average_subsets, features))
    other = next((position for position, f in enumerate(averaged) if f.frames != 2), None)
    if neck.pooling == "diff" and other is not None:
        return _reject_difference(features[other].frames, lengths)
    return rearrange_features(neck, averaged)


def _reject_difference(frames: int, lengths: tuple[int, ...] | None) -> Rejection:
    subsets = f", in {format_count(len(lengths), 'subset')}" if lengths else ""
    return Rejection(
        code="count",
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
