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
    "resnet18",
    "resnext50_32x4d",
    "dpn68",
    "vgg11",
    "se_resnet50",
    "densenet121",
    "inceptionresnetv2",
    "inceptionv4",
    "efficientnet-b0",
    "mobilenet_v2",
    "xception",
    "timm-efficientnet-b0",
    "timm-tf_efficientnet_lite0",
    "timm-skresnet18",
    "mit_b0",
    "mobileone_s0",
)
"""One encoder of each family; the others are of the same code, and take minutes."""

LARGEST = ("vgg", "resnext101_32x16d", "resnext101_32x32d", "resnext101_32x48d", "timm-efficientnet-l2")
"""What the names of those begin with that are too large to draw, if only for a classifier; they run without numbers."""

NAMES = [pytest.param(name, marks=[] if name in SMALLEST else pytest.mark.slow) for name in SMP_ENCODERS]
CHANNELS = 4


def built(part):
    """What is known of an encoder, and its module."""
    facts = composer.describe(part, CHANNELS)
    with torch.random.fork_rng(devices=[]), torch.device("meta" if part.name.startswith(LARGEST) else "cpu"):
        module = composer.module(part, (Feature(channels=CHANNELS),), info=facts, pretrained=False)
    # smp makes the first layer for other channels on the CPU, whatever the device.
    return facts, module.to("meta") if part.name.startswith(LARGEST) else module


@pytest.fixture(scope="module", params=NAMES)
def encoder(request):
    return built(composer.SmpEncoder(request.param, first_level=True))


def given(module, height, width):
    """An image that wants gradients, and what the module gives for it."""
    device = next(module.parameters()).device
    image = torch.rand(2, CHANNELS, height, width, device=device, requires_grad=True)
    return image, module.eval()(image)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 96)], ids=["square", "wide"])
def test_an_encoder_gives_what_is_promised(encoder, height, width):
    facts, module = encoder

    image, levels = given(module, height, width)

    assert facts.sizes.is_valid_size(height, width)
    assert [tuple(x.shape) for x in levels] == [f.shape(2, height, width) for f in facts.features]
    # Weighed, because the sum of what a norm gives does not depend on the image.
    gradients = [torch.autograd.grad((x * torch.rand_like(x)).sum(), image, retain_graph=True)[0] for x in levels]
    assert [x.shape for x in gradients] == [image.shape] * len(levels)
    assert image.is_meta or all(x.any() for x in gradients)


def test_no_smaller_size_than_is_told_gives_that(encoder):
    """Half a cell less, and some level is no whole one."""
    facts, module = encoder
    unit = facts.sizes.multiple

    _, levels = given(module, 3 * unit, 2 * unit - unit // 2)

    assert not facts.sizes.is_valid_size(3 * unit, 2 * unit - unit // 2)
    told = [(3 * unit / f.stride, (2 * unit - unit // 2) / f.stride) for f in facts.features]
    assert [tuple(x.shape[2:]) for x in levels] != told


DILATED = [("resnet18", 8, 8), ("mobilenet_v2", 16, 16), ("mit_b0", 8, 8), ("efficientnet-b0", 16, 16)]


@pytest.mark.parametrize(("name", "output_stride", "multiple"), DILATED)
def test_a_dilated_encoder_gives_what_is_promised(name, output_stride, multiple):
    facts, module = built(composer.SmpEncoder(name, output_stride=output_stride))

    _, levels = given(module, 72 if multiple == 8 else 80, 48)

    assert facts.sizes.multiple == multiple
    assert max(f.stride for f in facts.features) == output_stride
    assert [tuple(x.shape) for x in levels] == [f.shape(2, 72 if multiple == 8 else 80, 48) for f in facts.features]


@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.parametrize("name", ["resnet18", "mit_b0", "efficientnet-b0"])
def test_an_encoder_of_fewer_levels_gives_what_is_promised(name, depth):
    facts, module = built(composer.SmpEncoder(name, depth=depth))

    _, levels = given(module, 48, 80)

    assert facts.sizes.multiple == max(f.stride for f in facts.features) == 2**depth
    assert [tuple(x.shape) for x in levels] == [f.shape(2, 48, 80) for f in facts.features]


def test_every_encoder_of_smps_own_is_here():
    assert SMP_ENCODERS.keys() == encoders.keys()


def dilates(name):
    """Whether smp makes a dilated network of this encoder."""
    return "make_dilated" not in vars(encoders[name]["encoder"])


def test_a_field_for_dilation_is_what_smp_can_dilate():
    told = {name for name, fields in composer.SmpEncoder.defaults.items() if "output_stride" in fields}
    assert told == {name for name in SMP_ENCODERS if dilates(name)}
