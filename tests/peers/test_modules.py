"""Backbones and decoders that are handed in as modules, TerraTorch's own among them, at equal weights."""

from __future__ import annotations

import pytest
import torch
from terratorch.models import EncoderDecoderFactory
from terratorch.registry import BACKBONE_REGISTRY
from torch import nn

import composer.terratorch

UPERNET = {"decoder": "UperNetDecoder", "decoder_channels": 8, "num_classes": 2}
PYRAMID = [
    {"name": "SelectIndices", "indices": [2, 5, 8, 11]},
    {"name": "ReshapeTokensToImage", "remove_cls_token": False},
    {"name": "LearnedInterpolateToPyramidal"},
]


class LastMap(nn.Module):
    """A decoder that leaves the grid of the last map as it is."""

    out_channels = 8

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(512, 8, 1)

    def forward(self, features):
        return self.convolution(features[-1])


def terramind():
    backbone = BACKBONE_REGISTRY.build("terramind_v1_tiny", pretrained=False, modalities=["S2L2A"], img_size=64)
    return {"backbone": backbone, "necks": PYRAMID, **UPERNET}


def prithvi_swin():
    bands = ["BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2"]
    return {"backbone": BACKBONE_REGISTRY.build("prithvi_swin_B", pretrained=False, bands=bands), **UPERNET}


def last_map():
    return {"backbone": "timm_resnet18", "decoder": LastMap(), "num_classes": 2}


CASES = {
    "TerraMind": (terramind, [(2, 12, 64, 64), (1, 12, 50, 60)]),
    # Its hook brings the channels to the front.
    "Prithvi's Swin without necks": (prithvi_swin, [(1, 6, 224, 224)]),
    "a decoder": (last_map, [(2, 3, 64, 64), (1, 3, 96, 64)]),
}


@pytest.mark.parametrize(("made", "shapes"), CASES.values(), ids=CASES)
def test_the_numbers_are_terratorchs(made, shapes, tmp_path):
    torch.manual_seed(0)
    theirs = EncoderDecoderFactory().build_model("segmentation", **made()).double().eval()
    ours = composer.terratorch.EncoderDecoderFactory().build_model("segmentation", **made()).double().eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    composer.load_weights(ours, tmp_path / "weights.pt")
    images = [torch.rand(shape, dtype=torch.float64) for shape in shapes]

    with torch.no_grad():
        pairs = [(ours(x).output, theirs(x).output) for x in images]

    assert [tuple(y.shape[-2:]) for y, _ in pairs] == [shape[-2:] for shape in shapes]
    assert max(float((y - expected).abs().max()) for y, expected in pairs) < 1e-12
