"""Networks of one size are made for the size of the graph's input, where timm allows it."""

from __future__ import annotations

import pytest
import timm
import torch

import composer
from composer.graph import Node
from composer.layouts import Image
from composer.parts.decoders import UperNetDecoder
from composer.parts.encoders import Timm
from composer.parts.heads import SegmentationHead

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
    assert dict(typed.encoder_infos["encoder"].arguments)["img_size"] == (128, 192)


SMALL = {"embed_dim": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 1, 2, 2)}
NETWORKS = {
    "windows that shift": ("swin_tiny_patch4_window7_224", SMALL, (256, 320)),
    "windows of a smaller image": ("swin_tiny_patch4_window7_224", SMALL, (96, 160)),
    "swin v2": ("swinv2_tiny_window8_256", SMALL, (288, 288)),
    "swin v2 cr": ("swinv2_cr_tiny_224", SMALL, (256, 288)),
    "windows as large as the image's part": ("maxvit_pico_rw_256", {}, (512, 512)),
    "tables of one size": ("mvitv2_tiny", {}, (256, 256)),
    "positions": ("test_vit", {}, (176, 192)),
    "rotary positions": ("eva02_tiny_patch14_224", {"depth": 3}, (252, 280)),
    "biases of attention": ("test_vit_relpos", {}, (192, 224)),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_it_gives_what_timms_network_of_that_size_gives(case):
    name, options, size = NETWORKS[case]
    graph = composer.chain(Timm(name, options=options), composer.EmbeddingHead(), input=Image(size=size))
    model = composer.build(graph).eval()
    plain = timm.create_model(name, img_size=size, num_classes=0, **options).eval()
    own = model.encoder.state_dict()
    assert {key: own[key].shape for key in own} == {key: plain.state_dict()[key].shape for key in own}
    plain.load_state_dict(own, strict=False)
    image = torch.randn(1, 3, *size)

    with torch.no_grad():
        given = model(image).output
        expected = plain.forward_intermediates(image, indices=model.encoder.indices, intermediates_only=True)

    assert len(given) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(given, expected, strict=True))


def test_a_file_of_that_size_is_loaded_as_it_is(tmp_path):
    """Its positions are not resampled to the usual size and back."""
    plain = timm.create_model("test_vit", img_size=(176, 192), num_classes=0).eval()
    torch.save(plain.state_dict(), tmp_path / "finetuned.pth")
    encoder = Timm("test_vit", pretrained=str(tmp_path / "finetuned.pth"), options={"num_classes": 0})
    model = composer.build(composer.chain(encoder, composer.EmbeddingHead(), input=Image(size=(176, 192)))).eval()
    image = torch.randn(1, 3, 176, 192)
    with torch.no_grad():
        last = model(image).output[-1]
        expected = plain.forward_intermediates(image, indices=model.encoder.indices, intermediates_only=True)[-1]
    assert torch.equal(last, expected)


def test_tables_of_one_size_take_images_of_that_size():
    """The meta device, on which networks are looked at, does not check the indices into such tables."""
    assert str(composer.infer(graph_for(Timm("mvitv2_tiny"), None)).sizes) == "exactly 224 × 224"


def test_an_image_size_that_is_not_whole_patches_is_refused():
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(graph_for(Timm("eva02_tiny_patch14_224", img_size=[128, 192]), None))
    assert str(caught.value) == (
        "error[sizes] encoder.img_size: timm/eva02_tiny_patch14_224 takes img_size: multiple of 14, at least 14, any "
        "shape (got 128 × 192).\n  fix: img_size: [140, 196]"
    )


def test_an_input_size_that_is_not_whole_patches_is_refused():
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(graph_for(Timm("eva02_tiny_patch14_224"), (128, 192)))
    assert str(caught.value) == (
        "error[sizes] encoder: no image size suits both: image takes exactly 128 × 192; encoder takes multiple of 14, "
        "at least 14, any shape.\n  fix: change the input's size or the encoder's img_size to one that both take"
    )


def test_a_size_that_is_written_stays():
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(graph_for(Timm("mixer_s32_224", img_size=128), (64, 64)))
    assert str(caught.value) == (
        "error[sizes] encoder: no image size suits both: image takes exactly 64 × 64; encoder takes exactly 128 × 128."
        "\n  fix: change the input's size or the encoder's img_size to one that both take"
    )


def test_a_network_that_cannot_be_made_for_it_is_refused():
    """timm takes `img_size` for efficientformer, and makes the same network."""
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(graph_for(Timm("efficientformer_l1"), (256, 256)))
    assert str(caught.value) == (
        "error[sizes] encoder: no image size suits both: image takes exactly 256 × 256; encoder takes exactly 224 × 224"
        ".\n  fix: change the input's size or the encoder's img_size to one that both take"
    )


def test_behind_a_neck_nothing_is_asked():
    """What an encoder takes from another node is not of the size of an input."""
    nodes = [Node("encoder", Timm("mixer_s32_224"), "image"), Node("out", composer.IdentityDecoder(), "encoder")]
    typed = composer.infer(composer.Graph(inputs={"image": Image()}, nodes=nodes, outputs=["out"]))
    assert str(typed.sizes) == "exactly 224 × 224"
