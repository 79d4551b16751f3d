"""The text stage: reading and writing are inverse, scalars are YAML 1.2's, every path has its place."""

import math

import pytest
from attrs import evolve, field, frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer.errors import SpecError
from composer.graph import Graph, Node, Shared, chain
from composer.layouts import Feature, Image
from composer.parts import PARTS, Custom, FCNDecoder, Neck, RegressionHead, SegmentationHead, SelectIndices, Timm
from composer.sizes import Padding
from composer.spec.reader import reads
from composer.spec.writer import digest, write
from composer.spec.yaml import format_scalar, parse_scalar
from tests.graphs import AWKWARD, chains, graphs

SLOW_TO_DRAW = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)

CHAIN = """\
input: {channels: 6, size: [224, 224]}
encoder: {timm/resnet50: {out_indices: [1, 2], options: {drop_rate: 0.1}}}
necks:
  - SelectIndices: {indices: [0, -1]}
  - AddBottleneckLayer
decoder: UperNetDecoder
head: {SegmentationHead: {num_classes: 10}}
aux:
  early: {decoder: FCNDecoder, head: {SegmentationHead: {num_classes: 2}}}
rescale: false
padding: {side: end}
"""
GRAPH = """\
inputs: {before: {}, after: {stride: 3/2, frames: 2}}
nodes:
  old: {part: timm/resnet18, from: before}
  new: {share: old, from: after}
  both: {part: ConcatFeatures, from: [old, new]}
  named: {part: AddFeatures, from: {no: both, "true": both}}
  decoded: {part: {FCNDecoder: {num_convs: 2}}, from: named}
outputs: [decoded]
auxiliary: {middle: both}
padding: {mode: zeros}
"""


def problems(text, **arguments):
    """All that is wrong with a text, as it is printed."""
    with pytest.raises(SpecError) as caught:
        reads(text, **arguments)
    return str(caught.value)


# --- reading and writing are inverse


@SLOW_TO_DRAW
@given(chains() | graphs())
def test_reading_undoes_writing(graph):
    text = write(graph)
    same = reads(text)
    assert same == graph
    assert write(same) == text
    assert digest(same) == digest(graph)


@pytest.mark.parametrize("text", [CHAIN, GRAPH], ids=["chain", "graph"])
def test_texts_are_written_as_a_person_writes_them(text):
    assert write(reads(text)) == text


def test_long_values_stand_below_each_other():
    head = SegmentationHead(num_classes=3, channel_list=list(range(1000, 1030)), dropout=0.25)
    graph = chain(Timm("resnet18", options={"a": "x" * 80, "b": [1, 2]}), FCNDecoder(), head)
    assert write(graph) == "\n".join(
        [
            "encoder:",
            "  timm/resnet18:",
            "    options:",
            f"      a: {'x' * 80}",
            "      b: [1, 2]",
            "decoder: FCNDecoder",
            "head:",
            "  SegmentationHead:",
            "    num_classes: 3",
            "    channel_list:",
            *[f"      - {width}" for width in range(1000, 1030)],
            "    dropout: 0.25\n",
        ]
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (23, f"  - SelectIndices: {{indices: [10{', 1' * 22}]}}\n"),
        (24, f"  - SelectIndices:\n      indices: [10{', 1' * 23}]\n"),
    ],
    ids=["fits", "does not"],
)
def test_a_line_has_a_hundred_columns(count, text):
    neck = SelectIndices(indices=[10] + [1] * (count - 1))
    assert write(chain(Timm("resnet18"), neck)) == f"encoder: timm/resnet18\nnecks:\n{text}"


def test_a_chain_and_the_same_nodes_are_equal():
    nodes = """\
inputs: {image: {}}
nodes:
  encoder: {part: timm/resnet18, from: image}
  "necks[0]": {part: {SelectIndices: {indices: [-1]}}, from: encoder}
  decoder: {part: FCNDecoder, from: "necks[0]"}
  aux.early.decoder: {part: FCNDecoder, from: ["necks[0]"]}
outputs: [decoder]
auxiliary: {early: aux.early.decoder}
"""
    sugar = """\
encoder: timm/resnet18
necks: [{SelectIndices: {indices: [-1]}}]
decoder: {FCNDecoder: null}
aux: {early: {decoder: {FCNDecoder: {}}}}
"""
    made = chain(Timm("resnet18"), SelectIndices(indices=[-1]), FCNDecoder(), aux={"early": (FCNDecoder(),)})
    assert reads(nodes) == reads(sugar) == made
    assert digest(reads(nodes)) == digest(made)


BASE = chain(Timm("resnet18"), FCNDecoder(), RegressionHead())


@pytest.mark.parametrize(
    "other",
    [
        evolve(BASE, rescale=False),
        evolve(BASE, padding=Padding(side="end")),
        evolve(BASE, crop=(64, 64)),
        evolve(BASE, outputs=("decoder",)),
        evolve(BASE, auxiliary={"x": "decoder"}),
        evolve(BASE, inputs={"image": Image(channels=4)}),
        evolve(BASE, nodes=BASE.nodes[:-1]),
        evolve(BASE, nodes=BASE.nodes[::-1]),
        evolve(BASE, nodes=(*BASE.nodes[:2], Node("head", RegressionHead(), "encoder"))),
        evolve(BASE, nodes=(*BASE.nodes[:2], Node("head", RegressionHead(), {"x": "decoder"}))),
        evolve(BASE, nodes=(*BASE.nodes[:2], Node("head", Shared("decoder"), "decoder"))),
        chain(Timm("resnet34"), FCNDecoder(), RegressionHead()),
        chain(Timm("resnet18"), FCNDecoder(num_convs=1), RegressionHead()),
        chain(Timm("resnet18", pretrained="True"), FCNDecoder(), RegressionHead()),
        chain(Timm("resnet18", pretrained=True), FCNDecoder(), RegressionHead()),
    ],
    ids=str.split(
        "rescale padding crop outputs auxiliary inputs fewer order sources named share network field string truth"
    ),
)
def test_different_graphs_have_different_digests(other):
    assert digest(other) != digest(BASE)
    assert len(digest(other)) == 64


def test_what_is_shared_counts_for_the_digest():
    nodes = [Node(name, Timm("resnet18"), "image") for name in ("a", "b")]
    one, other = (
        Graph(inputs={"image": Image()}, nodes=[*nodes, Node("c", Shared(owner), "image")], outputs=["a", "b", "c"])
        for owner in ("a", "b")
    )
    assert digest(one) != digest(other)


def test_numbers_that_are_equal_have_one_digest():
    one, same = (chain(Timm("resnet18", options={"a": value})) for value in (1, 1.0))
    assert (one == same, digest(one) == digest(same)) == (True, True)


# --- what has no text


def custom(name):
    return Node(name, Custom(object(), features=Feature(channels=3)), "image")


@pytest.mark.parametrize("function", [write, digest], ids=["write", "digest"])
def test_a_live_module_has_neither_text_nor_digest(function):
    graph = Graph(inputs={"image": Image()}, nodes=[custom("a"), custom("b")], outputs=["a", "b"])
    with pytest.raises(SpecError) as caught:
        function(graph)
    assert [problem.place.path for problem in caught.value.problems] == ["a", "b"]
    assert str(caught.value).startswith(
        "error[yaml] a: Custom holds a live module, which cannot be written in a spec.\n  fix: "
    )


@frozen(kw_only=True)
class Doubler(Neck):
    """A part of somebody else's."""

    times: int = field(default=2)


def test_a_part_of_ones_own_is_read_and_written_where_it_is_handed_in():
    mine = {**PARTS, "Doubler": Doubler}
    graph = chain(Timm("resnet18"), Doubler(times=3))
    text = "encoder: timm/resnet18\nnecks:\n  - Doubler: {times: 3}\n"
    assert write(graph, parts=mine) == text
    assert reads(text, parts=mine) == graph
    assert problems(text) == (
        "<text>:3:5: error[part] necks[0]: there is no neck 'Doubler'.\n"
        "  fix: known: AddBottleneckLayer, AddFeatures, AggregateTokens, ConcatFeatures, FeaturePyramidNetworkNeck, "
        "InterpolateToPyramidal, LearnedInterpolateToPyramidal, MaxpoolToPyramidal, PermuteDims, "
        "ReshapeTokensToImage, SelectIndices, TemporalPooling"
    )


UNWRITABLE = {
    "part": (
        chain(Timm("resnet18"), Doubler()),
        """\
error[yaml] necks[0]: Doubler is not among the parts that a text may name.
  fix: hand it in: parts={**PARTS, 'Doubler': Doubler}""",
    ),
    "infinite": (
        chain(Timm("resnet18", options={"x": math.inf})),
        "error[value] encoder.options.x: a number is finite (got inf).",
    ),
    "unknown": (
        evolve(BASE, outputs=("tail",)),
        "error[reference] outputs[0]: there is no node 'tail'.\n  fix: known: decoder, encoder, head",
    ),
    "repeated": (
        evolve(BASE, nodes=(*BASE.nodes, Node("head", RegressionHead(), "decoder"))),
        "error[yaml] the graph holds a value that cannot be written in a spec.",
    ),
}


@pytest.mark.parametrize(("graph", "message"), UNWRITABLE.values(), ids=UNWRITABLE)
def test_what_no_text_says_is_refused(graph, message):
    with pytest.raises(SpecError) as caught:
        write(graph)
    assert str(caught.value) == message


# --- scalars


SCALARS = {
    **dict.fromkeys(("", "~", "null", "NULL")),
    **dict.fromkeys(("true", "True"), True),
    "FALSE": False,
    "0": 0,
    "010": 10,
    "-12": -12,
    "+12": 12,
    "0o17": 15,
    "0x1F": 31,
    "1e-1": 0.1,
    ".5": 0.5,
    "5.": 5.0,
    "-.5e+3": -500.0,
    ".inf": math.inf,
    "-.INF": -math.inf,
    **{word: word for word in ("nUll", "tRue", "no", "on", "Yes", "-0x1F", "0b1", "1_000", "1:30", "inf", "nan", ".")},
    **{word: word for word in ("-", "e5", "1.2.3", "2026-01-01", "٣", "<<")},
}


@pytest.mark.parametrize(("word", "value"), SCALARS.items(), ids=[f"'{word}'" for word in SCALARS])
def test_words_mean_what_the_core_schema_says(word, value):
    assert (parse_scalar(word), type(parse_scalar(word))) == (value, type(value))


def test_nan_is_a_number():
    assert math.isnan(parse_scalar(".NaN"))


@pytest.mark.parametrize(
    ("value", "spelling"),
    [
        *[(word, word) for word in ("no", "a b", "décodeur", "3/2", "./x.pt")],
        *[(word, f'"{word}"') for word in ("1e-1", "true", "010", "null", "", "9" * 50, "<<", "a  b", "a ", "a: b")],
        ("...", '"..."'),
        ("a\x85b", '"a\\u0085b"'),
        ('"\\\n', '"\\"\\\\\\n"'),
        ("🙂", '"🙂"'),
        (None, "null"),
        (False, "false"),
        (1e16, "1e+16"),
        (-math.inf, "-.inf"),
    ],
    ids=repr,
)
def test_values_are_quoted_only_where_they_must_be(value, spelling):
    assert format_scalar(value) == spelling


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(AWKWARD))
def test_any_string_survives(value):
    text = f"encoder: {{timm/x: {{options: {{a: {format_scalar(value)}}}}}}}\n"
    assert reads(text).nodes[0].part.options == (("a", value),)


# --- where things stand


def test_marks_of_a_chain():
    assert reads(CHAIN, name="x.yaml").source.marks == {
        "": (1, 1),
        "image": (1, 8),
        "input": (1, 8),
        "input.channels": (1, 19),
        "input.size": (1, 28),
        "input.size[0]": (1, 29),
        "input.size[1]": (1, 34),
        "encoder": (2, 10),
        "encoder.out_indices": (2, 40),
        "encoder.out_indices[0]": (2, 41),
        "encoder.out_indices[1]": (2, 44),
        "encoder.options": (2, 57),
        "encoder.options.drop_rate": (2, 69),
        "necks": (4, 3),
        "necks[0]": (4, 5),
        "necks[0].indices": (4, 30),
        "necks[0].indices[0]": (4, 31),
        "necks[0].indices[1]": (4, 34),
        "necks[1]": (5, 5),
        "decoder": (6, 10),
        "head": (7, 7),
        "head.num_classes": (7, 40),
        "aux": (9, 3),
        "aux.early": (9, 10),
        "aux.early.decoder": (9, 20),
        "aux.early.head": (9, 38),
        "aux.early.head.num_classes": (9, 71),
        "rescale": (10, 10),
        "padding": (11, 10),
        "padding.side": (11, 17),
    }


@pytest.mark.parametrize(
    "text",
    [
        "encoder: timm/resnet18\r\nhead: 5\r\n",
        "\ufeffencoder: timm/resnet18\nhead: 5",
        "encoder: timm/resnet18\rhead: 5\r",
    ],
    ids=["windows", "bom", "old mac"],
)
def test_line_endings_and_a_bom_move_nothing(text):
    assert problems(text).startswith("<text>:2:7: error[type] head: ")


def test_an_alias_stands_where_its_value_stands():
    text = "encoder: timm/x\ndecoder: &d {FCNDecoder: {num_convs: 2}}\naux: {a: {decoder: *d}}\n"
    graph = reads(text)
    assert graph.nodes[1].part == graph.nodes[2].part == FCNDecoder(num_convs=2)
    assert graph.source.marks["aux.a.decoder"] == graph.source.marks["decoder"] == (2, 10)
