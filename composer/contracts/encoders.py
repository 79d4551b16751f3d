"""What encoders give: their facts, relative to the image they are fed. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

from attrs import evolve

from composer.contracts.dispatch import contract
from composer.contracts.rules import ContractResult, Outputs, Rejection
from composer.feature import FRAMES, MAP, Feature, Features, describe_features, format_count
from composer.parts import Custom, EncoderInfo
from composer.sizes import SizeConstraint


@contract.register(EncoderInfo)
def _(facts: EncoderInfo, image: Features = (), /, **named: Features) -> ContractResult:
    """An encoder's strides and sizes count pixels of what it is fed; the graph's count reference pixels.

    What an encoder of stills gives for each frame has the frames right behind the batch: that is how the frames are
    folded into the batch, and unfolded again. Of several images, each is of one modality and all are of one grid.
    """
    refusal = (
        _require_named_images(facts, named)
        if facts.inputs or named
        else require_one_image(image) or _require_matching_image(facts, image[0])
    )
    if refusal:
        return refusal
    (fed,) = next(iter(named.values()), image)
    assert fed.stride is not None
    sizes = _convert_to_reference_pixels(facts.sizes, fed.stride)
    if sizes is None:
        return Rejection(code="sizes", kind="raises", expected=f"takes images of {facts.sizes} pixels")
    features = [_rescale_feature(feature, fed.stride) for feature in facts.features]
    if facts.frames is not None or fed.axes == MAP:
        return Outputs(features=features, sizes=sizes)
    return Outputs(features=[_add_frame_axis(feature, fed.frames) for feature in features], sizes=sizes, per_frame=True)


@contract.register(Custom)
def _(encoder: Custom, image: Features) -> ContractResult:
    facts = EncoderInfo(
        features=encoder.features, channels=encoder.channels, frames=encoder.frames, sizes=encoder.sizes
    )
    return contract(facts, image)  # type: ignore[return-value]


def require_one_image(image: Features) -> Rejection | None:
    """Refuse what is no image, with or without frames: what no encoder takes."""
    if len(image) == 1 and image[0].axes in (MAP, FRAMES):
        return None
    return Rejection(
        code="layout",
        kind="raises",
        expected=f'takes one image "{MAP}", or one with frames "{FRAMES}"',
        repair="feed it an input of the graph",
    )


def _require_matching_image(facts: EncoderInfo, fed: Feature) -> Rejection | None:
    if fed.channels != facts.channels:
        return Rejection(
            code="channels",
            kind="raises",
            expected=f"takes an image of {format_count(facts.channels, 'channel')}",
            repair=f"input: {{channels: {facts.channels}}}",
        )
    if facts.frames is not None and (fed.axes, fed.frames) != (FRAMES, facts.frames):
        return Rejection(
            code="frames",
            kind="raises",
            expected=f"takes an image of {format_count(facts.frames, 'frame')} at once",
            repair=f"input: {{frames: {facts.frames}}}",
        )
    if facts.frames is None and fed.axes == FRAMES and any("t" in f.axes or f.frames > 1 for f in facts.features):
        return Rejection(
            code="frames",
            kind="policy",
            expected="gives frames for a still, and would give frames of frames for each of an image's",
            repair="feed it an image without frames, or declare how many frames it takes at once",
        )
    return None


def _require_named_images(facts: EncoderInfo, named: Mapping[str, Features]) -> Rejection | None:
    """Refuse images that are not those that an encoder of several takes, each by its name."""
    taken = dict(facts.inputs)
    if taken.keys() != named.keys():
        return Rejection(
            code="inputs",
            kind="raises",
            expected=f"takes {_format_image_names(taken)}" if taken else "takes one image, without a name",
            got=_format_image_names(named) if named else "an image without a name",
            repair=f"from: {{{', '.join(f'{name}: IMAGE' for name in taken)}}}" if taken else "from: IMAGE",
        )
    first, *others = (named[name][0] for name in named)
    for position, (name, image) in enumerate(named.items()):
        refusal = require_one_image(image) or _require_matching_image(evolve(facts, channels=taken[name]), image[0])
        if refusal:
            return evolve(refusal, expected=f"{refusal.expected} as {name}", input=position)
    for position, (name, other) in enumerate(zip([*named][1:], others, strict=True), start=1):
        if (other.stride, other.axes, other.frames) != (first.stride, first.axes, first.frames):
            return Rejection(
                code="stride",
                kind="raises",
                expected=f"takes images of one resolution and as many frames, and {next(iter(named))} is "
                f"{describe_features((first,))}; {name} is not",
                repair="bring the images to one resolution before they enter the model",
                input=position,
            )
    return None


def _format_image_names(names: Iterable[str]) -> str:
    return f"images named {', '.join(names)}"


def _add_frame_axis(feature: Feature, frames: int) -> Feature:
    return evolve(feature, axes=feature.axes.replace("b", "b t"), frames=frames)


def _rescale_feature(feature: Feature, stride: Fraction) -> Feature:
    if feature.stride is None or stride == 1:
        return feature
    return evolve(feature, stride=feature.stride * stride, offset=feature.offset * stride)


def _convert_to_reference_pixels(sizes: SizeConstraint, stride: Fraction) -> SizeConstraint | None:
    """`sizes` of an image of `stride`, as sizes of the reference. None where a fixed side would be no whole number."""
    fixed = [None if side is None else side * stride for side in (sizes.height, sizes.width)]
    if any(side is not None and side.denominator != 1 for side in fixed):
        return None
    height, width = (None if side is None else int(side) for side in fixed)
    # A multiple of m cells of p/q pixels is a multiple of the numerator of m*p/q pixels: the smallest whole number.
    return SizeConstraint(
        multiple=(sizes.multiple * stride).numerator,
        least=-((-sizes.least * stride.numerator) // stride.denominator),
        height=height,
        width=width,
        square=sizes.square,
    )
