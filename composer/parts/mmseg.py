"""The decode heads of mmsegmentation: `mmseg/NAME`. Names and arguments are mmseg's. No torch here, and no mmseg."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from attrs import Attribute, asdict, field, frozen
from attrs.validators import optional

from composer.parts.fields import BOOL, CHANNELS, NON_EMPTY, OPTIONAL_CHANNELS, OPTIONAL_INDEX, RATE, Choice, IntRange
from composer.parts.kinds import Decoder
from composer.parts.mmseg_heads import MMSEG_DESCRIPTIONS, MMSEG_HEAD_ARGUMENTS, UNSUPPORTED_HEADS

MMSEG_NORMS = (None, "BN", "GN", False)

MMSEG_ACTIVATIONS = (None, "ReLU", "LeakyReLU", "ELU", "SiLU", "GELU", "Tanh", "Sigmoid")
"""Activations that mmcv knows by the names that torch has for them."""

_COUNT = IntRange(1, 64, optional=True)
_SIDES = IntRange(1, 256, optional=True)


def _convert_list(value: Any | Iterable[Any] | None) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _validate_head_name(_: object, __: Attribute[str], name: Any) -> None:
    if name in UNSUPPORTED_HEADS:
        reason, instead = UNSUPPORTED_HEADS[name]
        raise ValueError(f"{name} cannot be had: {reason}; {instead} can")
    Choice(tuple(MMSEG_DESCRIPTIONS))(_, __, name)


def _validate_odd(_: object, attribute: Attribute[Any], value: Any) -> None:
    if value is not None and value % 2 == 0:
        raise ValueError(f"{attribute.name} must be odd, or the map would grow (got {value!r})")


def _validate_positive(_: object, attribute: Attribute[Any], value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
        raise ValueError(f"{attribute.name} must be a number above 0 (got {value!r})")


def _validate_pair(_: object, attribute: Attribute[Any], value: Any) -> None:
    if value is not None and (type(value) is not tuple or len(value) != 2):
        raise ValueError(f"{attribute.name} must be two whole numbers, of rows and of columns (got {value!r})")


@frozen
class _ChoiceList:
    """A list of which every entry is one of a closed list."""

    known: tuple[str, ...]

    def __call__(self, _: object, attribute: Attribute[Any], value: Any) -> None:
        for entry in value or ():
            Choice(self.known)(_, attribute, entry)


def _make_optional_field(validator: Any) -> Any:
    return field(default=None, validator=validator, kw_only=True)


def _make_optional_list_field(validator: Any) -> Any:
    return field(default=None, converter=_convert_list, validator=validator, kw_only=True)


@frozen
class Mmseg(Decoder):
    """A decode head of mmsegmentation: `mmseg/NAME`, with mmseg's arguments. Initialised as mmseg does. Needs no head.

    The scores stay at the grid that they are made on. Channels, strides and, where `in_index` is None, the indices
    are those of the maps that flow in. `in_index` is the position of the map that a head takes, from the end where it
    is negative; for a head that takes several, and with `input_transform: resize_concat`, a list of them. With one
    class the scores are the numbers of a regression.

    An argument that is None has its default, which is mmseg's own, or that of its published configs; one that a head
    has not is refused. mmseg's configs are spelled plainly: `norm` is BN, GN (in 32 groups) or false, for a head
    without norms, which is mmseg's own default and none of its configs'; `act` is the name of an activation. Losses
    are no part of a model here, nor are their arguments: EncHead is without its own loss's branch, and of DAHead's
    three predictions there is the joint one, so that the layers of the two others never learn. LightHamHead draws its
    bases once, when it is made, and keeps them in the state dict.

    In train mode, batch norm over a single value is an error in torch: heads with a branch that pools to one cell
    (APCHead, ASPPHead, DepthwiseSeparableASPPHead, PSPHead, UPerHead) are trained with two images or more, or with
    `norm: GN`. EMAHead changes its bases in train mode, as norms change their statistics.
    """

    source: ClassVar[str | None] = "mmseg"
    names: ClassVar[Mapping[str, str] | None] = MMSEG_DESCRIPTIONS
    refused: ClassVar[Mapping[str, tuple[str, str]]] = UNSUPPORTED_HEADS
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MMSEG_HEAD_ARGUMENTS

    name: str = field(validator=_validate_head_name)
    num_classes: int = field(validator=CHANNELS, kw_only=True)
    channels: int | None = _make_optional_field(OPTIONAL_CHANNELS)
    in_index: int | tuple[int, ...] | None = _make_optional_list_field([NON_EMPTY, OPTIONAL_INDEX])
    input_transform: str | None = _make_optional_field(Choice((None, "resize_concat")))
    norm: bool | str | None = _make_optional_field(Choice(MMSEG_NORMS))
    act: str | None = _make_optional_field(Choice(MMSEG_ACTIVATIONS))
    dropout_ratio: float | None = _make_optional_field(optional(RATE))
    align_corners: bool | None = _make_optional_field(optional(BOOL))
    num_convs: int | None = _make_optional_field(IntRange(0, 64, optional=True))
    kernel_size: int | None = _make_optional_field([_COUNT, _validate_odd])
    concat_input: bool | None = _make_optional_field(optional(BOOL))
    dilation: int | None = _make_optional_field(_SIDES)
    dilations: tuple[int, ...] | None = _make_optional_list_field([NON_EMPTY, _SIDES])
    pool_scales: tuple[int, ...] | None = _make_optional_list_field([NON_EMPTY, _SIDES])
    project_channels: int | None = _make_optional_field(OPTIONAL_CHANNELS)
    key_pool_scales: tuple[int, ...] | None = _make_optional_list_field([NON_EMPTY, _SIDES])
    fusion: bool | None = _make_optional_field(optional(BOOL))
    filter_sizes: tuple[int, ...] | None = _make_optional_list_field([NON_EMPTY, _SIDES])
    recurrence: int | None = _make_optional_field(_COUNT)
    pam_channels: int | None = _make_optional_field(OPTIONAL_CHANNELS)
    reduction: int | None = _make_optional_field(OPTIONAL_CHANNELS)
    use_scale: bool | None = _make_optional_field(optional(BOOL))
    mode: str | None = _make_optional_field(Choice((None, "embedded_gaussian", "dot_product")))
    temperature: float | None = _make_optional_field(_validate_positive)
    c1_channels: int | None = _make_optional_field(OPTIONAL_CHANNELS)
    ema_channels: int | None = _make_optional_field(OPTIONAL_CHANNELS)
    num_bases: int | None = _make_optional_field(OPTIONAL_CHANNELS)
    num_stages: int | None = _make_optional_field(_COUNT)
    momentum: float | None = _make_optional_field(optional(RATE))
    num_codes: int | None = _make_optional_field(OPTIONAL_CHANNELS)
    add_lateral: bool | None = _make_optional_field(optional(BOOL))
    ratio: float | None = _make_optional_field(_validate_positive)
    pooling_type: str | None = _make_optional_field(Choice((None, "att", "avg")))
    fusion_types: tuple[str, ...] | None = _make_optional_list_field(
        [NON_EMPTY, _ChoiceList(("channel_add", "channel_mul"))]
    )
    isa_channels: int | None = _make_optional_field(OPTIONAL_CHANNELS)
    down_factor: tuple[int, ...] | None = _make_optional_list_field([_validate_pair, _SIDES])
    ham_channels: int | None = _make_optional_field(OPTIONAL_CHANNELS)
    MD_S: int | None = _make_optional_field(OPTIONAL_CHANNELS)
    MD_R: int | None = _make_optional_field(OPTIONAL_CHANNELS)
    train_steps: int | None = _make_optional_field(_COUNT)
    eval_steps: int | None = _make_optional_field(_COUNT)
    up_scale: int | None = _make_optional_field(_COUNT)
    interpolate_mode: str | None = _make_optional_field(Choice((None, "bilinear", "bicubic")))
    num_layers: int | None = _make_optional_field(_COUNT)
    num_heads: int | None = _make_optional_field(OPTIONAL_CHANNELS)
    embed_dims: int | None = _make_optional_field(OPTIONAL_CHANNELS)
    mlp_ratio: int | None = _make_optional_field(_COUNT)
    drop_path_rate: float | None = _make_optional_field(optional(RATE))
    drop_rate: float | None = _make_optional_field(optional(RATE))
    attn_drop_rate: float | None = _make_optional_field(optional(RATE))

    @property
    def includes_head(self) -> bool:
        """Always true: mmseg's heads end in a classifier."""
        return True


def resolve_mmseg_arguments(head: Mmseg) -> dict[str, Any]:
    """What a head is made with: the arguments that are given, also those it has not, and the defaults."""
    given = {name: value for name, value in asdict(head, recurse=False).items() if value is not None}
    return {**MMSEG_HEAD_ARGUMENTS[head.name], **{name: value for name, value in given.items() if name != "name"}}


MULTI_MAP_HEADS = tuple(name for name, known in MMSEG_HEAD_ARGUMENTS.items() if known["in_index"] != -1)
"""The heads that take several maps at once. The others take one, or several that are brought to one grid."""
