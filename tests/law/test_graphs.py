"""The law over whole graphs: what `infer` says of every edge and output is what a forward pass gives."""

from __future__ import annotations

from collections import Counter

import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

import composer
from composer.graph import Node, Shared
from composer.parts.rules import Rejection, drop_frames
from tests.law.strategies import HEADS, JOINS, PARTS, REFUSED, draw_examples, draw_more, levels, parts_for, sizes
from tests.law.toys import Toy

NECKS = (
    *(part for part in PARTS if issubclass(part, composer.Neck) and part not in JOINS),
    # Takes four maps and nothing else, so it would hardly ever fit.
    *[composer.LearnedInterpolateToPyramidal] * 4,
    # Tokens are one layout of many, and few parts take vectors.
    *[composer.ReshapeTokensToImage] * 2,
    *[composer.AggregateTokens] * 6,
)
DECODERS = (*(part for part in PARTS if issubclass(part, composer.Decoder)), composer.MLPDecoder)

SHAPES = {
    "one input",
    "two inputs",
    "half resolution",
    "shared",
    "joined",
    "aux",
    "two outputs",
    "not rescaled",
    "frame by frame",
    "frames at once",
    "embedding",
    "embedding of many",
    "embedding of frames",
    "auxiliary embedding",
}
SIZES = {"fixed height", "fixed width", "square", "least", "multiple of 3"}
"""What graphs are made of besides parts, and what they ask of sizes. Each must have been drawn in an accepted graph."""

RULES = {"layout", "count", "index", "reference", "node", "unused", "output", "join", "sizes"}
"""Rules by which whole graphs are refused. Each must have been drawn; others may be."""


@st.composite
def graphs(draw):
    """A graph of one or two branches, necks, a decoder, heads and auxiliary heads; now and then spoilt."""
    builder = Builder(draw)
    builder.branches()
    for _ in range(draw(st.sampled_from((0, 1, 1, 2, 3)))):
        builder.append(NECKS)
    trunk = builder.last
    outputs = []
    embedded = draw(st.sampled_from((*["not"] * 6, "alone", "beside")))
    if embedded != "not":
        builder.append((composer.EmbeddingHead,))
        outputs.append(builder.last)
    if embedded != "alone":
        builder.append(DECODERS, after=trunk)
        decoded = builder.last
        builder.head()
        outputs.append(builder.last)
        if draw(st.integers(0, 4)) == 0:
            builder.append(HEADS, after=decoded)
            outputs.append(builder.last)
    auxiliary = {}
    for label in ("early", "late")[: draw(st.sampled_from((0, 0, 1, 2)))]:
        builder.append(DECODERS, after=trunk)
        builder.head()
        auxiliary[label] = builder.last
    graph = composer.Graph(
        inputs=builder.inputs,
        nodes=builder.nodes,
        outputs=outputs,
        auxiliary=auxiliary,
        rescale=draw(st.sampled_from((True, True, False))),
        padding=composer.Padding(
            mode=draw(st.sampled_from(("reflect", "replicate", "zeros"))), side=draw(st.sampled_from(("both", "end")))
        ),
    )
    return spoilt(draw, graph) if draw(st.integers(0, 5)) == 0 else graph


class Builder:
    """Appends nodes, mostly such that each takes what the one before it gives."""

    def __init__(self, draw):
        self.draw = draw
        self.frames = draw(st.sampled_from((None, None, None, None, 3, 1)))
        self.inputs = {"first": composer.Image(channels=3, frames=self.frames)}
        self.nodes = []
        self.given = {"first": (self.inputs["first"].feature,)}
        self.last = "first"

    def branches(self):
        # An encoder sees all frames at once, or it is one of stills; then what it gives is mostly pooled.
        at_once = self.draw(st.sampled_from((None, None, self.frames)))
        stills = self.frames is not None and at_once is None
        pyramid = self.draw(levels())
        pyramid = tuple(map(still, pyramid)) if stills else pyramid
        self.add("one", Toy(features=pyramid, frames=at_once, sizes=self.draw(sizes())), ("first",))
        if self.draw(st.booleans()):
            self.beside(pyramid, at_once)
        if stills and self.draw(st.integers(0, 3)):
            self.append((composer.TemporalPooling,))

    def beside(self, pyramid, at_once):
        """A second branch, and the join of the two."""
        stride = self.draw(st.sampled_from((1, 2, 2)))
        alike = tuple(f if f.stride is None else evolve(f, stride=f.stride / stride) for f in pyramid)
        shared = [None] * 2 if stride == 1 else [None]
        given = self.draw(st.sampled_from((*shared, alike, alike, alike, self.draw(levels()))))
        channels = self.draw(st.sampled_from((3, 3, 4))) if given is None else 3
        self.inputs["second"] = composer.Image(channels=channels, stride=stride, frames=self.frames)
        self.given["second"] = (self.inputs["second"].feature,)
        part = Shared("one") if given is None else Toy(features=given, frames=at_once, sizes=self.draw(sizes(stride)))
        self.add("two", part, ("second",))
        self.append(JOINS, after="one", beside=("two",))

    def head(self):
        """A head, but after a decoder that has one."""
        if not self.nodes[-1].part.includes_head:
            self.append((*HEADS, composer.EmbeddingHead))

    def append(self, part_classes, after=None, beside=()):
        sources = (after or self.last, *beside)
        inputs = tuple(self.given.get(source, ()) for source in sources)
        part = self.draw(parts_for(self.draw(st.sampled_from(part_classes)), inputs))
        for _ in range(12 if self.draw(st.integers(0, 9)) else 0):
            if not isinstance(composer.contract(part, *inputs), Rejection):
                break
            part = self.draw(parts_for(self.draw(st.sampled_from(part_classes)), inputs))
        self.add(f"node{len(self.nodes)}", part, sources)

    def add(self, name, part, sources):
        self.nodes.append(Node(name, part, sources))
        owner = part if not isinstance(part, Shared) else self.nodes[0].part
        outcome = composer.contract(owner, *(self.given.get(source, ()) for source in sources))
        self.given[name] = () if isinstance(outcome, Rejection) else outcome.features
        self.last = name


def still(feature):
    """The same feature without frames."""
    return drop_frames(feature) if "t" in feature.axes else evolve(feature, frames=1)


def spoilt(draw, graph):
    """A graph with one thing wrong that has nothing to do with features."""
    first, *others = graph.nodes
    fault = draw(st.sampled_from(("reference", "cycle", "unused", "name", "output", "head")))
    match fault:
        case "reference":
            return evolve(graph, nodes=[evolve(first, inputs=["nowhere"]), *others])
        case "cycle":
            return evolve(graph, nodes=[evolve(first, inputs=[graph.outputs[0]]), *others])
        case "unused":
            return evolve(graph, inputs={**dict(graph.inputs), "idle": composer.Image()})
        case "name":
            return evolve(graph, nodes=[*graph.nodes, Node("train", composer.SelectIndices(indices=[0]), first.name)])
        case "output":
            return evolve(graph, outputs=[first.name, *graph.outputs])
    again = Node("again", composer.SegmentationHead(num_classes=2), graph.outputs[0])
    return evolve(graph, nodes=[*graph.nodes, again], outputs=[again.name, *graph.outputs])


def test_a_graph_is_what_infer_says_or_is_refused_with_a_place():
    check_graphs(250, graphs(), {*PARTS, *SHAPES, *SIZES, *RULES}, accepted=40)


def check_graphs(examples, graphs, wanted=frozenset(), accepted=4):
    """Hold graphs to what is inferred of them, where they are not refused with a place in them.

    What is wanted of them is drawn, and so many are built and run.
    """
    drawn = Counter()

    @draw_examples(examples)
    @given(graphs, st.tuples(st.integers(0, 69), st.integers(0, 69)))
    def holds(graph, size):
        try:
            typed = composer.infer(graph)
        except composer.SpecError as error:
            names = {node.name for node in graph.nodes} | dict(graph.inputs).keys()
            assert all(problem.place.path.split(".")[0] in names for problem in error.problems)
            drawn.update(problem.code for problem in error.problems)
            return
        facts = {"accepted", *(type(node.part) for node in graph.nodes), *shapes_of(typed), *sizes_of(typed.sizes)}
        if drawn["accepted"] < max(accepted, REFUSED) or min(drawn[fact] for fact in facts) < 2:
            check(size, typed)
            drawn.update(facts)

    def is_complete():
        return wanted <= drawn.keys() and drawn["accepted"] >= accepted

    holds()
    draw_more(holds, is_complete)

    assert is_complete(), drawn


def shapes_of(typed):
    graph = typed.graph
    yield "one input" if len(graph.inputs) == 1 else "two inputs"
    embedded = [name for name in typed.ends if name in typed.embeddings]
    facts = {
        "half resolution": any(image.stride == 2 for _, image in graph.inputs),
        "shared": any(isinstance(node.part, Shared) for node in graph.nodes),
        "joined": any(isinstance(node.part, JOINS) for node in graph.nodes),
        "aux": bool(graph.auxiliary),
        "two outputs": len(graph.outputs) > 1,
        "not rescaled": not graph.rescale,
        "frame by frame": bool(typed.per_frame),
        "frames at once": any(isinstance(node.part, Toy) and node.part.frames for node in graph.nodes),
        "embedding": bool(embedded),
        "embedding of many": any(len(typed.features[name]) > 1 for name in embedded),
        "embedding of frames": any("t" in feature.axes for name in embedded for feature in typed.features[name]),
        "auxiliary embedding": bool({*embedded} & {*dict(graph.auxiliary).values()}),
    }
    yield from (name for name, holds in facts.items() if holds)


def sizes_of(taken):
    facts = {
        "fixed height": taken.height is not None,
        "fixed width": taken.width is not None,
        "square": taken.square and taken.height is None,
        "least": taken.least > taken.multiple,
        "multiple of 3": taken.multiple % 3 == 0,
    }
    yield from (name for name, holds in facts.items() if holds)


def check(size, typed, device="cpu"):
    """Every edge of a forward pass at any size, padded as need be, is what was inferred; so is every output."""
    unit = max(int(image.stride) for _, image in typed.graph.inputs)
    largest = [min(70, fixed or 70) // unit for fixed in (typed.sizes.height, typed.sizes.width)]
    height, width = (unit * (1 + side % cells) for side, cells in zip(size, largest, strict=True))
    # Where a square has one fixed side the other is fixed too, so nothing drawn here is too large to be padded.
    padded = typed.sizes.compute_padded_size(height, width)
    model = composer.build(typed, device=device).eval().to("meta")
    edges = recorded(model)
    images = {
        name: torch.empty(image.feature.shape(2, height, width), device="meta") for name, image in typed.graph.inputs
    }

    with torch.no_grad():
        out = model(images)

    expected = {node.name: [f.shape(2, *padded) for f in typed.features[node.name]] for node in typed.order}
    assert {name: [tuple(x.shape) for x in xs] for name, xs in edges.items()} == expected
    assert {name: shapes_in(given) for name, given in outputs_of(out, typed.graph).items()} == {
        name: typed.shape(name, height, width) for name in typed.ends
    }


def outputs_of(out, graph):
    """What a model gives, by node."""
    main = out.output if isinstance(out.output, dict) else {graph.outputs[0]: out.output}
    return main | {node: out.auxiliary_heads[label] for label, node in graph.auxiliary}


def shapes_in(given):
    """The shape of an output, or of each tensor of an embedding."""
    return tuple(map(shapes_in, given)) if isinstance(given, tuple) else ("b", *given.shape[1:])


def recorded(model):
    """What each node of `model` gives, by name, filled in by the next forward pass."""
    edges = {}
    run = model._run_node

    def recording(step, *given):
        edges[step.name] = run(step, *given)
        return edges[step.name]

    model._run_node = recording
    return edges
