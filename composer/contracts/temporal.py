"""What the neck that pools frames gives. No torch here."""

from __future__ import annotations

from attrs import evolve

from composer.contracts.dispatch import contract
from composer.contracts.rules import Outcome, Promise, Refusal, without_frames
from composer.feature import Feature, Features, counted
from composer.parts import TemporalPooling


@contract.register(TemporalPooling)
def _(neck: TemporalPooling, features: Features) -> Outcome:
    """What is pooled along t is of the layout that is left without t, whichever that is: no other axis is touched."""
    return (
        _framed(features)
        or _divided(neck, features)
        or _a_pair(neck, features)
        or Promise(features=[_pooled(neck, feature) for feature in features])
    )


def _framed(features: Features) -> Refusal | None:
    frameless = [feature for feature in features if "t" not in feature.axes]
    if not frameless:
        return None
    among = any(feature.frames > 1 for feature in frameless)
    return Refusal(
        code="layout",
        kind="impossible",
        expected='takes features with an axis of frames, such as maps "b t c h w"',
        repair="use ReshapeTokensToImage instead, which lays frames that are among the tokens out in the channels"
        if among
        else "give the input frames, or leave this neck out",
    )


def _divided(neck: TemporalPooling, features: Features) -> Refusal | None:
    lengths = neck.subset_lengths
    other = [] if lengths is None else [f for f in features if f.frames != sum(lengths)]
    if lengths is None or not other:
        return None
    frames = other[0].frames
    return Refusal(
        code="frames",
        kind="impossible",
        expected=f"divides {counted(sum(lengths), 'frame')} into the subsets {list(lengths)}",
        got=counted(frames, "frame"),
        repair="leave subset_lengths out"
        if len(lengths) > frames
        else f"subset_lengths: {_shared_out(frames, len(lengths))}",
        about="subset_lengths",
    )


def _a_pair(neck: TemporalPooling, features: Features) -> Refusal | None:
    other = [feature for feature in features if _count(neck, feature) != 2]
    if neck.pooling != "diff" or not other:
        return None
    frames = other[0].frames
    subsets = f", in {counted(_count(neck, other[0]), 'subset')}" if neck.subset_lengths else ""
    return Refusal(
        code="count",
        kind="impossible",
        expected="takes the difference of exactly two frames or subsets",
        got=f"{counted(frames, 'frame')}{subsets}",
        repair="pooling: mean"
        if frames < 2
        else "leave subset_lengths out"
        if frames == 2
        else f"subset_lengths: {_shared_out(frames, 2)}",
        about="pooling",
    )


def _shared_out(frames: int, count: int) -> list[int]:
    """So many subsets, as equal as can be, the longer ones last."""
    return [(frames + index) // count for index in range(count)]


def _count(neck: TemporalPooling, feature: Feature) -> int:
    """How many frames are left to be pooled: one for each subset, where there are subsets."""
    return feature.frames if neck.subset_lengths is None else len(neck.subset_lengths)


def _pooled(neck: TemporalPooling, feature: Feature) -> Feature:
    count = _count(neck, feature)
    if neck.pooling == "keep":
        return evolve(feature, frames=count)
    pooled = without_frames(feature)
    return evolve(pooled, channels=count * pooled.channels) if neck.pooling == "concat" else pooled
