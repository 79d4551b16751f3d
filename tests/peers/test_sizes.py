"""The same call to both, at equal weights, with images of any size: networks of timm, and modules that are handed in.

TerraTorch pads images for networks of patches alone; the others are fed every size, and round in turn up and down, or
lose pixels at the borders.
"""

from __future__ import annotations

import pytest
import torch
from terratorch.models import EncoderDecoderFactory as Theirs
from terratorch.registry import BACKBONE_REGISTRY
from torch import nn

import composer
from composer.terratorch import EncoderDecoderFactory

UPERNET = {"decoder": "UperNetDecoder", "decoder_channels": 8, "num_classes": 3}
UNET = {"decoder": "UNetDecoder", "decoder_channels": [16, 8, 8, 8, 8], "num_classes": 3}
PYRAMID = [
    {"name": "SelectIndices", "indices": [2, 5, 8, 11]},
    {"name": "ReshapeTokensToImage", "remove_cls_token": False},
    {"name": "LearnedInterpolateToPyramidal"},
]
LAST_CHANNELS = [{"name": "PermuteDims", "new_order": [0, 3, 1, 2]}]
BANDS = ["BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2"]


class LastMap(nn.Module):
    """A decoder that leaves the grid of the last map as it is."""

    out_channels = 8

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(512, 8, 1)

    def forward(self, features):
        return self.convolution(features[-1])


def terramind():
    return BACKBONE_REGISTRY.build("terramind_v1_tiny", pretrained=False, modalities=["S2L2A"], img_size=64)


def prithvi_swin():
    return BACKBONE_REGISTRY.build("prithvi_swin_B", pretrained=False, bands=BANDS)


ROUNDING = ("resnet18", "convnext_atto", "efficientnet_b0", "regnety_002", "densenet121", "poolformer_s12")
BORDERS = ("legacy_xception", "inception_v3", "inception_v4", "inception_resnet_v2", "nasnetalarge", "pnasnet5large")
LEVELS = {"backbone_out_indices": [1, 2, 3]}
STRICT = {"backbone_strict_img_size": False, "necks": LAST_CHANNELS, **LEVELS}

CASES = {
    **{name: (f"timm_{name}", {**UPERNET, **LEVELS}, [(120, 120), (101, 67)]) for name in ROUNDING},
    **{f"{name}-UperNet": (f"timm_{name}", UPERNET, [(75, 75), (120, 97)]) for name in BORDERS},
    **{f"{name}-UNet": (f"timm_{name}", UNET, [(75, 75), (120, 97)]) for name in BORDERS},
    "vovnet": ("timm_ese_vovnet19b_dw", {**UPERNET, **LEVELS}, [(40, 200), (101, 67)]),
    "swin": ("timm_swin_tiny_patch4_window7_224", {**UPERNET, **STRICT}, [(120, 120), (40, 104)]),
    "TerraMind": (terramind, {**UPERNET, "necks": PYRAMID}, [(64, 64), (50, 60)]),
    # Its hook brings the channels to the front.
    "Prithvi's Swin without necks": (prithvi_swin, UPERNET, [(224, 224)]),
    "a decoder": ("timm_resnet18", {"decoder": LastMap(), "num_classes": 2}, [(64, 64), (96, 64)]),
}


@pytest.mark.parametrize(("backbone", "call", "sizes"), CASES.values(), ids=CASES)
def test_the_numbers_are_terratorchs(backbone, call, sizes, tmp_path):
    theirs, ours = (
        factory()
        .build_model("segmentation", backbone=backbone if isinstance(backbone, str) else backbone(), **call)
        .double()
        .eval()
        for factory in (Theirs, EncoderDecoderFactory)
    )
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    composer.load_weights(ours, tmp_path / "weights.pt")
    images = [torch.rand(1, ours.graph.inputs[0][1].channels, *size, dtype=torch.float64) for size in sizes]

    with torch.no_grad():
        pairs = [(ours(x).output, theirs(x).output) for x in images]

    assert [tuple(y.shape[-2:]) for y, _ in pairs] == sizes
    assert max(float((y - expected).abs().max()) for y, expected in pairs) < 1e-12
