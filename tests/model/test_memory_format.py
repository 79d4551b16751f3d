"""Features are contiguous where gradients are on, unless the user chooses another memory format; values stay."""

from __future__ import annotations

import pytest
import torch

import composer

ENCODERS = ("test_resnet", "test_convnext", "test_efficientnet")


def build(encoder):
    parts = (
        composer.Timm(encoder),
        composer.FCNDecoder(channels=8, num_convs=2),
        composer.SegmentationHead(num_classes=2),
    )
    return composer.build(composer.chain(*parts), seed=0).eval()


def run(model, image, *, gradients):
    """The output, and every map of more than one cell and channel that a convolution of the decoder or the head takes,
    and that the encoder gives to it.
    """
    maps = []
    convolutions = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    taking = [m for node in (model.decoder, model.head) for m in node.modules() if isinstance(m, convolutions)]
    hooks = [m.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0])) for m in taking]
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
def test_with_gradients_every_convolution_behind_an_encoder_takes_contiguous_maps(encoder):
    _, maps = run(build(encoder), image(), gradients=True)
    assert are(maps, torch.contiguous_format) == [True] * 5


@pytest.mark.parametrize("encoder", ENCODERS)
def test_without_gradients_the_fcn_decoder_is_channels_last_and_the_numbers_are_the_same(encoder):
    model = build(encoder)
    expected, _ = run(model, image(), gradients=True)
    output, maps = run(model, image(), gradients=False)
    assert are(maps[2:], torch.channels_last) == [True] * 3
    torch.testing.assert_close(output, expected.detach(), rtol=1e-5, atol=1e-6)


def test_a_model_that_is_fed_channels_last_memory_stays_in_it():
    model = build("test_convnext").to(memory_format=torch.channels_last)
    output, maps = run(model, image().to(memory_format=torch.channels_last), gradients=True)
    assert are(maps, torch.channels_last) == [True] * 5
    expected, _ = run(build("test_convnext"), image(), gradients=True)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)


def test_an_exported_model_gives_the_same_numbers_at_other_sizes():
    model = build("test_convnext")
    batch = torch.export.Dim("batch", min=2, max=8)
    exported = torch.export.export(model, (image(),), dynamic_shapes=({0: batch},))
    three = torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(exported.module()(three).output, model(three).output, rtol=1e-5, atol=1e-6)
