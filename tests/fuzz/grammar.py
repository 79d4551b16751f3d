"""A Hypothesis strategy of spec texts: graphs as chains and as nodes, in every style of YAML."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from typing import Any

from attrs import evolve
from hypothesis import strategies as st

from composer.graph import Graph, Node, Shared
from composer.parts import PARTS, Part, Timm
from composer.parts.base import get_part_name
from composer.spec.schema import get_fields
from composer.spec.writer import as_chain, get_non_default_fields
from composer.testing.failures import ContractUncheckable
from composer.testing.strategies import chains, graphs, valid
from tests.fuzz.yaml_styles import Data, generate_yaml_styles

NODE_NAMES = (
    *("a", "b", "c", "no", "optical", "necks[0]"),
    *("aux.early.decoder", "x9", "S2L2A", "left.right[3]", "y_", "Null"),
)
"""Names of nodes; none of them is a prefix of another."""

_CROPS = (None, None, None, (32, 32), (33, 48), (1, 1))

_CHANGES: tuple[dict[str, Any], ...] = (
    *[{}] * 12,
    {"any_size": True},
    {"tokens": True},
    {"norm": True},
    {"features_only": True},
    {"pretrained": True},
    {"out_indices": (1, 2)},
    {"out_indices": (-1,)},
    {"output_stride": 8},
    {"img_size": (96, 160)},
    {"img_size": 64},
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Draw the text of a graph that composer reads; about half are valid, and `infer` rejects the others.

    It is a chain or a graph of names, with anchors, comments, quotes and both styles of YAML.
    """
    graph = draw(st.sampled_from(_GRAPH_STRATEGIES).flatmap(lambda shape: shape()))
    graph = evolve(graph, crop=draw(st.sampled_from(_CROPS)), nodes=[_update_node(draw, node) for node in graph.nodes])
    branches = as_chain(graph)
    data = (
        _as_chain(draw, graph, branches)
        if branches is not None and draw(st.sampled_from((True, True, False)))
        else _as_nodes(draw, graph)
    )
    if not graph.rescale:
        data["rescale"] = False
    if graph.crop is not None:
        data["crop"] = list(graph.crop)
    padding = _dump_fields(draw, graph.padding)
    return draw(generate_yaml_styles(data | ({"padding": padding} if padding else {})))


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

_GRAPH_STRATEGIES = (chains, chains, chains, graphs, graphs, _generate_random_graphs)


def _update_node(draw: st.DrawFn, node: Node) -> Node:
    """Return a node with another option for its timm network, if that is valid."""
    if not isinstance(node.part, Timm):
        return node
    with suppress(ValueError):
        return evolve(node, part=evolve(node.part, **draw(st.sampled_from(_CHANGES))))
    return node


def _as_chain(draw: st.DrawFn, graph: Graph, branches: dict[str, tuple[str, ...]]) -> dict[str, Data]:
    image = _dump_fields(draw, graph.inputs[0][1])
    data: dict[str, Data] = {"input": image} if image else {}
    dumped = {node.name: _dump_part(draw, node.part) for node in graph.nodes}
    data["encoder"] = dumped["encoder"]
    necks = [part for name, part in dumped.items() if name.startswith("necks[")]
    data |= {"necks": necks} if necks else {}
    data |= {name: dumped[name] for name in ("decoder", "head") if name in dumped}
    aux = {label: {name.rpartition(".")[2]: dumped[name] for name in names} for label, names in branches.items()}
    return data | ({"aux": aux} if aux else {})


def _as_nodes(draw: st.DrawFn, graph: Graph) -> dict[str, Data]:
    old = [*(name for name, _ in graph.inputs), *(node.name for node in graph.nodes)]
    fresh = dict(zip(old, draw(st.permutations(NODE_NAMES)), strict=False))
    called = fresh if draw(st.booleans()) and len(fresh) == len(old) else {name: name for name in old}
    nodes = {}
    for node in draw(st.permutations(graph.nodes)) if draw(st.booleans()) else graph.nodes:
        sources = [called[source] for source in node.sources]
        given = sources if len(sources) > 1 or draw(st.booleans()) else sources[0]
        twin = next((one.name for one in graph.nodes if one.part == node.part), node.name)
        shares = twin != node.name and draw(st.sampled_from((False, True, True, True)))
        what = {"share": called[twin]} if shares else {"part": _dump_part(draw, node.part)}
        nodes[called[node.name]] = what | {"from": given}
    return {
        "inputs": {called[name]: _dump_fields(draw, image) for name, image in graph.inputs},
        "nodes": nodes,
        "outputs": [called[name] for name in graph.outputs],
        **({"auxiliary": {label: called[name] for label, name in graph.auxiliary}} if graph.auxiliary else {}),
    }


def _dump_part(draw: st.DrawFn, part: Part | Shared) -> Data:
    assert isinstance(part, Part)
    fields = _dump_fields(draw, part)
    name = get_part_name(part)
    return {name: fields} if fields else draw(st.sampled_from((name, name, {name: {}}, {name: None})))


def _dump_fields(draw: st.DrawFn, declared: Any) -> dict[str, Data]:
    """Return the fields that differ from their defaults, and sometimes others."""
    given = {} if getattr(declared, "source", None) is None else {"name": declared.name}
    differing = get_non_default_fields(declared, "", given)
    if given:
        return differing
    optional = [
        name for name, field in get_fields(type(declared)).items() if name not in differing and not field.required
    ]
    more: list[str] = []
    if draw(st.booleans()) and optional:
        more = draw(st.lists(st.sampled_from(optional), max_size=2, unique=True))
    return {**differing, **{name: _dump_value(getattr(declared, name)) for name in more}}


def _dump_value(value: Any) -> Data:
    if isinstance(value, tuple | list):
        return [_dump_value(entry) for entry in value]
    if isinstance(value, Fraction):
        return value.numerator if value.denominator == 1 else str(value)
    return value
