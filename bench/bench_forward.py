"""A forward pass of a model against the same modules called by hand: what the interpreter costs."""

import pytest
import torch
from torch.nn import functional as F

import composer
from composer.parts.decoders import FCNDecoder
from composer.parts.encoders import Timm
from composer.parts.heads import SegmentationHead

SIZES = {"aligned": (224, 224), "unaligned": (218, 250)}
MULTIPLE = 32


@pytest.fixture(scope="module")
def model():
    """A ResNet-18 and an FCN on its last level."""
    graph = composer.chain(Timm("resnet18"), FCNDecoder(channels=64), SegmentationHead(num_classes=5))
    return composer.build(graph).eval()


def by_hand(model):
    """What a person writes who knows the network: pad to multiples of 32, run, enlarge, crop."""
    encoder, decoder, head = model.encoder, model.decoder, model.head

    def forward(image):
        height, width = image.shape[-2:]
        below, right = -height % MULTIPLE, -width % MULTIPLE
        top, left = below // 2, right // 2
        x = image
        if below or right:
            x = F.pad(image, (left, right - left, top, below - top), mode="reflect")
        (y,) = head(decoder(encoder(x)))
        y = F.interpolate(y, size=x.shape[-2:], mode="bilinear")
        return y[:, :, top : top + height, left : left + width]

    return forward


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [1, 8])
def test_forward_against_the_same_modules_by_hand(model, paired, batch, size):
    """The target for batch 1 is 1.02 at most."""
    image = torch.rand(batch, 3, *SIZES[size])
    hand = by_hand(model)
    with torch.no_grad():
        torch.testing.assert_close(model(image).output, hand(image))
        label = f"forward, resnet18 + FCN, batch {batch}, {size} {SIZES[size][0]} x {SIZES[size][1]}"
        paired(label, lambda: model(image), lambda: hand(image), pairs=200 // batch)
