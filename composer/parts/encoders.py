"""Encoders: networks of timm, modules of one's own, and the facts that describe them. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

from attrs import Attribute, evolve, field, frozen

from composer.feature import Feature, Features
from composer.parts.fields import (
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
from composer.parts.kinds import Encoder, ProbedEncoder
from composer.parts.weights import IS_PRETRAINED, Pretrained, convert_pretrained
from composer.sizes import ANY_SIZE, SizeConstraint

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
