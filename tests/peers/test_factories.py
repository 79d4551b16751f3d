"""TerraTorch's other factories beside ours: from a checkpoint of theirs, our model gives the same numbers."""

from __future__ import annotations

import pytest
import terratorch.models
import torch
from terratorch.models.model import AuxiliaryHead
from terratorch.registry import MODEL_FACTORY_REGISTRY

import composer
import composer.terratorch
from composer.terratorch.factories import FACTORIES, UNSUPPORTED_FACTORIES

SIX = ["BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2"]
LAST = {"backbone": "prithvi_eo_tiny", "decoder": "IdentityDecoder", "pretrained": False}
TINY = {**LAST, "decoder": "UperNetDecoder", "decoder_channels": 16}
SWIN = {
    "backbone": "prithvi_swin_B",
    "decoder": "UperNetDecoder",
    "decoder_channels": 16,
    "pretrained": False,
    "backbone_embed_dim": 16,
    "backbone_depths": (1, 1, 1, 1),
    "backbone_num_heads": (1, 1, 2, 2),
}
UNET = {"backbone": "resnet18", "model": "Unet", "bands": SIX[:4], "num_classes": 3, "pretrained": False}
CLASSIFIER = {"in_channels": 4, "num_classes": 3, "pretrained": False}

PRITHVI = {
    "six bands": ("segmentation", {**TINY, "bands": SIX, "in_channels": 6, "num_classes": 2}, (64, 64)),
    "bands of its own order": ("segmentation", {**TINY, "bands": ["RED", "B9"], "num_classes": 2}, (64, 64)),
    "numbers": ("regression", {**TINY, "bands": [0, 1, 2], "head_final_act": "torch.nn.Sigmoid"}, (70, 70)),
    "frames": ("segmentation", {**TINY, "bands": SIX, "num_frames": 3, "num_classes": 2}, (3, 64, 64)),
    "an auxiliary head": (
        "segmentation",
        {**TINY, "bands": SIX, "num_classes": 2, "aux_decoders": [AuxiliaryHead("a", "FCNDecoder", {})]},
        (64, 64),
    ),
    "a class": (
        "classification",
        {**LAST, "bands": SIX, "num_classes": 2, "head_dim_list": [8]},
        (64, 64),
    ),
    "a swin": ("segmentation", {**SWIN, "bands": SIX, "num_classes": 2}, (64, 96)),
    "a swin of numbers": ("regression", {**SWIN, "bands": ["0", "1"], "head_learned_upscale_layers": 2}, (32, 64)),
}
SMP = {
    "Unet": ({}, (64, 96)),
    "FPN": ({"smp_upsampling": 2}, (64, 64)),
    "DeepLabV3Plus": ({"smp_activation": "sigmoid", "smp_encoder_output_stride": 8}, (64, 96)),
    "Segformer": ({"in_channels": 2, "backbone": "mit_b0"}, (64, 96)),
    "UnetPlusPlus": ({"smp_encoder_depth": 4, "smp_decoder_channels": [16, 8, 4, 4]}, (48, 64)),
    "MAnet": ({"backbone": "tu-resnet18.a1_in1k"}, (64, 64)),
    "Linknet": ({"backbone": "vgg11", "smp_aux_params": {"classes": 5}}, (64, 96)),
}


def compare(factory, task, call, size, tmp_path):
    """Load a checkpoint of TerraTorch's factory into the model of ours, and compare their outputs."""
    torch.manual_seed(0)
    theirs = getattr(terratorch.models, factory)().build_model(task, **call).eval()
    ours = getattr(composer.terratorch, factory)().build_model(task, **call).eval()
    torch.save({"state_dict": {f"model.{name}": x for name, x in theirs.state_dict().items()}}, tmp_path / "last.ckpt")

    composer.load_weights(ours, tmp_path / "last.ckpt")

    image = torch.randn(2, call.get("in_channels") or len(call["bands"]), *size, dtype=torch.float64)
    with torch.no_grad():
        here, there = ours.double()(image), theirs.double()(image)
    pairs = [(here.output, there.output)]
    pairs += [(here.auxiliary_heads[name], x) for name, x in (there.auxiliary_heads or {}).items()]

    assert max(((x - y).abs().max() / y.std()).item() for x, y in pairs) < 1e-9


@pytest.mark.parametrize("case", PRITHVI)
def test_prithvis(case, tmp_path):
    compare("PrithviModelFactory", *PRITHVI[case], tmp_path)


@pytest.mark.parametrize("model", SMP)
def test_whole_models_of_smp(model, tmp_path):
    more, size = SMP[model]
    compare("SMPModelFactory", "segmentation", {**UNET, "model": model, **more}, size, tmp_path)


@pytest.mark.parametrize(("network", "size"), [("resnet10t", (70, 90)), ("vit_tiny_patch16_224", (224, 224))])
def test_classifiers_of_timm(network, size, tmp_path):
    compare("TimmModelFactory", "classification", {**CLASSIFIER, "backbone": network}, size, tmp_path)


def test_every_factory_of_terratorch_has_its_place():
    # Another package registers one more.
    assert {*FACTORIES, *UNSUPPORTED_FACTORIES} == {*MODEL_FACTORY_REGISTRY, "WxCModelFactory"}
