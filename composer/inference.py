"""Infer what flows between the nodes of a graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from fractions import Fraction
from math import ceil, lcm
from types import MappingProxyType
from typing import Any

from attrs import define, evolve, field, frozen

from composer.errors import Fix, Problem, SpecError, truncate_problems
from composer.graph import Graph, Node, Shared, check_is_graph
from composer.graph_checks import (
    build_conflict_problem,
    find_output_problems,
    find_overflow,
    find_structural_problems,
    is_callable_with,
    iter_size_constraints,
    reject_inputs,
    reject_unnamed_images,
    sort_nodes,
)
from composer.layouts import MAP, Feature, Features, Shape, describe_features, format_shape
from composer.parts import EmbeddingHead, Encoder, EncoderInfo, Head, Part, ProbedEncoder
from composer.parts.base import contract, get_part_name
from composer.parts.encoders import require_one_image
from composer.parts.rules import ContractResult, Outputs, Rejection
from composer.sizes import Conflict, SizeConstraint, intersect
from composer.spec.writer import format_value


@frozen(kw_only=True)
class TypedGraph:
    """The result of `infer`: a graph, and what flows through it.

    `features` are those of each input and node, and `encoder_infos` what is known of each encoder, by name. `sizes` are
    the image sizes that the graph takes without padding, and `node_sizes` those that each node demands. `order` lists
    the nodes, each after those it takes from. `per_frame` names the single-image encoders that are applied to each
    frame, and `embeddings` the nodes whose features are returned as they are.
    """

    graph: Graph
    features: Mapping[str, Features]
    sizes: SizeConstraint
    node_sizes: Mapping[str, SizeConstraint]
    encoder_infos: Mapping[str, EncoderInfo]
    order: tuple[Node, ...]
    per_frame: frozenset[str] = frozenset()
    embeddings: frozenset[str] = frozenset()

    @property
    def ends(self) -> tuple[str, ...]:
        """The nodes whose features leave the model: the outputs, then the auxiliary ones."""
        return (*self.graph.outputs, *(node for _, node in self.graph.auxiliary))

    @property
    def unit(self) -> int:
        """Padding before the image comes in whole units of so many reference pixels, per side.

        Only so do the pixels of inputs at different resolutions, and the cells of output that is not rescaled, stay
        on the image's own grid.
        """
        strides = [image.stride for _, image in self.graph.inputs]
        if not self.graph.rescale:
            strides += [feature.stride for end in self.ends for feature in self.features[end] if feature.stride]
        return lcm(*(stride.numerator for stride in strides))

    def find_bands_warnings(self, nodes: Collection[str] | None = None) -> list[Problem]:
        """Return warnings for weights of a few bands, such as RGB, on an image of more channels without names.

        `nodes` are the encoders with such weights; by default those that ask for published ones.
        """
        found = []
        for node in self.order:
            info, known = self.encoder_infos.get(node.name), getattr(node.part, "weights_bands", ())
            asked = getattr(node.part, "pretrained", False) is True if nodes is None else node.name in nodes
            if asked and info is not None and not info.bands and 0 < len(known) < info.channels:
                bands, place = ", ".join(known), self.graph.source.locate(node.name)
                unnamed = f"{info.channels} channels without names: their kernels are repeated, or do not fit"
                message = f"the weights are of {bands}, and the image has {unnamed}."
                fix = f"name the channels in their order, such as input: {{bands: [{bands}, NIR, …]}}"
                if not {*node.sources} <= dict(self.graph.inputs).keys():
                    fix = "feed the encoder an input itself, one whose bands are named"
                found.append(Problem(code="weights", message=message, place=place, fix=fix))
        return found

    def is_rescaled(self, feature: Feature) -> bool:
        """Return True for an output that is resized to the image."""
        return self.graph.rescale and feature.axes == MAP

    def shape(self, output: str, height: int, width: int) -> Shape | tuple[Shape, ...]:
        """The exact shape of an output for images of `height` x `width` reference pixels, the batch as "b".

        For an embedding it is a tuple of shapes, one for each of its features. `output` is a node of `outputs` or
        `auxiliary`. Raises ValueError for another name, and for an image that is larger than the graph takes, or
        smaller than the crop of its output.
        """
        if output not in self.ends:
            raise ValueError(f"{output!r} is not an output of this graph; its outputs are {', '.join(self.ends)}")
        if any(type(side) is not int or side < 1 for side in (height, width)):
            raise ValueError(f"an image has whole numbers of pixels, at least 1 (got {height!r} × {width!r})")
        padded = self.sizes.compute_padded_size(height, width)
        if padded is None:
            raise ValueError(explain_too_large(self, height, width))
        if output in self.embeddings:
            return tuple(feature.shape("b", *padded) for feature in self.features[output])
        (feature,) = self.features[output]
        if feature.stride is None:
            return feature.shape("b", *padded)
        if not self.is_rescaled(feature):
            sides = [self._count_kept_cells(feature, *pair) for pair in zip((height, width), padded, strict=True)]
            return ("b", feature.channels, sides[0], sides[1])
        crop = self.graph.crop
        if crop is not None and (height < crop[0] or width < crop[1]):
            raise ValueError(explain_too_small(crop, height, width))
        return ("b", feature.channels, *(crop or (height, width)))

    def _count_kept_cells(self, feature: Feature, pixels: int, padded: int) -> int:
        before = self.graph.padding.before(padded - pixels, self.unit)
        start, count = compute_kept_cells(feature, pixels, before, padded)
        return min(count, feature.cells(padded) - start)


def compute_symbolic_shape(typed: TypedGraph, end: str) -> Shape | tuple[Shape, ...]:
    """Return the shape of an output for an image of `H` by `W` pixels: `("b", 10, "H", "W")`, or `"ceil(H/4)"`.

    For an embedding a tuple of shapes, `(("b", 64, "H/4", "W/4"), …)`, where `H` and `W` count the padded image.
    """
    if end in typed.embeddings:
        return tuple(map(format_shape, typed.features[end]))
    (feature,) = typed.features[end]
    if feature.stride is None:
        return format_shape(feature)
    if typed.is_rescaled(feature):
        return ("b", feature.channels, *(typed.graph.crop or ("H", "W")))
    # A padded side has whole strides, of which the offset takes some.
    lost = -ceil(feature.offset / feature.stride)
    return format_shape(evolve(feature, offset=0, rounding="ceil"), f"{lost:+}" if lost else "")


def compute_kept_cells(feature: Feature, pixels: int, before: int, padded: int) -> tuple[int, int]:
    """The cells of a padded side that belong to the image: where they begin, and how many.

    `before` is the padding before the image, in whole strides. A map that rounds down may have one cell less. With an
    offset they are those that an image without padding would have, and at least one.
    """
    stride: Fraction = feature.stride or Fraction(1)
    start = before * stride.denominator // stride.numerator
    # Rounded up without a negative number, of which ONNX rounds the quotient towards zero.
    cells = (pixels * stride.denominator + stride.numerator - 1) // stride.numerator
    if feature.offset:
        lost = ceil(feature.offset / stride)
        cells = max(cells - lost, 1)
        if type(padded) is int:
            start = min(start, max(int(padded // stride) - lost - 1, 0))
    return start, cells


def explain_too_large(typed: TypedGraph, height: int, width: int) -> str:
    """Return what to say of an image that cannot be padded to any size that the graph takes."""
    fixed = [(node.part, typed.encoder_infos[node.name]) for node in typed.order if node.name in typed.encoder_infos]
    rebuilt = all(image.size is None for _, image in typed.graph.inputs) and any(
        info.sizes.height
        and isinstance(part, ProbedEncoder)
        and part.copy_with_image_size(height, width, info) is not None
        for part, info in fixed
    )
    size = f"input: {{size: [{height}, {width}]}}"
    return (
        f"an image of {height} × {width} pixels is too large: the graph takes {typed.sizes}. "
        f"Crop or resize the image{f', or build the model for this size, if timm supports it: {size}' * rebuilt}."
    )


def explain_too_small(crop: tuple[int, int], height: int, width: int) -> str:
    """Return the error for an image that is smaller than the crop of its output."""
    return (
        f"an image of {height} × {width} pixels is smaller than the crop of its output, {crop[0]} × {crop[1]}. "
        f"Resize the image or leave crop out."
    )


def build_rejection_problem(
    graph: Graph,
    node: Node,
    part: Part | None,
    rejection: Rejection,
    features: Mapping[str, Features],
    fix: Fix | None = None,
) -> Problem:
    """Return the rejection of a contract as a problem of the graph, with the names of both sides and the place."""
    subject = get_part_name(part) if part is not None else node.name
    got = rejection.got
    said = "" if got is None else f" (got {got})"
    if got is None and node.sources:
        source = node.sources[rejection.input]
        got = f"{source} gives {describe_features(features[source])}"
        said = f"; {got}"
    change = rejection.change
    return Problem(
        code=rejection.code,
        message=f"{subject} {rejection.expected}{said}.",
        place=graph.source.locate(f"{node.name}.{rejection.about}" if rejection.about else node.name),
        expected=rejection.expected,
        got=got,
        # A change is the first step for a part that rejects its inputs for more reasons than one.
        fix=fix or rejection.fix or (None if change is None else f"{change.name}: {format_value(change.value)}"),
    )


Describe = Callable[[ProbedEncoder, Any], EncoderInfo | Rejection]
"""Returns what an encoder emits for `Channels`, or why it cannot."""


def run_inference(graph: Graph, describe: Describe) -> Inference:
    """Infer the nodes of a graph as far as possible. Raises SpecError for an invalid structure."""
    check_is_graph(graph)
    problems = truncate_problems(find_structural_problems(graph))
    if problems:
        raise SpecError(problems)
    inference = Inference(graph, describe)
    for node in sort_nodes(graph):
        inference.infer_node(node)
    return inference


@define
class Inference:
    """The state of inference over a graph. Nodes behind a rejected one are skipped.

    `parts` are the parts of the nodes, with the fields set that follow from the encoder in front of them. `encoders`
    maps a node to the one encoder that feeds it, or to None where there are several.
    """

    graph: Graph
    describe: Describe
    features: dict[str, Features] = field(factory=dict)
    encoder_infos: dict[str, EncoderInfo] = field(factory=dict)
    sizes: dict[str, SizeConstraint] = field(factory=dict)
    parts: dict[str, Part] = field(factory=dict)
    encoders: dict[str, Part | None] = field(factory=dict)
    per_frame: set[str] = field(factory=set)
    embeddings: set[str] = field(factory=set)
    rejections: dict[str, Rejection] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.features.update({name: (image.feature,) for name, image in self.graph.inputs})

    def infer_node(self, node: Node) -> None:
        """Infer the outputs of a node, or why it rejects its inputs. Its inputs have been inferred."""
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
        if isinstance(outcome, Outputs):
            outcome = find_overflow(outcome.features) or outcome
        if isinstance(outcome, Rejection):
            self.rejections[node.name] = outcome
            return
        self.features[node.name] = outcome.features
        self.sizes[node.name] = outcome.sizes
        if outcome.per_frame:
            self.per_frame.add(node.name)
        if isinstance(part, EmbeddingHead):
            self.embeddings.add(node.name)

    def to_typed_graph(self, fixes: Mapping[str, Fix] = MappingProxyType({})) -> TypedGraph:
        """Return all that is known. Raises SpecError with all the problems of the graph at once, with their fixes."""
        nodes = {node.name: node for node in self.graph.nodes}
        graph, features, parts = self.graph, self.features, self.parts
        problems = truncate_problems(
            build_rejection_problem(graph, nodes[name], parts.get(name), rejection, features, fixes.get(name))
            for name, rejection in self.rejections.items()
        )
        problems += find_output_problems(graph, features, parts, self.embeddings)
        sizes = self.find_sizes()
        if isinstance(sizes, Conflict):
            problems.append(build_conflict_problem(graph, sizes))
        if problems:
            raise SpecError(truncate_problems(problems))
        assert isinstance(sizes, SizeConstraint)
        return TypedGraph(
            graph=graph,
            features=features,
            sizes=sizes,
            node_sizes=self.sizes,
            encoder_infos=self.encoder_infos,
            order=tuple(
                node if isinstance(node.part, Shared) else evolve(node, part=parts[node.name])
                for node in sort_nodes(graph)
            ),
            per_frame=frozenset(self.per_frame),
            embeddings=frozenset(self.embeddings),
        )

    def find_sizes(self) -> SizeConstraint | Conflict:
        """Return the image sizes that the graph takes, or two constraints that no size meets."""
        return intersect(iter_size_constraints(self.graph, self.features, self.sizes))

    def _infer_outputs(self, node: Node, part: Part) -> ContractResult:
        inputs = [self.features[source] for source in node.positional]
        named = {name: self.features[source] for name, source in node.named}
        if isinstance(part, ProbedEncoder):
            return self._infer_probed_encoder(node, part, inputs, named)
        is_mixed = isinstance(part, Encoder) and inputs and named
        if is_mixed or not is_callable_with(contract.dispatch(type(part)), len(inputs), tuple(named)):
            return reject_inputs(node)
        return contract(part, *inputs, **named)

    def _infer_probed_encoder(
        self, node: Node, part: ProbedEncoder, inputs: list[Features], named: Mapping[str, Features]
    ) -> ContractResult:
        """Infer an encoder that is looked up or probed for the images that it gets."""
        if part.takes_names and len(inputs) > (0 if named else 1):
            return reject_unnamed_images(node, part, inputs)
        if len(inputs) != (0 if named else 1) or (named and not part.takes_names):
            return reject_inputs(node)
        for position, image in enumerate((*inputs, *named.values())):
            if rejection := require_one_image(image):
                return evolve(rejection, input=position)
        bands = self._find_bands(node)
        banded = part.copy_with_bands(bands) if bands else part
        if isinstance(banded, Rejection):
            return banded
        self.parts[node.name] = banded
        images = {name: image[0] for name, image in named.items()}
        told = banded.copy_with_inputs(*(image[0] for image in inputs), **images)
        channels = tuple((name, image.channels) for name, image in images.items()) or inputs[0][0].channels
        info = self.describe(told, channels)
        if isinstance(info, Rejection):
            return info
        info = evolve(self._resize_encoder_info(node, told, info, channels), bands=bands.get(None, ()))
        self.encoder_infos[node.name] = info
        return contract(info, *inputs, **named)

    def _find_bands(self, node: Node) -> dict[str | None, tuple[str, ...]]:
        """Return the bands of the inputs of the graph that a node takes, by name, where they have names."""
        images = dict(self.graph.inputs)
        sources = [*((None, source) for source in node.positional), *node.named]
        return {name: bands for name, source in sources if source in images and (bands := images[source].bands)}

    def _resize_encoder_info(self, node: Node, part: ProbedEncoder, info: EncoderInfo, channels: Any) -> EncoderInfo:
        """Return the info of a fixed-size network for the size of the graph's input."""
        image = dict(self.graph.inputs).get(node.sources[0])
        if image is None or image.size is None:
            return info
        fed = [side / image.stride for side in image.size]
        if any(side.denominator != 1 for side in fed) or fed == [info.sizes.height, info.sizes.width]:
            return info
        other = part.copy_with_image_size(int(fed[0]), int(fed[1]), info)
        resized = None if other is None else self.describe(other, channels)
        return resized if isinstance(resized, EncoderInfo) else info

    def _infer_shared(self, node: Node, shared: Shared) -> ContractResult:
        owner = next(other for other in self.graph.nodes if other.name == shared.node)
        alike = [name for name, _ in owner.named] == [name for name, _ in node.named]
        expected, given = ([self.features[source] for source in one.sources] for one in (owner, node))
        if not self.parts[owner.name].reads_stride:
            expected, given = _scale_strides(expected), _scale_strides(given)
        bands, own = self._find_bands(node), self._find_bands(owner)
        for name in bands.keys() & own.keys():
            if bands[name] != own[name]:
                rule = f"shares the weights of {owner.name}, which takes {', '.join(own[name])}"
                got, fix = ", ".join(bands[name]), "give both inputs the same bands"
                return Rejection(code="join", kind="policy", expected=rule, got=got, fix=fix)
        unlike = [position for position, pair in enumerate(zip(expected, given, strict=False)) if pair[0] != pair[1]]
        if unlike or not alike or len(expected) != len(given):
            position = unlike[0] if unlike else 0
            return Rejection(
                code="join",
                kind="policy",
                expected=f"shares the weights of {owner.name}, which was made for "
                f"{describe_features(self.features[owner.sources[position]])}",
                fix="give both nodes inputs of the same features",
                input=position,
            )
        if owner.name in self.encoder_infos:
            # The network is shared: it was made for the owner's image, even if this one has another size.
            self.encoder_infos[node.name] = self.encoder_infos[owner.name]
            return self._infer_outputs(node, self.encoder_infos[owner.name])
        return self._infer_outputs(node, self.parts[owner.name])

    def _find_stacked_heads(self, node: Node) -> Rejection | None:
        heads = [source for source in node.sources if source in self.parts and self.parts[source].includes_head]
        if not isinstance(node.part, Head) or not heads:
            return None
        what = "an embedding" if heads[0] in self.embeddings else "a prediction"
        return Rejection(
            code="output",
            kind="policy",
            expected="takes features",
            got=f"{what}, from {heads[0]}",
            fix="leave this head out",
        )


def _scale_strides(inputs: list[Features]) -> list[Features]:
    """Return features with their strides in units of the first of them."""
    unit = next((f.stride for features in inputs for f in features if f.stride is not None), Fraction(1))

    def scale(feature: Feature) -> Feature:
        if feature.stride is None:
            return feature
        return evolve(feature, stride=feature.stride / unit, offset=feature.offset / unit)

    return [tuple(map(scale, features)) for features in inputs]


def infer(graph: Graph, describe: Describe | Mapping[Any, EncoderInfo] | None = None) -> TypedGraph:
    """Infer the features on every edge of `graph`, and the image sizes that it accepts.

    `describe` returns what an encoder emits: a function, or a mapping from encoders to `EncoderInfo`. The default uses
    a catalogue of timm's networks, and probes others on the meta device; results are cached on disk.

    Raises SpecError with all problems, and a fix for each rejected node if there is one.
    """
    inference = run_inference(graph, resolve_describe(describe))
    if not inference.rejections:
        return inference.to_typed_graph()
    from composer.fixes import find_fixes  # only a rejected graph needs the search

    return inference.to_typed_graph(find_fixes(inference))


def resolve_describe(describe: Describe | Mapping[Any, EncoderInfo] | None) -> Describe:
    """Return the source of encoder infos as a function; it may be a function or a mapping already."""
    if describe is None:
        from composer.encoder_info import describe as describe_by_probe

        return describe_by_probe
    if isinstance(describe, Mapping):
        known, expected = describe, "is not among the encoders of describe="
        unknown = Rejection(code="features", kind="policy", expected=expected, got="no entry")
        return lambda part, _: known.get(part) or unknown
    return describe
