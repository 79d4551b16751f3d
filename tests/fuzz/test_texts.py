"""Texts that are drawn: spelled in every style they mean the same, hold all that a text may hold, and shrink well."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

import composer
from composer.errors import SpecError
from composer.spec.yaml import parse_document
from tests.fuzz.grammar import DRAWABLE_PARTS, texts
from tests.fuzz.mutations import generate_mutations, to_plain_data
from tests.fuzz.seeds import BUILTIN_SEEDS
from tests.fuzz.yaml_styles import generate_yaml_styles

pytestmark = pytest.mark.slow
ALIKE = settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
SEARCH = settings(ALIKE, max_examples=2000, phases=[Phase.generate, Phase.shrink], database=None)

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
scalars = scalars.filter(lambda value: not isinstance(value, int) or abs(value) < 10**39)
data = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
)


@ALIKE
@given(st.data(), st.dictionaries(st.text(max_size=6), data, min_size=1, max_size=4))
def test_data_mean_the_same_in_every_style(drawn, said):
    tree, problems = parse_document(drawn.draw(generate_yaml_styles(said)))

    assert problems == []
    assert repr(to_plain_data(tree)) == repr(said)


@pytest.fixture(scope="module")
def some():
    """A hundred texts of the grammar, the same ones every time, each with its graph and whether it is accepted."""
    found = []

    @settings(ALIKE, max_examples=100, phases=[Phase.generate])
    @given(texts())
    def collect(text):
        graph, typed = composer.reads(text), None
        with suppress(SpecError):
            typed = composer.infer(graph)
        found.append((text, graph, typed))

    collect()
    return found


HELD = {
    "a chain": lambda text, graph, typed: "nodes" not in to_plain_data(parse_document(text)[0]),
    "a graph of names": lambda text, graph, typed: "nodes" in to_plain_data(parse_document(text)[0]),
    "several inputs": lambda text, graph, typed: len(graph.inputs) > 1,
    "auxiliary heads": lambda text, graph, typed: bool(graph.auxiliary),
    "frames": lambda text, graph, typed: any(image.frames for _, image in graph.inputs),
    "a size": lambda text, graph, typed: any(image.size for _, image in graph.inputs),
    "a crop": lambda text, graph, typed: graph.crop is not None,
    "padding": lambda text, graph, typed: graph.padding != composer.Padding(),
    "shared weights": lambda text, graph, typed: any(isinstance(node.part, composer.Shared) for node in graph.nodes),
    "an alias": lambda text, graph, typed: "&a0" in text,
    "block style": lambda text, graph, typed: ":\n " in text,
    "what is accepted": lambda text, graph, typed: typed is not None,
    "what is refused": lambda text, graph, typed: typed is None,
}


@pytest.mark.parametrize("holds", HELD.values(), ids=HELD)
def test_texts_hold_all_that_a_text_may_hold(some, holds):
    assert any(holds(*one) for one in some)


def test_every_part_with_known_fields_is_drawn():
    assert {*composer.parts.NECKS, *composer.parts.DECODERS, *composer.parts.HEADS} <= set(DRAWABLE_PARTS)


def test_what_is_drawn_shrinks_to_something_readable():
    smallest = find(texts(), lambda text: "FCNDecoder" in text, settings=SEARCH)

    assert smallest.startswith("encoder: timm/")
    assert len(smallest.splitlines()) <= 5


def refused(text):
    """The rules that a text breaks when it is read."""
    try:
        composer.reads(text)
    except SpecError as error:
        return {problem.code for problem in error.problems}
    return set()


@pytest.mark.parametrize("code", ["yaml", "type", "key", "part", "reference"])
def test_what_is_spoilt_breaks_every_rule_of_reading_and_stays_short(code):
    smallest = find(generate_mutations(*BUILTIN_SEEDS), lambda text: code in refused(text), settings=SEARCH)

    assert len(smallest) <= max(map(len, BUILTIN_SEEDS)) + 40
