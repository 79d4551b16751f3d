"""Encoders: declarations and contracts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Any, ClassVar, Self

from attrs import Attribute, evolve, field, frozen

from composer.layouts import FRAMES, MAP, Feature, Features, describe_features, format_count
from composer.parts.base import Encoder, ProbedEncoder, contract
from composer.parts.rules import ContractResult, Outputs, Rejection
from composer.parts.validators import (
    BOOL,
    BOUNDED_OPTIONS,
    FRAME_COUNT,
    NON_EMPTY,
    OPTIONAL_INDEX,
    ForbiddenKeys,
    IntRange,
    Options,
    convert_optional_int_list,
    convert_options,
)
from composer.sizes import ANY_SIZE, SizeConstraint


def _validate_text(_: object, attribute: Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{attribute.name} must be a string that is not empty (got {value!r})")


def _strip_dots(value: Any) -> Any:
    return value.rstrip(".") if isinstance(value, str) else value


@frozen
class WeightsFile:
    """A weights file, and the prefix in front of the names that belong to the network: `teacher.backbone`.

    A prefix is only needed where a file holds several networks. Without it, use the path alone.
    """

    file: str = field(validator=_validate_text)
    prefix: str = field(converter=_strip_dots, validator=_validate_text)


Pretrained = bool | str | WeightsFile
"""False, true for published weights, the path of a file, or a file with a prefix."""


def convert_pretrained(value: Pretrained | Mapping[str, Any]) -> Pretrained:
    """Convert a mapping of `file` and `prefix` into a `WeightsFile`. Raises ValueError for other keys."""
    if not isinstance(value, Mapping):
        return value
    if value.keys() != {"file", "prefix"}:
        raise ValueError(f"a weights file is given by file and prefix (got {', '.join(map(str, value)) or 'nothing'})")
    return WeightsFile(**value)


@frozen
class IsPretrained:
    """Validate `pretrained`: true, false, a path, or a `WeightsFile`. `also` names what else a string may be."""

    also: str = ""

    def __call__(self, _: object, attribute: Attribute[Any], value: Any) -> None:
        """Raise ValueError for anything else."""
        if not isinstance(value, bool | str | WeightsFile) or value == "":
            raise ValueError(
                f"{attribute.name} must be true, false, {self.also}the path of a weights file, "
                f"or a mapping of file and prefix (got {value!r})"
            )


IS_PRETRAINED = IsPretrained()


def get_weights_file(value: Pretrained) -> tuple[str, str | None] | None:
    """Return the path and the prefix of a weights file, or None where published weights or none are asked for."""
    if isinstance(value, WeightsFile):
        return value.file, value.prefix
    return (value, None) if isinstance(value, str) else None


_FIELD = "it is a field of its own"


_WEIGHTS_REASON = "composer loads weights itself"


_NETWORK_REASON = "composer makes the network itself"


FORBIDDEN_TIMM_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "pretrained": _FIELD,
        "pretrained_cfg": _WEIGHTS_REASON,
        "pretrained_cfg_overlay": _WEIGHTS_REASON,
        "checkpoint_path": _WEIGHTS_REASON,
        "cache_dir": _WEIGHTS_REASON,
        "features_only": _FIELD,
        "out_indices": _FIELD,
        "in_chans": "it is the channels of the input",
        "img_size": _FIELD,
        "output_stride": _FIELD,
        "feature_cls": _NETWORK_REASON,
        "scriptable": _NETWORK_REASON,
        "exportable": _NETWORK_REASON,
        "no_jit": _NETWORK_REASON,
        "model_name": "the network is named by name",
        "name": _FIELD,
        "device": "the built model is moved with to()",
    }
)
"""Arguments of timm that `options` may not hold, each with the reason why."""


_ALWAYS_ON = "leave it out: it is always on where the network supports it"


_NO_CLASSIFIER = "leave it out: an encoder has no classifier"


TIMM_ARGUMENT_HINTS: Mapping[str, str] = MappingProxyType(
    {
        **{name: f"leave it out: {why}" for name, why in FORBIDDEN_TIMM_OPTIONS.items() if why != _FIELD},
        "dynamic_img_size": _ALWAYS_ON,
        "strict_img_size": "leave it out: it is always off where the network supports it",
        "num_classes": _NO_CLASSIFIER,
        "global_pool": _NO_CLASSIFIER,
        "in_chans": "set the channels of the input: input: {channels: …}",
        "checkpoint_path": "pretrained: FILE",
        "weights": "pretrained: true, or pretrained: FILE",
    }
)
"""Arguments of timm that are not fields, each with what to do instead."""


_MAX_PIXELS = 16_384


_SIDE = IntRange(1, _MAX_PIXELS, optional=True)


def _convert_img_size(value: Any) -> tuple[int, int] | None:
    """timm's `img_size`: one number for a square, or height and width."""
    if value is None:
        return None
    if type(value) is int:
        return value, value
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"img_size must be a whole number or two, height and width (got {value!r})")
    return value[0], value[1]


def _convert_features(value: Any) -> Features:
    if isinstance(value, Feature):
        return (value,)
    if not isinstance(value, list | tuple) or not all(isinstance(entry, Feature) for entry in value):
        raise ValueError(f"features must be a Feature or a list of them (got {value!r})")
    return tuple(value)


def _validate_sizes(_: object, attribute: Attribute[SizeConstraint], value: Any) -> None:
    if not isinstance(value, SizeConstraint):
        raise ValueError(f"{attribute.name} must be Sizes (got {value!r})")


def _validate_network_name(_: object, __: object, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"name must be the name of a network, such as 'resnet50' (got {value!r})")


@frozen
class Timm(ProbedEncoder):
    """A network of timm, as an encoder: `timm/NAME`.

    The fields are timm's own arguments. `out_indices` picks levels (timm's default where it is absent: all levels
    of a pyramid, the last three of a plain ViT). `pretrained` is true, false, the path of a weights
    file, or a `WeightsFile`.
    `features_only` takes timm's own wrapper, with the layouts and parameter names that it has; otherwise the plain
    network runs, gives `"b c h w"`, and keeps the names that published checkpoints use. `tokens` asks a ViT for
    its tokens, prefix first, and `norm` for its levels behind its final norm. `any_size` feeds a convolutional network
    images as they are, or padded to no more than it needs itself: its levels then round; otherwise images are padded
    until every level is whole. Whatever else the network takes goes under `options`.

    With `any_size` output is stretched over the image, as by timm's users and TerraTorch: ceil(H / stride) cells that
    reach beyond the image, or floor(H / stride) that end before it, become H pixels. What is seen moves by up to a
    stride less one at the far border, and by nothing where the stride divides the image. Without `any_size` it stays
    where it is.
    """

    source: ClassVar[str | None] = "timm"
    instead: ClassVar[Mapping[str, str]] = TIMM_ARGUMENT_HINTS

    name: str = field(validator=_validate_network_name)
    out_indices: tuple[int, ...] | None = field(
        default=None, converter=convert_optional_int_list, validator=[NON_EMPTY, OPTIONAL_INDEX], kw_only=True
    )
    pretrained: Pretrained = field(default=False, converter=convert_pretrained, validator=IS_PRETRAINED, kw_only=True)
    output_stride: int | None = field(default=None, validator=IntRange(1, 64, optional=True), kw_only=True)
    img_size: tuple[int, int] | None = field(default=None, converter=_convert_img_size, validator=_SIDE, kw_only=True)
    features_only: bool = field(default=False, validator=BOOL, kw_only=True)
    tokens: bool = field(default=False, validator=BOOL, kw_only=True)
    norm: bool = field(default=False, validator=BOOL, kw_only=True)
    any_size: bool = field(default=False, validator=BOOL, kw_only=True)
    options: Options = field(
        default=(),
        converter=convert_options,
        validator=[ForbiddenKeys(FORBIDDEN_TIMM_OPTIONS), BOUNDED_OPTIONS],
        kw_only=True,
    )

    def __attrs_post_init__(self) -> None:
        if self.tokens and self.features_only:
            raise ValueError("tokens and features_only exclude each other: timm's wrapper always gives maps")
        if self.norm and self.features_only:
            raise ValueError("norm and features_only exclude each other: timm's wrapper gives levels without a norm")

    def copy_with_image_size(self, height: int, width: int, facts: EncoderInfo) -> Self | None:
        """Return the same with `img_size`, unless one is written, or the image is larger than that may be.

        What timm makes for a size has positions, biases or windows of that size. It takes one size, or has a switch to
        take others, or takes multiples of its windows.
        """
        switches = dict(facts.arguments).keys() & {"dynamic_img_size", "strict_img_size"}
        windowed = facts.sizes.multiple > max(f.stride or 1 for f in facts.features)
        has_size = facts.sizes.height is not None or switches or windowed
        possible = has_size and self.img_size is None and max(height, width) <= _MAX_PIXELS
        return evolve(self, img_size=(height, width)) if possible else None


@frozen(kw_only=True)
class EncoderInfo(Encoder):
    """What is known of an encoder: its features, with strides relative to what it is fed, and the sizes it takes.

    `sizes` counts pixels of the image that the encoder is fed. `channels` is how many it takes. `frames` is how many
    it takes at once; where it is None, the encoder takes stills, and is run on each frame of an image that has frames.
    `inputs` are the channels of each image by name, where it takes several.
    `arguments` are those that a foreign constructor needs besides the declared ones to keep the promise (the resolved
    levels, switches for flexible sizes). `mean` and `std` are what its published weights expect, per RGB band in 0..1.
    `patch` is the height and width of the patches that it cuts an image into, where it does. `levels` is how many
    it has in all, where that is known and more of them may be asked for.
    """

    features: Features = field(converter=_convert_features, validator=NON_EMPTY)
    channels: int = 3
    frames: int | None = field(default=None, validator=FRAME_COUNT)
    inputs: Options = field(default=(), converter=convert_options)
    sizes: SizeConstraint = field(default=ANY_SIZE, validator=_validate_sizes)
    arguments: Options = field(default=(), converter=convert_options)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    patch: tuple[int, int] | None = None
    levels: int | None = None


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


@frozen(eq=False)
class Custom(Encoder):
    """A module of one's own as an encoder, with its features declared: used as it is, and checked when built.

    `module` is called with one tensor `(b, channels, h, w)`, or `(b, channels, frames, h, w)` where `frames` is given,
    and returns a tensor or a list of them, as `features` declares them, with strides relative to what it is fed. One
    without `frames` takes stills, and is run on each frame of an image that has frames. `sizes` is what it demands of
    the image. A graph that holds one has no text and no digest. Equal only to itself, because a module is.
    """

    module: Any
    features: Features = field(converter=_convert_features, validator=NON_EMPTY, kw_only=True)
    channels: int = field(default=3, validator=IntRange(1, 65_536), kw_only=True)
    frames: int | None = field(default=None, validator=FRAME_COUNT, kw_only=True)
    sizes: SizeConstraint = field(default=ANY_SIZE, validator=_validate_sizes, kw_only=True)


@contract.register(Custom)
def _(encoder: Custom, image: Features) -> ContractResult:
    facts = EncoderInfo(
        features=encoder.features, channels=encoder.channels, frames=encoder.frames, sizes=encoder.sizes
    )
    return contract(facts, image)


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
