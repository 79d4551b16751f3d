"""Refusals that are no part's own: those of graphs, of timm's networks, and of declared modules, forced through."""

from __future__ import annotations

import pytest
import timm
import torch
from attrs import evolve
from torch import nn

import composer
from composer.adapters.timm.modules import TimmEncoder, probe
from composer.graph import Node, Shared
from composer.parts.rules import Rejection
from tests.law.toys import Toy

MAP8 = composer.Feature(channels=8, stride=4)
IMAGE = torch.zeros(2, 3, 64, 64)


def refusal_of(part, channels=3):
    facts = probe(part, channels)
    assert isinstance(facts, Rejection)
    return facts


def test_levels_out_of_order_would_come_in_order():
    refusal = refusal_of(composer.Timm("test_resnet", out_indices=[3, 1]))
    assert (refusal.code, refusal.kind) == ("index", "wrong_output")

    given = TimmEncoder(timm.create_model("test_resnet"), [3, 1])(IMAGE)

    # Level 3 was asked for first, and is the coarser of the two.
    assert given[0].shape[-1] > given[1].shape[-1]


def test_a_level_that_is_not_there_is_impossible():
    refusal = refusal_of(composer.Timm("test_resnet", out_indices=[1, 9]))
    assert (refusal.code, refusal.kind, refusal.about) == ("index", "raises", "out_indices[1]")

    with pytest.raises(AssertionError, match="feature index 9 is out of range"):
        TimmEncoder(timm.create_model("test_resnet"), [1, 9])


def test_tokens_of_a_network_without_tokens_are_impossible():
    refusal = refusal_of(composer.Timm("test_resnet", tokens=True))
    assert (refusal.code, refusal.kind) == ("part", "raises")

    with pytest.raises(TypeError, match="return_prefix_tokens"):
        TimmEncoder(timm.create_model("test_resnet"), [1], tokens=True)(IMAGE)


UNKNOWN = {
    "network": composer.Timm("resnet81"),
    "option": composer.Timm("test_resnet", options={"depth": 3}),
    "stride": composer.Timm("test_vit", output_stride=8),
}


@pytest.mark.parametrize("part", UNKNOWN.values(), ids=UNKNOWN)
def test_what_timm_does_not_know_it_cannot_make(part):
    refusal = refusal_of(part)
    assert (refusal.code, refusal.kind) == ("part", "raises")

    with pytest.raises((RuntimeError, TypeError)):
        timm.create_model(part.name, output_stride=part.output_stride, **dict(part.options))


def toy_graph(*nodes, outputs, inputs=("image",)):
    return composer.Graph(inputs={name: composer.Image() for name in inputs}, nodes=nodes, outputs=outputs)


def codes(graph):
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(graph)
    return [problem.code for problem in caught.value.problems]


ENCODER = Node("encoder", Toy(features=(MAP8,)), "image")


def test_two_inputs_for_a_part_of_one_are_impossible():
    twice = Node("twice", composer.SegmentationHead(num_classes=2), ["encoder", "encoder"])
    assert codes(toy_graph(ENCODER, twice, outputs=["twice"])) == ["inputs"]

    with pytest.raises(TypeError, match="positional argument"):
        composer.module(twice.part, (MAP8,), (MAP8,))


def test_weights_shared_with_features_of_other_channels_are_refused():
    wide = Node("wide", Toy(features=(evolve(MAP8, channels=9),)), "image")
    head = Node("head", composer.SegmentationHead(num_classes=2), "encoder")
    again = Node("again", Shared("head"), "wide")
    assert codes(toy_graph(ENCODER, wide, head, again, outputs=["head", "again"])) == ["join"]

    with pytest.raises(RuntimeError, match="expected input"):
        composer.module(head.part, (MAP8,))([torch.zeros(2, 9, 4, 4)])


@pytest.mark.parametrize("shape", [(2, 3, 3, 8, 8), (2, 3, 8, 8)], ids=["fewer", "a-still"])
def test_fewer_frames_than_an_encoder_takes_are_impossible(shape):
    network = nn.Conv3d(3, 8, kernel_size=(4, 1, 1))
    encoder = composer.Custom(network, features=composer.Feature(channels=8), frames=4)
    image = composer.Image(frames=shape[2] if len(shape) == 5 else None)
    refusal = composer.contract(encoder, (image.feature,))
    assert (refusal.code, refusal.kind) == ("frames", "raises")

    with pytest.raises(RuntimeError):
        network(torch.zeros(shape))


@pytest.mark.parametrize("size", [(33, 64), (64, 70), (1, 1)], ids=str)
def test_at_sizes_that_a_graph_does_not_take_its_strides_would_lie(size):
    """Without the padding, the levels of a network are not what an exact stride says."""
    typed = composer.infer(
        composer.chain(composer.Timm("test_resnet"), composer.FeaturePyramidNetworkNeck(), composer.EmbeddingHead())
    )
    assert not typed.sizes.is_valid_size(*size)

    given = composer.build(typed).eval().encoder(torch.zeros(1, 3, *size))

    exact = [(size[0] / f.stride, size[1] / f.stride) for f in typed.features["encoder"]]
    assert [tuple(x.shape[-2:]) for x in given] != exact
