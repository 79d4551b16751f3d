"""Texts that are drawn: spelled in every style they mean the same, and spoilt they shrink to something readable."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

import composer
from composer.errors import SpecError
from composer.spec.yaml import MappingNode, ScalarNode, parse_document
from tests.fuzz.grammar import texts
from tests.fuzz.mutations import generate_mutations
from tests.fuzz.seeds import BUILTIN_SEEDS, SPECS_FOLDER, list_seeds
from tests.fuzz.yaml_styles import generate_yaml_styles

ALIKE = settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
SEARCH = settings(ALIKE, max_examples=2000, phases=[Phase.generate, Phase.shrink], database=None)

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
scalars = scalars.filter(lambda value: not isinstance(value, int) or abs(value) < 10**39)
data = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
)


def plain(tree):
    """A tree as Python has it."""
    if isinstance(tree, ScalarNode):
        return tree.value
    if isinstance(tree, MappingNode):
        return {key.value: plain(value) for key, value in tree.pairs}
    return [plain(entry) for entry in tree.entries]


@pytest.mark.slow
@ALIKE
@given(st.data(), st.dictionaries(st.text(max_size=6), data, min_size=1, max_size=4))
def test_data_mean_the_same_in_every_style(drawn, said):
    text = drawn.draw(generate_yaml_styles(said))

    tree, problems = parse_document(text)

    assert problems == []
    assert repr(plain(tree)) == repr(said)


def drawn(strategy, count):
    """So many texts, the same ones every time."""
    found = []

    @settings(ALIKE, max_examples=count, phases=[Phase.generate])
    @given(strategy)
    def collect(text):
        found.append(text)

    collect()
    return found


@pytest.fixture(scope="module")
def some():
    """Texts of the grammar, each with its graph."""
    return [(text, composer.reads(text)) for text in drawn(texts(), 100)]


HELD = {
    "a chain": lambda text, graph: "encoder" in {key.value for key, _ in parse_document(text)[0].pairs},
    "a graph of names": lambda text, graph: "nodes" in {key.value for key, _ in parse_document(text)[0].pairs},
    "several inputs": lambda text, graph: len(graph.inputs) > 1,
    "auxiliary heads": lambda text, graph: bool(graph.auxiliary),
    "frames": lambda text, graph: any(image.frames for _, image in graph.inputs),
    "a size": lambda text, graph: any(image.size for _, image in graph.inputs),
    "a crop": lambda text, graph: graph.crop is not None,
    "padding": lambda text, graph: graph.padding != composer.Padding(),
    "shared weights": lambda text, graph: any(isinstance(node.part, composer.Shared) for node in graph.nodes),
    "an alias": lambda text, graph: "&a0" in text,
    "block style": lambda text, graph: ":\n " in text,
    "flow style": lambda text, graph: "{" in text,
    "what is accepted": lambda text, graph: accepted(graph),
    "what is refused": lambda text, graph: not accepted(graph),
}


def answer(graph):
    try:
        return composer.infer(graph)
    except SpecError as error:
        return error


def accepted(graph):
    return isinstance(answer(graph), composer.TypedGraph)


@pytest.mark.slow
@pytest.mark.parametrize("holds", HELD.values(), ids=HELD)
def test_texts_hold_all_that_a_text_may_hold(some, holds):
    assert any(holds(text, graph) for text, graph in some)


@pytest.mark.slow
@ALIKE
@given(texts())
def test_what_is_drawn_is_read_to_a_graph_and_inferred_or_refused(text):
    assert isinstance(answer(composer.reads(text)), composer.TypedGraph | SpecError)


SMALLEST = {
    "any": (
        lambda text: True,
        "encoder: timm/test_resnet\ndecoder: IdentityDecoder\nhead:\n  SegmentationHead:\n    num_classes: 1\n",
    ),
    "a decoder": (
        lambda text: "FCNDecoder" in text,
        "encoder: timm/test_resnet\ndecoder: FCNDecoder\nhead:\n  SegmentationHead:\n    num_classes: 1\n",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("shows", "smallest"), SMALLEST.values(), ids=SMALLEST)
def test_what_is_drawn_shrinks_to_something_readable(shows, smallest):
    assert find(texts(), shows, settings=SEARCH) == smallest


def test_every_part_with_known_fields_is_drawn():
    from tests.fuzz.grammar import _DRAWABLE_PARTS

    assert {*composer.parts.NECKS, *composer.parts.DECODERS, *composer.parts.HEADS} <= set(_DRAWABLE_PARTS)


@pytest.mark.parametrize("text", BUILTIN_SEEDS, ids=range(len(BUILTIN_SEEDS)))
def test_the_specs_of_the_package_are_lawful(text):
    assert composer.infer(composer.reads(text)).ends


def test_the_specs_of_a_checkout_are_spoilt_too():
    assert len(list_seeds()) == len(BUILTIN_SEEDS) + len(list(SPECS_FOLDER.glob("*.yaml")))


def refused(text):
    """The rules that a text breaks when it is read."""
    try:
        composer.reads(text)
    except SpecError as error:
        return {problem.code for problem in error.problems}
    return set()


@pytest.mark.slow
@pytest.mark.parametrize("code", ["yaml", "type", "key", "part", "reference"])
def test_what_is_spoilt_breaks_every_rule_of_reading(code):
    assert find(generate_mutations(*BUILTIN_SEEDS), lambda text: code in refused(text), settings=SEARCH)


@pytest.mark.slow
def test_what_is_spoilt_shrinks_to_something_readable():
    smallest = find(generate_mutations(*BUILTIN_SEEDS), lambda text: "key" in refused(text), settings=SEARCH)

    assert len(smallest) <= max(map(len, BUILTIN_SEEDS)) + 40
    assert smallest.isprintable() or "\n" in smallest
