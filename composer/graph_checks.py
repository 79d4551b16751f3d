"""Check a graph: its structure, and the features of its nodes as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from inspect import signature
from itertools import chain, islice
from typing import Any

from composer.errors import MAX_PROBLEMS, Problem, suggest
from composer.graph import MAX_ENCODERS, MAX_NAME_LENGTH, PATH_PATTERN, RESERVED_NAMES, Graph, Node, Shared
from composer.layouts import MAP, MAX_PIXELS, VECTOR, Features, describe_features, format_count, is_bounded_stride
from composer.parts import Decoder, Encoder, IdentityDecoder, Part, ProbedEncoder
from composer.parts.base import get_part_name
from composer.parts.rules import Rejection, compute_implied_sizes
from composer.sizes import ANY_SIZE, Conflict, SizeConstraint


def find_structural_problems(graph: Graph) -> Iterator[Problem]:
    """Yield all that is wrong with a graph before any feature is known: names, references, cycles, dead ends."""
    faults = chain(_find_invalid_names(graph), _find_invalid_references(graph), _find_excess_encoders(graph))
    first = list(islice(faults, MAX_PROBLEMS + 1))
    yield from first
    # Where a name is wrong, what takes from it is not known, and would be called a circle or a dead end.
    if first:
        return
    try:
        sort_nodes(graph)
    except CycleError as error:
        inputs = ", ".join(name for name, _ in graph.inputs)
        yield Problem(
            code="node",
            message=f"nodes take from each other in a circle: {' → '.join(error.args[1])}.",
            place=graph.source.locate(error.args[1][0]),
            fix=f"break the circle where it should begin, with an input of the graph: {inputs}",
        )
    else:
        yield from _find_unused_nodes(graph)


def sort_nodes(graph: Graph) -> tuple[Node, ...]:
    """Return the nodes in their written order, each after those that it takes from. Raises CycleError for a cycle."""
    nodes = {node.name: node for node in graph.nodes}
    dependencies = {name: _list_dependencies(node) for name, node in nodes.items()}
    places = {name: place for place, name in enumerate(nodes)}
    if all(places.get(needed, -1) < places[name] for name in nodes for needed in dependencies[name]):
        return tuple(nodes.values())  # as most graphs are written
    TopologicalSorter(dependencies).prepare()
    # Not the order of TopologicalSorter, which is another one: seeded weights are drawn in this order.
    ordered: dict[str, Node] = {}
    stack = [*reversed(nodes)]
    while stack:
        missing = [name for name in dependencies[stack[-1]] if name in nodes and name not in ordered]
        if missing:
            stack.extend(reversed(missing))
        else:
            name = stack.pop()
            ordered[name] = nodes[name]
    return tuple(ordered.values())


def _list_dependencies(node: Node) -> tuple[str, ...]:
    return (*node.sources, node.part.node) if isinstance(node.part, Shared) else node.sources


def _find_invalid_names(graph: Graph) -> Iterator[Problem]:
    names = [name for name, _ in graph.inputs] + [node.name for node in graph.nodes]
    inside: dict[str, str] = {}
    for name in (name for name in names if len(name) <= MAX_NAME_LENGTH):
        for end in (position for position, sign in enumerate(name) if sign in ".["):
            inside.setdefault(name[:end], name)
    for name, count in Counter(names).items():
        if message := _explain_invalid_name(name, count, inside):
            yield Problem(code="node", message=message, place=graph.source.locate(name), fix="choose another name")


def _explain_invalid_name(name: str, count: int, inside: Mapping[str, str]) -> str | None:
    """Return what is wrong with a name. `inside` maps each prefix of a dotted name to the first name that has it."""
    if len(name) > MAX_NAME_LENGTH:
        return f"{name[: MAX_NAME_LENGTH // 4]!r}… is not a valid name: a name has at most {MAX_NAME_LENGTH} letters."
    if not PATH_PATTERN.fullmatch(name):
        return f"{name!r} is not a valid name: a name is letters, digits and _, and begins with a letter."
    if count > 1:
        return f"{name!r} names {count} things; inputs and nodes share one set of names."
    segments = name.replace("[", ".").split(".")
    if taken := RESERVED_NAMES.intersection(segments):
        return f"{name!r} cannot be a name, because a torch module has a {min(taken)!r} of its own."
    return f"{name!r} cannot be a node and hold the node {inside[name]!r} too." if name in inside else None


def _find_invalid_references(graph: Graph) -> Iterator[Problem]:
    inputs = [name for name, _ in graph.inputs]
    nodes = [node.name for node in graph.nodes]
    owners = [node.name for node in graph.nodes if not isinstance(node.part, Shared)]
    both = [*inputs, *nodes]
    named = [(path, source, both) for node in graph.nodes for path, source in _iter_sources(node)]
    named += [(f"{node.name}.share", node.part.node, owners) for node in graph.nodes if isinstance(node.part, Shared)]
    named += [(f"outputs[{position}]", name, nodes) for position, name in enumerate(graph.outputs)]
    named += [(f"auxiliary.{label}", name, nodes) for label, name in graph.auxiliary]
    sets = {id(known): frozenset(known) for known in (both, nodes, owners)}
    for path, name, known in named:
        if name not in sets[id(known)]:
            yield _build_unknown_name_problem(graph, path, name, known, inputs)
    faults = [
        (f"outputs[{_find_last(graph.outputs, name)}]", f"{name} is named {count} times.", "name each output once")
        for name, count in Counter(graph.outputs).items()
        if count > 1
    ]
    faults += [
        (node.name, f"{node.name} takes from nothing.", f"from: {(inputs or nodes)[0]}")
        for node in graph.nodes
        if not node.sources
    ]
    if not graph.outputs:
        faults.append(("outputs", "the graph has no output.", f"outputs: [{nodes[-1] if nodes else 'a node'}]"))
    for path, message, fix in faults:
        yield Problem(code="reference", message=message, place=graph.source.locate(path), fix=fix)


def _find_last(names: tuple[str, ...], name: str) -> int:
    return len(names) - 1 - names[::-1].index(name)


def _find_excess_encoders(graph: Graph) -> Iterator[Problem]:
    encoders = [node for node in graph.nodes if isinstance(node.part, Encoder)]
    if len(encoders) > MAX_ENCODERS:
        yield Problem(
            code="limit",
            message=f"a graph has at most {MAX_ENCODERS} encoders (got {len(encoders):,}).",
            place=graph.source.locate(encoders[MAX_ENCODERS].name),
            fix="let nodes share the weights of one: share: NODE in place of a part",
        )


def _iter_sources(node: Node) -> Iterator[tuple[str, str]]:
    """Yield the path and the name of each source of a node."""
    several = len(node.inputs) > 1
    for position, source in enumerate(node.positional):
        yield (f"{node.name}.from[{position}]" if several else f"{node.name}.from"), source
    for name, source in node.named:
        yield f"{node.name}.from.{name}", source


def _build_unknown_name_problem(graph: Graph, path: str, name: str, known: list[str], inputs: list[str]) -> Problem:
    what = "input or node" if set(inputs) & set(known) else "node"
    other = " that has a part of its own" if path.endswith(".share") else f", only an input {name!r}"
    return Problem(
        code="reference",
        message=f"there is no {what} {name!r}{other if name in inputs or path.endswith('.share') else ''}.",
        place=graph.source.locate(path),
        got=name,
        fix=suggest(name, known),
    )


def _find_unused_nodes(graph: Graph) -> Iterator[Problem]:
    """Yield nodes and inputs that no output needs: their parameters would never get a gradient."""
    nodes = {node.name: node for node in graph.nodes}
    needed = [*graph.outputs, *(name for _, name in graph.auxiliary)]
    reached = set(needed)
    while needed:
        name = needed.pop()
        fresh = set(_list_dependencies(nodes[name]) if name in nodes else ()) - reached
        reached |= fresh
        needed += fresh
    for name in [*(name for name, _ in graph.inputs), *nodes]:
        if name not in reached:
            yield Problem(
                code="unused",
                message=f"nothing that leaves the graph needs {name}.",
                place=graph.source.locate(name),
                fix="take from it, name it in outputs, or leave it out",
            )


MAX_CHANNELS = 2**31
"""The largest number of channels: torch uses 32-bit sizes in places."""


def find_overflow(features: Features) -> Rejection | None:
    """Reject features whose channels or strides exceed what tensors can have."""
    for feature in features:
        if feature.channels > MAX_CHANNELS:
            rule, got = f"features of at most {MAX_CHANNELS:,} channels", f"{feature.channels:,}"
        elif feature.stride is not None and not is_bounded_stride(feature.stride):
            rule, got = f"features whose stride is a ratio of numbers of at most {MAX_PIXELS:,}", str(feature.stride)
        else:
            continue
        fix = "leave it out, or a node before it"
        return Rejection(code="limit", kind="policy", expected=f"gives {rule}", got=got, fix=fix)
    return None


def iter_size_constraints(
    graph: Graph, features: Mapping[str, Features], sizes: Mapping[str, SizeConstraint]
) -> Iterator[tuple[str, SizeConstraint]]:
    """Yield the size constraints of inputs, padding, parts and features, with their names."""
    for name, image in graph.inputs:
        if image.size is not None:
            yield name, SizeConstraint(height=image.size[0], width=image.size[1])
    if graph.padding.multiple > 1:
        yield "padding", SizeConstraint(multiple=graph.padding.multiple)
    for name, given in features.items():
        yield name, sizes.get(name, ANY_SIZE)
        for feature in given:
            yield name, compute_implied_sizes(feature)


def build_conflict_problem(graph: Graph, conflict: Conflict) -> Problem:
    """Return the problem of two constraints that no image size meets, at the second."""
    return Problem(
        code="sizes",
        message=f"no image size suits both: {conflict.first} takes {conflict.first_sizes}; "
        f"{conflict.second} takes {conflict.second_sizes}.",
        place=graph.source.locate(conflict.second),
        expected=str(conflict.first_sizes),
        got=str(conflict.second_sizes),
        fix="change the input's size or the encoder's img_size to one that both take",
    )


def find_output_problems(
    graph: Graph, features: Mapping[str, Features], parts: Mapping[str, Part], embeddings: Collection[str]
) -> Iterator[Problem]:
    """Yield the problems of outputs and their crop. Outputs of rejected nodes are skipped."""
    ends = tuple(dict.fromkeys((*graph.outputs, *(node for _, node in graph.auxiliary))))
    inferred = [name for name in ends if name in features]
    # Encoders, necks and `IdentityDecoder` may be outputs: whoever asks for them wants features.
    for name in inferred:
        part = parts.get(name)
        if isinstance(part, Decoder) and not isinstance(part, IdentityDecoder) and not part.includes_head:
            yield Problem(
                code="output",
                message=f"{get_part_name(part)} gives features; a head must turn them into a prediction.",
                place=graph.source.locate(name),
                expected="a head after it",
                got="none",
                fix="add a head; EmbeddingHead gives features as they are",
            )
    for name in inferred:
        given = features[name]
        if name in embeddings or (len(given) == 1 and given[0].axes in (MAP, VECTOR)):
            continue
        step = "bring it to that layout with a neck" if len(given) == 1 else "add IdentityDecoder, which passes one on"
        yield Problem(
            code="output",
            message=f'an output is one map "{MAP}" or one vector "{VECTOR}"; {name} gives {describe_features(given)}.',
            place=graph.source.locate(name),
            expected="one map or one vector",
            got=describe_features(given),
            fix=f"{step}; or head: EmbeddingHead, which returns features as they are",
        )
    outputs = [features.get(name) for name in ends if name not in embeddings]
    has_map = any(not given or given[0].axes == MAP for given in outputs)
    if graph.crop is not None and not (graph.rescale and has_map):
        yield Problem(
            code="value",
            message="crop keeps the centre of output at the image's size, and no output is at it.",
            place=graph.source.locate("crop"),
            fix="leave crop out" if graph.rescale else "rescale: true",
        )


def reject_inputs(node: Node) -> Rejection:
    """Reject inputs of another number, or under other names, than the part of a node takes."""
    if node.named and node.positional:
        expected = "takes its inputs by position or by name, and not both"
        got = f"{len(node.positional)} by position, {len(node.named)} by name"
        fix = f"from: {{{', '.join(f'{name}: {source}' for name, source in node.named)}}}"
    elif node.named:
        expected = "does not take inputs by these names"
        got = ", ".join(name for name, _ in node.named)
        fix = f"from: [{', '.join(node.sources)}]"
    else:
        expected, got = "takes one input", format_count(len(node.sources), "input")
        fix = "join them first, with ConcatFeatures or AddFeatures"
    return Rejection(code="inputs", expected=expected, got=got, fix=fix)


def reject_unnamed_images(node: Node, part: ProbedEncoder, images: list[Features]) -> Rejection:
    """Reject several unnamed images of an encoder that takes them by name."""
    known = f": {', '.join(part.image_names)}" if part.image_names else ""
    names = part.find_image_names(tuple(image[0].channels for image in images if image)) or ["NAME"] * len(images)
    pairs = [*node.named, *zip(names, node.positional, strict=False)]
    return Rejection(
        code="inputs",
        expected=f"takes images by name{known}",
        got=f"{format_count(len(images), 'image')} without a name",
        fix=f"from: {{{', '.join(f'{name}: {source}' for name, source in pairs)}}}",
    )


@cache
def is_callable_with(function: Callable[..., Any], positional: int, named: tuple[str, ...]) -> bool:
    """Return whether a contract or module takes so many positional inputs and these named ones."""
    try:
        signature(function).bind(None, *[None] * positional, **dict.fromkeys(named))
    except TypeError:
        return False
    return True
