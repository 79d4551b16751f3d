"""What encoders give: their facts, relative to the image they are fed. No torch here."""

from __future__ import annotations

from fractions import Fraction

from attrs import evolve

from composer.contracts.dispatch import contract
from composer.contracts.rules import Outcome, Promise, Refusal, is_map
from composer.feature import MAP, Feature, Features
from composer.parts import Custom, Facts
from composer.sizes import Sizes


@contract.register(Facts)
def _(facts: Facts, image: Features) -> Outcome:
    """An encoder's strides and sizes count pixels of what it is fed; the graph's count reference pixels."""
    if len(image) != 1 or not is_map(image[0]):
        return Refusal(code="layout", kind="impossible", expected=f'takes one image "{MAP}"')
    if image[0].channels != facts.channels:
        expected = f"takes an image of {facts.channels} channels"
        repair = f"input: {{channels: {facts.channels}}}"
        return Refusal(code="channels", kind="impossible", expected=expected, repair=repair)
    stride = image[0].stride
    assert stride is not None
    sizes = _in_reference_pixels(facts.sizes, stride)
    if sizes is None:
        return Refusal(code="sizes", kind="impossible", expected=f"takes images of {facts.sizes} pixels")
    return Promise(features=tuple(_seen_from(feature, stride) for feature in facts.features), sizes=sizes)


@contract.register(Custom)
def _(encoder: Custom, image: Features) -> Outcome:
    facts = Facts(features=encoder.features, channels=encoder.channels, sizes=encoder.sizes)
    return contract(facts, image)  # type: ignore[return-value]


def _seen_from(feature: Feature, stride: Fraction) -> Feature:
    return feature if feature.stride is None else evolve(feature, stride=feature.stride * stride)


def _in_reference_pixels(sizes: Sizes, stride: Fraction) -> Sizes | None:
    """`sizes` of an image of `stride`, as sizes of the reference. None where a fixed side would be no whole number."""
    fixed = [None if side is None else side * stride for side in (sizes.height, sizes.width)]
    if any(side is not None and side.denominator != 1 for side in fixed):
        return None
    height, width = (None if side is None else int(side) for side in fixed)
    # A multiple of m cells of p/q pixels is a multiple of the numerator of m*p/q pixels: the smallest whole number.
    return Sizes(
        multiple=(sizes.multiple * stride).numerator,
        least=-((-sizes.least * stride.numerator) // stride.denominator),
        height=height,
        width=width,
        square=sizes.square,
    )
