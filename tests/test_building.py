"""What build() rejects, what a typed graph and a seed give, and what a model checks of its modules."""

from __future__ import annotations

import pytest
import timm
import torch
from attrs import frozen

import composer

SMALL = composer.chain(
    composer.Timm("test_resnet"), composer.FCNDecoder(channels=8, num_convs=1), composer.SegmentationHead(num_classes=2)
)


@frozen(kw_only=True)
class Unmade(composer.Neck):
    """Has a contract and no module."""


@composer.contract.register(Unmade)
def _(neck, features):
    return features


def test_a_part_without_a_module_is_a_problem():
    with pytest.raises(composer.SpecError) as caught:
        composer.build(composer.chain(composer.Timm("test_resnet"), Unmade(), composer.IdentityDecoder()))
    assert str(caught.value) == (
        "error[part] necks[0]: Unmade has no module (got a class not registered).\n"
        "  fix: register one: @composer.module.register(Unmade)"
    )


def test_an_encoder_has_the_weights_of_a_network_without_a_classifier():
    model = composer.build(SMALL, seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        drawn = timm.create_model("test_resnet", num_classes=0).state_dict()
    ours = model.get_submodule("encoder").state_dict()
    assert {name: torch.equal(drawn[name], x) for name, x in ours.items()} == dict.fromkeys(drawn, True)


def test_described_features_need_not_name_their_levels():
    part = composer.Timm("test_resnet", out_indices=[2])
    info = composer.EncoderInfo(features=composer.Feature(channels=48, stride=8))
    model = composer.build(composer.chain(part, composer.IdentityDecoder()), describe={part: info})
    assert model.eval()(torch.zeros(1, 3, 64, 64)).output.shape == (1, 48, 64, 64)


@pytest.mark.parametrize("size", [(0, 8), (-5, 7), (5.5, 7), (True, 7)], ids=str)
def test_a_shape_is_asked_for_whole_pixels(size):
    with pytest.raises(ValueError, match="an image has whole numbers of pixels, at least 1"):
        composer.infer(SMALL).shape("head", *size)
