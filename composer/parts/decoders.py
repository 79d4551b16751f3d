"""Decoders: declarations and contracts."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import evolve, field, frozen

from composer.layouts import MAP, VECTOR, Features, format_count
from composer.parts import rules
from composer.parts.base import Decoder, contract
from composer.parts.necks import LearnedInterpolateToPyramidal
from composer.parts.rules import Change, ContractResult, Outputs, Rejection
from composer.parts.validators import (
    ACTIVATIONS,
    BOOL,
    CHANNELS,
    INDEX,
    NON_EMPTY,
    OPTIONAL_CHANNELS,
    RATE,
    Choice,
    IntRange,
    convert_int_list,
)
from composer.sizes import ANY_SIZE

UNET_NORMS = ("batchnorm", "instancenorm", "identity", True, False)


@frozen(kw_only=True)
class IdentityDecoder(Decoder):
    """Pass one feature on unchanged."""

    out_index: int = field(default=-1, validator=INDEX)


@contract.register(IdentityDecoder)
def _(decoder: IdentityDecoder, features: Features) -> ContractResult:
    return rules.require_indices(features, (decoder.out_index,), "out_index") or Outputs(
        features=[features[decoder.out_index]]
    )


@frozen(kw_only=True)
class FCNDecoder(Decoder):
    """Double one map `num_convs` times, with a transposed and a 3 × 3 convolution each time."""

    channels: int = field(default=256, validator=CHANNELS)
    num_convs: int = field(default=4, validator=IntRange(1, 8))
    in_index: int = field(default=-1, validator=INDEX)


@contract.register(FCNDecoder)
def _(decoder: FCNDecoder, features: Features) -> ContractResult:
    return _infer_upsampled(features, decoder.in_index, decoder.channels, 2**decoder.num_convs)


@frozen(kw_only=True)
class UNetDecoder(Decoder):
    """Apply a U-Net to a pyramid, finest map first: `channels` has one entry per map. Initialised as in smp."""

    channels: tuple[int, ...] = field(converter=convert_int_list, validator=[NON_EMPTY, CHANNELS])
    use_batchnorm: bool | str = field(default="batchnorm", validator=Choice(UNET_NORMS))
    attention_type: str | None = field(default=None, validator=Choice((None, "scse")))


@contract.register(UNetDecoder)
def _(decoder: UNetDecoder, features: Features) -> ContractResult:
    if rejection := rules.require_pyramid_maps(features):
        return rejection
    if len(decoder.channels) != len(features):
        return Rejection(
            code="count",
            expected=f"has {format_count(len(decoder.channels), 'width')} in channels, one for each map it takes",
            got=format_count(len(features), "map"),
            change=Change("channels", rules.fit_widths(decoder.channels, len(features)), decoder.channels),
            about="channels",
        )
    # Instance normalisation of a single cell is an error in torch, also in eval mode. Every map is resized to the grid
    # of the next finer one, so no size has to be whole.
    sizes = rules.compute_min_cells(features[-2:][0], 2) if decoder.use_batchnorm == "instancenorm" else ANY_SIZE
    return (
        rules.require_finest_first(features)
        or rules.require_doubling_strides(features)
        or Outputs(features=[evolve(features[0], channels=decoder.channels[-1])], sizes=sizes)
    )


@frozen(kw_only=True)
class UperNetDecoder(Decoder):
    """Apply UPerNet: pyramid pooling on the last map, then a feature pyramid, at the grid of the first map.

    `scale_modules` runs LearnedInterpolateToPyramidal first, with its weights inside the decoder.
    """

    pool_scales: tuple[int, ...] = field(default=(1, 2, 3, 6), converter=convert_int_list, validator=IntRange(1, 64))
    channels: int = field(default=256, validator=CHANNELS)
    align_corners: bool = field(default=True, validator=BOOL)
    scale_modules: bool = field(default=False, validator=BOOL)


@contract.register(UperNetDecoder)
def _(decoder: UperNetDecoder, features: Features) -> ContractResult:
    if rejection := rules.require_maps(features):
        return rejection
    if decoder.scale_modules:
        return _infer_learned_pyramid(decoder, features)
    return rules.require_finest_first(features) or Outputs(features=[evolve(features[0], channels=decoder.channels)])


def _infer_learned_pyramid(decoder: UperNetDecoder, features: Features) -> ContractResult:
    """Return the outputs of the decoder behind the neck, with the sizes that the neck demands."""
    pyramid = contract(LearnedInterpolateToPyramidal(), features)
    if isinstance(pyramid, Rejection):
        return evolve(pyramid, expected=f"{pyramid.expected} with scale_modules", about="scale_modules")
    # The neck keeps the order of its maps, so the fix is an order of the inputs.
    unordered = rules.require_finest_first(pyramid.features) and rules.require_finest_first(features)
    return unordered or evolve(pyramid, features=[evolve(pyramid.features[0], channels=decoder.channels)])


@frozen(kw_only=True)
class LinearDecoder(Decoder):
    """Turn a map into class scores by one transposed convolution, `upsampling_size` times as large. Needs no head.

    Set `includes_head: false` where a head follows.
    """

    num_classes: int = field(validator=CHANNELS)
    upsampling_size: int = field(validator=IntRange(1, 64))
    in_index: int = field(default=-1, validator=INDEX)
    includes_head: bool = field(default=True, validator=BOOL)


@contract.register(LinearDecoder)
def _(decoder: LinearDecoder, features: Features) -> ContractResult:
    return _infer_upsampled(features, decoder.in_index, decoder.num_classes, decoder.upsampling_size)


def _infer_upsampled(features: Features, index: int, channels: int, factor: int) -> ContractResult:
    return (
        rules.require_indices(features, (index,), "in_index")
        or rules.require_maps((features[index],))
        or rules.upsample_map(features[index], channels, factor)
    )


@frozen(kw_only=True)
class MLPDecoder(Decoder):
    """Concatenate maps (or vectors) of one size and mix their channels per cell: to `channels`, then to `out_dim`.

    `channels: null` is the width of input `out_index`, and `out_dim: null` omits the last layer. With both null,
    the result is that of TerraTorch's decoder, which ignores its arguments.
    """

    channels: int | None = field(default=100, validator=OPTIONAL_CHANNELS)
    out_dim: int | None = field(default=100, validator=OPTIONAL_CHANNELS)
    activation: str = field(default="ReLU", validator=Choice(ACTIVATIONS))
    out_index: int = field(default=-1, validator=INDEX)


@contract.register(MLPDecoder)
def _(decoder: MLPDecoder, features: Features) -> ContractResult:
    rejection = (
        rules.require_layout(
            features, lambda f: rules.is_map(f) or f.axes == VECTOR, f'maps "{MAP}" or vectors "{VECTOR}"'
        )
        # out_index only matters for the width where channels is null.
        or (rules.require_indices(features, (decoder.out_index,), "out_index") if decoder.channels is None else None)
    )
    if rejection:
        return rejection
    if len({(f.axes, f.stride, rules.to_exact_grid(f).offset) for f in features}) > 1:
        alike = "layout, stride and offset" if any(f.offset for f in features) else "layout and stride"
        expected = f"concatenates its inputs, so they must be of one {alike}"
        return Rejection(code="stride", expected=expected)
    first, sizes = rules.align_grids(features)
    width = decoder.out_dim or decoder.channels or features[decoder.out_index].channels
    return Outputs(features=[evolve(first, channels=width)], sizes=sizes)


TRANSFORMS = (None, "resize_concat")


def _convert_list(value: int | Iterable[int]) -> int | tuple[int, ...]:
    return tuple(value) if isinstance(value, list | tuple) else value  # type: ignore[return-value]


@frozen(kw_only=True)
class _ASPPHead(Decoder):
    """The fields that both ASPP heads share."""

    channels: int = field(validator=CHANNELS)
    dilations: tuple[int, ...] = field(default=(1, 6, 12, 18), converter=convert_int_list, validator=IntRange(1, 256))
    align_corners: bool = field(default=False, validator=BOOL)
    head_dropout_ratio: float = field(default=0.3, validator=RATE)
    in_index: int | tuple[int, ...] = field(default=-1, converter=_convert_list, validator=[NON_EMPTY, INDEX])
    input_transform: str | None = field(default=None, validator=Choice(TRANSFORMS))
    includes_head: bool = field(default=True, validator=BOOL)

    def __attrs_post_init__(self) -> None:
        if isinstance(self.in_index, tuple) != (self.input_transform == "resize_concat"):
            raise ValueError("in_index is a list where input_transform is resize_concat, and a whole number elsewhere")

    @property
    def positions(self) -> tuple[int, ...]:
        """Return the positions of the features that are used."""
        return self.in_index if isinstance(self.in_index, tuple) else (self.in_index,)


@frozen(kw_only=True)
class ASPPSegmentationHead(_ASPPHead):
    """Compute class scores from one map by convolutions of several dilations and its mean. Needs no head.

    With `input_transform: resize_concat`, `in_index` is a list of maps, which are resized to the grid of the first
    and concatenated. Set `includes_head: false` where a head follows.
    """

    num_classes: int = field(default=2, validator=CHANNELS)


@frozen(kw_only=True)
class ASPPRegressionHead(_ASPPHead):
    """Compute numbers from one map by convolutions of several dilations and its mean. Needs no head.

    With `input_transform: resize_concat`, `in_index` is a list of maps, which are resized to the grid of the first
    and concatenated. Set `includes_head: false` where a head follows.
    """

    out_channels: int = field(default=1, validator=CHANNELS)


@contract.register(ASPPSegmentationHead)
@contract.register(ASPPRegressionHead)
def _(head: ASPPSegmentationHead | ASPPRegressionHead, features: Features) -> ContractResult:
    """Infer one map on the grid of the first chosen map, to which the others are resized."""
    if rejection := rules.require_indices(features, head.positions, "in_index"):
        return rejection
    chosen = tuple(features[index] for index in head.positions)
    channels = head.num_classes if isinstance(head, ASPPSegmentationHead) else head.out_channels
    return rules.require_maps(chosen) or Outputs(features=[evolve(chosen[0], channels=channels)])
