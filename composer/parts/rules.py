"""Results of contracts, and the rules that several contracts share."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from math import ceil, lcm
from typing import Any, Literal

from attrs import evolve, field, frozen

from composer.layouts import MAP, Feature, Features, format_count
from composer.sizes import ANY_SIZE, SizeConstraint

# `require_…` returns a rejection, or None where its inputs are as required; `reject_…` returns a rejection.

Kind = Literal["raises", "wrong_output", "policy"]
"""The kind of a rejection. Forced to run, a part that is rejected as `raises` raises, and one that is rejected as
`wrong_output` returns something other than requested; `policy` would run, and is rejected for a stated reason.
"""


@frozen(kw_only=True)
class Outputs:
    """The features that a part emits, and the image sizes it demands for that, in reference pixels.

    `per_frame` is set for a single-image encoder whose input has frames: the model runs its module on each frame, and
    `features` have an axis t for all frames.
    """

    features: Features = field(converter=tuple[Feature, ...])
    sizes: SizeConstraint = ANY_SIZE
    per_frame: bool = False


@frozen
class Change:
    """A field of a part, the value with which it would accept its inputs, and the one that it has."""

    name: str
    value: Any
    old: Any = None


@frozen(kw_only=True)
class Rejection:
    """The reason why a part cannot work with its inputs.

    `expected` completes a sentence that begins with the part's name ("takes maps ..."). `got` names the actual value;
    where it is None, the input at `input` is described. `about` names the field that causes it, if one does. `change`
    is what would make the part accept these inputs.
    """

    code: str
    expected: str
    kind: Kind = "raises"
    got: str | None = None
    fix: str | None = None
    change: Change | None = None
    input: int = 0
    about: str | None = None


class RejectionError(ValueError):
    """Carry a `Rejection` out of code that cannot return one."""

    def __init__(self, rejection: Rejection) -> None:
        self.rejection = rejection
        super().__init__(rejection.expected)


ContractResult = Outputs | Rejection


def compute_exact_multiple(*features: Feature) -> SizeConstraint:
    """Return the sizes at which every feature has an exact grid, whatever its rounding."""
    grids = [to_exact_grid(f) for f in features if f.stride is not None]
    least = max((ceil(scale_stride(f.stride, 1) + f.offset) for f in grids if f.offset), default=1)
    return SizeConstraint(multiple=lcm(*(scale_stride(f.stride, 1).numerator for f in grids)), least=max(least, 1))


def to_exact_grid(feature: Feature) -> Feature:
    """Return a feature with the grid that it has where the sides of the image are multiples of its stride.

    floor((H - offset) / stride) = H / stride - lost, where lost = ceil(offset / stride): a whole number of cells. An
    offset that only rounds disappears.
    """
    if feature.stride is None or feature.rounding == "exact":
        return feature
    lost = ceil(feature.offset / feature.stride)
    return evolve(feature, rounding="exact", offset=lost * feature.stride)


def align_grids(features: Features) -> tuple[Feature, SizeConstraint]:
    """Return the first of several features of one grid key, and the sizes at which all have the same cells.

    Maps that round differently have equal sizes only where all are whole.
    """
    if len({(f.rounding, f.offset) for f in features}) == 1:
        return features[0], ANY_SIZE
    return to_exact_grid(features[0]), compute_exact_multiple(*features)


def compute_min_cells(feature: Feature, cells: int) -> SizeConstraint:
    """Return the sizes at which `feature`, rounding down, has at least `cells` cells per side."""
    assert feature.stride is not None
    return SizeConstraint(least=max(ceil(feature.stride * cells + feature.offset), 1))


def compute_implied_sizes(feature: Feature) -> SizeConstraint:
    """Return the sizes at which a feature is valid: whole where it is exact, and with at least one cell."""
    if feature.stride is None or feature.rounding == "ceil":
        return ANY_SIZE
    return compute_exact_multiple(feature) if feature.rounding == "exact" else compute_min_cells(feature, 1)


def combine(one: SizeConstraint, other: SizeConstraint) -> SizeConstraint:
    """Return the sizes that meet both constraints, of which only `multiple` and `least` count."""
    return SizeConstraint(multiple=lcm(one.multiple, other.multiple), least=max(one.least, other.least))


def get_grid_key(feature: Feature) -> tuple[object, ...]:
    """Return what two features must share to be joined, at the sizes at which both are whole."""
    return feature.axes, feature.stride, to_exact_grid(feature).offset, feature.prefix, feature.frames


def scale_stride(stride: Fraction | None, by: int | Fraction) -> Fraction:
    """Return a stride after a map has shrunk by `by`; `Fraction(1, 2)` for a map that has doubled."""
    assert stride is not None
    return stride * by


def upsample_map(feature: Feature, channels: int, factor: int) -> Outputs:
    """Return a map of `channels`, `factor` times as large, at the sizes at which its input is whole."""
    exact = to_exact_grid(feature)
    stride = scale_stride(exact.stride, Fraction(1, factor))
    return Outputs(features=[evolve(exact, channels=channels, stride=stride)], sizes=compute_exact_multiple(exact))


def drop_frames(feature: Feature) -> Feature:
    """Return a feature without its frame axis, as it is for one frame or after pooling over frames."""
    return evolve(feature, axes=" ".join(axis for axis in feature.axes.split() if axis != "t"), frames=1)


def is_map(feature: Feature) -> bool:
    """Return whether a tensor can be the input of a 2-D convolution."""
    return feature.axes == MAP


def require_layout(
    features: Features, test: Callable[[Feature], bool], takes: str, kind: Kind = "raises"
) -> Rejection | None:
    """Reject features that do not all pass `test`. `takes` says which do."""
    if features and all(map(test, features)):
        return None
    return Rejection(code="layout", kind=kind, expected=f"takes {takes}")


def require_maps(features: Features, kind: Kind = "raises") -> Rejection | None:
    """Reject features that are not all maps `"b c h w"`."""
    return require_layout(features, is_map, f'maps "{MAP}"', kind)


def require_pyramid_maps(features: Features) -> Rejection | None:
    """Reject features that are not all maps, where a pyramid of maps is needed."""
    return require_layout(features, is_map, f'maps "{MAP}" whose stride doubles from one to the next')


def require_indices(features: Features, indices: tuple[int, ...], about: str) -> Rejection | None:
    """Reject positions that `features` does not have."""
    count = len(features)
    for position, index in enumerate(indices):
        if not -count <= index < count:
            return Rejection(
                code="index",
                expected=f"takes feature {index}",
                got=format_count(count, "feature"),
                fix=f"use {about} from {-count} to {count - 1}" if count else None,
                about=f"{about}[{position}]" if len(indices) > 1 or about == "indices" else about,
            )
    return None


def require_finest_first(features: Features) -> Rejection | None:
    """Reject a pyramid in reverse order: it would run, with skip connections from coarse to fine."""
    strides = [f.stride for f in features if f.stride is not None]
    if strides == sorted(strides):
        return None
    return Rejection(code="index", kind="policy", expected="takes maps finest first, so strides must not decrease")


def require_doubling_strides(features: Features) -> Rejection | None:
    """Reject strides that do not double; the last may equal the one before it, as `AddBottleneckLayer` leaves it."""
    strides = [f.stride for f in features if f.stride is not None]
    ratios = [later / earlier for earlier, later in pairwise(strides)]
    if all(ratio == 2 for ratio in ratios[:-1]) and all(ratio in (1, 2) for ratio in ratios[-1:]):
        return None
    return Rejection(code="stride", kind="policy", expected="takes maps whose stride doubles from one to the next")


def reject_narrow_maps(expected: str) -> Rejection:
    """Build the rejection of maps that have too few channels to divide."""
    return Rejection(code="channels", expected=expected)


def suggest_more_levels(wanted: str) -> str:
    """Return the fix for too few levels. A contract does not see the encoder, so both of its fields are named."""
    return f"let the encoder give {wanted}, with its out_indices or its depth"


def fit_widths(widths: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return the first `count` widths; of fewer, the last is halved for each that is missing, down to 16."""
    least = min(widths[-1], 16)
    return (*widths[:count], *(max(widths[-1] // 2**i, least) for i in range(1, count - len(widths) + 1)))
