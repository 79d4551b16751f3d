"""Which graphs are chains: an encoder, necks, a decoder and a head, with branches beside. No torch here."""

from __future__ import annotations

from composer.graph import Graph, chain
from composer.parts import Decoder, Head, Part

_BRANCH_KINDS = {"decoder": Decoder, "head": Head}


def as_chain(graph: Graph) -> dict[str, tuple[str, ...]] | None:
    """The nodes of each auxiliary branch, where the graph is exactly what the chain form reads into; None elsewhere."""
    parts = {node.name: node.part for node in graph.nodes if isinstance(node.part, Part)}
    if len(graph.inputs) != 1 or len(parts) < len(graph.nodes):
        return None
    branches = {
        label: tuple(name for end in _BRANCH_KINDS if (name := f"aux.{label}.{end}") in parts)
        for label, _ in graph.auxiliary
    }
    ends = [name for names in branches.values() for name in names]
    fitting = all(isinstance(parts[name], _BRANCH_KINDS[name.rpartition(".")[2]]) for name in ends)
    if not fitting or not all(names[:1] == (f"aux.{label}.decoder",) for label, names in branches.items()):
        return None
    trunk = [part for name, part in parts.items() if name not in ends]
    aux = {label: tuple(parts[name] for name in names) for label, names in branches.items()}
    try:
        like = chain(
            *trunk, aux=aux, input=graph.inputs[0][1], rescale=graph.rescale, crop=graph.crop, padding=graph.padding
        )
    except ValueError:
        return None
    return branches if like == graph else None
