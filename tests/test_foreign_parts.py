"""Parts of somebody else's: whatever attrs lets their fields do, a text is read or refused at the right place."""

from fractions import Fraction
from typing import Literal

import attrs
import pytest
from attrs import field, frozen

import composer
from composer.errors import SpecError
from composer.graph import chain
from composer.parts import PARTS, Encoder, Neck, Timm
from composer.spec.reader import reads
from composer.spec.writer import digest, write


def four(_, attribute, value):
    if len(value) != 4:
        raise ValueError(f"{attribute.name} must have 4 entries")


def upper(value, instance):
    return tuple(name.upper() for name in value) if isinstance(instance, Foreign) else None


@frozen(kw_only=True)
class Foreign(Neck):
    """One field of every sort."""

    many: tuple[int, ...] = field(default=(1, 2, 3, 4), validator=four)
    least: int = 0
    most: int = field(default=9)
    rate: float = field(default=0.5, validator=attrs.validators.instance_of(float))
    ratio: Fraction = field(default="3/4", converter=Fraction)
    mode: Literal["fast", "exact", 3] = "fast"
    names: tuple[str, ...] = ()
    pairs: tuple[tuple[int, str], ...] = ()
    anything: object = None
    plain: list[int] | None = None
    loud: tuple[str, ...] = field(default=(), converter=attrs.Converter(upper, takes_self=True))
    _hidden: int = 1
    made: int = field(default=5, init=False)

    @most.validator
    def _in_order(self, attribute, value):
        if value < self.least:
            raise ValueError(f"most must not be under least (got {value})")


@frozen
class Own(Encoder):
    """A source of one's own."""

    source = "own"

    name: str
    width: int = field(default=1, kw_only=True)


MINE = {**PARTS, "Foreign": Foreign, "own/": Own}


def neck(fields):
    return f"encoder: timm/x\nnecks:\n  - Foreign: {fields}\n"


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ("{rate: 2.5}", Foreign(rate=2.5)),
        ("{ratio: 3/2}", Foreign(ratio=Fraction(3, 2))),
        ("{mode: 3}", Foreign(mode=3)),
        ('{names: [no, "1"]}', Foreign(names=("no", "1"))),
        ("{pairs: [[1, a], [2, b]]}", Foreign(pairs=((1, "a"), (2, "b")))),
        ("{anything: [1, [a]]}", Foreign(anything=(1, ("a",)))),
        ("{plain: [1]}", Foreign(plain=(1,))),
        ("{loud: [A]}", Foreign(loud=("a",))),
        ("{hidden: 2}", Foreign(hidden=2)),
        ("{least: 3, most: 4}", Foreign(least=3, most=4)),
    ],
    ids=str.split("float ratio literal strings pairs anything list converter private ordered"),
)
def test_fields_of_every_sort_are_read_and_written(fields, value):
    graph = reads(neck(fields), parts=MINE)
    assert graph.nodes[1].part == value
    assert write(graph, parts=MINE) == neck(fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("{many: [1, 2]}", "3:21: error[value] necks[0].many: many must have 4 entries."),
        ("{most: -1}", "3:21: error[value] necks[0].most: most must not be under least (got -1)."),
        ("{least: 5, most: 4}", "3:31: error[value] necks[0].most: most must not be under least (got 4)."),
        ("{rate: .inf}", "3:21: error[value] necks[0].rate: a number is finite (got inf)."),
        ("{ratio: 0}", "3:22: error[value] necks[0].ratio: a stride must be positive (got 0)."),
        ("{mode: exakt}", "3:21: error[type] necks[0].mode: expected one of fast, exact, 3 (got 'exakt', a string)."),
        ("{pairs: [[1, 2]]}", "3:27: error[type] necks[0].pairs[0][1]: expected a string (got 2, a whole number)."),
        ("{names: {}}", "3:22: error[type] necks[0].names: expected a list of strings (got a mapping)."),
        ("{made: 1}", "3:15: error[key] necks[0].made: Foreign has no field 'made'."),
    ],
    ids=str.split("length order cross infinite ratio literal pair mapping made"),
)  # fmt: skip
def test_fields_of_every_sort_are_refused_in_their_place(fields, message):
    with pytest.raises(SpecError) as caught:
        reads(neck(fields), parts=MINE)
    assert str(caught.value).partition("\n")[0] == f"<text>:{message}"


def test_a_source_of_ones_own():
    text = "encoder: {own/a/b.c: {width: 2}}\n"
    assert reads(text, parts=MINE) == chain(Own("a/b.c", width=2))
    assert write(chain(Own("a/b.c", width=2)), parts=MINE) == text


def test_a_field_that_is_no_plain_value_has_neither_text_nor_digest():
    graph = chain(Timm("x"), Foreign(anything=object()))
    with pytest.raises(
        SpecError, match=r"necks\[0\].anything: object is not a plain value, so it cannot be written in a spec\."
    ):
        write(graph, parts=MINE)
    with pytest.raises(
        SpecError, match=r"necks\[0\].anything: object is not a plain value, so it cannot be written in a spec\."
    ):
        digest(graph)


def test_parts_of_one_name_have_their_own_digests():
    other = type("Foreign", (Neck,), {"__module__": "elsewhere"})
    assert digest(chain(Timm("x"), Foreign())) != digest(chain(Timm("x"), frozen(other)()))


@frozen(kw_only=True)
class Plain(Neck):
    """Its contract returns what it is told to."""

    result: object


@composer.contract.register(Plain)
def _(neck, features):
    return neck.result


def test_plain_features_become_outputs():
    features = (composer.Feature(channels=3),)

    assert composer.contract(Plain(result=list(features)), features) == composer.Outputs(features=features)


@pytest.mark.parametrize("result", [None, "abc", 3, [None]], ids=repr)
def test_a_contract_that_returns_something_else_raises(result):
    message = f"the contract of Plain must return features, Outputs or a Rejection (got {result!r})"

    with pytest.raises(TypeError) as called:
        composer.contract(Plain(result=result), ())
    with pytest.raises(TypeError) as inferred:
        composer.infer(chain(Timm("resnet18"), Plain(result=result)))

    assert str(called.value) == str(inferred.value) == message


def test_contracts_are_dispatched_by_class():
    assert composer.contract.dispatch(Plain) is not composer.contract.dispatch(object)
    assert composer.contract.dispatch(Foreign) is composer.contract.dispatch(object)
