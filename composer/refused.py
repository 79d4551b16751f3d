"""What a contract refuses, as a problem of the graph: the names of both sides, the place, a repair. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from composer.contracts import Rejection, contract
from composer.feature import Features, describe_features
from composer.graph import Graph, Node
from composer.parts import Encoder, Part, get_part_name
from composer.problem import Problem
from composer.ways import NeckPath, align_branches, find_paths, format_neck_list, format_necks_entry


def build_rejection_problem(
    graph: Graph, node: Node, part: Part | None, refusal: Rejection, features: Mapping[str, Features]
) -> Problem:
    """The refusal of a contract, with what only the graph knows: the names of both sides, and the place."""
    subject = get_part_name(part) if part is not None else node.name
    got = refusal.got
    if got is None and node.sources:
        source = node.sources[refusal.input]
        got = f"{source} gives {describe_features(features[source])}"
    path = f"{node.name}.{refusal.about}" if refusal.about else node.name
    said = f"; {got}" if refusal.got is None else f" (got {got})"
    return Problem(
        code=refusal.code,
        message=f"{subject} {refusal.expected}{said if got else ''}.",
        place=graph.source.place(path),
        expected=refusal.expected,
        got=got,
        repair=_find_repair(graph, node, part, refusal, features),
    )


def _find_repair(
    graph: Graph, node: Node, part: Part | None, refusal: Rejection, features: Mapping[str, Features]
) -> str | None:
    """The refusal's own repair; where that is none, or necks, the best that the search finds instead."""
    own = refusal.repair
    if part is None or isinstance(part, Encoder) or node.named:
        return own

    def is_accepted(*given: Features) -> bool:
        return not isinstance(contract(part, *given), Rejection)

    inputs = [features[source] for source in node.positional]
    if len(inputs) > 1:
        pair = next(align_branches(inputs, is_accepted), None) if refusal.code == "join" else None
        return own if pair is None else _format_join_repair(node, pair)
    if not inputs or not (own or "necks:").startswith("necks:"):
        return own
    way = next(find_paths(inputs[0], is_accepted), None)
    return format_necks_entry(_merge_necks(graph, node, way.necks)) if way is not None and way.necks else own


def _format_join_repair(node: Node, pair: Sequence[NeckPath]) -> str:
    """What stands between a node and those that it joins."""
    necks = [
        f"{format_neck_list(way.necks)} between {source} and {node.name}"
        for source, way in zip(node.positional, pair, strict=True)
        if way.necks
    ]
    return f"put {' and '.join(necks)}"


def _merge_necks(graph: Graph, node: Node, necks: Sequence[Part]) -> list[Part]:
    """Necks in front of a node; in a chain with all others that it has, so that the line is as it should be."""
    chain = [other for other in graph.nodes if other.name.startswith("necks[")]
    at = chain.index(node) if node in chain else len(chain)
    every = [other.part for other in chain if isinstance(other.part, Part)]
    return [*every[:at], *necks, *every[at:]]
