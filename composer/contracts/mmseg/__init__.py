"""What mmseg's decode heads give, as mmseg 1.2 computes it; mmseg itself is not needed to know. No torch here.

Scores stay at a grid that flows in, but for SETRUPHead's. Whatever a head pools or joins is brought to the grid of the
map that it stands beside, so nothing has to be whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from attrs import evolve

from composer.contracts.dispatch import contract
from composer.contracts.mmseg.arguments import (
    divisible,
    evenly_split,
    known_arguments,
    no_convolutions,
    one_convolution,
    squeezed,
    two_classes,
)
from composer.contracts.mmseg.taken import Taken, finest_first, indices, positions, refining, two_maps
from composer.contracts.rules import Outcome, Promise, exactly, index_in, maps_only, scaled, whole
from composer.feature import Feature, Features
from composer.parts.mmseg import Mmseg, arguments

Told = Mapping[str, Any]


@contract.register(Mmseg)
def _(head: Mmseg, features: Features) -> Outcome:
    told = arguments(head)
    if refusal := known_arguments(head) or indices(head, told):
        return refusal
    taken = Taken(features, positions(head.name, told, features))
    if refusal := index_in(features, taken.positions, "in_index"):
        return refusal
    # EncHead looks at the others only where it is told to.
    used = taken.maps[-1:] if head.name == "EncHead" and not told["add_lateral"] else taken.maps
    return (
        maps_only(used)
        or divisible(head.name, told, taken.maps)
        or _RULES.get(head.name, _on_the_first_grid)(told, taken)
    )


def _on_the_first_grid(told: Told, taken: Taken) -> Outcome:
    return _scores(taken.maps[0], told)


def _on_the_last_grid(told: Told, taken: Taken) -> Outcome:
    return _scores(taken.maps[-1], told)


def _on_the_finest_grid(told: Told, taken: Taken) -> Outcome:
    return finest_first(taken) or _on_the_first_grid(told, taken)


def _ann(told: Told, taken: Taken) -> Outcome:
    return two_maps(taken) or _on_the_last_grid(told, taken)


def _fpn(told: Told, taken: Taken) -> Outcome:
    """mmseg asserts that the first stride is the least, and goes on whatever follows."""
    refusal = finest_first(taken)
    strides = [f.stride for f in taken.maps if f.stride is not None]
    if refusal is not None and strides[0] > min(strides):
        return evolve(refusal, kind="impossible")
    return refusal or _on_the_first_grid(told, taken)


def _light_ham(told: Told, taken: Taken) -> Outcome:
    return evenly_split(told, "ham_channels", "MD_S") or _on_the_finest_grid(told, taken)


def _deeplab_plus(told: Told, taken: Taken) -> Outcome:
    """The map is joined with the first of all, at that one's grid."""
    first = taken.features[0]
    return maps_only((first,)) or refining(taken) or _scores(first, told)


def _fcn(told: Told, taken: Taken) -> Outcome:
    return no_convolutions(told, taken.maps) or _on_the_first_grid(told, taken)


def _separable_fcn(told: Told, taken: Taken) -> Outcome:
    return one_convolution(told) or _on_the_first_grid(told, taken)


def _criss_cross(told: Told, taken: Taken) -> Outcome:
    return squeezed(told, 1 / 8) or _on_the_first_grid(told, taken)


def _global_context(told: Told, taken: Taken) -> Outcome:
    return squeezed(told, told["ratio"]) or _on_the_first_grid(told, taken)


def _setr(told: Told, taken: Taken) -> Outcome:
    """The map is enlarged after every convolution: exact only where it is whole itself."""
    if refusal := no_convolutions(told, taken.maps):
        return refusal
    first = exactly(taken.maps[0])
    stride = scaled(first.stride, Fraction(1, told["up_scale"] ** told["num_convs"]))
    return Promise(features=[evolve(first, channels=told["num_classes"], stride=stride)], sizes=whole(first))


def _segmenter(told: Told, taken: Taken) -> Outcome:
    told = {**told, **attention(told, taken.maps[0])}
    return evenly_split(told, "embed_dims", "num_heads") or two_classes(told) or _on_the_first_grid(told, taken)


def attention(told: Told, feature: Feature) -> dict[str, int]:
    """Segmenter's width and heads: as wide as the map, and a head for 64 channels, where nothing else is said."""
    width = told["embed_dims"] or feature.channels
    return {"embed_dims": width, "num_heads": told["num_heads"] or max(width // 64, 1)}


def _scores(feature: Feature, told: Told) -> Promise:
    return Promise(features=[evolve(feature, channels=told["num_classes"])])


_RULES: Mapping[str, Callable[[Told, Taken], Outcome]] = MappingProxyType(
    {
        "ANNHead": _ann,
        "CCHead": _criss_cross,
        "DepthwiseSeparableASPPHead": _deeplab_plus,
        "DepthwiseSeparableFCNHead": _separable_fcn,
        "EncHead": _on_the_last_grid,
        "FCNHead": _fcn,
        "FPNHead": _fpn,
        "GCHead": _global_context,
        "LightHamHead": _light_ham,
        "SETRUPHead": _setr,
        "STDCHead": _fcn,
        "SegformerHead": _on_the_finest_grid,
        "SegmenterMaskTransformerHead": _segmenter,
        "UPerHead": _on_the_finest_grid,
    }
)
"""What sets a head apart; the others give scores at the grid of the first map that they take."""
