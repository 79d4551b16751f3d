"""The law for the encoders of smp: what is found out of each is what a forward pass gives, with gradients."""

from __future__ import annotations

import pytest
import torch

import composer
from composer.adapters.smp.parts import SMP_ENCODERS
from composer.layouts import Feature

pytest.importorskip("segmentation_models_pytorch", reason="the extra smp is not installed")
from segmentation_models_pytorch.encoders import encoders

SMALLEST = (
    "resnet18 resnext50_32x4d dpn68 vgg11 se_resnet50 densenet121 inceptionresnetv2 inceptionv4 efficientnet-b0 "
    "mobilenet_v2 xception timm-efficientnet-b0 timm-tf_efficientnet_lite0 timm-skresnet18 mit_b0 mobileone_s0"
)
"""One encoder of each family; the others are of the same code, and take minutes."""

LARGEST = ("vgg", "resnext101_32x16d", "resnext101_32x32d", "resnext101_32x48d", "timm-efficientnet-l2")
"""What the names of those begin with that are too large to draw, if only for a classifier; they run without numbers."""

NAMES = [pytest.param(name, marks=[] if name in SMALLEST.split() else pytest.mark.slow) for name in SMP_ENCODERS]
CHANNELS = 4


def build(part):
    """The info of an encoder, and its module."""
    info = composer.describe(part, CHANNELS)
    with torch.random.fork_rng(devices=[]), torch.device("meta" if part.name.startswith(LARGEST) else "cpu"):
        module = composer.module(part, (Feature(channels=CHANNELS),), info=info, pretrained=False)
    # smp makes the first layer for other channels on the CPU, whatever the device.
    return info, (module.to("meta") if part.name.startswith(LARGEST) else module).eval()


def list_shapes(levels):
    return [tuple(x.shape) for x in levels]


@pytest.mark.parametrize("name", NAMES)
def test_an_encoder_gives_what_is_promised(name):
    info, module = build(composer.SmpEncoder(name, first_level=True))
    device, unit = next(module.parameters()).device, info.sizes.multiple
    image = torch.rand(2, CHANNELS, 32, 96, device=device, requires_grad=True)

    levels = module(image)

    assert info.sizes.is_valid_size(32, 96)
    assert list_shapes(levels) == [f.shape(2, 32, 96) for f in info.features]
    # Weighted, because the sum of what a norm gives does not depend on the image.
    gradients = [torch.autograd.grad((x * torch.rand_like(x)).sum(), image, retain_graph=True)[0] for x in levels]
    assert [x.shape for x in gradients] == [image.shape] * len(levels)
    assert image.is_meta or all(x.any() for x in gradients)
    # Half a cell less, and some level is no whole one.
    height, width = 3 * unit, 2 * unit - unit // 2
    grids = [tuple(x.shape[2:]) for x in module(torch.rand(2, CHANNELS, height, width, device=device))]
    assert not info.sizes.is_valid_size(height, width)
    assert grids != [(height / f.stride, width / f.stride) for f in info.features]


FIELDS = {
    "resnet18": [{"output_stride": 8}, {"depth": 3}],
    "mobilenet_v2": [{"output_stride": 16}],
    "mit_b0": [{"output_stride": 8}, {"depth": 3}],
    "efficientnet-b0": [{"output_stride": 16}, {"depth": 4}],
}


@pytest.mark.parametrize(("name", "fields"), [(name, fields) for name in FIELDS for fields in FIELDS[name]], ids=str)
def test_a_dilated_or_shorter_encoder_gives_what_is_promised(name, fields):
    info, module = build(composer.SmpEncoder(name, **fields))
    multiple = fields.get("output_stride") or 2 ** fields["depth"]

    levels = module(torch.rand(2, CHANNELS, 9 * multiple, 48))

    assert info.sizes.multiple == max(f.stride for f in info.features) == multiple
    assert list_shapes(levels) == [f.shape(2, 9 * multiple, 48) for f in info.features]


def test_every_encoder_of_smps_own_is_here():
    assert SMP_ENCODERS.keys() == encoders.keys()


def test_a_field_for_dilation_is_what_smp_can_dilate():
    dilated = {name for name in SMP_ENCODERS if "make_dilated" not in vars(encoders[name]["encoder"])}
    assert {name for name, fields in composer.SmpEncoder.defaults.items() if "output_stride" in fields} == dilated
