"""Search the cheapest edits that make a rejected graph valid."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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


Candidate = tuple[float, float, tuple[Draft, ...]]
"""A lower bound on the cost of all further candidates, the cost of these drafts, and the drafts."""


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
        raise SpecError(
            [*error.problems, Problem(code="search", message=message, place=Place(file=graph.source.file))]
        ) from None
    return graph


def find_fixes(state: Inference) -> dict[str, Fix]:
    """Return a fix for each rejected node: its share of the edits that solve all, else those that it needs alone."""
    draft = find_draft(state)
    if draft is None:
        rejected = [node for node in state.graph.nodes if node.name in state.rejections][:MAX_CANDIDATES]
        alone = {node.name: _find_local_edits(state, node) for node in rejected}
        return {name: Fix(edits, _format_edits(state.graph, name, edits)) for name, edits in alone.items() if edits}
    shares: dict[str, tuple[Edit, ...]] = dict.fromkeys(state.rejections, ())
    first = next(iter(shares))
    for name, edit in draft.edits:
        # A node that only an edit led to is not among the problems; its edits belong to the first of them.
        owner = name if name in shares else first
        shares[owner] = (*shares[owner], edit)
    texts = {name: _format_edits(state.graph, name, edits) for name, edits in shares.items()}
    # A problem that the edits of another solve has the same text.
    solving = next(text for text in texts.values() if text)
    return {name: Fix(edits, texts[name] or solving) for name, edits in shares.items()}


def find_draft(state: Inference) -> Draft | None:
    """Return the cheapest draft in which no node is rejected and some image size fits; None if there is none."""
    order = count()
    waiting: list[tuple[float, int, Draft | Iterator[Candidate]]] = [(0.0, next(order), Draft(state.graph))]
    seen: set[Graph] = set()
    drafts = MAX_DRAFTS * SMALL_GRAPH // max(len(state.graph.nodes), SMALL_GRAPH)
    while waiting and len(seen) <= drafts:
        cost, _, entry = heappop(waiting)
        if not isinstance(entry, Draft):
            _push_next(entry, waiting, order)
            continue
        if entry.graph in seen:
            continue
        seen.add(entry.graph)
        current = state if entry.graph is state.graph else run_inference(entry.graph, state.describe)
        if not current.rejections:
            if current.find_sizes() is not None:
                return entry
            continue
        for candidates in _propose(current, entry, cost):
            heappush(waiting, (cost, next(order), candidates))
    return None


def _push_next(candidates: Iterator[Candidate], waiting: list[tuple[float, int, Any]], order: Iterator[int]) -> None:
    """Push the next candidate; the others wait until nothing is left that is cheaper than they can be."""
    candidate = next(candidates, None)
    if candidate is None:
        return
    bound, cost, drafts = candidate
    for place, draft in enumerate(drafts):
        heappush(waiting, (cost + DETOUR_COST * place, next(order), draft))
    heappush(waiting, (bound, next(order), candidates))


def _propose(state: Inference, draft: Draft, cost: float) -> list[Iterator[Candidate]]:
    """Return drafts in which the first rejected part gets what it accepts, or other levels to choose from."""
    node = next(node for node in state.graph.nodes if node.name in state.rejections)
    rejection = state.rejections[node.name]
    if not isinstance(node.part, Part) or node.named or not _is_fixable(rejection):
        return []
    streams = [_propose_levels(state, draft, node, source) for source in node.positional]
    if len(node.positional) > 1:
        streams.append(_align_inputs(state, draft, node))
    elif node.positional:
        streams.append(_propose_necks(state, draft, node, ()))
        if isinstance(node.part, Head):
            streams.append(_propose_necks(state, draft, node, (IdentityDecoder(),)))
    return [((cost + bound, cost + own, drafts) for bound, own, drafts in stream) for stream in streams]


def _is_fixable(rejection: Rejection) -> bool:
    """Return whether to search necks and levels; not where the contract has advice on a field, which is better."""
    advises_field = rejection.fix is not None and rejection.about is not None
    return rejection.change is not None or not (advises_field or rejection.code in UNSEARCHED)


def _propose_necks(state: Inference, draft: Draft, node: Node, last: tuple[Part, ...]) -> Iterator[Candidate]:
    """Drafts with necks, and then the parts `last`, in front of a node, if it accepts what they emit."""
    (source,) = node.positional
    rejection = state.rejections[node.name]
    repeats = int(rejection.code != "count" or rejection.change is not None)
    accepted = 0
    for path in expand_paths([NeckPath(0, 0.0, (), state.features[source])]):
        parts = (*path.necks, *last)
        features = apply_part(last[0], path.features) if last else path.features
        found = None if features is None else find_change(state.parts[node.name], features)
        # One level may be repeated, but not where a part asks for more of them.
        if found is None or path.necks.count(AddBottleneckLayer()) > repeats:
            yield len(parts), 0.0, ()
            continue
        change, extra = found
        cost = len(parts) + path.cost + compute_loss(state.features[source], path) + extra
        yield len(parts), cost, tuple(_insert(_set_field(draft, node, change), node.name, source, parts))
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


def _set_field(draft: Draft, node: Node, change: Change | None) -> Draft:
    if change is None:
        return draft
    assert isinstance(node.part, Part)
    part = evolve(node.part, **{change.name: change.value})  # type: ignore[misc]
    edit = SetField(node.name, change.name, format_value(change.value))
    return Draft(_replace_part(draft.graph, node.name, part), (*draft.edits, (node.name, edit)))


def _replace_part(graph: Graph, name: str, part: Part) -> Graph:
    return evolve(graph, nodes=[evolve(node, part=part) if node.name == name else node for node in graph.nodes])


def _insert(draft: Draft, name: str, source: str, parts: Sequence[Part]) -> Iterator[Draft]:
    """Return the drafts with parts between a node and its source; the same draft if there are no parts."""
    if not parts:
        yield draft
        return
    before = next(node for node in draft.graph.nodes if node.name == name)
    for graph, names in insert_parts(draft.graph, before, source, parts):
        edit = InsertNecks(name, source, tuple(map(format_part, parts)), names)
        yield Draft(graph, (*draft.edits, (name, edit)))


def _align_inputs(state: Inference, draft: Draft, node: Node) -> Iterator[Candidate]:
    """Drafts in which the branches that a part joins are brought to the same layouts and strides."""
    part = state.parts[node.name]
    branches = [state.features[source] for source in node.positional]
    for paths in islice(
        align_branches(branches, lambda *inputs: apply_part(part, *inputs) is not None), MAX_CANDIDATES
    ):
        aligned = draft
        for source, path in zip(node.positional, paths, strict=True):
            *_, aligned = _insert(aligned, node.name, source, path.necks)
        length = sum(path.length for path in paths)
        loss = sum(map(compute_loss, branches, paths))
        yield length, length + sum(path.cost for path in paths) + loss, (aligned,)


def _propose_levels(state: Inference, draft: Draft, node: Node, source: str) -> Iterator[Candidate]:
    """Drafts in which the encoder that a node takes from, perhaps through necks, emits other levels."""
    encoder = _find_encoder(state.graph, source)
    if encoder is None:
        return
    part = encoder.part
    assert isinstance(part, Timm)
    cost = 1.0 + (DETOUR_COST if part.out_indices is None else REWRITE_COST)
    for indices in list_level_choices(part, state.encoder_infos[encoder.name]):
        edit = SetField(encoder.name, "out_indices", format_value(indices))
        graph = _replace_part(draft.graph, encoder.name, evolve(part, out_indices=indices))
        yield cost, cost, (Draft(graph, (*draft.edits, (node.name, edit))),)


def _find_encoder(graph: Graph, source: str) -> Node | None:
    """Return the encoder of timm that a chain of nodes with one input each leads back to."""
    nodes = {node.name: node for node in graph.nodes}
    node = nodes.get(source)
    while node is not None and not isinstance(node.part, Timm):
        node = nodes.get(node.positional[0]) if len(node.sources) == 1 and node.positional else None
    return node


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


def _find_local_edits(state: Inference, node: Node) -> tuple[Edit, ...]:
    """Return the edits with which a node accepts its inputs, though the graph stays invalid elsewhere."""
    is_fixable = node.positional and not node.named and _is_fixable(state.rejections[node.name])
    if not isinstance(node.part, Part) or not is_fixable:
        return ()
    draft = Draft(state.graph)
    propose = _align_inputs(state, draft, node) if len(node.positional) > 1 else _propose_necks(state, draft, node, ())
    found = [(cost, drafts[0]) for _, cost, drafts in propose if drafts]
    return tuple(edit for _, edit in min(found, key=lambda one: one[0])[1].edits) if found else ()


def _format_edits(graph: Graph, name: str, edits: Sequence[Edit]) -> str:
    """Return edits for the problem of a node in one line, as somebody would write them into the spec."""
    return "; ".join(_format_edit(graph, name, edit) for edit in edits)


def _format_edit(graph: Graph, name: str, edit: Edit) -> str:
    if isinstance(edit, SetField):
        return f"{'' if edit.node == name else f'{edit.node}.'}{edit.name}: {edit.value}"
    if edit.names is not None:
        return f"put {', '.join(edit.parts)} between {edit.source} and {edit.before}"
    necks = [part for part in edit.parts if part != IdentityDecoder.__name__]
    lines = [f"necks: [{', '.join(_merge_necks(graph, edit.before, necks))}]"] if necks else []
    return "; ".join([*lines, "decoder: IdentityDecoder"] if len(necks) < len(edit.parts) else lines)


def _merge_necks(graph: Graph, before: str, necks: Sequence[str]) -> list[str]:
    """Return the necks of a chain with `necks` in front of one of its nodes."""
    names = [node.name for node in graph.nodes if node.name.startswith("necks[")]
    parts = [format_part(node.part) for node in graph.nodes if node.name in names and isinstance(node.part, Part)]
    at = names.index(before) if before in names else len(names)
    return [*parts[:at], *necks, *parts[at:]]


def insert_parts(
    graph: Graph, before: Node, source: str, parts: Sequence[Part]
) -> Iterator[tuple[Graph, tuple[str, ...] | None]]:
    """Yield `graph` with `parts` between `before` and its input, and the names of new nodes outside of a chain.

    In a chain the parts join the chain, so that they are in front of its branches too. With branches, or without a
    chain, they also come between these two nodes alone.
    """
    branches = as_chain(graph)
    if branches is not None:
        yield from ((graph, None) for graph in _insert_in_chain(graph, branches, before, parts))
    if branches is None or branches:
        yield _insert_between(graph, before, source, parts)


def _insert_in_chain(
    graph: Graph, branches: dict[str, tuple[str, ...]], before: Node, parts: Sequence[Part]
) -> Iterator[Graph]:
    branch_names = [name for names in branches.values() for name in names]
    trunk = [node for node in graph.nodes if node.name not in branch_names]
    names = [node.name for node in trunk]
    ends = [name for name in ("decoder", "head") if name in names]
    at = names.index(before.name) if before.name in names else len(names) - len(ends)
    by_name = {node.name: node.part for node in graph.nodes}
    ordered = [*(node.part for node in trunk[:at]), *parts, *(node.part for node in trunk[at:])]
    try:
        yield chain(
            *ordered,  # type: ignore[arg-type]
            aux={label: tuple(by_name[name] for name in names) for label, names in branches.items()},  # type: ignore[misc]
            input=graph.inputs[0][1],
            rescale=graph.rescale,
            crop=graph.crop,
            padding=graph.padding,
        )
    except ValueError:  # a decoder before the head of a chain that has one, say
        return


def _insert_between(graph: Graph, before: Node, source: str, parts: Sequence[Part]) -> tuple[Graph, tuple[str, ...]]:
    taken = {name for name, _ in graph.inputs} | {node.name for node in graph.nodes}
    new: list[Node] = []
    last = source
    for part in parts:
        name = _make_unique_name(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(part).__name__).lower(), taken)
        taken.add(name)
        new.append(Node(name, part, last))
        last = name
    place = graph.nodes.index(before)
    rewired = evolve(before, inputs=tuple(last if name == source else name for name in before.positional))
    nodes = (*graph.nodes[:place], *new, rewired, *graph.nodes[place + 1 :])
    return evolve(graph, nodes=nodes), tuple(node.name for node in new)


def _make_unique_name(name: str, taken: set[str]) -> str:
    """Return the name, with a number after it if it is taken."""
    return next(one for one in (name, *(f"{name}_{number}" for number in range(2, 10_000))) if one not in taken)
