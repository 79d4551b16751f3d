"""Check the features of a graph as a whole: size constraints, outputs, crop, overflow."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from composer.errors import Problem
from composer.graph import Graph
from composer.layouts import MAP, MAX_PIXELS, VECTOR, Features, describe_features, is_bounded_stride
from composer.parts import Decoder, IdentityDecoder, Part, get_part_name
from composer.parts.rules import Rejection, compute_implied_sizes, require
from composer.sizes import ANY_SIZE, Conflict, SizeConstraint

MAX_CHANNELS = 2**31
"""The largest number of channels: torch uses 32-bit sizes in places."""


def find_overflow(features: Features) -> Rejection | None:
    """Reject features whose channels or strides exceed what tensors can have."""
    for feature in features:
        if feature.channels > MAX_CHANNELS:
            return _reject_overflow(f"gives features of at most {MAX_CHANNELS:,} channels", f"{feature.channels:,}")
        if feature.stride is not None and not is_bounded_stride(feature.stride):
            rule = f"gives features whose stride is a ratio of numbers of at most {MAX_PIXELS:,}"
            return _reject_overflow(rule, str(feature.stride))
    return None


def _reject_overflow(expected: str, got: str) -> Rejection:
    return Rejection(
        code="limit", kind="policy", expected=expected, got=got, repair="leave it out, or a node before it"
    )


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
        place=graph.source.place(conflict.second),
        expected=str(conflict.first_sizes),
        got=str(conflict.second_sizes),
        repair="change the input's size or the encoder's img_size to one that both take",
    )


def find_output_problems(
    graph: Graph, features: Mapping[str, Features], parts: Mapping[str, Part], embeddings: Collection[str]
) -> Iterator[Problem]:
    """Yield the problems of outputs and their crop. Outputs of rejected nodes are skipped."""
    yield from _find_missing_heads(graph, features, parts)
    yield from _find_invalid_outputs(graph, features, embeddings)
    yield from _find_invalid_crop(graph, features, embeddings)


def _find_missing_heads(graph: Graph, features: Mapping[str, Features], parts: Mapping[str, Part]) -> Iterator[Problem]:
    """Yield decoders without a head: their channels would be taken for classes.

    Encoders, necks and `IdentityDecoder` may be outputs: whoever asks for them wants features.
    """
    for name in _list_output_nodes(graph):
        part = parts.get(name)
        if name not in features or not isinstance(part, Decoder) or isinstance(part, IdentityDecoder):
            continue
        if not part.includes_head:
            yield Problem(
                code="head",
                message=f"{get_part_name(part)} gives features; a head must turn them into a prediction.",
                place=graph.source.place(name),
                expected="a head after it",
                got="none",
                repair="add a head; EmbeddingHead gives features as they are",
            )


def _find_invalid_outputs(
    graph: Graph, features: Mapping[str, Features], embeddings: Collection[str]
) -> Iterator[Problem]:
    for name in _list_output_nodes(graph):
        given = features.get(name)
        if given is None or name in embeddings:
            continue
        unfit = require(given, lambda feature: feature.axes in (MAP, VECTOR), "one map or one vector")
        if unfit is None and len(given) == 1:
            continue
        way = "add IdentityDecoder, which passes one feature on"
        if unfit and len(given) == 1:
            way = unfit.repair or "bring it to that layout with PermuteDims"
        yield Problem(
            code="output",
            message=f'an output is one map "{MAP}" or one vector "{VECTOR}"; {name} gives {describe_features(given)}.',
            place=graph.source.place(name),
            expected="one map or one vector",
            got=describe_features(given),
            repair=f"{way}; or head: EmbeddingHead, which gives features as they are",
        )


def _find_invalid_crop(
    graph: Graph, features: Mapping[str, Features], embeddings: Collection[str]
) -> Iterator[Problem]:
    """Yield the problem of a crop if no output has the image's size."""
    outputs = [features.get(name) for name in _list_output_nodes(graph) if name not in embeddings]
    is_map = any(not given or given[0].axes == MAP for given in outputs)
    if graph.crop is not None and not (graph.rescale and is_map):
        yield Problem(
            code="crop",
            message="crop keeps the centre of output at the image's size, and no output is at it.",
            place=graph.source.place("crop"),
            repair="leave crop out" if graph.rescale else "rescale: true",
        )


def _list_output_nodes(graph: Graph) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*graph.outputs, *(node for _, node in graph.auxiliary))))
