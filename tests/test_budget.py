"""Limits of a model: it is counted before it is built, and the node with the largest share is named."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest
import torch
from torch import nn

import composer
from composer.errors import SpecError
from composer.limits import Limits
from composer.modules.base import module
from composer.parts import PARTS
from composer.parts.decoders import FCNDecoder
from composer.parts.encoders import Timm
from composer.parts.heads import SegmentationHead
from composer.parts.rules import Rejection, RejectionError
from composer.resources import MAX_MODULES, AllocationLimitError, limit_bytes, limit_modules

HEAD = SegmentationHead(num_classes=2)
GRAPH = composer.chain(Timm("test_resnet"), FCNDecoder(channels=16, num_convs=1), HEAD)
SHARED = composer.reads("""\
inputs: {before: {}, after: {}}
nodes:
  old: {part: timm/test_resnet, from: before}
  new: {share: old, from: after}
  both: {part: ConcatFeatures, from: [old, new]}
  map: {part: {FCNDecoder: {channels: 16, num_convs: 1}}, from: both}
  head: {part: {SegmentationHead: {num_classes: 2}}, from: map}
outputs: [head]
""")


def get_problems(graph, **options):
    with pytest.raises(SpecError) as caught:
        composer.build(graph, **options)
    return caught.value.problems


def count(model):
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(p.numel() for p in model.parameters()), sum(x.numel() * x.element_size() for x in tensors.values())


@pytest.mark.parametrize("graph", [GRAPH, SHARED], ids=["chain", "shared"])
def test_limits_are_exact(graph):
    parameters, size = count(composer.build(graph))
    assert count(composer.build(graph, limits=Limits(parameters=parameters, bytes=size))) == (parameters, size)
    assert [(p.code, p.expected, p.got.partition(" of ")[2]) for p in get_problems(
        graph, limits=Limits(parameters=parameters - 1, bytes=size - 1)
    )] == [
        ("limit", f"has most of the model's parameters, of which there may be {parameters - 1:,}", f"{parameters:,}"),
        ("limit", f"has most of the model's bytes, of which there may be {size - 1:,}", f"{size:,}"),
    ]  # fmt: skip


def test_the_largest_node_is_named():
    text = (
        "encoder: timm/test_resnet\ndecoder: {FCNDecoder: {channels: 512}}\nhead: {SegmentationHead: {num_classes: 2}}"
    )
    (problem,) = get_problems(composer.reads(text, name="a.yaml"), limits=Limits(parameters=10**7))
    assert str(problem) == (
        "a.yaml:2:10: error[limit] decoder: FCNDecoder has most of the model's parameters, of which there may be "
        "10,000,000 (got 12,787,712 of 13,161,426).\n"
        "  fix: use fewer channels, or allow as many"
    )
    (problem,) = get_problems(GRAPH, limits=Limits(bytes=1000))
    assert (problem.place.path, problem.fix) == ("encoder", "choose a smaller network, or allow as many")


@pytest.mark.parametrize("value", [-1, 1.5, True, "50M"], ids=repr)
@pytest.mark.parametrize("name", ["parameters", "bytes"])
def test_limits_are_whole_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 0"):
        Limits(**{name: value})


def test_a_module_of_ones_own_is_counted_as_it_is():
    custom = composer.Custom(nn.Conv2d(3, 5, 1), features=composer.Feature(channels=5))
    (problem,) = get_problems(composer.chain(custom, composer.EmbeddingHead()), limits=Limits(parameters=19))
    assert problem.got == "20 of 20"


def test_limits_hold_for_a_file_before_its_weights_are_read(tmp_path):
    file = tmp_path / "model.safetensors"
    composer.save(composer.build(GRAPH), file)
    with pytest.raises(SpecError) as caught:
        composer.load(file, limits=Limits(parameters=1))
    assert caught.value.problems[0].code == "limit"
    assert composer.load(file, limits=Limits(parameters=10**7)).graph == GRAPH


@attrs.frozen(kw_only=True)
class Valued(composer.Neck):
    """Its module reads numbers while it is made, which the meta device does not have; `wrapped` raises a rejection."""

    wrapped: bool = False


@composer.contract.register(Valued)
def _(neck, features):
    return features


@composer.module.register(Valued)
def _(neck, features):
    if neck.wrapped:
        try:
            return module(Valued(), features)
        except RuntimeError as error:
            rejection = Rejection(code="part", kind="raises", expected="cannot be made", got=str(error))
            raise RejectionError(rejection) from error
    valued = nn.Identity()
    valued.weight = nn.Parameter(torch.zeros(int(torch.ones(100).sum())))
    return valued


@pytest.mark.parametrize("wrapped", [False, True], ids=["raises", "rejects"])
def test_a_module_that_the_meta_device_cannot_make_is_counted_after_the_build(wrapped):
    graph = composer.chain(Timm("test_resnet"), Valued(wrapped=wrapped), FCNDecoder(channels=16, num_convs=1), HEAD)
    parameters, _ = count(composer.build(graph))
    assert count(composer.build(graph, limits=Limits(parameters=parameters)))[0] == parameters
    (problem,) = get_problems(graph, limits=Limits(parameters=parameters - 1))
    assert problem.got.endswith(f" of {parameters:,}")


def set_free_memory(monkeypatch, free):
    monkeypatch.setattr("composer.building.get_free_memory", lambda: free)


def test_without_limits_a_model_may_take_the_free_memory(monkeypatch):
    large = composer.chain(Timm("test_resnet"), FCNDecoder(channels=512), HEAD)
    set_free_memory(monkeypatch, 10**7)
    assert count(composer.build(GRAPH))[1] < 10**7
    (problem,) = get_problems(large)
    assert str(problem) == (
        "error[limit] decoder: FCNDecoder needs more memory than there is "
        "(got 51.2 MB of the model's 52.7 MB, with 10.0 MB free).\n"
        "  fix: use fewer channels"
    )
    assert count(composer.build(large, device="meta"))[0] > 10**7
    set_free_memory(monkeypatch, None)
    assert count(composer.build(large))[1] > 10**7


def test_a_model_larger_than_memory_is_rejected_before_it_is_filled(monkeypatch):
    set_free_memory(monkeypatch, 2**30)
    wide = SegmentationHead(num_classes=2, channel_list=[65_536, 65_536])
    (problem,) = get_problems(composer.chain(Timm("test_resnet"), FCNDecoder(), wide))
    assert (problem.code, problem.place.path) == ("limit", "head")


def test_bytes_are_counted_as_modules_register_tensors():
    with pytest.raises(AllocationLimitError, match=r"^it comes to more than 40 bytes$"), limit_bytes(40):
        nn.Linear(10, 1)
    with limit_bytes(44):
        nn.Linear(10, 1)
    with pytest.raises(AllocationLimitError), limit_bytes(4 * 4 * 8 + 7):
        nn.BatchNorm2d(8)
    with limit_bytes(4 * 4 * 8 + 8):
        nn.BatchNorm2d(8)


def test_a_large_model_is_checked_once():
    calls = []
    with limit_bytes(None, lambda: calls.append("large"), large=100):
        nn.Sequential(nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(5, 4))
    assert calls == ["large"]


def test_watching_ends_with_its_context_and_its_thread():
    with ThreadPoolExecutor(1) as other, limit_bytes(0):
        assert other.submit(nn.Linear, 3, 2).result().in_features == 3
    layers = [nn.Identity() for _ in range(MAX_MODULES + 1)]
    with pytest.raises(RejectionError), limit_modules():
        nn.Sequential(*layers)
    assert len(nn.Sequential(*layers)) == MAX_MODULES + 1


def write_spec(name, field, value):
    """A spec in which one field of a part is set."""
    needed = {a.name: 1 for a in attrs.fields(PARTS[name]) if a.default is attrs.NOTHING and a.name != "name"}
    needed |= {a: [1] for a in ("indices", "new_order") if a in needed}
    needed |= {"channels": [1]} if name == "UNetDecoder" else {}
    part = json.dumps({f"{name}x" if name.endswith("/") else name: {**needed, field: value}})
    kind = "neck" if issubclass(PARTS[name], composer.Neck) else PARTS[name].__mro__[-3].__name__.lower()
    place = {"neck": "necks: [%s]", "decoder": "decoder: %s", "head": "head: %s"}.get(kind, "encoder: %s") % part
    return place if place.startswith("encoder") else f"encoder: timm/test_resnet\n{place}"


def list_fields(name):
    part = PARTS[name]
    known = part.defaults.get(name.partition("/")[2], {}) if part.source else {}
    # A temperature and a ratio make nothing longer.
    own = [a.name for a in attrs.fields(part) if a.name not in ("name", "temperature", "ratio")]
    return [f for f in own if not known or f in known]


FIELDS = {(PARTS[name], field): name for name in PARTS for field in list_fields(name)}
"""For each class and each of its fields, one name of a part that has it."""


@pytest.mark.parametrize("value", [10**6, 10**9, [10**6], [1] * 1025], ids=["10**6", "10**9", "a list", "a long list"])
def test_every_field_has_a_maximum(value):
    accepted = [(name, field) for (_, field), name in FIELDS.items() if not is_rejected(write_spec(name, field, value))]
    assert accepted == []


def is_rejected(text):
    try:
        composer.reads(text)
    except SpecError as error:
        return all(problem.code in ("value", "type", "limit") for problem in error.problems)
    return False


OPTIONS = {
    "depth": {"depth": 10**6},
    "negative": {"depth": -(10**6)},
    "many": {"depths": [1000] * 100},
    "nested": {"depths": [[40_000], [[40_000]]]},
    "long": {"depths": [0] * 70_000},
}


@pytest.mark.parametrize("source", ["timm/resnet18", "transformers/swin", "terratorch/prithvi_eo_tiny"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_have_a_maximum(source, options):
    part = PARTS.get(source) or PARTS[f"{source.partition('/')[0]}/"]
    with pytest.raises(ValueError, match=r"^options must hold .* at most 65,536 in depths? \(got "):
        part(source.partition("/")[2], options=options)


def test_a_network_that_is_too_deep_is_rejected_before_it_is_made():
    with pytest.raises(SpecError) as caught:
        composer.infer(composer.chain(Timm("test_vit", options={"depth": 60_000}), FCNDecoder(), HEAD))
    assert str(caught.value) == (
        "error[limit] encoder.options: timm/test_vit has at most 4,096 modules "
        "(got more of them from its options).\n  fix: ask for a network that is less deep"
    )


def test_the_size_of_an_image_has_a_maximum():
    with pytest.raises(SpecError) as caught:
        composer.reads("input: {channels: 1000000, frames: 10000, size: [9, 2000000]}\npadding: {multiple: 2000000}\n"
                       "encoder: timm/x\ncrop: [1, 2000000]")  # fmt: skip
    assert [problem.message for problem in caught.value.problems] == [
        "channels must be a whole number from 1 to 65536 (got 1000000).",
        "frames must be a whole number from 1 to 1024 (got 10000).",
        "size must be at most 1,048,576 pixels a side (got 2,000,000).",
        "multiple must be a whole number from 1 to 1048576 (got 2000000).",
        "crop must be at most 1,048,576 pixels a side (got 2,000,000).",
    ]
