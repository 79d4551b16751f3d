"""Putting parts between the nodes of a graph, in a chain as in a graph of any shape. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from attrs import evolve

from composer.graph import Graph, Node, chain
from composer.parts import Part
from composer.text.chains import as_chain


def insert_parts(graph: Graph, before: Node, source: str, parts: Sequence[Part]) -> Iterator[Graph]:
    """`graph` with `parts` between `before` and its input `source`, in each way in which that can be written.

    In a chain the parts join the chain, so that the branches beside it are fed by them too; and where there are
    branches, or no chain, they stand between those two nodes alone.
    """
    branches = as_chain(graph)
    if branches is not None:
        yield from _insert_in_chain(graph, branches, before, parts)
    if branches is None or branches:
        yield _insert_between(graph, before, source, parts)


def _insert_in_chain(
    graph: Graph, branches: dict[str, tuple[str, ...]], before: Node, parts: Sequence[Part]
) -> Iterator[Graph]:
    aside = [name for names in branches.values() for name in names]
    trunk = [node for node in graph.nodes if node.name not in aside]
    names = [node.name for node in trunk]
    ends = [name for name in ("decoder", "head") if name in names]
    at = names.index(before.name) if before.name in names else len(names) - len(ends)
    every = {node.name: node.part for node in graph.nodes}
    placed = [*(node.part for node in trunk[:at]), *parts, *(node.part for node in trunk[at:])]
    try:
        yield chain(
            *placed,  # type: ignore[arg-type]
            aux={label: tuple(every[name] for name in names) for label, names in branches.items()},  # type: ignore[misc]
            input=graph.inputs[0][1],
            rescale=graph.rescale,
            crop=graph.crop,
            padding=graph.padding,
        )
    except ValueError:  # a decoder before the head of a chain that has one, say
        return


def _insert_between(graph: Graph, before: Node, source: str, parts: Sequence[Part]) -> Graph:
    taken = {name for name, _ in graph.inputs} | {node.name for node in graph.nodes}
    new: list[Node] = []
    for part in parts:
        name = _make_unique_name(_to_snake_case(type(part).__name__), taken)
        taken.add(name)
        new.append(Node(name, part, source))
        source = name
    first = before.sources[0] if not new else new[0].inputs[0]
    place = graph.nodes.index(before)
    fed = evolve(before, inputs=_replace_source(before, str(first), source))
    return evolve(graph, nodes=(*graph.nodes[:place], *new, fed, *graph.nodes[place + 1 :]))


def _replace_source(node: Node, old: str, new: str) -> tuple[str, ...] | tuple[tuple[str, str], ...]:
    if node.named:
        return tuple((name, new if source == old else source) for name, source in node.named)
    return tuple(new if source == old else source for source in node.positional)


def _to_snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _make_unique_name(name: str, taken: set[str]) -> str:
    """The name, with a number behind it where it is taken."""
    return next(one for one in (name, *(f"{name}_{number}" for number in range(2, 10_000))) if one not in taken)
