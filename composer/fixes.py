"""Search the smallest change that makes a graph valid."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from itertools import count, islice
from typing import Any

from attrs import evolve

from composer.errors import Place, Problem, SpecError
from composer.graph import Graph, Node, chain, require_graph
from composer.inference import Describe, Inference, resolve_describe, run_inference
from composer.layouts import Features
from composer.neck_paths import NeckPath, align_branches, compute_path_cost, expand_paths, pick_evenly_spaced
from composer.parts import EncoderInfo, Head, IdentityDecoder, Part, Timm
from composer.parts.base import contract
from composer.parts.rules import Rejection
from composer.spec.writer import as_chain


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


MAX_DRAFTS = 200
"""How many drafts are looked at before it is said that nothing mends a graph: a second's work."""


MAX_PATHS = 6
"""How many ways to one part are followed up. The best is nearly always right; the image sizes may rule it out."""


DECODER_LEVELS = range(2, 7)
"""How many levels decoders take."""


DETOUR_COST = 0.05
"""What it costs that a chain is a chain no more, or that an encoder is asked for other levels than timm chooses."""


Change = tuple[int, float, tuple[Graph, ...]]
"""How many changes there are by then, what they cost, and the drafts that have them, if any: the others cost more."""


def autofix(graph: Graph, describe: Describe | Mapping[Any, EncoderInfo] | None = None) -> Graph:
    """`graph` with the fewest changes that make it lawful, and of as few those that cost least; as it is where it is.

    Necks are put in front of what refuses its input, and IdentityDecoder in front of a head. An encoder of timm whose
    `out_indices` are left open may give others: of a network of one stride, evenly spaced ones. What is written is
    neither changed nor taken out. `describe` is as for `infer`, and the result passes `infer`.

    Raises SpecError with the problems of the graph, and one more that says so, where no such change mends them.
    """
    require_graph(graph)
    describe = resolve_describe(describe)
    order = count()
    waiting: list[tuple[int, float, int, Graph | Iterator[Change]]] = [(0, 0.0, next(order), graph)]
    seen: set[Graph] = set()
    problems: tuple[Problem, ...] = ()
    while waiting and len(seen) < MAX_DRAFTS:
        changes, cost, _, found = heappop(waiting)
        if not isinstance(found, Graph):
            _push_next(found, waiting, order)
            continue
        if found in seen:
            continue
        seen.add(found)
        walk = run_inference(found, describe)
        # What else is wrong with a draft is not asked: to find its repairs is a search too.
        if not (walk.refused and problems):
            try:
                walk.typed()
            except SpecError as error:
                problems = problems or error.problems
            else:
                return found
        for stream in _propose_changes(walk, changes, cost):
            heappush(waiting, (changes, cost, next(order), stream))
    unfit = "neither necks nor other levels of an encoder mend this."
    raise SpecError([*problems, Problem(code="fit", message=unfit, place=Place(file=graph.source.file))])


def _push_next(stream: Iterator[Change], waiting: list[tuple[int, float, int, Any]], order: Iterator[int]) -> None:
    """Take the next of a stream; the rest waits until nothing is left that is better than that one."""
    change = next(stream, None)
    if change is None:
        return
    changes, cost, drafts = change
    for aside, draft in enumerate(drafts):
        heappush(waiting, (changes, cost + DETOUR_COST * aside, next(order), draft))
    heappush(waiting, (changes, cost, next(order), stream))


def _propose_changes(walk: Inference, changes: int, cost: float) -> list[Iterator[Change]]:
    """Drafts in which the first part that refuses is given what it takes, or other levels to choose from.

    `changes` were made before, and `cost` that much.
    """
    node = next((node for node in walk.graph.nodes if node.name in walk.refused), None)
    if node is None or not isinstance(node.part, Part) or node.named:
        return []
    streams = [_propose_levels(walk, source) for source in node.positional]
    streams += (
        [_align_inputs(walk, node, node.part)] if len(node.positional) > 1 else _find_paths_into(walk, node, node.part)
    )
    return [((changes + more, cost + extra, drafts) for more, extra, drafts in stream) for stream in streams]


def _find_paths_into(walk: Inference, node: Node, part: Part) -> list[Iterator[Change]]:
    """What may stand in front of a part so that it takes what there is; before a head a decoder too."""

    def is_accepted(given: Features) -> bool:
        return _apply_part(part, given) is not None

    def is_accepted_after_decoder(given: Features) -> bool:
        chosen = _apply_part(IdentityDecoder(), given)
        return chosen is not None and is_accepted(chosen)

    streams = [_prepend_necks(walk, node, is_accepted, ())]
    return (
        [*streams, _prepend_necks(walk, node, is_accepted_after_decoder, (IdentityDecoder(),))]
        if isinstance(part, Head)
        else streams
    )


def _prepend_necks(
    walk: Inference, node: Node, accepts: Callable[[Features], bool], last: tuple[Part, ...]
) -> Iterator[Change]:
    """Every way on from the features that a node takes; drafts of those, `MOST` at most, that `accepts` takes."""
    (source,) = node.positional
    accepted = 0
    for way in expand_paths([NeckPath(0, 0.0, (), walk.features[source])]):
        fits = accepts(way.features)
        necks = (*way.necks, *last)
        yield len(necks), way.cost, tuple(insert_parts(walk.graph, node, source, necks)) if fits else ()
        accepted += fits
        if accepted == MAX_PATHS:
            return


def _apply_part(part: Part, *inputs: Features) -> Features | None:
    """What a part gives, None where it refuses."""
    outcome = contract(part, *inputs)
    return None if isinstance(outcome, Rejection) else outcome.features


def _align_inputs(walk: Inference, node: Node, part: Part) -> Iterator[Change]:
    """Drafts in which the branches that a part joins are brought to the same layouts and strides."""

    def is_joinable(*inputs: Features) -> bool:
        return _apply_part(part, *inputs) is not None

    branches = [walk.features[source] for source in node.positional]
    for pair in islice(align_branches(branches, is_joinable), MAX_PATHS):
        yield (*compute_path_cost(pair), (_insert_paths(walk.graph, node, pair),))


def _insert_paths(graph: Graph, node: Node, pair: tuple[NeckPath, ...]) -> Graph:
    for source, way in zip(node.positional, pair, strict=True):
        if way.necks:
            joining = next(one for one in graph.nodes if one.name == node.name)
            *_, graph = insert_parts(graph, joining, source, way.necks)
    return graph


def _propose_levels(walk: Inference, source: str) -> Iterator[Change]:
    """Drafts in which the encoder that a node takes from, perhaps through necks, gives other levels than by itself."""
    nodes = {node.name: node for node in walk.graph.nodes}
    node = nodes.get(source)
    while node is not None and not isinstance(node.part, Timm):
        node = nodes.get(node.positional[0]) if len(node.sources) == 1 and node.positional else None
    if node is None or not isinstance(node.part, Timm):
        return
    for indices in list_level_choices(node.part, walk.facts[node.name]):
        asked = evolve(node, part=evolve(node.part, out_indices=indices))
        yield 1, DETOUR_COST, (evolve(walk.graph, nodes=[asked if one is node else one for one in walk.graph.nodes]),)


def list_level_choices(encoder: Timm, facts: EncoderInfo) -> tuple[tuple[int, ...], ...]:
    """What to ask an encoder for that has more levels than it gives, where it is left to choose: evenly spaced ones."""
    if encoder.out_indices is not None or facts.levels is None or facts.levels <= len(facts.features):
        return ()
    picks = [pick_evenly_spaced(facts.levels, fewer) for fewer in DECODER_LEVELS if fewer <= facts.levels]
    return tuple(dict.fromkeys([*picks, tuple(range(facts.levels))]))
