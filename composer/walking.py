"""A walk over a graph: what flows from node to node, as far as no part refuses it. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from inspect import signature
from typing import Any

from attrs import define, evolve, field

from composer.contracts import Outcome, Promise, Refusal, contract
from composer.contracts.encoders import one_image
from composer.feature import Feature, Features, counted, sentence
from composer.fitting import conflict_of, demands, too_much, unfit_to_leave
from composer.graph import Graph, Node, Shared, must_be_graph
from composer.parts import EmbeddingHead, Encoder, Facts, Head, Part, Probed
from composer.problem import SpecError, told
from composer.refused import problem_of
from composer.sizes import Conflict, Sizes, intersect
from composer.structure import ordered, structural_problems
from composer.typed import Typed

Describe = Callable[[Probed, Any], Facts | Refusal]
"""What knows the world: the facts of an encoder that is fed `Channels`, or why there are none."""


def walked(graph: Graph, describe: Describe) -> Walk:
    """A walk over a graph, as far as it goes. Raises SpecError for what is wrong before any feature is known."""
    must_be_graph(graph)
    problems = told(structural_problems(graph))
    if problems:
        raise SpecError(problems)
    walk = Walk(graph, describe)
    for node in ordered(graph):
        walk.visit(node)
    return walk


@define
class Walk:
    """One walk over a graph: what is known so far. A node that takes from a refused one is passed over.

    `parts` are the parts of the nodes, with the fields set that follow from the encoder in front of them. `encoders`
    are those encoders, where there is only one.
    """

    graph: Graph
    describe: Describe
    features: dict[str, Features] = field(factory=dict)
    facts: dict[str, Facts] = field(factory=dict)
    sizes: dict[str, Sizes] = field(factory=dict)
    parts: dict[str, Part] = field(factory=dict)
    encoders: dict[str, Part | None] = field(factory=dict)
    per_frame: set[str] = field(factory=set)
    embeddings: set[str] = field(factory=set)
    refused: dict[str, Refusal] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.features.update({name: (image.feature,) for name, image in self.graph.inputs})

    def visit(self, node: Node) -> None:
        """Find out what a node gives, or why it refuses. All that it takes has been visited."""
        needed_first = (*node.sources, node.part.node) if isinstance(node.part, Shared) else node.sources
        if any(name not in self.features for name in needed_first):
            return
        encoder = self.encoders.get(node.sources[0]) if len(node.sources) == 1 else None
        part = self.parts[node.part.node] if isinstance(node.part, Shared) else node.part.behind(encoder)
        self.parts[node.name] = part
        self.encoders[node.name] = part if isinstance(part, Encoder) else encoder
        if isinstance(node.part, Shared):
            outcome = self._shared(node, node.part)
        else:
            outcome = self._head_follows_head(node) or self._promise(node, part)
        if isinstance(outcome, Refusal):
            self.refused[node.name] = outcome
            return
        promise = outcome if isinstance(outcome, Promise) else _promise_of(node, outcome)
        refusal = too_much(promise.features)
        if refusal is not None:
            self.refused[node.name] = refusal
            return
        self.features[node.name] = promise.features
        self.sizes[node.name] = promise.sizes
        if promise.per_frame:
            self.per_frame.add(node.name)
        if isinstance(self.parts[node.name], EmbeddingHead):
            self.embeddings.add(node.name)

    def typed(self) -> Typed:
        """All that is known. Raises SpecError with all the problems of the graph at once."""
        nodes = {node.name: node for node in self.graph.nodes}
        problems = told(
            problem_of(self.graph, nodes[name], self.parts.get(name), refusal, self.features)
            for name, refusal in self.refused.items()
        )
        problems += unfit_to_leave(self.graph, self.features, self.parts, self.embeddings)
        sizes = intersect(demands(self.graph, self.features, self.sizes))
        if isinstance(sizes, Conflict):
            problems.append(conflict_of(self.graph, sizes))
        if problems:
            raise SpecError(told(problems))
        assert isinstance(sizes, Sizes)
        return Typed(
            graph=self.graph,
            features=self.features,
            sizes=sizes,
            facts=self.facts,
            order=tuple(self._completed(node) for node in ordered(self.graph)),
            per_frame=frozenset(self.per_frame),
            embeddings=frozenset(self.embeddings),
        )

    def _completed(self, node: Node) -> Node:
        return node if isinstance(node.part, Shared) else evolve(node, part=self.parts[node.name])

    def _promise(self, node: Node, part: Part) -> Outcome | Features:
        inputs = [self.features[source] for source in node.positional]
        named = self._named(node)
        if isinstance(part, Probed):
            return self._probed(node, part, inputs, named)
        is_mixed = isinstance(part, Encoder) and inputs and named
        if is_mixed or not _accepts(contract.dispatch(type(part)), len(inputs), tuple(named)):
            return _wrong_inputs(node)
        return contract(part, *inputs, **named)

    def _named(self, node: Node) -> dict[str, Features]:
        return {name: self.features[source] for name, source in node.named}

    def _probed(
        self, node: Node, part: Probed, inputs: list[Features], named: Mapping[str, Features]
    ) -> Outcome | Features:
        """What an encoder gives whose facts are to be asked for: with its images told, and theirs alone."""
        if part.takes_names and len(inputs) > (0 if named else 1):
            return _without_names(node, part, inputs)
        if len(inputs) != (0 if named else 1) or (named and not part.takes_names):
            return _wrong_inputs(node)
        for position, image in enumerate((*inputs, *named.values())):
            if refusal := one_image(image):
                return evolve(refusal, input=position)
        told = part.fed(*(image[0] for image in inputs), **{name: image[0] for name, image in named.items()})
        channels = tuple((name, i[0].channels) for name, i in named.items()) or inputs[0][0].channels
        facts = self.describe(told, channels)
        if isinstance(facts, Refusal):
            return facts
        facts = self._made_for(node, told, facts, channels)
        self.facts[node.name] = facts
        return contract(facts, *inputs, **named)

    def _made_for(self, node: Node, part: Probed, facts: Facts, channels: Any) -> Facts:
        """The facts of a network that is made for an image size, made for the size of the graph's input."""
        image = dict(self.graph.inputs).get(node.sources[0])
        if image is None or image.size is None:
            return facts
        fed = [side / image.stride for side in image.size]
        if any(side.denominator != 1 for side in fed) or fed == [facts.sizes.height, facts.sizes.width]:
            return facts
        other = part.made_for(int(fed[0]), int(fed[1]), facts)
        resized = None if other is None else self.describe(other, channels)
        return resized if isinstance(resized, Facts) else facts

    def _shared(self, node: Node, shared: Shared) -> Outcome | Features:
        owner = next(other for other in self.graph.nodes if other.name == shared.node)
        pairs = zip(owner.sources, node.sources, strict=False)
        alike = [name for name, _ in owner.named] == [name for name, _ in node.named]
        given = [(self.features[one], self.features[other]) for one, other in pairs]
        factors = {factor for one, other in given for factor in _factors(one, other)}
        same = len(factors) < 2 if not self.parts[owner.name].reads_stride else factors <= {1}
        unlike = [position for position, pair in enumerate(given) if None in _factors(*pair) or not same]
        if unlike or not alike or len(owner.sources) != len(node.sources):
            position = unlike[0] if unlike else 0
            return Refusal(
                code="share",
                kind="policy",
                expected=f"shares the weights of {owner.name}, which was made for "
                f"{sentence(self.features[owner.sources[position]])}",
                repair="give both nodes inputs of the same features",
                input=position,
            )
        if owner.name in self.facts:
            # Its network is there already: made for the owner's image, also where the two are of unlike sizes.
            self.facts[node.name] = self.facts[owner.name]
            return contract(self.facts[node.name], *(self.features[s] for s in node.positional), **self._named(node))
        return self._promise(node, self.parts[owner.name])

    def _head_follows_head(self, node: Node) -> Refusal | None:
        heads = [source for source in node.sources if source in self.parts and self.parts[source].includes_head]
        if not isinstance(node.part, Head) or not heads:
            return None
        what = "an embedding" if heads[0] in self.embeddings else "a prediction"
        return Refusal(
            code="head",
            kind="policy",
            expected="takes features",
            got=f"{what}, from {heads[0]}",
            repair="leave this head out",
        )


def _factors(one: Features, other: Features) -> set[Fraction | None]:
    """Return by how much the strides of `other` are larger, None for features that differ in anything else."""
    if len(one) != len(other):
        return {None}
    return {_factor(*pair) for pair in zip(one, other, strict=True)} - {Fraction(0)}


def _factor(one: Feature, other: Feature) -> Fraction | None:
    """Return the factor of one feature; 0 for vectors, which have no stride."""
    if one.stride is None or other.stride is None:
        return Fraction(0) if one == other else None
    factor = other.stride / one.stride
    return factor if evolve(other, stride=one.stride, offset=other.offset / factor) == one else None


def _promise_of(node: Node, outcome: Features) -> Promise:
    try:
        return Promise(features=outcome)
    except TypeError as error:
        error.add_note(f"the contract of {node.name} must return features, a Promise or a Refusal (got {outcome!r})")
        raise


def _wrong_inputs(node: Node) -> Refusal:
    if node.named and node.positional:
        return Refusal(
            code="inputs",
            kind="impossible",
            expected="takes its inputs by position or by name, and not both",
            got=f"{len(node.positional)} by position, {len(node.named)} by name",
            repair=f"from: {{{', '.join(f'{name}: {source}' for name, source in node.named)}}}",
        )
    if node.named:
        return Refusal(
            code="inputs",
            kind="impossible",
            expected="does not take inputs by these names",
            got=", ".join(name for name, _ in node.named),
            repair=f"from: [{', '.join(node.sources)}]",
        )
    return Refusal(
        code="inputs",
        kind="impossible",
        expected="takes one input",
        got=counted(len(node.sources), "input"),
        repair="join them first, with ConcatFeatures or AddFeatures",
    )


def _without_names(node: Node, part: Probed, images: list[Features]) -> Refusal:
    """Several images for an encoder that takes them by name."""
    known = f": {', '.join(part.image_names)}" if part.image_names else ""
    names = part.names_for(tuple(image[0].channels for image in images if image)) or ["NAME"] * len(images)
    pairs = [*node.named, *zip(names, node.positional, strict=False)]
    return Refusal(
        code="inputs",
        kind="impossible",
        expected=f"takes images by name{known}",
        got=f"{counted(len(images), 'image')} without a name",
        repair=f"from: {{{', '.join(f'{name}: {source}' for name, source in pairs)}}}",
    )


@cache
def _accepts(function: Callable[..., Any], positional: int, named: tuple[str, ...]) -> bool:
    try:
        signature(function).bind(None, *[None] * positional, **dict.fromkeys(named))
    except TypeError:
        return False
    return True
