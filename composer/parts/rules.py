"""Results of contracts, and the rules that several contracts share."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from math import ceil, lcm
from typing import Any, Literal

from attrs import evolve, field, frozen

from composer.layouts import MAP, TOKENS, Feature, Features, format_count
from composer.sizes import ANY_SIZE, SizeConstraint

Kind = Literal["raises", "wrong_output", "policy"]
"""Forced through, what is `impossible` raises; what `lies` gives something else than was asked for; what is refused by
`policy` runs, and is refused for the reason that is stated.
"""


@frozen(kw_only=True)
class Outputs:
    """What a part gives, and which image sizes it demands for that, in reference pixels.

    `per_frame` is said by an encoder of stills that is fed an image with frames: the model runs its module on each
    frame, and `features` are those of all frames, with an axis t.
    """

    features: Features = field(converter=tuple[Feature, ...])
    sizes: SizeConstraint = ANY_SIZE
    per_frame: bool = False


@frozen(kw_only=True)
class Rejection:
    """Why a part cannot work with its inputs.

    `expected` completes a sentence that begins with the part's name ("takes maps ..."). `got` says what came instead;
    where it is None, the input at `input` is described. `about` names the field that is to blame, if one is. `change` is
    a field and the value with which the part would accept these inputs.
    """

    code: str
    kind: Kind
    expected: str
    got: str | None = None
    repair: str | None = None
    change: tuple[str, Any] | None = None
    input: int = 0
    about: str | None = None


ContractResult = Outputs | Rejection


def compute_exact_multiple(*features: Feature) -> SizeConstraint:
    """The sizes at which every one of `features` is what `exactly` says, whatever its rounding."""
    grids = [to_exact_grid(f) for f in features if f.stride is not None]
    least = max((ceil(scale_stride(f.stride, 1) + f.offset) for f in grids if f.offset), default=1)
    return SizeConstraint(multiple=lcm(*(scale_stride(f.stride, 1).numerator for f in grids)), least=max(least, 1))


def to_exact_grid(feature: Feature) -> Feature:
    """A grid as it is where the sides of the image are whole multiples of its stride.

    A whole number of cells more or less than `H / stride`: floor((H - offset) / stride) = H / stride - lost, where
    lost = ceil(offset / stride). No offset is left of one that only rounds.
    """
    if feature.stride is None:
        return feature
    lost = ceil(feature.offset / feature.stride)
    return evolve(feature, rounding="exact", offset=lost * feature.stride)


def compute_min_cells(feature: Feature, cells: int) -> SizeConstraint:
    """The sizes at which `feature`, rounding down, has at least `cells` cells per side."""
    assert feature.stride is not None
    return SizeConstraint(least=max(ceil(feature.stride * cells + feature.offset), 1))


def compute_implied_sizes(feature: Feature) -> SizeConstraint:
    """The sizes at which a feature is what it promises to be: whole where it is exact, and never without a cell."""
    if feature.stride is None or feature.rounding == "ceil":
        return ANY_SIZE
    return compute_exact_multiple(feature) if feature.rounding == "exact" else compute_min_cells(feature, 1)


def combine(one: SizeConstraint, other: SizeConstraint) -> SizeConstraint:
    """What two demands of multiple and least come to."""
    return SizeConstraint(multiple=lcm(one.multiple, other.multiple), least=max(one.least, other.least))


def require(
    features: Features, test: Callable[[Feature], bool], takes: str, kind_of_rule: Kind = "raises"
) -> Rejection | None:
    """Refuse features of which some do not pass `test`, with the neck that would mend their layout."""
    if features and all(map(test, features)):
        return None
    pools = features and all("t" in f.axes and test(drop_frames(f)) for f in features)
    repair = _format_necks([_TEMPORAL_POOLING]) if pools else suggest_necks_to_maps(features)
    return Rejection(code="layout", kind=kind_of_rule, expected=f"takes {takes}", repair=repair)


def require_pyramid_maps(features: Features) -> Rejection | None:
    """Refuse whatever is not a map, with the necks that lead all the way to a pyramid of maps."""
    refusal = require(features, is_map, f'maps "{MAP}" whose stride doubles from one to the next')
    return None if refusal is None else evolve(refusal, repair=suggest_necks_to_pyramid(features))


def is_map(feature: Feature) -> bool:
    """Whether a tensor can go through a 2-D convolution as it is."""
    return feature.axes == MAP


def require_maps(features: Features, kind_of_rule: Kind = "raises") -> Rejection | None:
    """Refuse whatever is not a map `"b c h w"`."""
    return require(features, is_map, f'maps "{MAP}"', kind_of_rule)


def reject_narrow_maps(expected: str) -> Rejection:
    """Refuse maps whose channels would come to none."""
    return Rejection(code="channels", kind="raises", expected=expected)


def require_indices(features: Features, indices: tuple[int, ...], about: str) -> Rejection | None:
    """Refuse positions that `features` does not have."""
    count = len(features)
    wrong = [position for position, index in enumerate(indices) if not -count <= index < count]
    if not wrong:
        return None
    at = f"{about}[{wrong[0]}]" if len(indices) > 1 or about == "indices" else about
    return Rejection(
        code="index",
        kind="raises",
        expected=f"takes feature {indices[wrong[0]]}",
        got=format_count(len(features), "feature"),
        repair=f"use {about} from {-count} to {count - 1}" if count else None,
        about=at,
    )


def suggest_more_levels(wanted: str) -> str:
    """What to do about too few levels. A contract does not see the encoder: smp's have a depth, others out_indices."""
    return f"let the encoder give {wanted}, with its out_indices or its depth"


def require_finest_first(features: Features) -> Rejection | None:
    """Refuse a pyramid upside down: it would run, and its skip connections would carry the coarse to the fine."""
    strides = [f.stride for f in features if f.stride is not None]
    if strides == sorted(strides):
        return None
    order = sorted(range(len(features)), key=lambda index: strides[index])
    return Rejection(
        code="order",
        kind="policy",
        expected="takes maps finest first, so strides must not decrease",
        repair=f"necks: [SelectIndices: {{indices: {order}}}]",
    )


def require_doubling_strides(features: Features) -> Rejection | None:
    """Refuse strides that do not double; the last may equal the one before it, as `AddBottleneckLayer` leaves it."""
    strides = [f.stride for f in features if f.stride is not None]
    ratios = _compute_ratios(strides)
    if all(ratio == 2 for ratio in ratios[:-1]) and all(ratio in (1, 2) for ratio in ratios[-1:]):
        return None
    return Rejection(
        code="stride",
        kind="policy",
        expected="takes maps whose stride doubles from one to the next",
        repair=suggest_necks_to_pyramid(features),
    )


def drop_frames(feature: Feature) -> Feature:
    """A feature that has an axis of frames, without it: what is pooled over time, or given for each frame."""
    return evolve(feature, axes=" ".join(axis for axis in feature.axes.split() if axis != "t"), frames=1)


def scale_stride(stride: Fraction | None, by: int | Fraction) -> Fraction:
    """A stride after a map has shrunk by `by`; `Fraction(1, 2)` for a map that has doubled."""
    assert stride is not None
    return stride * by


def suggest_necks_to_maps(features: Features) -> str | None:
    """The necks that turn `features` into maps, as they are written in a file; None where there is no such neck."""
    return _format_necks(_find_necks_to_maps(features))


def suggest_necks_to_pyramid(features: Features) -> str | None:
    """The necks that turn features of one stride into a pyramid of maps; None where there are no such necks."""
    first, second = _find_necks_to_maps(features), _find_necks_to_pyramid(features)
    return None if first is None or second is None else _format_necks(first + second)


def _format_necks(necks: list[str] | None) -> str | None:
    return f"necks: [{', '.join(necks)}]" if necks else None


_TEMPORAL_POOLING = "TemporalPooling"


def _find_necks_to_maps(features: Features) -> list[str] | None:
    if features and all(map(is_map, features)):
        return []
    if features and all(f.axes == TOKENS for f in features):
        return ["ReshapeTokensToImage"]
    if features and all("t" in f.axes for f in features):
        further = _find_necks_to_maps(tuple(map(drop_frames, features)))
        return None if further is None else [_TEMPORAL_POOLING, *further]
    if features and all(sorted(f.axes) == sorted(MAP) and f.axes == features[0].axes for f in features):
        axes = features[0].axes.split()
        return [f"PermuteDims: {{new_order: {[axes.index(axis) for axis in MAP.split()]}}}"]
    return None


def _find_necks_to_pyramid(features: Features) -> list[str] | None:
    strides = [f.stride for f in features if f.stride is not None]
    if all(ratio == 2 for ratio in _compute_ratios(strides)):
        return []
    if len(set(strides)) > 1:
        return None
    return ["LearnedInterpolateToPyramidal"] if len(features) == 4 else ["InterpolateToPyramidal"]


def _compute_ratios(strides: list[Fraction]) -> list[Fraction]:
    return [later / earlier for earlier, later in pairwise(strides)]


class RejectionError(ValueError):
    """Carries a `Rejection` out of code that cannot return one."""

    def __init__(self, refusal: Rejection) -> None:
        self.refusal = refusal
        super().__init__(refusal.expected)


def fit_widths(widths: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return the first `count` widths; of fewer, the last is halved for each that is missing, down to 16."""
    least = min(widths[-1], 16)
    return (*widths[:count], *(max(widths[-1] // 2**i, least) for i in range(1, count - len(widths) + 1)))
