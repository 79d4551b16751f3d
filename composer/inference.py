"""Infer what flows between the nodes of a graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache
from inspect import signature
from typing import Any

from attrs import define, evolve, field

from composer.errors import Problem, SpecError, truncate_problems
from composer.graph import Graph, Node, Shared, require_graph
from composer.layouts import (
    MAP,
    MAX_PIXELS,
    VECTOR,
    Feature,
    Features,
    describe_features,
    format_count,
    is_bounded_stride,
)
from composer.neck_paths import NeckPath, align_branches, find_paths, format_neck_list, format_necks_entry
from composer.parts import (
    Decoder,
    EmbeddingHead,
    Encoder,
    EncoderInfo,
    Head,
    IdentityDecoder,
    Part,
    ProbedEncoder,
    get_part_name,
)
from composer.parts.base import contract
from composer.parts.encoders import require_one_image
from composer.parts.rules import ContractResult, Rejection, compute_implied_sizes, require
from composer.sizes import ANY_SIZE, Conflict, SizeConstraint, intersect
from composer.structure import find_structural_problems, sort_nodes
from composer.typed_graph import TypedGraph


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


MAX_CHANNELS = 2**31
"""The channels that may flow along an edge: torch counts no further in places."""


def find_overflow(features: Features) -> Rejection | None:
    """Refuse features whose numbers have grown from node to node until no image and no tensor has as many."""
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
    """Who demands which sizes: images, parts, and every feature that has to be whole or to have a cell at all."""
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
    """Two demands that no image size meets, as a problem of the second."""
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
    """What is wrong with the outputs, and with the crop of them; what is not known, because refused, is passed over."""
    yield from _find_missing_heads(graph, features, parts)
    yield from _find_invalid_outputs(graph, features, embeddings)
    yield from _find_invalid_crop(graph, features, embeddings)


def _find_missing_heads(graph: Graph, features: Mapping[str, Features], parts: Mapping[str, Part]) -> Iterator[Problem]:
    """What a decoder gives is no prediction yet: it would be taken for scores of as many classes as it has channels.

    An encoder, a neck, or `IdentityDecoder`, which passes a feature on, are asked for nothing but features.
    """
    for name in _list_output_nodes(graph):
        part = parts.get(name)
        if name not in features or not isinstance(part, Decoder) or isinstance(part, IdentityDecoder):
            continue
        if not part.includes_head:
            yield Problem(
                code="head",
                message=f"{get_part_name(part)} gives features, and no head makes a prediction of them.",
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
    """A crop of outputs none of which is at the image's size."""
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


Describe = Callable[[ProbedEncoder, Any], EncoderInfo | Rejection]
"""What knows the world: the facts of an encoder that is fed `Channels`, or why there are none."""


def run_inference(graph: Graph, describe: Describe) -> Inference:
    """A walk over a graph, as far as it goes. Raises SpecError for what is wrong before any feature is known."""
    require_graph(graph)
    problems = truncate_problems(find_structural_problems(graph))
    if problems:
        raise SpecError(problems)
    walk = Inference(graph, describe)
    for node in sort_nodes(graph):
        walk.infer_node(node)
    return walk


@define
class Inference:
    """One walk over a graph: what is known so far. A node that takes from a refused one is passed over.

    `parts` are the parts of the nodes, with the fields set that follow from the encoder in front of them. `encoders`
    are those encoders, where there is only one.
    """

    graph: Graph
    describe: Describe
    features: dict[str, Features] = field(factory=dict)
    facts: dict[str, EncoderInfo] = field(factory=dict)
    sizes: dict[str, SizeConstraint] = field(factory=dict)
    parts: dict[str, Part] = field(factory=dict)
    encoders: dict[str, Part | None] = field(factory=dict)
    per_frame: set[str] = field(factory=set)
    embeddings: set[str] = field(factory=set)
    refused: dict[str, Rejection] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.features.update({name: (image.feature,) for name, image in self.graph.inputs})

    def infer_node(self, node: Node) -> None:
        """Find out what a node gives, or why it refuses. All that it takes has been visited."""
        needed_first = (*node.sources, node.part.node) if isinstance(node.part, Shared) else node.sources
        if any(name not in self.features for name in needed_first):
            return
        encoder = self.encoders.get(node.sources[0]) if len(node.sources) == 1 else None
        part = self.parts[node.part.node] if isinstance(node.part, Shared) else node.part.copy_with_encoder(encoder)
        self.parts[node.name] = part
        self.encoders[node.name] = part if isinstance(part, Encoder) else encoder
        if isinstance(node.part, Shared):
            outcome = self._infer_shared(node, node.part)
        else:
            outcome = self._find_stacked_heads(node) or self._infer_outputs(node, part)
        if isinstance(outcome, Rejection):
            self.refused[node.name] = outcome
            return
        refusal = find_overflow(outcome.features)
        if refusal is not None:
            self.refused[node.name] = refusal
            return
        self.features[node.name] = outcome.features
        self.sizes[node.name] = outcome.sizes
        if outcome.per_frame:
            self.per_frame.add(node.name)
        if isinstance(self.parts[node.name], EmbeddingHead):
            self.embeddings.add(node.name)

    def typed(self) -> TypedGraph:
        """All that is known. Raises SpecError with all the problems of the graph at once."""
        nodes = {node.name: node for node in self.graph.nodes}
        problems = truncate_problems(
            build_rejection_problem(self.graph, nodes[name], self.parts.get(name), refusal, self.features)
            for name, refusal in self.refused.items()
        )
        problems += find_output_problems(self.graph, self.features, self.parts, self.embeddings)
        sizes = intersect(iter_size_constraints(self.graph, self.features, self.sizes))
        if isinstance(sizes, Conflict):
            problems.append(build_conflict_problem(self.graph, sizes))
        if problems:
            raise SpecError(truncate_problems(problems))
        assert isinstance(sizes, SizeConstraint)
        return TypedGraph(
            graph=self.graph,
            features=self.features,
            sizes=sizes,
            facts=self.facts,
            order=tuple(self._resolve_node(node) for node in sort_nodes(self.graph)),
            per_frame=frozenset(self.per_frame),
            embeddings=frozenset(self.embeddings),
        )

    def _resolve_node(self, node: Node) -> Node:
        return node if isinstance(node.part, Shared) else evolve(node, part=self.parts[node.name])

    def _infer_outputs(self, node: Node, part: Part) -> ContractResult:
        inputs = [self.features[source] for source in node.positional]
        named = self._get_named_features(node)
        if isinstance(part, ProbedEncoder):
            return self._infer_probed_encoder(node, part, inputs, named)
        is_mixed = isinstance(part, Encoder) and inputs and named
        if is_mixed or not _is_callable_with(contract.dispatch(type(part)), len(inputs), tuple(named)):
            return _reject_inputs(node)
        return contract(part, *inputs, **named)

    def _get_named_features(self, node: Node) -> dict[str, Features]:
        return {name: self.features[source] for name, source in node.named}

    def _infer_probed_encoder(
        self, node: Node, part: ProbedEncoder, inputs: list[Features], named: Mapping[str, Features]
    ) -> ContractResult:
        """What an encoder gives whose facts are to be asked for: with its images told, and theirs alone."""
        if part.takes_names and len(inputs) > (0 if named else 1):
            return _reject_unnamed_images(node, part, inputs)
        if len(inputs) != (0 if named else 1) or (named and not part.takes_names):
            return _reject_inputs(node)
        for position, image in enumerate((*inputs, *named.values())):
            if refusal := require_one_image(image):
                return evolve(refusal, input=position)
        told = part.copy_with_inputs(
            *(image[0] for image in inputs), **{name: image[0] for name, image in named.items()}
        )
        channels = tuple((name, i[0].channels) for name, i in named.items()) or inputs[0][0].channels
        facts = self.describe(told, channels)
        if isinstance(facts, Rejection):
            return facts
        facts = self._resize_encoder_info(node, told, facts, channels)
        self.facts[node.name] = facts
        return contract(facts, *inputs, **named)

    def _resize_encoder_info(self, node: Node, part: ProbedEncoder, facts: EncoderInfo, channels: Any) -> EncoderInfo:
        """The facts of a network that is made for an image size, made for the size of the graph's input."""
        image = dict(self.graph.inputs).get(node.sources[0])
        if image is None or image.size is None:
            return facts
        fed = [side / image.stride for side in image.size]
        if any(side.denominator != 1 for side in fed) or fed == [facts.sizes.height, facts.sizes.width]:
            return facts
        other = part.copy_with_image_size(int(fed[0]), int(fed[1]), facts)
        resized = None if other is None else self.describe(other, channels)
        return resized if isinstance(resized, EncoderInfo) else facts

    def _infer_shared(self, node: Node, shared: Shared) -> ContractResult:
        owner = next(other for other in self.graph.nodes if other.name == shared.node)
        pairs = zip(owner.sources, node.sources, strict=False)
        alike = [name for name, _ in owner.named] == [name for name, _ in node.named]
        given = [(self.features[one], self.features[other]) for one, other in pairs]
        factors = {factor for one, other in given for factor in _compute_stride_factors(one, other)}
        same = len(factors) < 2 if not self.parts[owner.name].reads_stride else factors <= {1}
        unlike = [position for position, pair in enumerate(given) if None in _compute_stride_factors(*pair) or not same]
        if unlike or not alike or len(owner.sources) != len(node.sources):
            position = unlike[0] if unlike else 0
            return Rejection(
                code="share",
                kind="policy",
                expected=f"shares the weights of {owner.name}, which was made for "
                f"{describe_features(self.features[owner.sources[position]])}",
                repair="give both nodes inputs of the same features",
                input=position,
            )
        if owner.name in self.facts:
            # Its network is there already: made for the owner's image, also where the two are of unlike sizes.
            self.facts[node.name] = self.facts[owner.name]
            return contract(
                self.facts[node.name], *(self.features[s] for s in node.positional), **self._get_named_features(node)
            )
        return self._infer_outputs(node, self.parts[owner.name])

    def _find_stacked_heads(self, node: Node) -> Rejection | None:
        heads = [source for source in node.sources if source in self.parts and self.parts[source].includes_head]
        if not isinstance(node.part, Head) or not heads:
            return None
        what = "an embedding" if heads[0] in self.embeddings else "a prediction"
        return Rejection(
            code="head",
            kind="policy",
            expected="takes features",
            got=f"{what}, from {heads[0]}",
            repair="leave this head out",
        )


def _compute_stride_factors(one: Features, other: Features) -> set[Fraction | None]:
    """Return by how much the strides of `other` are larger, None for features that differ in anything else."""
    if len(one) != len(other):
        return {None}
    return {_compute_stride_factor(*pair) for pair in zip(one, other, strict=True)} - {Fraction(0)}


def _compute_stride_factor(one: Feature, other: Feature) -> Fraction | None:
    """Return the factor of one feature; 0 for vectors, which have no stride."""
    if one.stride is None or other.stride is None:
        return Fraction(0) if one == other else None
    factor = other.stride / one.stride
    return factor if evolve(other, stride=one.stride, offset=other.offset / factor) == one else None


def _reject_inputs(node: Node) -> Rejection:
    if node.named and node.positional:
        return Rejection(
            code="inputs",
            kind="raises",
            expected="takes its inputs by position or by name, and not both",
            got=f"{len(node.positional)} by position, {len(node.named)} by name",
            repair=f"from: {{{', '.join(f'{name}: {source}' for name, source in node.named)}}}",
        )
    if node.named:
        return Rejection(
            code="inputs",
            kind="raises",
            expected="does not take inputs by these names",
            got=", ".join(name for name, _ in node.named),
            repair=f"from: [{', '.join(node.sources)}]",
        )
    return Rejection(
        code="inputs",
        kind="raises",
        expected="takes one input",
        got=format_count(len(node.sources), "input"),
        repair="join them first, with ConcatFeatures or AddFeatures",
    )


def _reject_unnamed_images(node: Node, part: ProbedEncoder, images: list[Features]) -> Rejection:
    """Several images for an encoder that takes them by name."""
    known = f": {', '.join(part.image_names)}" if part.image_names else ""
    names = part.find_image_names(tuple(image[0].channels for image in images if image)) or ["NAME"] * len(images)
    pairs = [*node.named, *zip(names, node.positional, strict=False)]
    return Rejection(
        code="inputs",
        kind="raises",
        expected=f"takes images by name{known}",
        got=f"{format_count(len(images), 'image')} without a name",
        repair=f"from: {{{', '.join(f'{name}: {source}' for name, source in pairs)}}}",
    )


@cache
def _is_callable_with(function: Callable[..., Any], positional: int, named: tuple[str, ...]) -> bool:
    try:
        signature(function).bind(None, *[None] * positional, **dict.fromkeys(named))
    except TypeError:
        return False
    return True


def infer(graph: Graph, describe: Describe | Mapping[Any, EncoderInfo] | None = None) -> TypedGraph:
    """The features on every edge of `graph`, and the image sizes that it takes.

    `describe` is asked for facts about encoders: a function, or a mapping from encoders to facts. The default knows
    timm's networks, from a cache on disk that a probe on the meta device fills. Pure but for that.

    Raises SpecError with all the problems at once.
    """
    return run_inference(graph, resolve_describe(describe)).typed()


def resolve_describe(describe: Describe | Mapping[Any, EncoderInfo] | None) -> Describe:
    """What knows facts about encoders, as a function: the default, a function, or a mapping."""
    if describe is None:
        from composer.encoder_info import describe as describe_by_probe

        return describe_by_probe
    if isinstance(describe, Mapping):
        known = describe
        return lambda part, _: (
            known.get(part)
            or Rejection(
                code="facts", kind="policy", expected="is not among the facts that were handed in", got="no facts"
            )
        )
    return describe
