"""What the neck that pools frames gives. No torch here."""

from __future__ import annotations

from attrs import evolve

from composer.contracts.dispatch import contract
from composer.contracts.rules import ContractResult, Outputs, Rejection, drop_frames
from composer.feature import Feature, Features, format_count
from composer.parts import TemporalPooling


@contract.register(TemporalPooling)
def _(neck: TemporalPooling, features: Features) -> ContractResult:
    """What is pooled along t is of the layout that is left without t, whichever that is: no other axis is touched."""
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
        repair="use ReshapeTokensToImage instead, which lays frames that are among the tokens out in the channels"
        if among
        else "give the input frames, or leave this neck out",
    )


def _require_subset_sum(neck: TemporalPooling, features: Features) -> Rejection | None:
    lengths = neck.subset_lengths
    other = [] if lengths is None else [f for f in features if f.frames != sum(lengths)]
    if lengths is None or not other:
        return None
    frames = other[0].frames
    return Rejection(
        code="frames",
        kind="raises",
        expected=f"divides {format_count(sum(lengths), 'frame')} into the subsets {list(lengths)}",
        got=format_count(frames, "frame"),
        repair="leave subset_lengths out"
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
        repair="pooling: mean"
        if frames < 2
        else "leave subset_lengths out"
        if frames == 2
        else f"subset_lengths: {_split_frames(frames, 2)}",
        about="pooling",
    )


def _split_frames(frames: int, count: int) -> list[int]:
    """So many subsets, as equal as can be, the longer ones last."""
    return [(frames + index) // count for index in range(count)]


def _count_pooled_frames(neck: TemporalPooling, feature: Feature) -> int:
    """How many frames are left to be pooled: one for each subset, where there are subsets."""
    return feature.frames if neck.subset_lengths is None else len(neck.subset_lengths)


def _pool_frames(neck: TemporalPooling, feature: Feature) -> Feature:
    count = _count_pooled_frames(neck, feature)
    if neck.pooling == "keep":
        return evolve(feature, frames=count)
    pooled = drop_frames(feature)
    return evolve(pooled, channels=count * pooled.channels) if neck.pooling == "concat" else pooled
