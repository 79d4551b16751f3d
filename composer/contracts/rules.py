"""What a contract answers, and the rules that several contracts share. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from math import ceil, lcm
from typing import Literal

from attrs import evolve, field, frozen

from composer.feature import MAP, TOKENS, Feature, Features, counted
from composer.sizes import ANY, Sizes

Kind = Literal["impossible", "lies", "policy"]
"""Forced through, what is `impossible` raises; what `lies` gives something else than was asked for; what is refused by
`policy` runs, and is refused for the reason that is stated.
"""


@frozen(kw_only=True)
class Promise:
    """What a part gives, and which image sizes it demands for that, in reference pixels.

    `per_frame` is said by an encoder of stills that is fed an image with frames: the model runs its module on each
    frame, and `features` are those of all frames, with an axis t.
    """

    features: Features = field(converter=tuple[Feature, ...])
    sizes: Sizes = ANY
    per_frame: bool = False


@frozen(kw_only=True)
class Refusal:
    """Why a part cannot work with its inputs.

    `expected` completes a sentence that begins with the part's name ("takes maps ..."). `got` says what came instead;
    where it is None, the input at `input` is described. `about` names the field that is to blame, if one is.
    """

    code: str
    kind: Kind
    expected: str
    got: str | None = None
    repair: str | None = None
    input: int = 0
    about: str | None = None


Outcome = Promise | Refusal


def whole(*features: Feature) -> Sizes:
    """The sizes at which every one of `features` is what `exactly` says, whatever its rounding."""
    grids = [exactly(f) for f in features if f.stride is not None]
    least = max((ceil(scaled(f.stride, 1) + f.offset) for f in grids if f.offset), default=1)
    return Sizes(multiple=lcm(*(scaled(f.stride, 1).numerator for f in grids)), least=max(least, 1))


def exactly(feature: Feature) -> Feature:
    """A grid as it is where the sides of the image are whole multiples of its stride.

    A whole number of cells more or less than `H / stride`: floor((H - offset) / stride) = H / stride - lost, where
    lost = ceil(offset / stride). No offset is left of one that only rounds.
    """
    if feature.stride is None:
        return feature
    lost = ceil(feature.offset / feature.stride)
    return evolve(feature, rounding="exact", offset=lost * feature.stride)


def at_least(feature: Feature, cells: int) -> Sizes:
    """The sizes at which `feature`, rounding down, has at least `cells` cells per side."""
    assert feature.stride is not None
    return Sizes(least=max(ceil(feature.stride * cells + feature.offset), 1))


def needed(feature: Feature) -> Sizes:
    """The sizes at which a feature is what it promises to be: whole where it is exact, and never without a cell."""
    if feature.stride is None or feature.rounding == "ceil":
        return ANY
    return whole(feature) if feature.rounding == "exact" else at_least(feature, 1)


def both(one: Sizes, other: Sizes) -> Sizes:
    """What two demands of multiple and least come to."""
    return Sizes(multiple=lcm(one.multiple, other.multiple), least=max(one.least, other.least))


def only(
    features: Features, test: Callable[[Feature], bool], takes: str, kind_of_rule: Kind = "impossible"
) -> Refusal | None:
    """Refuse features of which some do not pass `test`, with the neck that would mend their layout."""
    if features and all(map(test, features)):
        return None
    pools = features and all("t" in f.axes and test(without_frames(f)) for f in features)
    repair = _written([_POOLED]) if pools else towards_maps(features)
    return Refusal(code="layout", kind=kind_of_rule, expected=f"takes {takes}", repair=repair)


def pyramid_maps_only(features: Features) -> Refusal | None:
    """Refuse whatever is not a map, with the necks that lead all the way to a pyramid of maps."""
    refusal = only(features, is_map, f'maps "{MAP}" whose stride doubles from one to the next')
    return None if refusal is None else evolve(refusal, repair=towards_pyramid(features))


def is_map(feature: Feature) -> bool:
    """Whether a tensor can go through a 2-D convolution as it is."""
    return feature.axes == MAP


def maps_only(features: Features, kind_of_rule: Kind = "impossible") -> Refusal | None:
    """Refuse whatever is not a map `"b c h w"`."""
    return only(features, is_map, f'maps "{MAP}"', kind_of_rule)


def too_narrow(expected: str) -> Refusal:
    """Refuse maps whose channels would come to none."""
    return Refusal(code="channels", kind="impossible", expected=expected)


def index_in(features: Features, indices: tuple[int, ...], about: str) -> Refusal | None:
    """Refuse positions that `features` does not have."""
    count = len(features)
    wrong = [position for position, index in enumerate(indices) if not -count <= index < count]
    if not wrong:
        return None
    at = f"{about}[{wrong[0]}]" if len(indices) > 1 or about == "indices" else about
    return Refusal(
        code="index",
        kind="impossible",
        expected=f"takes feature {indices[wrong[0]]}",
        got=counted(len(features), "feature"),
        repair=f"use {about} from {-count} to {count - 1}" if count else None,
        about=at,
    )


def more_levels(wanted: str) -> str:
    """What to do about too few levels. A contract does not see the encoder: smp's have a depth, others out_indices."""
    return f"let the encoder give {wanted}, with its out_indices or its depth"


def finest_first(features: Features) -> Refusal | None:
    """Refuse a pyramid upside down: it would run, and its skip connections would carry the coarse to the fine."""
    strides = [f.stride for f in features if f.stride is not None]
    if strides == sorted(strides):
        return None
    order = sorted(range(len(features)), key=lambda index: strides[index])
    return Refusal(
        code="order",
        kind="policy",
        expected="takes maps finest first, so strides must not decrease",
        repair=f"necks: [SelectIndices: {{indices: {order}}}]",
    )


def doubling(features: Features) -> Refusal | None:
    """Refuse strides that do not double; the last may equal the one before it, as `AddBottleneckLayer` leaves it."""
    strides = [f.stride for f in features if f.stride is not None]
    ratios = _ratios(strides)
    if all(ratio == 2 for ratio in ratios[:-1]) and all(ratio in (1, 2) for ratio in ratios[-1:]):
        return None
    return Refusal(
        code="stride",
        kind="policy",
        expected="takes maps whose stride doubles from one to the next",
        repair=towards_pyramid(features),
    )


def without_frames(feature: Feature) -> Feature:
    """A feature that has an axis of frames, without it: what is pooled over time, or given for each frame."""
    return evolve(feature, axes=" ".join(axis for axis in feature.axes.split() if axis != "t"), frames=1)


def scaled(stride: Fraction | None, by: int | Fraction) -> Fraction:
    """A stride after a map has shrunk by `by`; `Fraction(1, 2)` for a map that has doubled."""
    assert stride is not None
    return stride * by


def towards_maps(features: Features) -> str | None:
    """The necks that turn `features` into maps, as they are written in a file; None where there is no such neck."""
    return _written(_to_maps(features))


def towards_pyramid(features: Features) -> str | None:
    """The necks that turn features of one stride into a pyramid of maps; None where there are no such necks."""
    first, second = _to_maps(features), _to_pyramid(features)
    return None if first is None or second is None else _written(first + second)


def _written(necks: list[str] | None) -> str | None:
    return f"necks: [{', '.join(necks)}]" if necks else None


_POOLED = "TemporalPooling"


def _to_maps(features: Features) -> list[str] | None:
    if features and all(map(is_map, features)):
        return []
    if features and all(f.axes == TOKENS for f in features):
        return ["ReshapeTokensToImage"]
    if features and all("t" in f.axes for f in features):
        further = _to_maps(tuple(map(without_frames, features)))
        return None if further is None else [_POOLED, *further]
    if features and all(sorted(f.axes) == sorted(MAP) and f.axes == features[0].axes for f in features):
        axes = features[0].axes.split()
        return [f"PermuteDims: {{new_order: {[axes.index(axis) for axis in MAP.split()]}}}"]
    return None


def _to_pyramid(features: Features) -> list[str] | None:
    strides = [f.stride for f in features if f.stride is not None]
    if all(ratio == 2 for ratio in _ratios(strides)):
        return []
    if len(set(strides)) > 1:
        return None
    return ["LearnedInterpolateToPyramidal"] if len(features) == 4 else ["InterpolateToPyramidal"]


def _ratios(strides: list[Fraction]) -> list[Fraction]:
    return [later / earlier for earlier, later in pairwise(strides)]


class Refused(ValueError):
    """Carries a `Refusal` out of code that cannot return one."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(refusal.expected)
