"""The strategies draw what they say: all layouts, declarations that are valid, graphs of which most are lawful."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
from attrs import field, frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import composer
from composer.parts import DECODERS, HEADS, NECKS
from composer.testing.failures import ContractUncheckable
from composer.testing.strategies import (
    LAYOUTS,
    chains,
    features,
    graphs,
    images,
    pyramids,
    sample_declarations,
    valid,
)

QUICK = settings(
    max_examples=150, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


def drawn(strategy) -> list:
    """What a strategy draws, the same every time."""
    seen = []

    @QUICK
    @given(strategy)
    def gather(value):
        seen.append(value)

    gather()
    return seen


def test_features_are_of_every_layout_rounding_prefix_and_number_of_frames_and_levels():
    seen = drawn(features())
    assert {f.axes for f in seen} == set(LAYOUTS)
    assert {f.rounding for f in seen} == {"exact", "floor", "ceil"}
    assert {f.prefix for f in seen} == {0, 1, 5}
    assert {f.frames for f in seen} == {1, 3}
    assert {len(levels) for levels in drawn(pyramids())} == {1, 2, 3, 4, 5}


def test_images_have_frames_or_none_and_a_size_or_none():
    seen = drawn(images())
    assert {image.frames for image in seen} == {None, 1, 2, 3}
    assert {image.size for image in seen} == {None, (64, 64), (64, 96)}


@pytest.mark.parametrize("part", [*NECKS, *DECODERS, *HEADS, composer.Smp, composer.Timm], ids=lambda p: p.__name__)
def test_declarations_are_of_the_class_and_unlike(part):
    seen = drawn(valid(part))
    assert {type(one) for one in seen} == {part}
    names = ("name",) if part.source else [one.alias for one in part.__attrs_attrs__]
    assert [name for name in names if len({repr(getattr(one, name)) for one in seen}) == 1] == []


@frozen(kw_only=True)
class Choosy(composer.Neck):
    """A neck with a field of which nothing is known, and one that is told by its validator."""

    mode: str
    width: int = field(default=8)

    def __attrs_post_init__(self):
        if self.width % 8:
            raise ValueError("width must be a multiple of 8")


def test_a_field_of_which_too_little_is_known_is_asked_for():
    with pytest.raises(ContractUncheckable) as caught:
        valid(Choosy)
    assert str(caught.value) == (
        "cannot generate values of Choosy.mode: give the field a default, an annotation or a validator that lists its "
        "values, or call valid(Choosy, mode=[…])"
    )


@pytest.mark.parametrize("modes", [st.sampled_from(["near", "far"]), ["near", "far"]], ids=["strategy", "list"])
def test_a_field_is_drawn_as_said_and_what_the_class_refuses_is_no_draw(modes):
    seen = drawn(valid(Choosy, mode=modes))
    assert {one.mode for one in seen} == {"near", "far"}
    assert {one.width for one in seen} == {8, 16, 32}


WRONG = {
    "no such field": ({"mod": ["near"]}, "Choosy has no field 'mod': it has mode, width"),
    "a string": ({"mode": "near"}, "Choosy.mode must be a list of values or a strategy (got 'near')"),
    "a value": ({"width": 8}, "Choosy.width must be a list of values or a strategy (got 8)"),
    "no values": ({"width": []}, "Choosy.width must be a list of values or a strategy (got [])"),
}


@pytest.mark.parametrize(("told", "message"), WRONG.values(), ids=WRONG)
def test_a_field_that_is_told_wrongly(told, message):
    with pytest.raises(TypeError) as caught:
        valid(Choosy, **told)
    assert str(caught.value) == message


def test_declarations_that_the_class_always_refuses_are_told():
    with pytest.raises(ContractUncheckable) as caught:
        sample_declarations(Choosy, 6, mode=["near"], width=[3])
    assert str(caught.value) == "Choosy rejects all generated field values; pass others: valid(Choosy, …)"


@frozen(kw_only=True)
class Careless(composer.Neck):
    """A neck with a field that cannot be hashed, another that nothing is known of, and a rule that is asserted."""

    widths: list[int] = field(factory=list)
    mode: str = "near"
    heads: int = 4

    def __attrs_post_init__(self):
        assert self.heads % 2 == 0, "heads must be even"


def test_declarations_need_not_be_hashable_and_what_is_asserted_is_refused():
    found = sample_declarations(Careless, 6)
    assert found[0] == Careless()
    assert len(found) == 6
    assert not any(one == other for one, other in combinations(found, 2))
    assert {one.heads % 2 for one in found} == {0}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [chains(), graphs()], ids=["chains", "graphs"])
def test_many_graphs_are_lawful_and_some_are_not(strategy):
    outcomes = Counter(_outcome(graph) for graph in drawn(strategy))
    assert outcomes["lawful"] > 20, outcomes
    assert outcomes["refused"] > 20, outcomes


def _outcome(graph):
    try:
        composer.infer(graph)
    except composer.SpecError:
        return "refused"
    return "lawful"
