"""What decoders give. No torch here."""

from __future__ import annotations

from fractions import Fraction

from attrs import evolve

from composer.contracts.dispatch import contract
from composer.contracts.rules import (
    Outcome,
    Promise,
    Refusal,
    at_least,
    doubling,
    exactly,
    finest_first,
    index_in,
    is_map,
    maps_only,
    only,
    pyramid_maps_only,
    scaled,
    whole,
)
from composer.feature import MAP, VECTOR, Features, counted
from composer.parts import (
    FCNDecoder,
    IdentityDecoder,
    LearnedInterpolateToPyramidal,
    LinearDecoder,
    MLPDecoder,
    UNetDecoder,
    UperNetDecoder,
)
from composer.sizes import ANY, Sizes


@contract.register(IdentityDecoder)
def _(decoder: IdentityDecoder, features: Features) -> Outcome:
    return index_in(features, (decoder.out_index,), "out_index") or Promise(features=[features[decoder.out_index]])


@contract.register(FCNDecoder)
def _(decoder: FCNDecoder, features: Features) -> Outcome:
    return _upscaled(features, decoder.in_index, decoder.channels, 2**decoder.num_convs)


@contract.register(LinearDecoder)
def _(decoder: LinearDecoder, features: Features) -> Outcome:
    return _upscaled(features, decoder.in_index, decoder.num_classes, decoder.upsampling_size)


def _upscaled(features: Features, index: int, channels: int, factor: int) -> Outcome:
    """One of the maps, `factor` times as large: exact only where the map itself is whole."""
    if refusal := index_in(features, (index,), "in_index") or maps_only((features[index],)):
        return refusal
    taken = exactly(features[index])
    stride = scaled(taken.stride, Fraction(1, factor))
    return Promise(features=[evolve(taken, channels=channels, stride=stride)], sizes=whole(taken))


@contract.register(UNetDecoder)
def _(decoder: UNetDecoder, features: Features) -> Outcome:
    return (
        pyramid_maps_only(features)
        or _a_width_per_map(decoder, features)
        or finest_first(features)
        or doubling(features)
        # Every map is brought to the grid of the next finer one, so nothing has to be whole.
        or Promise(
            features=[evolve(features[0], channels=decoder.channels[-1])], sizes=_normalisable(decoder, features)
        )
    )


def _normalisable(decoder: UNetDecoder, features: Features) -> Sizes:
    """Instance normalisation of a single cell is an error in torch, also in eval mode."""
    return at_least(features[-2:][0], 2) if decoder.use_batchnorm == "instancenorm" else ANY


def _a_width_per_map(decoder: UNetDecoder, features: Features) -> Refusal | None:
    if len(decoder.channels) == len(features):
        return None
    return Refusal(
        code="count",
        kind="impossible",
        expected=f"has {counted(len(decoder.channels), 'width')} in channels, one for each map it takes",
        got=counted(len(features), "map"),
        repair=f"channels: {[max(512 // 2**i, 16) for i in range(len(features))]}",
        about="channels",
    )


@contract.register(UperNetDecoder)
def _(decoder: UperNetDecoder, features: Features) -> Outcome:
    if refusal := maps_only(features):
        return refusal
    if decoder.scale_modules:
        return _of_the_learned_pyramid(decoder, features)
    return finest_first(features) or Promise(features=[evolve(features[0], channels=decoder.channels)])


def _of_the_learned_pyramid(decoder: UperNetDecoder, features: Features) -> Outcome:
    """What the neck promises and then the decoder, whose maps are those that the neck gives."""
    pyramid = contract(LearnedInterpolateToPyramidal(), features)
    if isinstance(pyramid, Refusal):
        return evolve(pyramid, expected=f"{pyramid.expected} with scale_modules", about="scale_modules")
    assert isinstance(pyramid, Promise)
    # Maps that go in in order come out in order, so where they do not it is what goes in that is to be ordered.
    unordered = finest_first(pyramid.features) and finest_first(features)
    return unordered or evolve(pyramid, features=[evolve(pyramid.features[0], channels=decoder.channels)])


@contract.register(MLPDecoder)
def _(decoder: MLPDecoder, features: Features) -> Outcome:
    refusal = (
        only(features, lambda f: is_map(f) or f.axes == VECTOR, f'maps "{MAP}" or vectors "{VECTOR}"')
        # The index only says whose width channels: null is.
        or (index_in(features, (decoder.out_index,), "out_index") if decoder.channels is None else None)
        or _one_grid(features)
    )
    if refusal:
        return refusal
    width = decoder.out_dim or decoder.channels or features[decoder.out_index].channels
    if len({(f.rounding, f.offset) for f in features}) == 1:
        return Promise(features=[evolve(features[0], channels=width)])
    # Maps that round differently are of one size where all are whole.
    return Promise(features=[evolve(exactly(features[0]), channels=width)], sizes=whole(*features))


def _one_grid(features: Features) -> Refusal | None:
    if len({(f.axes, f.stride, exactly(f).offset) for f in features}) == 1:
        return None
    return Refusal(
        code="stride",
        kind="impossible",
        expected="concatenates its inputs, so they must be of one layout, stride and offset"
        if any(f.offset for f in features)
        else "concatenates its inputs, so they must be of one layout and stride",
        repair="necks: [SelectIndices: {indices: [-1]}]",
    )
