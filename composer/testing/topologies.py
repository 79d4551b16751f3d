"""Hypothesis strategies of whole graphs: chains and joined branches, most of them lawful. No torch here."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from composer.contracts import Outputs, Rejection, contract
from composer.facts import describe
from composer.feature import Feature, Features
from composer.graph import Graph, Node, chain
from composer.parts import DECODERS, HEADS, NECKS, AddFeatures, ConcatFeatures, Part, Timm
from composer.sizes import Padding
from composer.testing.fields import valid
from composer.testing.strategies import images

JOIN_NECKS = (ConcatFeatures, AddFeatures)
CHAIN_NECKS = tuple(part for part in NECKS if part not in JOIN_NECKS)
MAX_PART_TRIES = 4
"""How many parts are drawn for a place until one takes what is there: the last stays, whatever it says."""

PartClasses = tuple[type[Part], ...]


@st.composite
def chains(draw: st.DrawFn) -> Graph:
    """An encoder of timm, necks, a decoder, a head, and perhaps a head beside it. Not all of them are lawful."""
    image, encoder = draw(images()), draw(valid(Timm))
    parts: list[Part] = [encoder]
    flowing = _get_encoder_features(encoder, (image.feature,))
    for wanted in (CHAIN_NECKS,) * draw(st.sampled_from((0, 0, 1, 2))):
        flowing = _append(draw, parts, wanted, flowing)
    trunk = flowing
    flowing = _append(draw, parts, DECODERS, flowing)
    if not parts[-1].includes_head:
        _append(draw, parts, HEADS, flowing)
    aux = {}
    if draw(st.sampled_from((False, False, False, True))):
        branch: list[Part] = []
        given = _append(draw, branch, DECODERS, trunk)
        if not branch[-1].includes_head:
            _append(draw, branch, HEADS, given)
        aux["early"] = branch
    return chain(*parts, aux=aux, input=image, rescale=draw(st.sampled_from((True, False))), padding=draw(_PADDINGS))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Two images, an encoder for each, a join, a decoder, and one head or two. Not all of them are lawful."""
    encoder = draw(valid(Timm))
    other = draw(st.sampled_from((encoder, encoder, draw(valid(Timm)))))
    inputs = {"first": draw(images()), "second": draw(images())}
    one, two = (
        _get_encoder_features(encoder, (inputs["first"].feature,)),
        _get_encoder_features(other, (inputs["second"].feature,)),
    )
    join = draw(st.sampled_from(JOIN_NECKS))()
    nodes = [Node("one", encoder, "first"), Node("two", other, "second"), Node("joined", join, ("one", "two"))]
    joined = None if one is None or two is None else _get_features(contract(join, one, two))
    parts: list[Part] = []
    decoded = _append(draw, parts, DECODERS, joined)
    nodes.append(Node("decoded", parts[-1], "joined"))
    outputs = ["decoded"]
    if not parts[-1].includes_head:
        outputs = [f"head{index}" for index in range(draw(st.sampled_from((1, 1, 2))))]
        for name in outputs:
            _append(draw, parts, HEADS, decoded)
            nodes.append(Node(name, parts[-1], "decoded"))
    return Graph(
        inputs=inputs,
        nodes=nodes,
        outputs=outputs,
        rescale=draw(st.sampled_from((True, False))),
        padding=draw(_PADDINGS),
    )


_PADDINGS = st.builds(
    Padding,
    mode=st.sampled_from(("reflect", "replicate", "zeros")),
    side=st.sampled_from(("both", "end")),
    multiple=st.sampled_from((1, 1, 32)),
)


def _append(draw: st.DrawFn, parts: list[Part], wanted: PartClasses, flowing: Features | None) -> Features | None:
    """Draw a part of the wanted classes, mostly one that takes what flows; give what it gives, if that is known."""
    for _ in range(MAX_PART_TRIES):
        part: Part = draw(st.sampled_from(wanted).flatmap(valid))
        given = None if flowing is None else _get_features(contract(part, flowing))
        if given is not None or flowing is None:
            break
    parts.append(part)
    return given


def _get_encoder_features(encoder: Timm, image: tuple[Feature]) -> Features | None:
    facts = describe(encoder, image[0].channels)
    return None if isinstance(facts, Rejection) else _get_features(contract(facts, image))


def _get_features(outcome: Any) -> Features | None:
    if isinstance(outcome, Rejection):
        return None
    return outcome.features if isinstance(outcome, Outputs) else tuple(outcome)
