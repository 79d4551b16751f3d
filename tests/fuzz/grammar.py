"""A Hypothesis strategy of spec texts: graphs as chains and as nodes, in every style of YAML."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from attrs import evolve
from hypothesis import strategies as st

import composer
from composer.graph import Graph, Node, Shared
from composer.parts import PARTS, Part, Timm
from composer.spec.yaml import parse_document
from composer.testing.failures import ContractUncheckable
from composer.testing.strategies import chains, graphs, valid
from tests.fuzz.mutations import to_plain_data
from tests.fuzz.yaml_styles import generate_yaml_styles

NODE_NAMES = (
    *("a", "b", "c", "no", "optical", "necks[0]"),
    *("aux.early.decoder", "x9", "S2L2A", "left.right[3]", "y_", "Null"),
)
"""Names of nodes; none of them is a prefix of another."""

_CROPS = (None, None, None, (32, 32), (33, 48), (1, 1))

_CHANGES: tuple[dict[str, Any], ...] = (
    *[{}] * 12,
    *({"any_size": True}, {"tokens": True}, {"norm": True}, {"features_only": True}, {"pretrained": True}),
    *({"out_indices": (1, 2)}, {"out_indices": (-1,)}, {"output_stride": 8}, {"img_size": (96, 160)}, {"img_size": 64}),
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Draw the text of a graph that composer reads; about half are valid, and `infer` rejects the others.

    It is a chain or a graph of names, with anchors, comments, quotes and both styles of YAML.
    """
    graph = draw(st.one_of(chains(), chains(), graphs(), _generate_random_graphs()))
    graph = evolve(graph, crop=draw(st.sampled_from(_CROPS)), nodes=[_update_node(draw, node) for node in graph.nodes])
    if draw(st.sampled_from((False, False, True))):
        graph = _rename_nodes(draw, graph)
    return draw(generate_yaml_styles(to_plain_data(parse_document(composer.write(graph))[0])))


@st.composite
def _generate_random_graphs(draw: st.DrawFn) -> Graph:
    """Draw a sequence of parts with valid fields, whether or not they fit together."""
    kinds = draw(st.lists(st.sampled_from(DRAWABLE_PARTS), min_size=1, max_size=3))
    parts = [draw(valid(Timm)), *(draw(valid(kind)) for kind in kinds)]
    names = NODE_NAMES[: len(parts)]
    nodes = [Node(name, part, source) for name, part, source in zip(names, parts, ("image", *names), strict=False)]
    return evolve(draw(chains()), nodes=nodes, outputs=[names[-1]], auxiliary=())


def _list_drawable_parts() -> tuple[type[Part], ...]:
    """Return the classes of parts for whose fields values can be generated."""
    found = []
    for part in dict.fromkeys(PARTS.values()):
        with suppress(ContractUncheckable):
            valid(part)
            found.append(part)
    return tuple(found)


DRAWABLE_PARTS = _list_drawable_parts()


def _update_node(draw: st.DrawFn, node: Node) -> Node:
    """Return a node with another option for its timm network, if that is valid."""
    if not isinstance(node.part, Timm):
        return node
    with suppress(ValueError):
        return evolve(node, part=evolve(node.part, **draw(st.sampled_from(_CHANGES))))
    return node


def _rename_nodes(draw: st.DrawFn, graph: Graph) -> Graph:
    """Return a graph with other names and another order of nodes, in which equal parts may be shared."""
    old = [*(name for name, _ in graph.inputs), *(node.name for node in graph.nodes)]
    if len(old) > len(NODE_NAMES):
        return graph
    called = dict(zip(old, draw(st.permutations(NODE_NAMES)), strict=False))
    nodes = []
    for node in draw(st.permutations(graph.nodes)):
        twin = next(one for one in graph.nodes if one.part == node.part)
        shares = twin is not node and not isinstance(node.part, Shared) and draw(st.booleans())
        part = Shared(called[twin.name]) if shares else node.part
        nodes.append(Node(called[node.name], part, [called[source] for source in node.sources]))
    return evolve(
        graph,
        inputs=[(called[name], image) for name, image in graph.inputs],
        nodes=nodes,
        outputs=[called[name] for name in graph.outputs],
        auxiliary=[(label, called[name]) for label, name in graph.auxiliary],
    )
