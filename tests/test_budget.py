"""How large a model may be: it is counted before it is there, and what is to blame is named."""

from __future__ import annotations

import json
import warnings

import attrs
import pytest
import torch
from torch import nn

import composer
from composer.building import build_modules
from composer.errors import SpecError
from composer.limits import Limits
from composer.modules.base import module
from composer.parts import PARTS
from composer.parts.decoders import FCNDecoder
from composer.parts.encoders import Timm
from composer.parts.heads import SegmentationHead
from composer.parts.rules import Rejection, RejectionError
from composer.resources import MAX_MODULES, AllocationLimitError, limit_bytes, limit_modules
from tests.bounded import bounded

HEAD = SegmentationHead(num_classes=2)
GRAPH = composer.chain(Timm("test_resnet"), FCNDecoder(channels=16, num_convs=1), HEAD)
TWICE = """\
inputs: {before: {}, after: {}}
nodes:
  old: {part: timm/test_resnet, from: before}
  new: {share: old, from: after}
  both: {part: ConcatFeatures, from: [old, new]}
  map: {part: {FCNDecoder: {channels: 16, num_convs: 1}}, from: both}
  head: {part: {SegmentationHead: {num_classes: 2}}, from: map}
outputs: [head]
"""
HEAD_OF_TWO = "head: {SegmentationHead: {num_classes: 2}}"
FEWER = "use fewer channels"
SMALLER = "choose a smaller network"


def refused(graph, **options):
    with pytest.raises(SpecError) as caught:
        composer.build(graph, **options)
    return caught.value


def counts(model):
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(p.numel() for p in model.parameters()), sum(x.numel() * x.element_size() for x in tensors.values())


@pytest.mark.parametrize("graph", [GRAPH, composer.reads(TWICE)], ids=["chain", "shared"])
def test_what_is_counted_is_what_the_model_has(graph):
    parameters, size = counts(composer.build(graph))
    limits = Limits(parameters=parameters, bytes=size)
    assert counts(composer.build(graph, limits=limits)) == (parameters, size)


@pytest.mark.parametrize("graph", [GRAPH, composer.reads(TWICE)], ids=["chain", "shared"])
@pytest.mark.parametrize("what", ["parameters", "bytes"])
def test_one_more_than_there_may_be_is_refused(graph, what):
    have = counts(composer.build(graph))[what == "bytes"]
    (problem,) = refused(graph, limits=Limits(**{what: have - 1})).problems
    assert problem.code == "limit"
    assert problem.expected == f"has most of the model's {what}, of which there may be {have - 1:,}"
    assert problem.got.endswith(f" of {have:,}")


def test_the_node_that_has_most_is_to_blame():
    text = f"encoder: timm/test_resnet\ndecoder: {{FCNDecoder: {{channels: 512}}}}\n{HEAD_OF_TWO}\n"
    assert str(refused(composer.reads(text, name="a.yaml"), limits=Limits(parameters=10**7))) == (
        "a.yaml:2:10: error[limit] decoder: FCNDecoder has most of the model's parameters, of which there may be "
        "10,000,000 (got 12,787,712 of 13,161,426).\n"
        f"  fix: {FEWER}, or allow as many"
    )


def test_an_encoder_is_repaired_by_another():
    (problem,) = refused(GRAPH, limits=Limits(bytes=1000)).problems
    assert problem.place.path == "encoder"
    assert problem.fix == f"{SMALLER}, or allow as many"


def test_both_limits_are_told_at_once():
    assert [p.expected for p in refused(GRAPH, limits=Limits(parameters=1, bytes=2)).problems] == [
        "has most of the model's parameters, of which there may be 1",
        "has most of the model's bytes, of which there may be 2",
    ]


@pytest.mark.parametrize("value", [-1, 1.5, True, "50M"], ids=repr)
@pytest.mark.parametrize("name", ["parameters", "bytes"])
def test_limits_are_whole_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 0"):
        Limits(**{name: value})


def test_limits_change_no_weight():
    plain, limited = composer.build(GRAPH, seed=5), composer.build(GRAPH, seed=5, limits=Limits(parameters=10**9))
    assert [name for name, x in plain.state_dict().items() if not torch.equal(x, limited.state_dict()[name])] == []


def test_counting_leaves_random_numbers_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    refused(GRAPH, limits=Limits(parameters=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_counting_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(GRAPH, limits=Limits(parameters=1))


def test_a_module_of_ones_own_counts_as_it_is():
    custom = composer.Custom(nn.Conv2d(3, 5, 1), features=composer.Feature(channels=5))
    (problem,) = refused(composer.chain(custom, composer.EmbeddingHead()), limits=Limits(parameters=19)).problems
    assert problem.got == "20 of 20"


def test_a_file_is_held_to_limits_before_its_weights_are_read(tmp_path):
    file = tmp_path / "model.safetensors"
    composer.save(composer.build(GRAPH), file)
    with pytest.raises(SpecError) as caught:
        composer.load(file, limits=Limits(parameters=1))
    assert caught.value.problems[0].code == "limit"
    assert composer.load(file, limits=Limits(parameters=10**7)).graph == GRAPH


@attrs.frozen(kw_only=True)
class Valued(composer.Neck):
    """A module of its looks at numbers while it is made, which the meta device has not."""


@composer.contract.register(Valued)
def _(neck, features):
    return features


@attrs.frozen(kw_only=True)
class Steered(Valued):
    """With parameters that nobody can count before they are there."""


@composer.module.register(Steered)
def _(neck, features):
    steered = nn.Identity()
    steered.weight = nn.Parameter(torch.zeros(int(torch.ones(100).sum())))
    return steered


@attrs.frozen(kw_only=True)
class Wrapped(Valued):
    """The same, where somebody has made a refusal of what was raised."""


@composer.module.register(Wrapped)
def _(neck, features):
    try:
        return module(Steered(), features)
    except RuntimeError as error:
        refusal = Rejection(code="part", kind="raises", expected="cannot be made", got=str(error))
        raise RejectionError(refusal) from error


@pytest.mark.parametrize("neck", [Steered(), Wrapped()], ids=["raised", "refused"])
def test_what_cannot_be_counted_before_is_counted_after(neck):
    graph = composer.chain(Timm("test_resnet"), neck, FCNDecoder(channels=16, num_convs=1), HEAD)
    parameters, _ = counts(composer.build(graph))
    assert counts(composer.build(graph, limits=Limits(parameters=parameters)))[0] == parameters
    (problem,) = refused(graph, limits=Limits(parameters=parameters - 1)).problems
    assert problem.got.endswith(f" of {parameters:,}")


class TestMemory:
    """No limits are given: there is as much as there is."""

    @pytest.fixture(autouse=True)
    def machine(self, monkeypatch):
        """One with ten megabytes."""
        monkeypatch.setattr("composer.building.get_free_memory", lambda: 10**7)

    def test_a_model_that_fits_is_built(self):
        assert counts(composer.build(GRAPH))[1] < 10**7

    def test_a_model_that_does_not_is_refused_at_the_node_that_has_most(self):
        graph = composer.chain(Timm("test_resnet"), FCNDecoder(channels=512), HEAD)
        assert str(refused(graph)) == (
            "error[limit] decoder: FCNDecoder needs more memory than there is "
            "(got 51.2 MB of the model's 52.7 MB, with 10.0 MB free).\n"
            f"  fix: {FEWER}"
        )

    def test_a_model_on_the_meta_device_takes_none(self):
        graph = composer.chain(Timm("test_resnet"), FCNDecoder(channels=60_000), HEAD)
        model = composer.build(graph, device="meta")
        assert counts(model)[0] > 10**11


def test_a_system_that_does_not_tell_is_believed(monkeypatch):
    monkeypatch.setattr("composer.building.get_free_memory", lambda: None)
    assert list(build_modules(composer.infer(GRAPH))) == ["encoder", "decoder", "head"]


WIDE = """
import json, resource, sys
import composer, composer.adapters.timm

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def told(text):
    before = peak()
    try:
        composer.build(composer.reads(text))
    except composer.SpecError as error:
        return {"said": str(error), "megabytes": peak() - before}

print(json.dumps({name: told(text) for name, text in json.loads(sys.argv[1]).items()}))
"""
HEAVY = {
    "decoder": (f"encoder: timm/test_resnet\ndecoder: {{FCNDecoder: {{channels: 40000}}}}\n{HEAD_OF_TWO}", "decoder"),
    "neck": (
        "encoder: timm/test_resnet\nnecks: [{FeaturePyramidNetworkNeck: {out_channel: 65536}}]\nhead: EmbeddingHead",
        "necks[0]",
    ),
    "head": (
        (
            "encoder: timm/test_resnet\ndecoder: FCNDecoder\n"
            "head: {SegmentationHead: {num_classes: 2, channel_list: [65536, 65536]}}"
        ),
        "head",
    ),
    "options": (
        "encoder: {timm/test_vit: {options: {embed_dim: 65535, num_heads: 1}}}\nhead: EmbeddingHead",
        "encoder",
    ),
}


@pytest.fixture(scope="module")
def answers():
    """What a process of its own says of all of them, and the memory that each took; of a core it may take minutes."""
    return json.loads(bounded(WIDE, json.dumps({name: text for name, (text, _) in HEAVY.items()}), seconds=240))


@pytest.mark.parametrize("name", HEAVY)
def test_more_than_there_is_memory_for_gets_an_answer_at_once(answers, name):
    """No number is drawn: neither time nor memory is spent on what cannot be."""
    assert f"error[limit] {HEAVY[name][1]}: " in answers[name]["said"]
    assert answers[name]["megabytes"] < 600


class TestGrowth:
    """Modules that are watched while they are made."""

    def test_tensors_count_as_they_are_registered(self):
        with pytest.raises(AllocationLimitError, match=r"^it comes to more than 40 bytes$"), limit_bytes(40):
            nn.Linear(10, 1)
        with limit_bytes(44):
            nn.Linear(10, 1)

    def test_buffers_count_too(self):
        with pytest.raises(AllocationLimitError), limit_bytes(4 * 4 * 8 + 7):
            nn.BatchNorm2d(8)
        with limit_bytes(4 * 4 * 8 + 8):
            nn.BatchNorm2d(8)

    def test_what_is_large_is_told_of_once(self):
        told = []
        with limit_bytes(None, lambda: told.append("large"), large=100):
            nn.Sequential(nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(5, 4))
        assert told == ["large"]

    def test_another_thread_is_not_watched(self):
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as other, limit_bytes(0):
            assert other.submit(nn.Linear, 3, 2).result().in_features == 3

    def test_nothing_is_watched_afterwards(self):
        with pytest.raises(AllocationLimitError), limit_bytes(0):
            nn.Linear(3, 2)
        with pytest.raises(RejectionError), limit_modules():
            nn.Sequential(*[nn.Identity() for _ in range(MAX_MODULES + 1)])
        deep = nn.Sequential(*[nn.Linear(1, 1) for _ in range(MAX_MODULES + 1)])
        assert len(deep) == MAX_MODULES + 1


def asking(name, field, value):
    """A spec in which a part is told one thing."""
    needed = {a.name: 1 for a in attrs.fields(PARTS[name]) if a.default is attrs.NOTHING and a.name != "name"}
    needed |= {a: [1] for a in ("indices", "new_order") if a in needed}
    needed |= {"channels": [1]} if name == "UNetDecoder" else {}
    part = json.dumps({f"{name}x" if name.endswith("/") else name: {**needed, field: value}})
    kind = "neck" if issubclass(PARTS[name], composer.Neck) else PARTS[name].__mro__[-3].__name__.lower()
    place = {"neck": "necks: [%s]", "decoder": "decoder: %s", "head": "head: %s"}.get(kind, "encoder: %s") % part
    return place if place.startswith("encoder") else f"encoder: timm/test_resnet\n{place}"


def fields_of(name):
    part = PARTS[name]
    known = part.defaults.get(name.partition("/")[2], {}) if part.source else {}
    own = [a.name for a in attrs.fields(part) if a.name != "name"]
    return [f for f in own if not known or f in known]


FACTORS = ("temperature", "ratio")
"""Numbers above 0 that make nothing longer: what is divided by, and a share of channels."""
ASKED = {(PARTS[name], field): name for name in PARTS for field in fields_of(name) if field not in FACTORS}
"""For each class and each of its fields, one name of a part that has it."""


@pytest.mark.parametrize("value", [10**6, 10**9, [10**6], [1] * 1025], ids=["10**6", "10**9", "a list", "a long list"])
def test_every_field_has_a_maximum(value):
    accepted = [(name, field) for (_, field), name in ASKED.items() if not is_refused(asking(name, field, value))]
    assert accepted == []


def is_refused(text):
    try:
        composer.reads(text)
    except SpecError as error:
        return all(problem.code in ("value", "type", "limit") for problem in error.problems)
    return False


OPTIONS = {
    "depth": {"depth": 10**6},
    "negative": {"depth": -(10**6)},
    "depths": {"depths": [10**6, 1]},
    "many": {"depths": [1000] * 100},
    "nested": {"depths": [[40_000], [[40_000]]]},
    "long": {"depths": [0] * 70_000},
}


@pytest.mark.parametrize("source", ["timm/resnet18", "transformers/swin", "terratorch/prithvi_eo_tiny"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_have_a_maximum_too(source, options):
    part = PARTS.get(source) or PARTS[f"{source.partition('/')[0]}/"]
    with pytest.raises(ValueError, match=r"^options must hold .* at most 65,536 in depths? \(got "):
        part(source.partition("/")[2], options=options)


DEEP = {
    "depth": Timm("test_vit", options={"depth": 60_000}),
    "depths": Timm("convnext_atto", options={"depths": [20_000, 20_000, 20_000, 5]}),
}


@pytest.mark.parametrize("part", DEEP.values(), ids=DEEP)
def test_a_network_that_is_too_deep_is_refused_before_it_is_there(part):
    with pytest.raises(SpecError) as caught:
        composer.infer(composer.chain(part, FCNDecoder(), HEAD))
    assert str(caught.value) == (
        f"error[limit] encoder.options: timm/{part.name} has at most 4,096 modules "
        "(got more of them from its options).\n  fix: ask for a network that is less deep"
    )


def test_an_image_has_bounds():
    with pytest.raises(SpecError) as caught:
        composer.reads("input: {channels: 1000000, frames: 10000, size: [9, 2000000]}\npadding: {multiple: 2000000}\n"
                       "encoder: timm/x\ncrop: [1, 2000000]")  # fmt: skip
    assert [problem.message for problem in caught.value.problems] == [
        "channels must be at most 65,536 (got 1,000,000).",
        "frames must be at most 1,024 (got 10,000).",
        "size must be at most 1,048,576 pixels a side (got 2,000,000).",
        "multiple must be at most 1,048,576 (got 2,000,000).",
        "crop must be at most 1,048,576 pixels a side (got 2,000,000).",
    ]
