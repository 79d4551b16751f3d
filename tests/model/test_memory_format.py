"""Features are contiguous where gradients are on, unless the user chooses another memory format; values stay."""

from __future__ import annotations

import pytest
import torch

import composer

ENCODERS = ("test_resnet", "test_convnext", "test_efficientnet")


def build(encoder):
    decoder, head = composer.FCNDecoder(channels=8, num_convs=2), composer.SegmentationHead(num_classes=2)
    return composer.build(composer.chain(composer.Timm(encoder), decoder, head)).eval()


def run(model, image, *, gradients):
    """Return the output, and the maps of more than one cell and channel that convolutions of decoder and head take."""
    maps = []
    convolutions = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    layers = [m for node in (model.decoder, model.head) for m in node.modules() if isinstance(m, convolutions)]
    hooks = [layer.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0])) for layer in layers]
    with torch.set_grad_enabled(gradients):
        output = model(image).output
    for hook in hooks:
        hook.remove()
    assert len(maps) == 5
    return output, maps


def are(maps, memory_format):
    return [x.is_contiguous(memory_format=memory_format) for x in maps]


def image():
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_maps_are_contiguous_with_gradients_and_channels_last_without(encoder):
    model = build(encoder)
    expected, maps = run(model, image(), gradients=True)
    assert are(maps, torch.contiguous_format) == [True] * 5
    output, maps = run(model, image(), gradients=False)
    assert are(maps[2:], torch.channels_last) == [True] * 3
    torch.testing.assert_close(output, expected.detach(), rtol=1e-5, atol=1e-6)


def test_a_model_and_an_image_in_channels_last_memory_stay_in_it():
    model = build("test_convnext").to(memory_format=torch.channels_last)
    output, maps = run(model, image().to(memory_format=torch.channels_last), gradients=True)
    assert are(maps, torch.channels_last) == [True] * 5
    expected, _ = run(build("test_convnext"), image(), gradients=True)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)
