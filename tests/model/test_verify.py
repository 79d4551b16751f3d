"""`build(verify=True)` compares each encoder with its described features, and `device="meta"` builds no weights."""

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
VIT = Timm("vit_tiny_patch16_224", out_indices=[1])
LINEAR = LinearDecoder(num_classes=8, upsampling_size=1)


def widen(info):
    return evolve(info, features=[evolve(f, channels=f.channels + 1) for f in info.features])


def forget_switches(info):
    """As if the network took other sizes by itself, without the argument for it."""
    return evolve(info, arguments={"out_indices": dict(info.arguments)["out_indices"]})


@pytest.mark.parametrize(
    ("encoder", "change", "message"),
    [
        pytest.param(
            ENCODER,
            widen,
            "must give 1 × 33 × 2 × 4, 1 × 49 × 1 × 2 for an image of 8 × 16, "
            "as inferred (got 1 × 32 × 2 × 4, 1 × 48 × 1 × 2).",
            id="channels",
        ),
        pytest.param(
            VIT,
            forget_switches,
            "must take an image of 16 × 32, as inferred (got"
            " AssertionError: Input height (16) doesn't match model (224).).",
            id="sizes",
        ),
    ],
)
def test_wrong_features_are_found(encoder, change, message):
    wrong = change(composer.describe(encoder, 3))
    with pytest.raises(composer.SpecError) as caught:
        composer.build(composer.chain(encoder, LINEAR), verify=True, describe=lambda *_: wrong)
    fix = "install the version of its library that was inferred from, or pass its features with describe="
    assert str(caught.value) == f"error[features] encoder: timm/{encoder.name} {message}\n  fix: {fix}"


def test_verify_changes_neither_the_model_nor_the_random_state():
    state = torch.get_rng_state()
    model, plain = (composer.build(GRAPH, seed=1, verify=verify) for verify in (True, False))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    pairs = zip(model.state_dict().items(), plain.state_dict().items(), strict=True)
    assert [one for (one, x), (_, y) in pairs if not torch.equal(x, y)] == []


def test_a_model_on_the_meta_device_has_no_weights_and_gives_shapes():
    model = composer.build(GRAPH, device="meta", verify=True)
    assert {x.device.type for x in model.state_dict().values()} == {"meta"}
    assert model(torch.empty(2, 3, 50, 70, device="meta")).output.shape == (2, 2, 50, 70)
    assert list(model.state_dict()) == list(composer.build(GRAPH).state_dict())


def test_a_model_of_a_terabyte_is_built_on_the_meta_device():
    graph = composer.chain(Timm("test_resnet"), FCNDecoder(channels=65_536, num_convs=8), EmbeddingHead())
    model = composer.build(graph, device="meta")
    assert sum(p.numel() * p.element_size() for p in model.parameters()) > 1e12
