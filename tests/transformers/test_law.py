"""The law for every architecture of AutoBackbone: what is found out is what a forward pass gives, with gradients."""

from __future__ import annotations

import pytest
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES

import composer
from composer.adapters.transformers import Transformers
from composer.layouts import Feature
from composer.parts.rules import Rejection

BLOCKS = """beit dinov2 dinov2_with_registers dinov3_vit lw_detr_vit pixio rf_detr_dinov2 sapiens2 tipsv2_vision_model
vitdet"""
STAGED = "maskformer-swin swin swinv2 pvt_v2 convnext convnextv2 dinov3_convnext focalnet"
SMALL = {
    **{name: {"num_hidden_layers": 2} for name in BLOCKS.split()},
    **{name: {"depths": [1, 1, 1, 1]} for name in STAGED.split()},
    "vitpose_backbone": {"num_hidden_layers": 2, "image_size": [64, 48]},
    "hiera": {"depths": [1, 1, 1, 1], "image_size": [64, 64]},
}
"""Options that make an architecture small, where it is not. They change neither strides nor layouts."""

STAGES = {"pp_lcnet_v4": [1, 2]}
"""The stages that are asked for, where the last ones cannot be had."""

SLANTED = "another stride from top to bottom than from left to right"
REFUSED = {
    "dinat": (
        "transformers/dinat needs natten (got no installation of it).",
        "pip install natten",
    ),
    "pp_lcnet_v4": (
        f"transformers/pp_lcnet_v4 gives cells that are not square (got {SLANTED}).",
        "choose earlier stages with out_indices, or another network",
    ),
    "timm_backbone": (
        "transformers/timm_backbone is a wrapper around a network of timm (got no name of one).",
        "use timm/NAME",
    ),
}
"""The architectures that are refused as they are, each with what is said."""

RGB = ("hgnet_v2", "pp_lcnet", "pp_lcnet_v3", "pp_lcnet_v4", "textnet", "tipsv2", "uvdoc_backbone")
"""The architectures that take three channels and no others, some of them although their config has a field for that."""

HELD = [name for name in MODEL_FOR_BACKBONE_MAPPING_NAMES if name not in REFUSED or name in STAGES]


@pytest.fixture(scope="module", params=HELD)
def backbone(request):
    """What is known of a backbone, and its module."""
    part = Transformers(request.param, options=SMALL.get(request.param, {}), out_indices=STAGES.get(request.param))
    channels = 3 if request.param in RGB else 5
    facts = composer.describe(part, channels)
    assert not isinstance(facts, Rejection), facts
    with torch.random.fork_rng(devices=[]):
        module = composer.module(part, (Feature(channels=channels),), info=facts, pretrained=False)
    return facts, module.eval()


@pytest.mark.parametrize("wide", [False, True], ids=["square", "wide"])
def test_a_backbone_gives_what_is_promised(backbone, wide):
    facts, module = backbone
    sizes = facts.sizes
    unit = sizes.compute_padded_size(sizes.height or 1, sizes.width or 1)[0]
    height, width = (sizes.height, sizes.width) if sizes.height else (2 * unit, 3 * unit if wide else 2 * unit)

    image = torch.rand(2, facts.channels, height, width, requires_grad=True)
    given = module(image)

    assert [tuple(x.shape) for x in given] == [f.shape(2, height, width) for f in facts.features]
    gradients = [torch.autograd.grad((x * torch.rand_like(x)).sum(), image, retain_graph=True)[0] for x in given]
    assert all(x.any() for x in gradients)


@pytest.mark.parametrize("name", REFUSED)
def test_an_architecture_that_cannot_be_had_is_refused(name):
    message, fix = REFUSED[name]
    with pytest.raises(composer.SpecError) as raised:
        composer.infer(composer.chain(Transformers(name), composer.EmbeddingHead()))
    (problem,) = raised.value.problems
    assert (problem.message, problem.fix, problem.place.path) == (message, fix, "encoder")


@pytest.mark.parametrize("name", RGB)
def test_an_architecture_of_three_channels_takes_no_more(name):
    refusal = composer.describe(Transformers(name), 5)
    assert (refusal.code, refusal.expected) == ("part", "runs at no image size tried with 5 input channels")


def test_no_architecture_is_left_out():
    assert set(HELD) | set(REFUSED) == set(MODEL_FOR_BACKBONE_MAPPING_NAMES)
