"""Networks of one size are made for the size of the graph's input, where timm allows it."""

from __future__ import annotations

import pytest
import timm
import torch

import composer
from composer import Image, Node, SegmentationHead, Timm, UperNetDecoder

SIZES = {
    "positions of patches": ("mixer_s16_224", (96, 160), 16),
    "biases of attention": ("beit_base_patch16_224", (128, 96), 16),
    "grids within grids": ("maxvit_tiny_rw_224", (256, 192), 32),
    "squares alone": ("nest_tiny_jx", (256, 256), 16),
}


def graph_for(encoder, size, stride=1):
    return composer.chain(
        encoder, UperNetDecoder(channels=8), SegmentationHead(num_classes=2), input=Image(size=size, stride=stride)
    )


@pytest.mark.parametrize("case", SIZES)
def test_it_is_made_for_the_size_of_the_input(case):
    name, size, stride = SIZES[case]

    typed = composer.infer(graph_for(Timm(name), size))

    assert (typed.sizes.height, typed.sizes.width) == size
    assert typed.features["encoder"][-1].stride == stride
    model = composer.build(typed, device="meta", verify=True)
    assert model(torch.empty(2, 3, *size, device="meta")).output.shape == (2, 2, *size)


def test_its_weights_are_those_of_timm_made_for_that_size():
    model = composer.build(graph_for(Timm("mixer_s32_224"), (64, 96)), seed=0)
    plain = timm.create_model("mixer_s32_224", img_size=(64, 96), num_classes=0)
    shapes = {name: x.shape for name, x in plain.state_dict().items()}
    assert {name: x.shape for name, x in model.encoder.state_dict().items()}.items() <= shapes.items()


def test_an_input_at_half_the_resolution_asks_for_half_the_size():
    typed = composer.infer(graph_for(Timm("mixer_s32_224"), (256, 384), stride=2))
    assert dict(typed.facts["encoder"].arguments)["img_size"] == (128, 192)


def test_a_size_that_is_written_stays():
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(graph_for(Timm("mixer_s32_224", img_size=128), (64, 64)))
    assert str(caught.value) == (
        "error[sizes] encoder: no image size suits both: image takes exactly 64 × 64; encoder takes exactly 128 × 128."
        "\n  repair: change the input's size or the encoder's img_size to one that both take"
    )


def test_a_network_that_cannot_be_made_for_it_is_refused():
    """timm takes `img_size` for efficientformer, and makes the same network."""
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(graph_for(Timm("efficientformer_l1"), (256, 256)))
    assert str(caught.value) == (
        "error[sizes] encoder: no image size suits both: image takes exactly 256 × 256; encoder takes exactly 224 × 224"
        ".\n  repair: change the input's size or the encoder's img_size to one that both take"
    )


def test_behind_a_neck_nothing_is_asked():
    """What an encoder takes from another node is not of the size of an input."""
    nodes = [Node("encoder", Timm("mixer_s32_224"), "image"), Node("out", composer.IdentityDecoder(), "encoder")]
    typed = composer.infer(composer.Graph(inputs={"image": Image()}, nodes=nodes, outputs=["out"]))
    assert str(typed.sizes) == "exactly 224 × 224"
