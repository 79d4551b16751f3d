"""mmseg's decode heads: declarations and contracts."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import ceil
from types import MappingProxyType
from typing import Any, ClassVar

from attrs import Attribute, evolve, field, frozen
from attrs.validators import deep_iterable, optional

from composer.adapters.decoders import (
    GROUPS,
    Call,
    Check,
    TableDecoder,
    declare_argument,
    declare_flag,
    declare_list_argument,
    list_arguments,
    reject_argument,
    require_groups,
    require_known_arguments,
    require_length,
)
from composer.layouts import Features, format_count
from composer.parts import rules
from composer.parts.base import contract
from composer.parts.rules import Kind, Outputs, Rejection
from composer.parts.validators import CHANNELS, NON_EMPTY, OPTIONAL_CHANNELS, OPTIONAL_INDEX, RATE, Choice, IntRange
from composer.sizes import ANY_SIZE

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

_COMMON = "num_classes channels in_index norm dropout_ratio align_corners"

_ONE = f"{_COMMON} input_transform act"

_SEVERAL = f"{_COMMON} act"

_FCN = f"{_ONE} kernel_size concat_input dilation"

_NON_LOCAL = f"{_FCN} reduction use_scale mode"

_SEGMENTER = (
    "num_classes in_index act num_layers num_heads embed_dims mlp_ratio drop_path_rate drop_rate attn_drop_rate"
)

_EMA = "ema_channels num_bases num_stages concat_input momentum"

_HAM = "ham_channels MD_S MD_R train_steps eval_steps"

MMSEG_TABLE: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "ANNHead": list_arguments(f"{_SEVERAL} project_channels key_pool_scales", in_index=(-2, -1)),
        "APCHead": list_arguments(f"{_ONE} pool_scales fusion"),
        "ASPPHead": list_arguments(f"{_ONE} dilations"),
        "CCHead": list_arguments(f"{_FCN} recurrence"),
        "DAHead": list_arguments(f"{_ONE} pam_channels"),
        "DMHead": list_arguments(f"{_ONE} filter_sizes fusion", fusion=False),
        "DNLHead": list_arguments(f"{_NON_LOCAL} temperature"),
        "DepthwiseSeparableASPPHead": list_arguments(f"{_ONE} dilations c1_channels"),
        "DepthwiseSeparableFCNHead": list_arguments(
            f"{_COMMON} input_transform num_convs kernel_size concat_input", channels=128
        ),
        "EMAHead": list_arguments(f"{_ONE} {_EMA}", channels=256),
        "EncHead": list_arguments(f"{_SEVERAL} num_codes add_lateral", in_index=None),
        "FCNHead": list_arguments(f"{_FCN} num_convs"),
        "FPNHead": list_arguments(_SEVERAL, in_index=None, channels=128),
        "GCHead": list_arguments(f"{_FCN} ratio pooling_type fusion_types"),
        "ISAHead": list_arguments(f"{_ONE} isa_channels down_factor"),
        "LightHamHead": list_arguments(f"{_SEVERAL} {_HAM}", in_index=None, norm="GN"),
        "NLHead": list_arguments(_NON_LOCAL),
        "PSPHead": list_arguments(f"{_ONE} pool_scales"),
        "SETRUPHead": list_arguments(f"{_ONE} num_convs up_scale kernel_size", channels=256, num_convs=1),
        "STDCHead": list_arguments(f"{_FCN} num_convs", channels=64, num_convs=1),
        "SegformerHead": list_arguments(f"{_SEVERAL} interpolate_mode", in_index=None, channels=256),
        "SegmenterMaskTransformerHead": list_arguments(_SEGMENTER, act="GELU"),
        "UPerHead": list_arguments(f"{_SEVERAL} pool_scales", in_index=None),
    }
)
"""The arguments of each head with mmseg's defaults, or those of its published configs for `norm` and where it has none.

`num_classes` is required. An `in_index` of None selects all maps, an `embed_dims` of None is the width of the map, and
a `num_heads` of None is one head for 64 of these, as in Segmenter's configs.
"""

IGNORED_ARGUMENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "DepthwiseSeparableFCNHead": ("act", "dilation"),
        "SegmenterMaskTransformerHead": ("channels", "dropout_ratio", "align_corners"),
    }
)
"""Arguments that heads accept for their base class, without effect."""

_ACTIVATIONS = Choice((None, "ReLU", "LeakyReLU", "ELU", "SiLU", "GELU", "Tanh", "Sigmoid"))
"""Activations that mmcv has under torch's names."""

_COUNT = IntRange(1, 64, optional=True)

_SIDES = IntRange(1, 256, optional=True)

_PAIR = require_length(2, "two whole numbers, of rows and of columns")

_FUSION_TYPES = optional(deep_iterable(Choice(("channel_add", "channel_mul"))))


def _validate_head_name(_: object, attribute: Attribute[str], name: Any) -> None:
    if name in UNSUPPORTED_HEADS:
        reason, instead = UNSUPPORTED_HEADS[name]
        raise ValueError(f"{name} cannot be had: {reason}; {instead} can")
    Choice(tuple(MMSEG_TABLE))(_, attribute, name)


def _validate_odd(_: object, attribute: Attribute[Any], value: Any) -> None:
    if value is not None and value % 2 == 0:
        raise ValueError(f"{attribute.name} must be odd, or the map would grow (got {value!r})")


def _validate_positive(_: object, attribute: Attribute[Any], value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
        raise ValueError(f"{attribute.name} must be a number above 0 (got {value!r})")


@frozen
class Mmseg(TableDecoder):
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
    table: ClassVar[Mapping[str, Mapping[str, Any]]] = MMSEG_TABLE
    ignored: ClassVar[Mapping[str, tuple[str, ...]]] = IGNORED_ARGUMENTS

    name: str = field(validator=_validate_head_name)
    num_classes: int = field(validator=CHANNELS, kw_only=True)
    channels: int | None = declare_argument(512, OPTIONAL_CHANNELS)
    in_index: int | tuple[int, ...] | None = declare_list_argument(-1, NON_EMPTY, OPTIONAL_INDEX)
    input_transform: str | None = declare_argument(None, Choice((None, "resize_concat")))
    norm: bool | str | None = declare_argument("BN", Choice((None, "BN", "GN", False)))
    act: str | None = declare_argument("ReLU", _ACTIVATIONS)
    dropout_ratio: float | None = declare_argument(0.1, optional(RATE))
    align_corners: bool | None = declare_flag(default=False)
    num_convs: int | None = declare_argument(2, IntRange(0, 64, optional=True))
    kernel_size: int | None = declare_argument(3, _COUNT, _validate_odd)
    concat_input: bool | None = declare_flag(default=True)
    dilation: int | None = declare_argument(1, _SIDES)
    dilations: tuple[int, ...] | None = declare_list_argument((1, 6, 12, 18), NON_EMPTY, _SIDES)
    pool_scales: tuple[int, ...] | None = declare_list_argument((1, 2, 3, 6), NON_EMPTY, _SIDES)
    project_channels: int | None = declare_argument(256, OPTIONAL_CHANNELS)
    key_pool_scales: tuple[int, ...] | None = declare_list_argument((1, 3, 6, 8), NON_EMPTY, _SIDES)
    fusion: bool | None = declare_flag(default=True)
    filter_sizes: tuple[int, ...] | None = declare_list_argument((1, 3, 5, 7), NON_EMPTY, _SIDES)
    recurrence: int | None = declare_argument(2, _COUNT)
    pam_channels: int | None = declare_argument(64, OPTIONAL_CHANNELS)
    reduction: int | None = declare_argument(2, OPTIONAL_CHANNELS)
    use_scale: bool | None = declare_flag(default=True)
    mode: str | None = declare_argument("embedded_gaussian", Choice((None, "embedded_gaussian", "dot_product")))
    temperature: float | None = declare_argument(0.05, _validate_positive)
    c1_channels: int | None = declare_argument(48, OPTIONAL_CHANNELS)
    ema_channels: int | None = declare_argument(512, OPTIONAL_CHANNELS)
    num_bases: int | None = declare_argument(64, OPTIONAL_CHANNELS)
    num_stages: int | None = declare_argument(3, _COUNT)
    momentum: float | None = declare_argument(0.1, optional(RATE))
    num_codes: int | None = declare_argument(32, OPTIONAL_CHANNELS)
    add_lateral: bool | None = declare_flag(default=False)
    ratio: float | None = declare_argument(0.25, _validate_positive)
    pooling_type: str | None = declare_argument("att", Choice((None, "att", "avg")))
    fusion_types: tuple[str, ...] | None = declare_list_argument(("channel_add",), NON_EMPTY, _FUSION_TYPES)
    isa_channels: int | None = declare_argument(256, OPTIONAL_CHANNELS)
    down_factor: tuple[int, ...] | None = declare_list_argument((8, 8), _PAIR, _SIDES)
    ham_channels: int | None = declare_argument(512, OPTIONAL_CHANNELS)
    MD_S: int | None = declare_argument(1, OPTIONAL_CHANNELS)
    MD_R: int | None = declare_argument(64, OPTIONAL_CHANNELS)
    train_steps: int | None = declare_argument(6, _COUNT)
    eval_steps: int | None = declare_argument(7, _COUNT)
    up_scale: int | None = declare_argument(4, _COUNT)
    interpolate_mode: str | None = declare_argument("bilinear", Choice((None, "bilinear", "bicubic")))
    num_layers: int | None = declare_argument(2, _COUNT)
    num_heads: int | None = declare_argument(None, OPTIONAL_CHANNELS)
    embed_dims: int | None = declare_argument(None, OPTIONAL_CHANNELS)
    mlp_ratio: int | None = declare_argument(4, _COUNT)
    drop_path_rate: float | None = declare_argument(0.1, optional(RATE))
    drop_rate: float | None = declare_argument(0.0, optional(RATE))
    attn_drop_rate: float | None = declare_argument(0.0, optional(RATE))

    @property
    def includes_head(self) -> bool:
        """Return True: mmseg's heads end in a classifier."""
        return True


MMSEG_HEAD_ARGUMENTS = Mmseg.defaults

MULTI_MAP_HEADS = tuple(name for name, known in MMSEG_HEAD_ARGUMENTS.items() if known["in_index"] != -1)
"""The heads that take several maps. The others take one, or several resized to one grid and concatenated."""


def takes_several(head: Mmseg) -> bool:
    """Return whether the head takes a list of maps."""
    return head.name in MULTI_MAP_HEADS or head.input_transform == "resize_concat"


def build_call(head: Mmseg, features: Features) -> Call:
    """Return the head with the positions of its maps. A head of several maps uses all of them by default."""
    index = head.defaults[head.name]["in_index"] if head.in_index is None else head.in_index
    if not isinstance(index, tuple):
        index = tuple(range(len(features))) if takes_several(head) else (index,)
    return Call(head, features, index)


def _require_in_index_type(call: Call) -> Rejection | None:
    head, index = call.part, call.arguments["in_index"]
    assert isinstance(head, Mmseg)
    if isinstance(index, tuple) and not takes_several(head):
        expected = "takes one map, so in_index is a whole number"
        rejection = reject_argument("in_index", expected, index, index[-1], code="type")
        change = rules.Change("input_transform", "resize_concat")
        return evolve(rejection, change=change) if "input_transform" in head.defaults[head.name] else rejection
    if isinstance(head.in_index, int) and takes_several(head):
        return reject_argument("in_index", "takes several maps, so in_index is a list", index, [index], code="type")
    return None


NORMALIZED_WIDTHS = (
    *("channels", "project_channels", "c1_channels", "ema_channels", "num_codes", "isa_channels", "ham_channels"),
)
"""The widths that heads normalise."""


def _require_norm_groups(call: Call) -> Rejection | None:
    """Reject widths that a group norm cannot divide, and maps that are normalised before any convolution."""
    name, arguments = call.part.name, call.arguments
    # SETRUPHead has no norm without a convolution.
    if arguments.get("norm") != "GN" or (name == "SETRUPHead" and not arguments["num_convs"]):
        return None
    depthwise = name == "DepthwiseSeparableFCNHead" or (
        name == "DepthwiseSeparableASPPHead" and max(arguments["dilations"]) > 1
    )
    normalized = call.maps if depthwise else call.maps[-1:] if name == "ANNHead" else ()
    rejection = require_groups(call, NORMALIZED_WIDTHS)
    if rejection or sum(f.channels for f in normalized) % GROUPS == 0:
        return rejection
    expected = f"normalises the maps in {GROUPS} groups too, so their channels must be a multiple of {GROUPS}"
    return reject_argument("norm", expected, None, "BN")


def _require_two_maps(call: Call) -> Rejection | None:
    if len(call.positions) == 2:
        return None
    got = format_count(len(call.positions), "map")
    return reject_argument("in_index", "takes two maps", got, [-2, -1], code="count")


def _require_finest_first(call: Call) -> Rejection | None:
    strides = [f.stride for f in call.maps if f.stride is not None]
    if strides == sorted(strides):
        return None
    order = sorted(range(len(strides)), key=strides.__getitem__)
    # FPNHead asserts that the first stride is the smallest, in whatever order the others are.
    raises = call.part.name == "FPNHead" and strides[0] > min(strides)
    expected = "gives scores at the grid of the first map, so strides must not decrease"
    fixed = [call.positions[place] for place in order]
    return reject_argument("in_index", expected, None, fixed, code="index", kind="raises" if raises else "policy")


def _require_first_feature(call: Call) -> Rejection | None:
    """Reject a first input that cannot refine the map: one that is not a map, or is coarser."""
    first, refined = (f.stride or 1 for f in (call.features[0], call.maps[0]))
    if (rejection := rules.require_maps(call.features[:1])) or first <= refined:
        return rejection
    expected = "refines a map with the first of all, so that one must not be coarser"
    return Rejection(code="index", kind="policy", expected=expected, got=f"stride {first} for {refined}")


def _require_squeezable_channels(call: Call) -> Rejection | None:
    channels, ratio = call.arguments["channels"], call.arguments.get("ratio", 1 / 8)
    if int(channels * ratio) > 0:
        return None
    least = ceil(1 / ratio)
    return reject_argument("channels", f"squeezes channels, so there must be at least {least}", channels, least)


def _require_matching_width(call: Call) -> Rejection | None:
    """Reject a head without convolutions whose width is not the map's."""
    channels, width = call.arguments["channels"], sum(f.channels for f in call.maps)
    if call.arguments["num_convs"] or width == channels:
        return None
    expected = "has no convolution to change the width of the map, so channels must be that"
    return reject_argument("channels", expected, f"{channels} for {width}", width)


def _require_least(name: str, least: int, expected: str, code: str, kind: Kind = "raises") -> Check:
    """Return the check that an argument is not less than `least`."""

    def check(call: Call) -> Rejection | None:
        value = call.arguments[name]
        return None if value >= least else reject_argument(name, expected, value, least, code=code, kind=kind)

    return check


def _require_even_split(call: Call) -> Rejection | None:
    width, parts = ("ham_channels", "MD_S") if call.part.name == "LightHamHead" else ("embed_dims", "num_heads")
    arguments = resolve_arguments(call)
    if arguments[width] % arguments[parts] == 0:
        return None
    divisor = next(count for count in range(arguments[parts], 0, -1) if arguments[width] % count == 0)
    expected = f"splits {width}, here {arguments[width]}, evenly into {parts}"
    return reject_argument(parts, expected, arguments[parts], divisor)


def resolve_arguments(call: Call) -> dict[str, Any]:
    """Return the arguments; Segmenter has the width of the map and a head for 64 channels of it by default."""
    arguments = dict(call.arguments)
    if call.part.name == "SegmenterMaskTransformerHead":
        width = arguments["embed_dims"] or call.maps[0].channels
        arguments |= {"embed_dims": width, "num_heads": arguments["num_heads"] or max(width // 64, 1)}
    return arguments


_CONVOLUTION = _require_least("num_convs", 1, "has one convolution at least", "count")

# A single score would always be 0.
_CLASSES = _require_least(
    "num_classes", 2, "normalises scores over the classes, so it takes two at least", "value", "policy"
)

CHECKS: Mapping[str, tuple[Check, ...]] = MappingProxyType(
    {
        "ANNHead": (_require_two_maps,),
        "CCHead": (_require_squeezable_channels,),
        "DepthwiseSeparableASPPHead": (_require_first_feature,),
        # mmseg replaces the first convolution.
        "DepthwiseSeparableFCNHead": (_CONVOLUTION,),
        "FCNHead": (_require_matching_width,),
        "FPNHead": (_require_finest_first,),
        "GCHead": (_require_squeezable_channels,),
        "LightHamHead": (_require_even_split, _require_finest_first),
        "SETRUPHead": (_require_matching_width,),
        "STDCHead": (_require_matching_width,),
        "SegformerHead": (_require_finest_first,),
        "SegmenterMaskTransformerHead": (_require_even_split, _CLASSES),
        "UPerHead": (_require_finest_first,),
    }
)
"""The checks that not all heads have."""


@contract.register(Mmseg)
def _(head: Mmseg, features: Features) -> rules.ContractResult:
    call, checks = build_call(head, features), CHECKS.get(head.name, ())
    # EncHead uses the maps before the last for its lateral convolutions only.
    used = slice(-1, None) if call.arguments.get("add_lateral") is False else slice(None)
    return (
        require_known_arguments(call)
        or _require_in_index_type(call)
        or rules.require_indices(features, call.positions, "in_index")
        or rules.require_maps(call.maps[used])
        or _require_norm_groups(call)
        or next((rejection for check in checks if (rejection := check(call))), None)
        or _infer_scores(call)
    )


def _infer_scores(call: Call) -> Outputs:
    """Return the scores, on the grid of the first map that the head uses if not stated otherwise."""
    grid, sizes = call.maps[0], ANY_SIZE
    match call.part.name:
        case "ANNHead" | "EncHead":
            grid = call.maps[-1]
        case "DepthwiseSeparableASPPHead":
            grid = call.features[0]
        case "SETRUPHead":
            # Each convolution is followed by a resize, which is exact for a whole grid only.
            factor = call.arguments["up_scale"] ** call.arguments["num_convs"]
            grid, sizes = rules.to_exact_grid(grid), rules.compute_exact_multiple(grid)
            grid = evolve(grid, stride=rules.scale_stride(grid.stride, Fraction(1, factor)))
    return Outputs(features=[evolve(grid, channels=call.arguments["num_classes"])], sizes=sizes)
