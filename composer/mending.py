"""fit(): the smallest change that makes a graph lawful, found with contracts alone. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import heappop, heappush
from itertools import count, islice
from typing import Any

from attrs import evolve

from composer.contracts import Promise, Refusal, contract
from composer.feature import Features
from composer.graph import Graph, Node
from composer.inference import asking
from composer.inserting import inserted
from composer.parts import Facts, Head, IdentityDecoder, Part, Timm
from composer.problem import Place, Problem, SpecError
from composer.walking import Describe, Walk, walked
from composer.ways import Way, evenly, meeting, size_of, ways

TRIES = 200
"""How many drafts are looked at before it is said that nothing mends a graph: a second's work."""

MOST = 6
"""How many ways to one part are followed up. The best is nearly always right; the image sizes may rule it out."""

LEVELS = range(2, 7)
"""How many levels decoders take."""

ASIDE = 0.05
"""What it costs that a chain is a chain no more, or that an encoder is asked for other levels than timm chooses."""


def fit(graph: Graph, describe: Describe | Mapping[Any, Facts] | None = None) -> Graph:
    """`graph` with the fewest changes that make it lawful, and of as few those that cost least; as it is where it is.

    Necks are put in front of what refuses its input, and IdentityDecoder in front of a head. An encoder of timm whose
    `out_indices` are left open may give others: of a network of one stride, evenly spaced ones. What is written is
    neither changed nor taken out. `describe` is as for `infer`, and the result passes `infer`.

    Raises SpecError with the problems of the graph, and one more that says so, where no such change mends them.
    """
    describe = asking(describe)
    order = count()
    waiting = [(0, 0.0, next(order), graph)]
    seen: set[Graph] = set()
    problems: tuple[Problem, ...] = ()
    for _ in range(TRIES):
        if not waiting:
            break
        changes, cost, _, draft = heappop(waiting)
        if draft in seen:
            continue
        seen.add(draft)
        walk = walked(draft, describe)
        try:
            walk.typed()
        except SpecError as error:
            problems = problems or error.problems
        else:
            return draft
        for more, extra, further in _changed(walk):
            heappush(waiting, (changes + more, cost + extra, next(order), further))
    unfit = "neither necks nor other levels of an encoder mend this."
    raise SpecError([*problems, Problem(code="fit", message=unfit, place=Place(file=graph.source.file))])


def _changed(walk: Walk) -> Iterator[tuple[int, float, Graph]]:
    """Drafts in which the first part that refuses is given what it takes, or other levels to choose from.

    Each with how many changes it is and what they cost.
    """
    node = next((node for node in walk.graph.nodes if node.name in walk.refused), None)
    if node is None or not isinstance(node.part, Part) or node.named:
        return
    for source in node.positional:
        yield from _other_levels(walk, source)
    if len(node.positional) == 1:
        (source,) = node.positional
        for necks, cost in _towards(node.part, walk.features[source]):
            for aside, draft in enumerate(inserted(walk.graph, node, source, necks)):
                yield len(necks), cost + ASIDE * aside, draft
    else:
        yield from _joined(walk, node, node.part)


def _towards(part: Part, features: Features) -> Iterator[tuple[tuple[Part, ...], float]]:
    """What may stand in front of a part so that it takes these features."""
    for way in islice(ways(features, lambda given: _gives(part, given) is not None), MOST):
        yield way.necks, way.cost
    if isinstance(part, Head):
        last = IdentityDecoder()

        def passed_on(given: Features) -> bool:
            chosen = _gives(last, given)
            return chosen is not None and _gives(part, chosen) is not None

        for way in islice(ways(features, passed_on), MOST):
            yield (*way.necks, last), way.cost


def _gives(part: Part, *inputs: Features) -> Features | None:
    """What a part gives, None where it refuses."""
    outcome = contract(part, *inputs)
    if isinstance(outcome, Refusal):
        return None
    return outcome.features if isinstance(outcome, Promise) else tuple(outcome)


def _joined(walk: Walk, node: Node, part: Part) -> Iterator[tuple[int, float, Graph]]:
    """Drafts in which the branches that a part joins are brought to the same layouts and strides."""

    def joins(*inputs: Features) -> bool:
        return _gives(part, *inputs) is not None

    branches = [walk.features[source] for source in node.positional]
    for pair in islice(meeting(branches, joins), MOST):
        yield (*size_of(pair), _with_all(walk.graph, node, pair))


def _with_all(graph: Graph, node: Node, pair: tuple[Way, ...]) -> Graph:
    for source, way in zip(node.positional, pair, strict=True):
        if way.necks:
            joining = next(one for one in graph.nodes if one.name == node.name)
            *_, graph = inserted(graph, joining, source, way.necks)
    return graph


def _other_levels(walk: Walk, source: str) -> Iterator[tuple[int, float, Graph]]:
    """Drafts in which the encoder that a node takes from, perhaps through necks, gives other levels than by itself."""
    nodes = {node.name: node for node in walk.graph.nodes}
    node = nodes.get(source)
    while node is not None and not isinstance(node.part, Timm):
        node = nodes.get(node.positional[0]) if len(node.sources) == 1 and node.positional else None
    if node is None or not isinstance(node.part, Timm):
        return
    for indices in other_levels(node.part, walk.facts[node.name]):
        asked = evolve(node, part=evolve(node.part, out_indices=indices))
        yield 1, ASIDE, evolve(walk.graph, nodes=[asked if one is node else one for one in walk.graph.nodes])


def other_levels(encoder: Timm, facts: Facts) -> tuple[tuple[int, ...], ...]:
    """What to ask an encoder for that has more levels than it gives, where it is left to choose: evenly spaced ones."""
    if encoder.out_indices is not None or facts.levels is None or facts.levels <= len(facts.features):
        return ()
    picks = [evenly(facts.levels, fewer) for fewer in LEVELS if fewer <= facts.levels]
    return tuple(dict.fromkeys([*picks, tuple(range(facts.levels))]))
