"""What necks that make a pyramid give. No torch here."""

from __future__ import annotations

from fractions import Fraction

from attrs import evolve

from composer.contracts.dispatch import contract
from composer.contracts.rules import (
    Kind,
    Outcome,
    Promise,
    Refusal,
    at_least,
    both,
    exactly,
    finest_first,
    is_map,
    maps_only,
    more_levels,
    scaled,
    too_narrow,
    whole,
)
from composer.feature import Feature, Features
from composer.parts import (
    FeaturePyramidNetworkNeck,
    InterpolateToPyramidal,
    LearnedInterpolateToPyramidal,
    MaxpoolToPyramidal,
)
from composer.sizes import ANY, Sizes


@contract.register(InterpolateToPyramidal)
def _(neck: InterpolateToPyramidal, features: Features) -> Outcome:
    factors = [neck.scale_factor**exponent for exponent in range(len(features), 0, -1)]
    return _scalable(features, factors) or Promise(
        features=[_exact(f, Fraction(1, factor)) for f, factor in zip(features, factors, strict=True)],
        sizes=whole(*features),
    )


def _scalable(features: Features, factors: list[int]) -> Refusal | None:
    """Refuse what is no map: torch would scale whatever axes come last. Scaling by 1 would do no harm."""
    harmful = any(not is_map(f) and factor > 1 for f, factor in zip(features, factors, strict=True))
    return maps_only(features, "lies" if harmful else "policy")


def _exact(feature: Feature, by: Fraction) -> Feature:
    return evolve(exactly(feature), stride=scaled(feature.stride, by))


@contract.register(MaxpoolToPyramidal)
def _(neck: MaxpoolToPyramidal, features: Features) -> Outcome:
    kernels = [neck.kernel_size**exponent for exponent in range(len(features))]
    if refusal := _scalable(features, kernels):
        return refusal
    sizes = ANY
    pooled = []
    for feature, kernel in zip(features, kernels, strict=True):
        out, demand = _pooled(feature, kernel)
        pooled.append(out)
        sizes = both(sizes, demand)
    return Promise(features=pooled, sizes=sizes)


def _pooled(feature: Feature, kernel: int) -> tuple[Feature, Sizes]:
    """A map after max-pooling by `kernel`, rounding down.

    floor(floor(x) / k) = floor(x / k), so a map that rounds down goes on doing so, with its offset; one that rounds up
    has to be whole.
    """
    if kernel == 1:
        return feature, ANY
    out = evolve(feature, stride=scaled(feature.stride, kernel), rounding="floor")
    return out, both(whole(feature) if feature.rounding == "ceil" else ANY, at_least(out, 1))


@contract.register(LearnedInterpolateToPyramidal)
def _(neck: LearnedInterpolateToPyramidal, features: Features) -> Outcome:
    if len(features) != 4:
        return Refusal(
            code="count",
            kind="impossible",
            expected="takes exactly four maps",
            repair=_four_levels(len(features)),
        )
    first, second, third, fourth = features
    # The first two are convolved; the fourth would be pooled along whatever axes come last, the third passes through.
    unpooled: Kind = "policy" if is_map(fourth) else "lies"
    if refusal := maps_only(features, unpooled if is_map(first) and is_map(second) else "impossible"):
        return refusal
    if first.channels < 4 or second.channels < 2:
        return too_narrow("quarters the channels of the first map and halves the second's, so they need 4 and 2")
    pooled, least = _pooled(fourth, 2)
    return Promise(
        features=(
            evolve(_exact(first, Fraction(1, 4)), channels=first.channels // 4),
            evolve(_exact(second, Fraction(1, 2)), channels=second.channels // 2),
            third,
            pooled,
        ),
        sizes=both(whole(first, second), least),
    )


def _four_levels(count: int) -> str:
    if count > 4:
        return f"necks: [SelectIndices: {{indices: {[round(i * (count - 1) / 3) for i in range(4)]}}}]"
    return more_levels("four levels")


@contract.register(FeaturePyramidNetworkNeck)
def _(neck: FeaturePyramidNetworkNeck, features: Features) -> Outcome:
    return (
        maps_only(features)
        or finest_first(features)
        # Each map is brought to the grid of the next finer one, so nothing has to be whole.
        or Promise(features=[evolve(feature, channels=neck.out_channel) for feature in features])
    )
