"""What decoders give. No torch here."""

from __future__ import annotations

from fractions import Fraction

from attrs import evolve

from composer.contracts.dispatch import contract
from composer.contracts.rules import (
    ContractResult,
    Outputs,
    Rejection,
    compute_exact_multiple,
    compute_min_cells,
    is_map,
    require,
    require_doubling_strides,
    require_finest_first,
    require_indices,
    require_maps,
    require_pyramid_maps,
    scale_stride,
    to_exact_grid,
)
from composer.feature import MAP, VECTOR, Features, format_count
from composer.parts import (
    FCNDecoder,
    IdentityDecoder,
    LearnedInterpolateToPyramidal,
    LinearDecoder,
    MLPDecoder,
    UNetDecoder,
    UperNetDecoder,
)
from composer.sizes import ANY_SIZE, SizeConstraint


@contract.register(IdentityDecoder)
def _(decoder: IdentityDecoder, features: Features) -> ContractResult:
    return require_indices(features, (decoder.out_index,), "out_index") or Outputs(
        features=[features[decoder.out_index]]
    )


@contract.register(FCNDecoder)
def _(decoder: FCNDecoder, features: Features) -> ContractResult:
    return _infer_upscaled(features, decoder.in_index, decoder.channels, 2**decoder.num_convs)


@contract.register(LinearDecoder)
def _(decoder: LinearDecoder, features: Features) -> ContractResult:
    return _infer_upscaled(features, decoder.in_index, decoder.num_classes, decoder.upsampling_size)


def _infer_upscaled(features: Features, index: int, channels: int, factor: int) -> ContractResult:
    """One of the maps, `factor` times as large: exact only where the map itself is whole."""
    if refusal := require_indices(features, (index,), "in_index") or require_maps((features[index],)):
        return refusal
    taken = to_exact_grid(features[index])
    stride = scale_stride(taken.stride, Fraction(1, factor))
    return Outputs(features=[evolve(taken, channels=channels, stride=stride)], sizes=compute_exact_multiple(taken))


@contract.register(UNetDecoder)
def _(decoder: UNetDecoder, features: Features) -> ContractResult:
    return (
        require_pyramid_maps(features)
        or _require_width_per_map(decoder, features)
        or require_finest_first(features)
        or require_doubling_strides(features)
        # Every map is brought to the grid of the next finer one, so nothing has to be whole.
        or Outputs(
            features=[evolve(features[0], channels=decoder.channels[-1])], sizes=_compute_norm_sizes(decoder, features)
        )
    )


def _compute_norm_sizes(decoder: UNetDecoder, features: Features) -> SizeConstraint:
    """Instance normalisation of a single cell is an error in torch, also in eval mode."""
    return compute_min_cells(features[-2:][0], 2) if decoder.use_batchnorm == "instancenorm" else ANY_SIZE


def _require_width_per_map(decoder: UNetDecoder, features: Features) -> Rejection | None:
    if len(decoder.channels) == len(features):
        return None
    return Rejection(
        code="count",
        kind="raises",
        expected=f"has {format_count(len(decoder.channels), 'width')} in channels, one for each map it takes",
        got=format_count(len(features), "map"),
        repair=f"channels: {[max(512 // 2**i, 16) for i in range(len(features))]}",
        about="channels",
    )


@contract.register(UperNetDecoder)
def _(decoder: UperNetDecoder, features: Features) -> ContractResult:
    if refusal := require_maps(features):
        return refusal
    if decoder.scale_modules:
        return _infer_learned_pyramid(decoder, features)
    return require_finest_first(features) or Outputs(features=[evolve(features[0], channels=decoder.channels)])


def _infer_learned_pyramid(decoder: UperNetDecoder, features: Features) -> ContractResult:
    """What the neck promises and then the decoder, whose maps are those that the neck gives."""
    pyramid = contract(LearnedInterpolateToPyramidal(), features)
    if isinstance(pyramid, Rejection):
        return evolve(pyramid, expected=f"{pyramid.expected} with scale_modules", about="scale_modules")
    assert isinstance(pyramid, Outputs)
    # Maps that go in in order come out in order, so where they do not it is what goes in that is to be ordered.
    unordered = require_finest_first(pyramid.features) and require_finest_first(features)
    return unordered or evolve(pyramid, features=[evolve(pyramid.features[0], channels=decoder.channels)])


@contract.register(MLPDecoder)
def _(decoder: MLPDecoder, features: Features) -> ContractResult:
    refusal = (
        require(features, lambda f: is_map(f) or f.axes == VECTOR, f'maps "{MAP}" or vectors "{VECTOR}"')
        # The index only says whose width channels: null is.
        or (require_indices(features, (decoder.out_index,), "out_index") if decoder.channels is None else None)
        or _require_one_grid(features)
    )
    if refusal:
        return refusal
    width = decoder.out_dim or decoder.channels or features[decoder.out_index].channels
    if len({(f.rounding, f.offset) for f in features}) == 1:
        return Outputs(features=[evolve(features[0], channels=width)])
    # Maps that round differently are of one size where all are whole.
    return Outputs(
        features=[evolve(to_exact_grid(features[0]), channels=width)], sizes=compute_exact_multiple(*features)
    )


def _require_one_grid(features: Features) -> Rejection | None:
    if len({(f.axes, f.stride, to_exact_grid(f).offset) for f in features}) == 1:
        return None
    return Rejection(
        code="stride",
        kind="raises",
        expected="concatenates its inputs, so they must be of one layout, stride and offset"
        if any(f.offset for f in features)
        else "concatenates its inputs, so they must be of one layout and stride",
        repair="necks: [SelectIndices: {indices: [-1]}]",
    )
