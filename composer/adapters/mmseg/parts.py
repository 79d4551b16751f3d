"""mmseg's decode heads: declarations."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from attrs import Attribute, field, frozen
from attrs.validators import optional

from composer.adapters.rejections import declare_argument, declare_list_argument, resolve_arguments
from composer.parts.base import Decoder
from composer.parts.validators import (
    BOOL,
    CHANNELS,
    NON_EMPTY,
    OPTIONAL_CHANNELS,
    OPTIONAL_INDEX,
    RATE,
    Choice,
    IntRange,
)

MMSEG_DESCRIPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "ANNHead": "ANN: non-local attention of a map to a pooled finer one, and then to itself.",
        "APCHead": "APCNet: context of several pooled sizes, weighed anew for every cell of a map.",
        "ASPPHead": "DeepLabV3: convolutions of several dilations beside the mean of a map.",
        "CCHead": "CCNet: every cell of a map attends to its row and its column, several times.",
        "DAHead": "DANet: attention over the cells of a map beside attention over its channels.",
        "DMHead": "DMNet: filters of several sizes that are made of the map they filter.",
        "DNLHead": "DNL: non-local attention, in what cells share and what sets them apart.",
        "DepthwiseSeparableASPPHead": "DeepLabV3+: pooling as in DeepLabV3, beside the first map, at its grid.",
        "DepthwiseSeparableFCNHead": "Fast-SCNN's FCN head: depthwise separable convolutions of a map.",
        "EMAHead": "EMANet: a map written in a few bases, which expectation maximisation finds.",
        "EncHead": "EncNet: a map whose channels are weighted by its encoding in learned code words.",
        "FCNHead": "FCN: convolutions of a map.",
        "FPNHead": "Semantic FPN: all maps brought to the finest grid step by step, and added.",
        "GCHead": "GCNet: one global context, added to every cell of a map.",
        "ISAHead": "ISANet: attention among cells that lie far apart, then among those that lie close.",
        "LightHamHead": "SegNeXt: all maps at the finest grid, seen through a matrix factorisation.",
        "NLHead": "Non-local network: every cell of a map attends to all others.",
        "PSPHead": "PSPNet: a map beside itself pooled to several sizes.",
        "SETRUPHead": "SETR: a map that is convolved and enlarged, once (naive) or several times (PUP).",
        "STDCHead": "STDC: an FCN head, whose own loss in mmseg looks at boundaries.",
        "SegformerHead": "SegFormer: all maps mixed per cell and brought to the finest grid.",
        "SegmenterMaskTransformerHead": "Segmenter: a transformer over the cells of a map and a token for each class.",
        "UPerHead": "UPerNet: pyramid pooling of the last map, a feature pyramid over all of them.",
    }
)
"""The heads that take a list of maps and return one map of scores, each with a description."""

UNSUPPORTED_HEADS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "DDRHead": ("it takes the branches of DDRNet, and gives two maps in train mode", "FCNHead"),
        "DPTHead": ("it takes pairs of a map and a class token instead of a list of maps", "SETRUPHead"),
        "IterativeDecodeHead": ("it is made of other heads, and gives a list of maps in train mode", "UPerHead"),
        "LRASPPHead": ("it pools 49 cells a side, which takes images of some 800 pixels and more", "ASPPHead"),
        "Mask2FormerHead": ("it needs mmdet, and gives masks of queries in place of a map", "UPerHead"),
        "MaskFormerHead": ("it needs mmdet, and gives masks of queries in place of a map", "UPerHead"),
        "OCRHead": ("it takes the prediction of another head beside the maps", "ISAHead"),
        "PIDHead": ("it takes the branches of PIDNet, and gives three maps in train mode", "FCNHead"),
        "PSAHead": (
            "it needs an operation that mmcv compiles, of which there is no package for current torch",
            "CCHead",
        ),
        "PointHead": ("it takes points and the prediction of another head, and gives scores of points", "FPNHead"),
        "SETRMLAHead": ("it takes maps that are all of one stride, of widths that must add up", "SETRUPHead"),
        "SideAdapterCLIPHead": ("it takes the image and the features of CLIP beside the maps", "UPerHead"),
        "VPDDepthHead": ("it gives depth at more cells than the image has pixels", "UPerHead"),
    }
)
"""Unsupported heads, each with the reason and the closest supported head."""

_COMMON: Mapping[str, Any] = {
    "num_classes": None,
    "channels": 512,
    "in_index": -1,
    "norm": "BN",
    "act": "ReLU",
    "dropout_ratio": 0.1,
    "align_corners": False,
}

_ONE: Mapping[str, Any] = {**_COMMON, "input_transform": None}

_SEVERAL: Mapping[str, Any] = {**_COMMON, "in_index": None}

_FCN: Mapping[str, Any] = {**_ONE, "kernel_size": 3, "concat_input": True, "dilation": 1}

_SCALES: Mapping[str, Any] = {"pool_scales": (1, 2, 3, 6)}

_NON_LOCAL: Mapping[str, Any] = {**_FCN, "reduction": 2, "use_scale": True, "mode": "embedded_gaussian"}

MMSEG_HEAD_ARGUMENTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "ANNHead": {**_SEVERAL, "in_index": (-2, -1), "project_channels": 256, "key_pool_scales": (1, 3, 6, 8)},
        "APCHead": {**_ONE, **_SCALES, "fusion": True},
        "ASPPHead": {**_ONE, "dilations": (1, 6, 12, 18)},
        "CCHead": {**_FCN, "recurrence": 2},
        "DAHead": {**_ONE, "pam_channels": 64},
        "DMHead": {**_ONE, "filter_sizes": (1, 3, 5, 7), "fusion": False},
        "DNLHead": {**_NON_LOCAL, "temperature": 0.05},
        "DepthwiseSeparableASPPHead": {**_ONE, "dilations": (1, 6, 12, 18), "c1_channels": 48},
        "DepthwiseSeparableFCNHead": {
            **{name: default for name, default in _ONE.items() if name != "act"},
            "channels": 128,
            "num_convs": 2,
            "kernel_size": 3,
            "concat_input": True,
        },
        "EMAHead": {
            **_ONE,
            "channels": 256,
            "ema_channels": 512,
            "num_bases": 64,
            "num_stages": 3,
            "concat_input": True,
            "momentum": 0.1,
        },
        "EncHead": {**_SEVERAL, "num_codes": 32, "add_lateral": False},
        "FCNHead": {**_FCN, "num_convs": 2},
        "FPNHead": {**_SEVERAL, "channels": 128},
        "GCHead": {**_FCN, "ratio": 0.25, "pooling_type": "att", "fusion_types": ("channel_add",)},
        "ISAHead": {**_ONE, "isa_channels": 256, "down_factor": (8, 8)},
        "LightHamHead": {
            **_SEVERAL,
            "norm": "GN",
            "ham_channels": 512,
            "MD_S": 1,
            "MD_R": 64,
            "train_steps": 6,
            "eval_steps": 7,
        },
        "NLHead": _NON_LOCAL,
        "PSPHead": {**_ONE, **_SCALES},
        "SETRUPHead": {**_ONE, "channels": 256, "num_convs": 1, "up_scale": 4, "kernel_size": 3},
        "STDCHead": {**_FCN, "channels": 64, "num_convs": 1},
        "SegformerHead": {**_SEVERAL, "channels": 256, "interpolate_mode": "bilinear"},
        "SegmenterMaskTransformerHead": {
            "num_classes": None,
            "in_index": -1,
            "act": "GELU",
            "num_layers": 2,
            "num_heads": None,
            "embed_dims": None,
            "mlp_ratio": 4,
            "drop_path_rate": 0.1,
            "drop_rate": 0.0,
            "attn_drop_rate": 0.0,
        },
        "UPerHead": {**_SEVERAL, **_SCALES},
    }
)
"""The arguments of each head with mmseg's defaults, or those of its published configs for `norm` and where it has none.

`num_classes` is required. An `in_index` of None selects all maps, an `embed_dims` of None is the width of the map, and
a `num_heads` of None is one head for 64 of these, as in Segmenter's configs.
"""

MMSEG_NORMS = (None, "BN", "GN", False)

MMSEG_ACTIVATIONS = (None, "ReLU", "LeakyReLU", "ELU", "SiLU", "GELU", "Tanh", "Sigmoid")
"""Activations that mmcv has under torch's names."""

_COUNT = IntRange(1, 64, optional=True)

_SIDES = IntRange(1, 256, optional=True)


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
    """A list whose entries are all in `known`."""

    known: tuple[str, ...]

    def __call__(self, _: object, attribute: Attribute[Any], value: Any) -> None:
        for entry in value or ():
            Choice(self.known)(_, attribute, entry)


@frozen
class Mmseg(Decoder):
    """A decode head of mmsegmentation: `mmseg/NAME`, with mmseg's arguments. Initialised as mmseg does. Needs no head.

    The scores keep the grid that the head computes them on. Channels and strides come from the inputs. `in_index` is
    the position of the input that the head uses, negative from the end; heads of several maps and
    `input_transform: resize_concat` take a list of positions, or all inputs by default. With one class, the scores are
    the values of a regression.

    With None an argument has mmseg's default, or that of its published configs. An argument that the head does not
    have is rejected. `norm` is BN, GN (in 32 groups) or false for no norms, which is mmseg's own default but used by
    none of its configs; `act` is the name of an activation. Losses and their arguments are not part of a model:
    EncHead is built without the branch of its own loss, and DAHead returns the joint one of its three predictions, so
    the layers of the other two get no gradients. LightHamHead draws its bases once, when it is built, and keeps them
    in the state dict.

    In train mode, torch rejects batch norm over a single value: heads with a branch that pools to one cell (APCHead,
    ASPPHead, DepthwiseSeparableASPPHead, PSPHead, UPerHead) need a batch size of at least 2, or `norm: GN`. EMAHead
    changes its bases in train mode, as norms change their statistics.
    """

    source: ClassVar[str | None] = "mmseg"
    names: ClassVar[Mapping[str, str] | None] = MMSEG_DESCRIPTIONS
    refused: ClassVar[Mapping[str, tuple[str, str]]] = UNSUPPORTED_HEADS
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MMSEG_HEAD_ARGUMENTS

    name: str = field(validator=_validate_head_name)
    num_classes: int = field(validator=CHANNELS, kw_only=True)
    channels: int | None = declare_argument(OPTIONAL_CHANNELS)
    in_index: int | tuple[int, ...] | None = declare_list_argument(NON_EMPTY, OPTIONAL_INDEX)
    input_transform: str | None = declare_argument(Choice((None, "resize_concat")))
    norm: bool | str | None = declare_argument(Choice(MMSEG_NORMS))
    act: str | None = declare_argument(Choice(MMSEG_ACTIVATIONS))
    dropout_ratio: float | None = declare_argument(optional(RATE))
    align_corners: bool | None = declare_argument(optional(BOOL))
    num_convs: int | None = declare_argument(IntRange(0, 64, optional=True))
    kernel_size: int | None = declare_argument([_COUNT, _validate_odd])
    concat_input: bool | None = declare_argument(optional(BOOL))
    dilation: int | None = declare_argument(_SIDES)
    dilations: tuple[int, ...] | None = declare_list_argument(NON_EMPTY, _SIDES)
    pool_scales: tuple[int, ...] | None = declare_list_argument(NON_EMPTY, _SIDES)
    project_channels: int | None = declare_argument(OPTIONAL_CHANNELS)
    key_pool_scales: tuple[int, ...] | None = declare_list_argument(NON_EMPTY, _SIDES)
    fusion: bool | None = declare_argument(optional(BOOL))
    filter_sizes: tuple[int, ...] | None = declare_list_argument(NON_EMPTY, _SIDES)
    recurrence: int | None = declare_argument(_COUNT)
    pam_channels: int | None = declare_argument(OPTIONAL_CHANNELS)
    reduction: int | None = declare_argument(OPTIONAL_CHANNELS)
    use_scale: bool | None = declare_argument(optional(BOOL))
    mode: str | None = declare_argument(Choice((None, "embedded_gaussian", "dot_product")))
    temperature: float | None = declare_argument(_validate_positive)
    c1_channels: int | None = declare_argument(OPTIONAL_CHANNELS)
    ema_channels: int | None = declare_argument(OPTIONAL_CHANNELS)
    num_bases: int | None = declare_argument(OPTIONAL_CHANNELS)
    num_stages: int | None = declare_argument(_COUNT)
    momentum: float | None = declare_argument(optional(RATE))
    num_codes: int | None = declare_argument(OPTIONAL_CHANNELS)
    add_lateral: bool | None = declare_argument(optional(BOOL))
    ratio: float | None = declare_argument(_validate_positive)
    pooling_type: str | None = declare_argument(Choice((None, "att", "avg")))
    fusion_types: tuple[str, ...] | None = declare_list_argument(NON_EMPTY, _ChoiceList(("channel_add", "channel_mul")))
    isa_channels: int | None = declare_argument(OPTIONAL_CHANNELS)
    down_factor: tuple[int, ...] | None = declare_list_argument(_validate_pair, _SIDES)
    ham_channels: int | None = declare_argument(OPTIONAL_CHANNELS)
    MD_S: int | None = declare_argument(OPTIONAL_CHANNELS)
    MD_R: int | None = declare_argument(OPTIONAL_CHANNELS)
    train_steps: int | None = declare_argument(_COUNT)
    eval_steps: int | None = declare_argument(_COUNT)
    up_scale: int | None = declare_argument(_COUNT)
    interpolate_mode: str | None = declare_argument(Choice((None, "bilinear", "bicubic")))
    num_layers: int | None = declare_argument(_COUNT)
    num_heads: int | None = declare_argument(OPTIONAL_CHANNELS)
    embed_dims: int | None = declare_argument(OPTIONAL_CHANNELS)
    mlp_ratio: int | None = declare_argument(_COUNT)
    drop_path_rate: float | None = declare_argument(optional(RATE))
    drop_rate: float | None = declare_argument(optional(RATE))
    attn_drop_rate: float | None = declare_argument(optional(RATE))

    @property
    def includes_head(self) -> bool:
        """Return True: mmseg's heads end in a classifier."""
        return True


def resolve_mmseg_arguments(head: Mmseg) -> dict[str, Any]:
    """Return the defaults, updated with all arguments that are set, whether the head has such an argument or not."""
    return resolve_arguments(head, MMSEG_HEAD_ARGUMENTS[head.name])


MULTI_MAP_HEADS = tuple(name for name, known in MMSEG_HEAD_ARGUMENTS.items() if known["in_index"] != -1)
"""The heads that take several maps. The others take one, or several resized to one grid and concatenated."""
