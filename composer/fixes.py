"""Search the cheapest edits that make a rejected graph valid."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from itertools import count, islice
from typing import Any, TypeVar

from attrs import evolve, frozen

from composer.errors import Edit, Fix, InsertNecks, Place, Problem, SetField, SpecError
from composer.graph import Graph, Node, chain, check_is_graph
from composer.inference import Describe, Inference, infer, resolve_describe, run_inference
from composer.layouts import Features
from composer.neck_paths import NeckPath, align_branches, apply_part, expand_paths, format_part, pick_evenly_spaced
from composer.parts import AddBottleneckLayer, EncoderInfo, Head, IdentityDecoder, Part, SelectIndices, Timm
from composer.parts.base import contract
from composer.parts.rules import Change, Rejection
from composer.sizes import SizeConstraint
from composer.spec.writer import as_chain, format_value

P = TypeVar("P", bound=Part)

MAX_DRAFTS = 200
"""The number of edited graphs that are inferred before the search gives up: a second's work."""

SMALL_GRAPH = 30
"""The nodes of a graph of which that many drafts are inferred; of larger ones, fewer are."""

UNSEARCHED = ("inputs", "limit", "output")
"""Codes of rejections that no necks and no other levels solve."""

MAX_CANDIDATES = 6
"""The number of neck paths in front of one part that are followed. The cheapest is nearly always right."""

DETOUR_COST = 0.05
"""The cost of breaking a chain up, or of asking an encoder for other levels than its own choice."""

REWRITE_COST = 0.3
"""The cost of changing levels that are written."""

DECODER_LEVELS = range(2, 7)
"""The numbers of levels that decoders take."""

LOST_LEVEL_COST, LOST_WIDTH_COST, REPEATED_LEVEL_COST = 0.5, 1.5, 3.0
"""A pyramid keeps its levels: other widths or other levels of the encoder cost less than levels dropped or repeated."""


@frozen
class Draft:
    """An edited graph, and the edits so far, each with the rejected node that it is for."""

    graph: Graph
    edits: tuple[tuple[str, Edit], ...] = ()

    def add(self, graph: Graph, owner: str, edit: Edit) -> Draft:
        """Return the draft with another graph, to which one more edit led."""
        return Draft(graph, (*self.edits, (owner, edit)))


Candidate = tuple[float, Draft | None]
"""The cost of a draft; or None, and a lower bound on the cost of all further drafts."""


def autofix(graph: Graph, describe: Describe | Mapping[Any, EncoderInfo] | None = None) -> Graph:
    """Return `graph` with the cheapest edits that make it valid; the graph itself where it is valid.

    Edits are necks in front of a part that rejects its input, IdentityDecoder in front of a head, as many widths as
    a decoder needs, and other levels of an encoder of timm. `describe` is as for `infer`, and the result passes it.

    Raises SpecError with the problems of the graph, and one more, if no such edits make it valid.
    """
    check_is_graph(graph)
    describe = resolve_describe(describe)
    state = run_inference(graph, describe)
    draft = find_draft(state) if state.rejections else Draft(graph)
    try:
        if draft is not None:
            return infer(draft.graph, describe).graph
        state.to_typed_graph()
    except SpecError as error:
        message = "no necks, widths or levels of the encoder solve these problems."
        last = Problem(code="search", message=message, place=Place(file=graph.source.file))
        raise SpecError([*error.problems, last]) from None
    return graph


def find_fixes(state: Inference) -> dict[str, Fix]:
    """Return a fix for each rejected node: its share of the edits that solve all, else those that it needs alone."""
    draft = find_draft(state)
    shares: dict[str, tuple[Edit, ...]] = dict.fromkeys(state.rejections, ())
    if draft is None:
        rejected = [node for node in state.graph.nodes if node.name in state.rejections][:MAX_CANDIDATES]
        shares = {node.name: edits for node in rejected if (edits := _find_local_edits(state, node))}
    else:
        first = next(iter(shares))
        for name, edit in draft.edits:
            # A node that only an edit led to is not among the problems; its edits belong to the first of them.
            owner = name if name in shares else first
            shares[owner] = (*shares[owner], edit)
    texts = {name: "; ".join(_format_edit(state.graph, name, edit) for edit in edits) for name, edits in shares.items()}
    # A problem that the edits of another solve has the same text.
    solving = next(filter(None, texts.values()), "")
    return {name: Fix(edits, texts[name] or solving) for name, edits in shares.items()}


def find_draft(state: Inference) -> Draft | None:
    """Return the cheapest draft in which no node is rejected and some image size fits; None if there is none.

    A stream of candidates waits until nothing is left that is cheaper than its next one can be.
    """
    order = count()
    waiting: list[tuple[float, int, Draft | Iterator[Candidate]]] = [(0.0, next(order), Draft(state.graph))]
    seen: set[Graph] = set()
    drafts = MAX_DRAFTS * SMALL_GRAPH // max(len(state.graph.nodes), SMALL_GRAPH)
    while waiting and len(seen) <= drafts:
        cost, _, entry = heappop(waiting)
        if not isinstance(entry, Draft):
            for bound, candidate in islice(entry, 1):
                if candidate is not None:
                    heappush(waiting, (bound, next(order), candidate))
                heappush(waiting, (bound if candidate is None else cost, next(order), entry))
        elif entry.graph not in seen:
            seen.add(entry.graph)
            current = state if entry.graph is state.graph else run_inference(entry.graph, state.describe)
            if not current.rejections and isinstance(current.find_sizes(), SizeConstraint):
                return entry
            for stream in _propose(current, entry, cost) if current.rejections else ():
                heappush(waiting, (cost, next(order), stream))
    return None


def _propose(state: Inference, draft: Draft, cost: float) -> list[Iterator[Candidate]]:
    """Return drafts in which the first rejected part gets what it accepts, or other levels to choose from."""
    node = next(node for node in state.graph.nodes if node.name in state.rejections)
    if not _is_fixable(state, node):
        return []
    streams = [_propose_levels(state, draft, node, source) for source in node.positional]
    streams.append(_propose_inputs(state, draft, node))
    if isinstance(node.part, Head) and len(node.positional) == 1:
        streams.append(_propose_necks(state, draft, node, (IdentityDecoder(),)))
    return [_add_cost(cost, stream) for stream in streams]


def _add_cost(cost: float, stream: Iterator[Candidate]) -> Iterator[Candidate]:
    return ((cost + own, draft) for own, draft in stream)


def _is_fixable(state: Inference, node: Node) -> bool:
    """Return whether to search necks and levels; not where the contract has advice on a field, which is better."""
    rejection = state.rejections[node.name]
    if not isinstance(node.part, Part) or node.named or not node.positional:
        return False
    advises_field = rejection.fix is not None and rejection.about is not None
    return rejection.change is not None or not (advises_field or rejection.code in UNSEARCHED)


def _find_local_edits(state: Inference, node: Node) -> tuple[Edit, ...]:
    """Return the edits with which a node accepts its inputs, though the graph stays invalid elsewhere."""
    proposed = _propose_inputs(state, Draft(state.graph), node) if _is_fixable(state, node) else ()
    found = [(cost, draft.edits) for cost, draft in proposed if draft is not None]
    return tuple(edit for _, edit in min(found, key=lambda one: one[0])[1]) if found else ()


def _propose_inputs(state: Inference, draft: Draft, node: Node) -> Iterator[Candidate]:
    return _align_inputs(state, draft, node) if len(node.positional) > 1 else _propose_necks(state, draft, node)


def _propose_necks(state: Inference, draft: Draft, node: Node, last: tuple[Part, ...] = ()) -> Iterator[Candidate]:
    """Drafts with necks, and then the parts `last`, in front of a node, if it accepts what they emit."""
    (source,) = node.positional
    rejection = state.rejections[node.name]
    repeats = int(rejection.code != "count" or rejection.change is not None)
    accepted = 0
    for path in expand_paths([NeckPath(0, 0.0, (), state.features[source])]):
        parts = (*path.necks, *last)
        yield len(parts), None
        features = apply_part(last[0], path.features) if last else path.features
        found = None if features is None else find_change(state.parts[node.name], features)
        # One level may be repeated, but not where a part asks for more of them.
        if found is None or path.necks.count(AddBottleneckLayer()) > repeats:
            continue
        change, extra = found
        changed = draft if change is None else _set_field(draft, node.name, node, change.name, change.value)
        cost = len(parts) + path.cost + compute_loss(state.features[source], path) + extra
        for place, candidate in enumerate(_insert(changed, node.name, source, parts)):
            yield cost + DETOUR_COST * place, candidate
        accepted += 1
        if accepted == MAX_CANDIDATES:
            return


def find_change(part: Part, *inputs: Features) -> tuple[Change | None, float] | None:
    """Return the change with which a part accepts its inputs and its cost; no change if it does so already, or None."""
    result = contract(part, *inputs)
    if not isinstance(result, Rejection):
        return None, 0.0
    change = result.change
    changed = apply_change(part, change)
    if change is None or changed is None or isinstance(contract(changed, *inputs), Rejection):
        return None
    lost = max(len(change.old) - len(change.value), 0) if isinstance(change.old, tuple) else 0
    return change, 1.0 + LOST_WIDTH_COST * lost


def apply_change(part: P, change: Change | None) -> P | None:
    """Return a part with a change; None where there is none, or the field does not take the value."""
    try:
        return None if change is None else evolve(part, **{change.name: change.value})  # type: ignore[misc]
    except (TypeError, ValueError):
        return None


def compute_loss(features: Features, path: NeckPath) -> float:
    """Return what a path costs beyond its necks: the levels of a pyramid that it drops, and those that it repeats."""
    repeated = sum(isinstance(neck, AddBottleneckLayer) for neck in path.necks)
    is_pyramid = len({feature.stride for feature in features}) > 1
    kept = [len(neck.indices) for neck in path.necks if isinstance(neck, SelectIndices)]
    lost = max(len(features) - min(kept), 0) if is_pyramid and kept else 0
    return LOST_LEVEL_COST * lost + REPEATED_LEVEL_COST * repeated


def _align_inputs(state: Inference, draft: Draft, node: Node) -> Iterator[Candidate]:
    """Drafts in which the branches that a part joins are brought to the same layouts and strides."""
    part = state.parts[node.name]
    branches = [state.features[source] for source in node.positional]
    found = align_branches(branches, lambda *inputs: apply_part(part, *inputs) is not None)
    for paths in islice(found, MAX_CANDIDATES):
        aligned = draft
        for source, path in zip(node.positional, paths, strict=True):
            *_, aligned = _insert(aligned, node.name, source, path.necks)
        length = sum(path.length for path in paths)
        yield length, None
        yield length + sum(path.cost for path in paths) + sum(map(compute_loss, branches, paths)), aligned


def _propose_levels(state: Inference, draft: Draft, node: Node, source: str) -> Iterator[Candidate]:
    """Drafts in which the encoder that a node takes from, perhaps through necks, emits other levels."""
    nodes = {node.name: node for node in state.graph.nodes}
    encoder = nodes.get(source)
    while encoder is not None and not isinstance(encoder.part, Timm):
        has_one_input = len(encoder.sources) == 1 and encoder.positional
        encoder = nodes.get(encoder.positional[0]) if has_one_input else None
    if encoder is None or not isinstance(encoder.part, Timm):
        return
    cost = 1.0 + (DETOUR_COST if encoder.part.out_indices is None else REWRITE_COST)
    yield cost, None
    for indices in list_level_choices(encoder.part, state.encoder_infos[encoder.name]):
        yield cost, _set_field(draft, node.name, encoder, "out_indices", indices)


def list_level_choices(encoder: Timm, info: EncoderInfo) -> tuple[tuple[int, ...], ...]:
    """Return other levels to ask an encoder for: evenly spaced ones of one stride, the last ones of a pyramid."""
    levels = info.levels
    if levels is None or (levels <= len(info.features) and encoder.out_indices is None):
        return ()
    is_pyramid = len({feature.stride for feature in info.features}) > 1
    counts = [number for number in DECODER_LEVELS if number <= levels]
    if is_pyramid:
        picks = [tuple(range(levels - number, levels)) for number in counts]
    else:
        picks = [pick_evenly_spaced(levels, number) for number in counts]
    chosen = dict.fromkeys([*picks, tuple(range(levels))])
    return tuple(indices for indices in chosen if indices != encoder.out_indices)


def _set_field(draft: Draft, owner: str, node: Node, name: str, value: Any) -> Draft:
    """Return a draft with another value of a field, for the sake of the node `owner`."""
    part = evolve(node.part, **{name: value})  # type: ignore[misc]
    nodes = [evolve(one, part=part) if one.name == node.name else one for one in draft.graph.nodes]
    return draft.add(evolve(draft.graph, nodes=nodes), owner, SetField(node.name, name, format_value(value)))


def _insert(draft: Draft, name: str, source: str, parts: Sequence[Part]) -> Iterator[Draft]:
    """Yield the drafts with parts between a node and its source; the same draft if there are no parts.

    In a chain the parts join the chain, so that they are in front of its branches too. With branches, or without a
    chain, they also come between these two nodes alone, as nodes with names of their own.
    """
    if not parts:
        yield draft
        return
    texts = tuple(map(format_part, parts))
    branches = as_chain(draft.graph)
    if branches is not None:
        for graph in _insert_in_chain(draft.graph, branches, name, parts):
            yield draft.add(graph, name, InsertNecks(name, source, texts))
    if branches is None or branches:
        graph, names = _insert_between(draft.graph, name, source, parts)
        yield draft.add(graph, name, InsertNecks(name, source, texts, names))


def _insert_in_chain(
    graph: Graph, branches: dict[str, tuple[str, ...]], before: str, parts: Sequence[Part]
) -> Iterator[Graph]:
    by_name: dict[str, Any] = {node.name: node.part for node in graph.nodes}
    aux = {label: tuple(by_name[name] for name in names) for label, names in branches.items()}
    branch_names = {name for names in branches.values() for name in names}
    names = [name for name in by_name if name not in branch_names]
    ends = [name for name in ("decoder", "head") if name in names]
    at = names.index(before) if before in names else len(names) - len(ends)
    trunk = [by_name[name] for name in names]
    trunk[at:at] = parts
    image, padding = graph.inputs[0][1], graph.padding
    try:
        yield chain(*trunk, aux=aux, input=image, rescale=graph.rescale, crop=graph.crop, padding=padding)
    except ValueError:  # a decoder before the head of a chain that has one, say
        return


def _insert_between(graph: Graph, before: str, source: str, parts: Iterable[Part]) -> tuple[Graph, tuple[str, ...]]:
    """Return a graph with new nodes in front of one, and their names: numbered where a name is taken."""
    place, node = next((place, node) for place, node in enumerate(graph.nodes) if node.name == before)
    taken = {name for name, _ in graph.inputs} | {node.name for node in graph.nodes}
    new: list[Node] = []
    last = source
    for part in parts:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(part).__name__).lower()
        name = next(one for one in (name, *(f"{name}_{number}" for number in range(2, 10_000))) if one not in taken)
        taken.add(name)
        new.append(Node(name, part, last))
        last = name
    rewired = evolve(node, inputs=tuple(last if name == source else name for name in node.positional))
    nodes = (*graph.nodes[:place], *new, rewired, *graph.nodes[place + 1 :])
    return evolve(graph, nodes=nodes), tuple(node.name for node in new)


def _format_edit(graph: Graph, name: str, edit: Edit) -> str:
    """Return an edit for the problem of a node, as somebody would write it into the spec."""
    if isinstance(edit, SetField):
        return f"{'' if edit.node == name else f'{edit.node}.'}{edit.name}: {edit.value}"
    if edit.names is not None:
        return f"put {', '.join(edit.parts)} between {edit.source} and {edit.before}"
    necks = [part for part in edit.parts if part != IdentityDecoder.__name__]
    decoder = ["decoder: IdentityDecoder"] if len(necks) < len(edit.parts) else []
    if not necks:
        return decoder[0]
    old = {node.name: format_part(node.part) for node in graph.nodes if node.name.startswith("necks[")}  # type: ignore[arg-type]
    at = [*old, edit.before].index(edit.before)
    parts = list(old.values())
    return "; ".join([f"necks: [{', '.join([*parts[:at], *necks, *parts[at:]])}]", *decoder])
