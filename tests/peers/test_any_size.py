"""TerraTorch pads images for networks of patches alone; with `any_size`, the others give what they give there."""

from __future__ import annotations

import pytest
import torch
from terratorch.models import EncoderDecoderFactory

import composer
import composer.terratorch
from composer.parts.decoders import UperNetDecoder
from composer.parts.encoders import Timm
from composer.parts.heads import SegmentationHead
from composer.parts.necks import PermuteDims

TO_MAPS = [0, 3, 1, 2]
CASES = {
    "resnet18": ({}, False, [(120, 120), (40, 200), (101, 67)]),
    "convnext_atto": ({}, False, [(120, 120), (101, 67)]),
    "efficientnet_b0": ({}, False, [(120, 120), (101, 67)]),
    "regnety_002": ({}, False, [(120, 120), (101, 67)]),
    # These round in turn up and down.
    "densenet121": ({}, False, [(120, 120), (101, 67)]),
    "poolformer_s12": ({}, False, [(120, 120), (101, 67)]),
    "ese_vovnet19b_dw": ({}, False, [(120, 120), (101, 67)]),
    "swin_tiny_patch4_window7_224": ({"strict_img_size": False}, True, [(120, 120), (40, 104)]),
    # These lose pixels at the borders.
    "legacy_xception": ({}, False, [(299, 299), (120, 120), (101, 67)]),
    "inception_v3": ({}, False, [(299, 299), (120, 120), (101, 77)]),
}


def theirs(name, arguments, *, channels_last):
    torch.manual_seed(0)
    return EncoderDecoderFactory().build_model(
        "segmentation",
        backbone=f"timm_{name}",
        decoder="UperNetDecoder",
        backbone_kwargs={"pretrained": False, "out_indices": [1, 2, 3], **arguments},
        decoder_kwargs={"channels": 8},
        num_classes=3,
        necks=[{"name": "PermuteDims", "new_order": TO_MAPS}] if channels_last else [],
    )


def ours(name, *, channels_last):
    encoder = Timm(name, any_size=True, features_only=True, out_indices=[1, 2, 3])
    necks = [PermuteDims(new_order=TO_MAPS)] if channels_last else []
    return composer.build(composer.chain(encoder, *necks, UperNetDecoder(channels=8), SegmentationHead(num_classes=3)))


@pytest.mark.parametrize(
    ("name", "arguments", "channels_last", "sizes"), [(k, *v) for k, v in CASES.items()], ids=CASES
)
def test_the_numbers_are_terratorchs(name, arguments, channels_last, sizes):
    model, peer = (
        ours(name, channels_last=channels_last).eval(),
        theirs(name, arguments, channels_last=channels_last).eval(),
    )
    copy_weights(peer.encoder, model.encoder)
    copy_weights(peer.decoder, model.decoder)
    copy_weights(peer.head, model.head)
    images = [torch.rand(1, 3, *size) for size in sizes]

    with torch.no_grad():
        pairs = [(model(x).output, peer(x).output) for x in images]

    assert [tuple(y.shape) for y, _ in pairs] == [(1, 3, *size) for size in sizes]
    assert [float((y - expected).abs().max()) for y, expected in pairs] == [0.0] * len(sizes)


OFFSETS = ("legacy_xception", "inception_v3", "inception_v4", "inception_resnet_v2", "nasnetalarge", "pnasnet5large")
DECODERS = {
    "UNet": {"decoder": "UNetDecoder", "decoder_channels": [16, 8, 8, 8, 8]},
    "UperNet": {"decoder": "UperNetDecoder", "decoder_channels": 8},
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", OFFSETS)
def test_a_call_with_a_network_that_loses_pixels_at_the_borders_gives_the_same_numbers(name, decoder):
    call = {
        "task": "segmentation",
        "backbone": f"timm_{name}",
        "backbone_pretrained": False,
        "num_classes": 3,
        **DECODERS[decoder],
    }
    model = composer.terratorch.EncoderDecoderFactory().build_model(**call).eval()
    peer = EncoderDecoderFactory().build_model(**call).eval()
    copy_weights(peer.encoder, model.encoder)
    copy_weights(peer.decoder, model.decoder)
    copy_weights(peer.head, model.head)
    images = [torch.rand(1, 3, *size) for size in ((75, 75), (120, 97))]

    with torch.no_grad():
        pairs = [(model(x).output, peer(x).output) for x in images]

    assert [tuple(y.shape) for y, _ in pairs] == [(1, 3, 75, 75), (1, 3, 120, 97)]
    assert [float((y - expected).abs().max()) for y, expected in pairs] == [0.0, 0.0]


def copy_weights(source, target):
    """The same tensors in the same order, whatever they are called."""
    tensors = source.state_dict().values()
    target.load_state_dict(dict(zip(target.state_dict(), tensors, strict=True)))
