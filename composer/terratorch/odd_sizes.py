"""Images that composer pads and TerraTorch does not, because a part needs maps of whole cells. No torch here."""

from __future__ import annotations

from composer.contracts import Outputs, contract
from composer.contracts.rules import compute_implied_sizes
from composer.graph import Node, Shared
from composer.parts import Encoder, get_part_name
from composer.problem import Place, Problem
from composer.typed import TypedGraph


def find_padding_note(typed: TypedGraph) -> Problem | None:
    """A note on the node that needs it, where images of some sizes are padded here, and go in as they are there.

    TerraTorch pads for patches alone. Where maps do not cover whole cells, it stretches what a part makes of them.
    """
    sizes, there = typed.sizes, typed.graph.padding.multiple
    if any(facts.patch for facts in typed.facts.values()):
        return None
    if sizes.height is not None and "encoder" in typed.facts:
        return _build_padding_note("encoder", f"the network takes images of {sizes.height} × {sizes.width}")
    node = next(
        (node for node in typed.order if sizes.multiple > there and _compute_required_multiple(typed, node) > there),
        None,
    )
    if node is None:
        return None
    needy = "the network" if isinstance(node.part, Encoder | Shared) else get_part_name(node.part)
    return _build_padding_note(node.name, f"{needy} needs sides that are multiples of {sizes.multiple}")


def _build_padding_note(node: str, need: str) -> Problem:
    message = (
        f"{need}: others are padded, and cropped. TerraTorch feeds them as they are, and gives other numbers or fails."
    )
    return Problem(code="terratorch", message=message, place=Place(node))


def _compute_required_multiple(typed: TypedGraph, node: Node) -> int:
    """What a node alone asks the sides of images to be multiples of."""
    multiples = [compute_implied_sizes(feature).multiple for feature in typed.features[node.name]]
    if node.name in typed.facts:
        multiples.append(typed.facts[node.name].sizes.multiple)
    elif not isinstance(node.part, Shared):
        outcome = contract(node.part, *(typed.features[source] for source in node.positional))
        multiples.append(outcome.sizes.multiple if isinstance(outcome, Outputs) else 1)
    return max(multiples)
