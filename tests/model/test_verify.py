"""`build(verify=True)` holds each encoder to its facts, and `device="meta"` builds without weights."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve

import composer
from composer.parts.decoders import FCNDecoder, LinearDecoder
from composer.parts.encoders import Timm
from composer.parts.heads import EmbeddingHead, SegmentationHead

ENCODER = Timm("test_resnet", out_indices=[1, 2])
GRAPH = composer.chain(ENCODER, FCNDecoder(channels=8, num_convs=1), SegmentationHead(num_classes=2))
TRUE = composer.describe(ENCODER, 3)


def wider(facts):
    return evolve(facts, features=[evolve(f, channels=f.channels + 1) for f in facts.features])


def coarser(facts):
    return evolve(facts, features=[evolve(f, stride=f.stride * 2) for f in facts.features])


def of_any_size(facts):
    """As if the network took other sizes by itself, without the switch for it."""
    return evolve(facts, arguments={"out_indices": dict(facts.arguments)["out_indices"]})


VIT = Timm("vit_tiny_patch16_224", out_indices=[1])
VIT_FACTS = composer.describe(VIT, 3)
FIX = "\n  fix: install the version of its library that was inferred from, or pass its features with describe="
LIES = {
    "channels": (
        ENCODER,
        wider,
        (
            "error[features] encoder: timm/test_resnet must give "
            "1 × 33 × 2 × 4, 1 × 49 × 1 × 2 for an image of 8 × 16, "
            "as inferred (got 1 × 32 × 2 × 4, 1 × 48 × 1 × 2)."
        ),
    ),
    "strides": (
        ENCODER,
        coarser,
        (
            "error[features] encoder: timm/test_resnet must give "
            "1 × 32 × 2 × 4, 1 × 48 × 1 × 2 for an image of 16 × 32, "
            "as inferred (got 1 × 32 × 4 × 8, 1 × 48 × 2 × 4)."
        ),
    ),
    "sizes": (
        VIT,
        of_any_size,
        (
            "error[features] encoder: timm/vit_tiny_patch16_224 must take "
            "an image of 16 × 32, as inferred (got"
            " AssertionError: Input height (16) doesn't match model (224).)."
        ),
    ),
}


@pytest.mark.parametrize("case", LIES)
def test_facts_that_lie_are_found_out(case):
    encoder, lie, message = LIES[case]
    told = lie(composer.describe(encoder, 3))
    with pytest.raises(composer.SpecError) as caught:
        composer.build(
            composer.chain(encoder, LinearDecoder(num_classes=8, upsampling_size=1)),
            verify=True,
            describe=lambda *_: told,
        )
    assert str(caught.value) == message + FIX


def test_without_it_they_are_not():
    model = composer.build(
        composer.chain(VIT, LinearDecoder(num_classes=8, upsampling_size=1)), describe=lambda *_: of_any_size(VIT_FACTS)
    )
    with pytest.raises(AssertionError, match="Input height"):
        model(torch.zeros(1, 3, 16, 32))


@pytest.mark.parametrize("verify", [False, True])
def test_it_leaves_the_model_and_the_random_state_as_they_are(verify):
    state = torch.get_rng_state()
    model = composer.build(GRAPH, seed=1, verify=verify)
    plain = composer.build(GRAPH, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    pairs = zip(model.state_dict().items(), plain.state_dict().items(), strict=True)
    assert [one for (one, x), (_, y) in pairs if not torch.equal(x, y)] == []


def test_a_model_on_the_meta_device_has_no_weights_and_gives_shapes():
    model = composer.build(GRAPH, device="meta", verify=True)
    assert {x.device.type for x in model.state_dict().values()} == {"meta"}
    assert model(torch.empty(2, 3, 50, 70, device="meta")).output.shape == (2, 2, 50, 70)
    assert list(model.state_dict()) == list(composer.build(GRAPH).state_dict())


def test_a_model_of_a_terabyte_is_built_in_no_time():
    graph = composer.chain(Timm("test_resnet"), FCNDecoder(channels=65_536, num_convs=8), EmbeddingHead())
    model = composer.build(graph, device="meta")
    assert sum(p.numel() * p.element_size() for p in model.parameters()) > 1e12
