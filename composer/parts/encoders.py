"""Encoders: declarations and contracts."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import ceil
from types import MappingProxyType
from typing import Any, ClassVar, Self

from attrs import Attribute, evolve, field, frozen

from composer.bands import RGB
from composer.layouts import FRAMES, MAP, Feature, Features, describe_features, format_count, parse_height_and_width
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
    """A weights file, and the prefix of the names of the network's tensors: `teacher.backbone`.

    A prefix is only needed where a file holds several networks; otherwise use the path alone.
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


def _validate_pretrained(_: object, attribute: Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool | str | WeightsFile) or value == "":
        rule = "must be true, false, the path of a weights file, or a mapping of file and prefix"
        raise ValueError(f"{attribute.name} {rule} (got {value!r})")


IS_PRETRAINED = _validate_pretrained


def get_weights_file(value: Pretrained) -> tuple[str, str | None] | None:
    """Return the path and the prefix of a weights file, or None for published weights or none."""
    if isinstance(value, WeightsFile):
        return value.file, value.prefix
    return (value, None) if isinstance(value, str) else None


_OTHER_ARGUMENTS = {
    "in_chans": "it is the channels of the input",
    "model_name": "the network is named by name",
    "device": "the built model is moved with to()",
    **dict.fromkeys(
        ("pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"), "composer loads weights itself"
    ),
    **dict.fromkeys(("feature_cls", "scriptable", "exportable", "no_jit"), "composer makes the network itself"),
}
_FIELDS = ("name", "pretrained", "features_only", "out_indices", "img_size", "output_stride")

FORBIDDEN_TIMM_OPTIONS: Mapping[str, str] = MappingProxyType(
    {**_OTHER_ARGUMENTS, **dict.fromkeys(_FIELDS, "it is a field of its own")}
)
"""Arguments of timm that `options` must not hold, each with the reason."""

_ALWAYS_ON = "leave it out: it is always on where the network supports it"
_NO_CLASSIFIER = "leave it out: an encoder has no classifier"

TIMM_ARGUMENT_HINTS: Mapping[str, str] = MappingProxyType(
    {
        **{name: f"leave it out: {why}" for name, why in _OTHER_ARGUMENTS.items()},
        "dynamic_img_size": _ALWAYS_ON,
        "strict_img_size": "leave it out: it is always off where the network supports it",
        "num_classes": _NO_CLASSIFIER,
        "global_pool": _NO_CLASSIFIER,
        "in_chans": "set the channels of the input: input: {channels: …}",
        "checkpoint_path": "pretrained: FILE",
        "weights": "pretrained: true, or pretrained: FILE",
    }
)
"""Arguments of timm that are not fields, each with the alternative."""


_MAX_PIXELS = 16_384
_SIDE = IntRange(1, _MAX_PIXELS, optional=True)


def _convert_img_size(value: Any) -> tuple[int, int] | None:
    """Convert timm's `img_size`, one number for a square or height and width. Raises ValueError for other values."""
    return parse_height_and_width("img_size", (value, value) if type(value) is int else value)


def _convert_features(value: Any) -> Features:
    if isinstance(value, Feature):
        return (value,)
    if not isinstance(value, list | tuple) or not all(isinstance(entry, Feature) for entry in value):
        raise ValueError(f"features must be a Feature or a list of them (got {value!r})")
    return tuple(value)


def _validate_sizes(_: object, attribute: Attribute[SizeConstraint], value: Any) -> None:
    if not isinstance(value, SizeConstraint):
        raise ValueError(f"{attribute.name} must be a SizeConstraint (got {value!r})")


@frozen
class Timm(ProbedEncoder):
    """A network of timm as an encoder: `timm/NAME`.

    The fields are timm's own arguments. `out_indices` selects levels (by default timm's: all levels of a pyramid, the
    last three of a plain ViT). `pretrained` is true, false, the path of a weights file, or a `WeightsFile`.
    `features_only` uses timm's own wrapper, with its layouts and parameter names; otherwise the plain network runs,
    emits `"b c h w"`, and keeps the names that published checkpoints use. `tokens` selects the tokens of a ViT, prefix
    first, and `norm` its levels after its final norm. `any_size` accepts any image size without padding, or with no
    more than the network itself needs: its levels are then rounded; otherwise images are padded until every level is
    whole. All other arguments of the network go under `options`.

    With `any_size` output is stretched over the image, as by timm's users and TerraTorch: ceil(H / stride) cells that
    reach beyond the image, or floor(H / stride) that end before it, become H pixels. This shifts the output by up to
    stride - 1 pixels at the far border, and not at all where the stride divides the image.
    """

    source: ClassVar[str | None] = "timm"
    weights_bands: ClassVar[tuple[str, ...]] = RGB
    instead: ClassVar[Mapping[str, str]] = TIMM_ARGUMENT_HINTS

    name: str = field(validator=_validate_text)
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

    def copy_with_image_size(self, height: int, width: int, info: EncoderInfo) -> Self | None:
        """Return the same encoder with `img_size`, unless one is set, or the image exceeds the maximum.

        Such networks of timm have positions, biases or windows of one size: they take that size, or have a switch for
        others, or take multiples of their windows.
        """
        switches = dict(info.arguments).keys() & {"dynamic_img_size", "strict_img_size"}
        windowed = info.sizes.multiple > max(f.stride or 1 for f in info.features)
        has_size = info.sizes.height is not None or switches or windowed
        possible = has_size and self.img_size is None and max(height, width) <= _MAX_PIXELS
        return evolve(self, img_size=(height, width)) if possible else None


@frozen(kw_only=True)
class EncoderInfo(Encoder):
    """The features of an encoder, with strides relative to its image, and the image sizes that it takes.

    `sizes` counts pixels of the encoder's own image, which has `channels`. `frames` is the number of frames that it
    takes at once; None is a single-image encoder, which is run on each frame of an image with frames. `inputs` are the
    channels of each image by name, where it takes several. `arguments` are passed to a foreign constructor besides the
    declared ones (the resolved levels, switches for flexible sizes). `mean` and `std` are the normalisation that its
    published weights expect, per RGB band in 0..1. `patch` is the height and width of its patches, if it has any.
    `levels` is the number of all its levels, where it is known and more can be selected. `bands` are the names of the
    channels of its image, where the input of the graph has them.
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
    bands: tuple[str, ...] = field(default=(), converter=tuple[str, ...])


@contract.register(EncoderInfo)
def _(info: EncoderInfo, image: Features = (), /, **named: Features) -> ContractResult:
    """Convert strides and sizes from pixels of the encoder's image into reference pixels.

    Features per frame of a single-image encoder have the frames behind the batch, because frames are folded into the
    batch and unfolded again. Several images are one per modality, all of one grid.
    """
    by_name = bool(info.inputs or named)
    if rejection := _require_named_images(info, named) if by_name else _require_image(info, image, info.channels):
        return rejection
    (first,) = next(iter(named.values()), image)
    stride = first.stride
    assert stride is not None
    sizes = _convert_to_reference_pixels(info.sizes, stride)
    if sizes is None:
        return Rejection(code="sizes", expected=f"takes images of {info.sizes} pixels")
    features = [
        f if f.stride is None else evolve(f, stride=f.stride * stride, offset=f.offset * stride) for f in info.features
    ]
    if info.frames is not None or first.axes == MAP:
        return Outputs(features=features, sizes=sizes)
    framed = [evolve(feature, axes=feature.axes.replace("b", "b t"), frames=first.frames) for feature in features]
    return Outputs(features=framed, sizes=sizes, per_frame=True)


@frozen(eq=False)
class Custom(Encoder):
    """Your own module as an encoder, with declared features: used unchanged, and checked by `build`.

    `module` is called with one tensor `(b, channels, h, w)`, or `(b, channels, frames, h, w)` where `frames` is set,
    and returns a tensor or a list of them as `features` declares, with strides relative to its image. Without `frames`
    it is run on each frame of an image with frames. `sizes` constrains its image. A graph with a `Custom` cannot be
    written and has no digest. Equal only to itself, because a module is.
    """

    module: Any
    features: Features = field(converter=_convert_features, validator=NON_EMPTY, kw_only=True)
    channels: int = field(default=3, validator=IntRange(1, 65_536), kw_only=True)
    frames: int | None = field(default=None, validator=FRAME_COUNT, kw_only=True)
    sizes: SizeConstraint = field(default=ANY_SIZE, validator=_validate_sizes, kw_only=True)

    @property
    def info(self) -> EncoderInfo:
        """Return what is declared of the module."""
        return EncoderInfo(features=self.features, channels=self.channels, frames=self.frames, sizes=self.sizes)


@contract.register(Custom)
def _(encoder: Custom, image: Features) -> ContractResult:
    return contract(encoder.info, image)


def require_one_image(image: Features) -> Rejection | None:
    """Reject inputs that are not one image, with or without frames."""
    if len(image) == 1 and image[0].axes in (MAP, FRAMES):
        return None
    return Rejection(
        code="layout",
        expected=f'takes one image "{MAP}", or one with frames "{FRAMES}"',
        fix="feed it an input of the graph",
    )


def _require_image(info: EncoderInfo, features: Features, channels: int) -> Rejection | None:
    """Reject inputs that are not one image of these channels, with the frames that the encoder takes."""
    if rejection := require_one_image(features):
        return rejection
    (image,) = features
    if image.channels != channels:
        return Rejection(
            code="channels",
            expected=f"takes an image of {format_count(channels, 'channel')}",
            fix=f"input: {{channels: {channels}}}",
        )
    if info.frames is not None and (image.axes, image.frames) != (FRAMES, info.frames):
        return Rejection(
            code="frames",
            expected=f"takes an image of {format_count(info.frames, 'frame')} at once",
            fix=f"input: {{frames: {info.frames}}}",
        )
    if info.frames is None and image.axes == FRAMES and any("t" in f.axes or f.frames > 1 for f in info.features):
        return Rejection(
            code="frames",
            kind="policy",
            expected="emits frames for a single image, and would emit frames of frames for an image with frames",
            fix="feed it an image without frames, or declare how many frames it takes at once",
        )
    return None


def _require_named_images(info: EncoderInfo, named: Mapping[str, Features]) -> Rejection | None:
    """Reject images whose names, channels or grids are not those that the encoder takes."""
    channels = dict(info.inputs)
    if channels.keys() != named.keys():
        return Rejection(
            code="inputs",
            expected=f"takes images named {', '.join(channels)}" if channels else "takes one image, without a name",
            got=f"images named {', '.join(named)}" if named else "an image without a name",
            fix=f"from: {{{', '.join(f'{name}: IMAGE' for name in channels)}}}" if channels else "from: IMAGE",
        )
    for position, (name, image) in enumerate(named.items()):
        if rejection := _require_image(info, image, channels[name]):
            return evolve(rejection, expected=f"{rejection.expected} as {name}", input=position)
    first_name, (first,) = next(iter(named.items()))
    for position, (name, (other,)) in enumerate(named.items()):
        if (other.stride, other.axes, other.frames) != (first.stride, first.axes, first.frames):
            return Rejection(
                code="stride",
                expected=f"takes images of one resolution and as many frames, and {first_name} is "
                f"{describe_features((first,))}; {name} is not",
                fix="bring the images to one resolution before they enter the model",
                input=position,
            )
    return None


def _convert_to_reference_pixels(sizes: SizeConstraint, stride: Fraction) -> SizeConstraint | None:
    """Convert the sizes of an image of `stride` into reference pixels; None where a fixed side is not whole."""
    height, width = (None if side is None else side * stride for side in (sizes.height, sizes.width))
    if any(side is not None and side.denominator != 1 for side in (height, width)):
        return None
    # A multiple of m cells of p/q pixels is a multiple of the numerator of m*p/q pixels: the smallest whole number.
    return evolve(
        sizes,
        multiple=(sizes.multiple * stride).numerator,
        least=ceil(sizes.least * stride),
        height=None if height is None else int(height),
        width=None if width is None else int(width),
    )
