"""Options of foreign parts: plain data, nested in lists and mappings, frozen, and the same through a text."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import timm

import composer
from composer.parts.encoders import Timm
from composer.parts.heads import EmbeddingHead

NESTED = {"b": {"y": [1, {"z": None}], "x": "s"}, "a": 2.5}


def test_mappings_come_back_from_a_text():
    graph = composer.chain(Timm("resnet18", options=NESTED), EmbeddingHead())
    assert composer.reads(composer.write(graph)) == graph


def test_parts_with_mappings_are_values():
    one, same = Timm("resnet18", options=NESTED), Timm("resnet18", options=dict(reversed(NESTED.items())))
    other = Timm("resnet18", options={**NESTED, "b": {"y": [], "x": "s"}})
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert pickle.loads(pickle.dumps(one)) == one
    assert copy.deepcopy(one) == one


def test_mappings_of_a_part_cannot_be_changed():
    given = {"a": {"x": 1}}
    part = Timm("resnet18", options=given)
    given["a"]["x"] = 2
    assert dict(part.options)["a"] == {"x": 1}
    with pytest.raises(TypeError, match="cannot be changed"):
        dict(part.options)["a"]["x"] = 2


def test_a_constructor_gets_them():
    options = {"block_args": {"attn_layer": "se"}}
    model = composer.build(composer.chain(Timm("resnet10t", options=options), EmbeddingHead()), device="meta")
    plain = timm.create_model("resnet10t", **options).state_dict()
    assert {name: x.shape for name, x in model.encoder.state_dict().items()}.items() <= {
        name: x.shape for name, x in plain.items()
    }.items()
    assert "layer1.0.se.fc1.weight" in model.encoder.state_dict()


DEEP: dict[str, object] = {"a": 1}
for _ in range(40):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param({1: 2}, "option a must have strings as keys (got [1])", id="keys"),
        pytest.param(
            {"x": object}, f"option a must be a plain value, a list or a mapping of them (got {object!r})", id="a class"
        ),
        pytest.param(DEEP, "option a must nest at most 32 deep", id="depth"),
        pytest.param(
            {"x": 65_536, "y": [1]},
            "options must hold a mapping that comes to at most 65,536 in a (got 65,537)",
            id="numbers",
        ),
    ],
)
def test_what_is_not_plain_or_too_much_is_refused(value, message):
    with pytest.raises(ValueError, match="option") as caught:
        Timm("resnet18", options={"a": value})
    assert str(caught.value) == message


UNREADABLE = {
    "a name twice": ([("a", 1), ("a", 2)], "options are named once each (got a, a)"),
    "letters for a pair": (["ab"], "options map names to plain values (got ['ab'])"),
    "a string": ("", "options map names to plain values (got '')"),
    "a number for a name": ({1: 2}, "options are named by strings"),
}


@pytest.mark.parametrize(("options", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_options_that_are_no_mapping_are_rejected(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Timm("resnet18", options=options)
