"""fit(): the smallest change that makes a graph lawful, found with contracts alone. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from heapq import heappop, heappush
from itertools import count, islice
from typing import Any

from attrs import evolve

from composer.contracts import Promise, Refusal, contract
from composer.feature import Features
from composer.graph import Graph, Node, must_be_graph
from composer.inference import asking
from composer.inserting import inserted
from composer.parts import Facts, Head, IdentityDecoder, Part, Timm
from composer.problem import Place, Problem, SpecError
from composer.walking import Describe, Walk, walked
from composer.ways import Way, evenly, meeting, reached, size_of

TRIES = 200
"""How many drafts are looked at before it is said that nothing mends a graph: a second's work."""

MOST = 6
"""How many ways to one part are followed up. The best is nearly always right; the image sizes may rule it out."""

LEVELS = range(2, 7)
"""How many levels decoders take."""

ASIDE = 0.05
"""What it costs that a chain is a chain no more, or that an encoder is asked for other levels than timm chooses."""

Change = tuple[int, float, tuple[Graph, ...]]
"""How many changes there are by then, what they cost, and the drafts that have them, if any: the others cost more."""


def fit(graph: Graph, describe: Describe | Mapping[Any, Facts] | None = None) -> Graph:
    """`graph` with the fewest changes that make it lawful, and of as few those that cost least; as it is where it is.

    Necks are put in front of what refuses its input, and IdentityDecoder in front of a head. An encoder of timm whose
    `out_indices` are left open may give others: of a network of one stride, evenly spaced ones. What is written is
    neither changed nor taken out. `describe` is as for `infer`, and the result passes `infer`.

    Raises SpecError with the problems of the graph, and one more that says so, where no such change mends them.
    """
    must_be_graph(graph)
    describe = asking(describe)
    order = count()
    waiting: list[tuple[int, float, int, Graph | Iterator[Change]]] = [(0, 0.0, next(order), graph)]
    seen: set[Graph] = set()
    problems: tuple[Problem, ...] = ()
    while waiting and len(seen) < TRIES:
        changes, cost, _, found = heappop(waiting)
        if not isinstance(found, Graph):
            _go_on(found, waiting, order)
            continue
        if found in seen:
            continue
        seen.add(found)
        walk = walked(found, describe)
        # What else is wrong with a draft is not asked: to find its repairs is a search too.
        if not (walk.refused and problems):
            try:
                walk.typed()
            except SpecError as error:
                problems = problems or error.problems
            else:
                return found
        for stream in _changed(walk, changes, cost):
            heappush(waiting, (changes, cost, next(order), stream))
    unfit = "neither necks nor other levels of an encoder mend this."
    raise SpecError([*problems, Problem(code="fit", message=unfit, place=Place(file=graph.source.file))])


def _go_on(stream: Iterator[Change], waiting: list[tuple[int, float, int, Any]], order: Iterator[int]) -> None:
    """Take the next of a stream; the rest waits until nothing is left that is better than that one."""
    change = next(stream, None)
    if change is None:
        return
    changes, cost, drafts = change
    for aside, draft in enumerate(drafts):
        heappush(waiting, (changes, cost + ASIDE * aside, next(order), draft))
    heappush(waiting, (changes, cost, next(order), stream))


def _changed(walk: Walk, changes: int, cost: float) -> list[Iterator[Change]]:
    """Drafts in which the first part that refuses is given what it takes, or other levels to choose from.

    `changes` were made before, and `cost` that much.
    """
    node = next((node for node in walk.graph.nodes if node.name in walk.refused), None)
    if node is None or not isinstance(node.part, Part) or node.named:
        return []
    streams = [_other_levels(walk, source) for source in node.positional]
    streams += [_joined(walk, node, node.part)] if len(node.positional) > 1 else _towards(walk, node, node.part)
    return [((changes + more, cost + extra, drafts) for more, extra, drafts in stream) for stream in streams]


def _towards(walk: Walk, node: Node, part: Part) -> list[Iterator[Change]]:
    """What may stand in front of a part so that it takes what there is; before a head a decoder too."""

    def takes(given: Features) -> bool:
        return _gives(part, given) is not None

    def passed_on(given: Features) -> bool:
        chosen = _gives(IdentityDecoder(), given)
        return chosen is not None and takes(chosen)

    streams = [_in_front(walk, node, takes, ())]
    return [*streams, _in_front(walk, node, passed_on, (IdentityDecoder(),))] if isinstance(part, Head) else streams


def _in_front(walk: Walk, node: Node, accepts: Callable[[Features], bool], last: tuple[Part, ...]) -> Iterator[Change]:
    """Every way on from the features that a node takes; drafts of those, `MOST` at most, that `accepts` takes."""
    (source,) = node.positional
    accepted = 0
    for way in reached([Way(0, 0.0, (), walk.features[source])]):
        fits = accepts(way.features)
        necks = (*way.necks, *last)
        yield len(necks), way.cost, tuple(inserted(walk.graph, node, source, necks)) if fits else ()
        accepted += fits
        if accepted == MOST:
            return


def _gives(part: Part, *inputs: Features) -> Features | None:
    """What a part gives, None where it refuses."""
    outcome = contract(part, *inputs)
    if isinstance(outcome, Refusal):
        return None
    return outcome.features if isinstance(outcome, Promise) else tuple(outcome)


def _joined(walk: Walk, node: Node, part: Part) -> Iterator[Change]:
    """Drafts in which the branches that a part joins are brought to the same layouts and strides."""

    def joins(*inputs: Features) -> bool:
        return _gives(part, *inputs) is not None

    branches = [walk.features[source] for source in node.positional]
    for pair in islice(meeting(branches, joins), MOST):
        yield (*size_of(pair), (_with_all(walk.graph, node, pair),))


def _with_all(graph: Graph, node: Node, pair: tuple[Way, ...]) -> Graph:
    for source, way in zip(node.positional, pair, strict=True):
        if way.necks:
            joining = next(one for one in graph.nodes if one.name == node.name)
            *_, graph = inserted(graph, joining, source, way.necks)
    return graph


def _other_levels(walk: Walk, source: str) -> Iterator[Change]:
    """Drafts in which the encoder that a node takes from, perhaps through necks, gives other levels than by itself."""
    nodes = {node.name: node for node in walk.graph.nodes}
    node = nodes.get(source)
    while node is not None and not isinstance(node.part, Timm):
        node = nodes.get(node.positional[0]) if len(node.sources) == 1 and node.positional else None
    if node is None or not isinstance(node.part, Timm):
        return
    for indices in other_levels(node.part, walk.facts[node.name]):
        asked = evolve(node, part=evolve(node.part, out_indices=indices))
        yield 1, ASIDE, (evolve(walk.graph, nodes=[asked if one is node else one for one in walk.graph.nodes]),)


def other_levels(encoder: Timm, facts: Facts) -> tuple[tuple[int, ...], ...]:
    """What to ask an encoder for that has more levels than it gives, where it is left to choose: evenly spaced ones."""
    if encoder.out_indices is not None or facts.levels is None or facts.levels <= len(facts.features):
        return ()
    picks = [evenly(facts.levels, fewer) for fewer in LEVELS if fewer <= facts.levels]
    return tuple(dict.fromkeys([*picks, tuple(range(facts.levels))]))
