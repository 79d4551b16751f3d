"""Necks that make or refine a pyramid of feature maps: declarations and contracts."""

from __future__ import annotations

from fractions import Fraction
from functools import reduce

from attrs import evolve, field, frozen

from composer.layouts import Feature, Features
from composer.parts.base import Neck, contract
from composer.parts.rules import (
    ContractResult,
    Kind,
    Outputs,
    Rejection,
    combine,
    compute_exact_multiple,
    compute_min_cells,
    is_map,
    reject_narrow_maps,
    require_finest_first,
    require_maps,
    scale_stride,
    suggest_more_levels,
    to_exact_grid,
)
from composer.parts.validators import CHANNELS, Choice, IntRange
from composer.sizes import ANY_SIZE, SizeConstraint

INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic", "area")


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
        sizes=compute_exact_multiple(*features),
    )


def _require_scalable_maps(features: Features, factors: list[int]) -> Rejection | None:
    """Reject features that are not maps: torch would scale their last two axes. Scaling by 1 is harmless."""
    harmful = any(not is_map(f) and factor > 1 for f, factor in zip(features, factors, strict=True))
    return require_maps(features, "wrong_output" if harmful else "policy")


def _scale_exactly(feature: Feature, by: Fraction) -> Feature:
    return evolve(to_exact_grid(feature), stride=scale_stride(feature.stride, by))


@frozen(kw_only=True)
class MaxpoolToPyramidal(Neck):
    """Make a pyramid of maps by max-pooling: map i shrinks by `kernel_size` to the power i, rounding down."""

    kernel_size: int = field(default=2, validator=IntRange(1, 8))


@contract.register(MaxpoolToPyramidal)
def _(neck: MaxpoolToPyramidal, features: Features) -> ContractResult:
    kernels = [neck.kernel_size**exponent for exponent in range(len(features))]
    if refusal := _require_scalable_maps(features, kernels):
        return refusal
    pooled = [_pool_map(feature, kernel) for feature, kernel in zip(features, kernels, strict=True)]
    return Outputs(features=[out for out, _ in pooled], sizes=reduce(combine, (sizes for _, sizes in pooled)))


def _pool_map(feature: Feature, kernel: int) -> tuple[Feature, SizeConstraint]:
    """Return a map after max-pooling by `kernel`, rounding down, and the sizes that this demands.

    floor(floor(x) / k) = floor(x / k), so a map that rounds down keeps rounding down, with its offset; one that rounds
    up has to be whole.
    """
    if kernel == 1:
        return feature, ANY_SIZE
    out = evolve(feature, stride=scale_stride(feature.stride, kernel), rounding="floor")
    return out, combine(
        compute_exact_multiple(feature) if feature.rounding == "ceil" else ANY_SIZE, compute_min_cells(out, 1)
    )


@frozen(kw_only=True)
class AddBottleneckLayer(Neck):
    """Append a copy of the last map, its channels halved by a 1 × 1 convolution."""


@contract.register(AddBottleneckLayer)
def _(neck: AddBottleneckLayer, features: Features) -> ContractResult:
    if refusal := require_maps(features[-1:]):
        return refusal
    last = features[-1]
    if last.channels < 2:
        return reject_narrow_maps("halves the channels of the last map, so it needs at least 2")
    return Outputs(features=[*features, evolve(last, channels=last.channels // 2)])


@frozen(kw_only=True)
class LearnedInterpolateToPyramidal(Neck):
    """Make a pyramid of exactly four maps: learned ×4 and ×2, unchanged, and max-pooled by 2."""


@contract.register(LearnedInterpolateToPyramidal)
def _(neck: LearnedInterpolateToPyramidal, features: Features) -> ContractResult:
    if len(features) != 4:
        return Rejection(
            code="count",
            kind="raises",
            expected="takes exactly four maps",
            fix=_suggest_four_levels(len(features)),
        )
    first, second, third, fourth = features
    # The first two are convolved; the fourth would be pooled along its last two axes, the third passes through.
    unpooled: Kind = "policy" if is_map(fourth) else "wrong_output"
    if refusal := require_maps(features, unpooled if is_map(first) and is_map(second) else "raises"):
        return refusal
    if first.channels < 4 or second.channels < 2:
        return reject_narrow_maps(
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
        sizes=combine(compute_exact_multiple(first, second), least),
    )


def _suggest_four_levels(count: int) -> str:
    if count > 4:
        return f"necks: [SelectIndices: {{indices: {[round(i * (count - 1) / 3) for i in range(4)]}}}]"
    return suggest_more_levels("four levels")


@frozen(kw_only=True)
class FeaturePyramidNetworkNeck(Neck):
    """Add to every map the coarser ones, finest map first; every output has `out_channel` channels."""

    out_channel: int = field(default=256, validator=CHANNELS)


@contract.register(FeaturePyramidNetworkNeck)
def _(neck: FeaturePyramidNetworkNeck, features: Features) -> ContractResult:
    return (
        require_maps(features)
        or require_finest_first(features)
        # Each map is resized to the grid of the next finer one, so no size has to be whole.
        or Outputs(features=[evolve(feature, channels=neck.out_channel) for feature in features])
    )
