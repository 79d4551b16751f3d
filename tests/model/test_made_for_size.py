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


def build_graph(encoder, size, stride=1):
    return composer.chain(
        encoder, UperNetDecoder(channels=8), SegmentationHead(num_classes=2), input=Image(size=size, stride=stride)
    )


@pytest.mark.parametrize(
    ("name", "size", "stride"),
    [
        ("mixer_s16_224", (96, 160), 16),
        ("beit_base_patch16_224", (128, 96), 16),
        ("maxvit_tiny_rw_224", (256, 192), 32),
        ("nest_tiny_jx", (256, 256), 16),
    ],
    ids=["positions of patches", "biases of attention", "grids within grids", "squares alone"],
)
def test_it_is_made_for_the_size_of_the_input(name, size, stride):
    typed = composer.infer(build_graph(Timm(name), size))

    assert (typed.sizes.height, typed.sizes.width) == size
    assert typed.features["encoder"][-1].stride == stride
    model = composer.build(typed, device="meta", verify=True)
    assert model(torch.empty(2, 3, *size, device="meta")).output.shape == (2, 2, *size)


def test_an_input_at_half_the_resolution_asks_for_half_the_size():
    typed = composer.infer(build_graph(Timm("mixer_s32_224"), (256, 384), stride=2))
    assert dict(typed.encoder_infos["encoder"].arguments)["img_size"] == (128, 192)


SWIN = {"embed_dim": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 1, 2, 2)}
NETWORKS = [
    pytest.param("mixer_s32_224", {}, (64, 96), id="mixer"),
    pytest.param("swin_tiny_patch4_window7_224", SWIN, (96, 160), id="windows of a smaller image"),
    pytest.param("test_vit", {}, (176, 192), id="positions"),
    pytest.param("eva02_tiny_patch14_224", {"depth": 3}, (252, 280), id="rotary positions"),
    pytest.param("test_vit_relpos", {}, (192, 224), id="biases of attention"),
    pytest.param("swin_tiny_patch4_window7_224", SWIN, (256, 320), id="windows that shift", marks=pytest.mark.slow),
    pytest.param("swinv2_tiny_window8_256", SWIN, (288, 288), id="swin v2", marks=pytest.mark.slow),
    pytest.param("swinv2_cr_tiny_224", SWIN, (256, 288), id="swin v2 cr", marks=pytest.mark.slow),
    pytest.param("maxvit_pico_rw_256", {}, (512, 512), id="windows as large as a part", marks=pytest.mark.slow),
    pytest.param("mvitv2_tiny", {}, (256, 256), id="tables of one size", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "options", "size"), NETWORKS)
def test_it_gives_what_timms_network_of_that_size_gives(name, options, size):
    graph = composer.chain(Timm(name, options=options), composer.EmbeddingHead(), input=Image(size=size))
    model = composer.build(graph).eval()
    plain = timm.create_model(name, img_size=size, num_classes=0, **options).eval()
    own = model.encoder.state_dict()
    assert {key: own[key].shape for key in own} == {key: plain.state_dict()[key].shape for key in own}
    plain.load_state_dict(own, strict=False)
    image = torch.randn(1, 3, *size)

    with torch.no_grad():
        levels = model(image).output
        expected = plain.forward_intermediates(image, indices=model.encoder.indices, intermediates_only=True)

    torch.testing.assert_close(list(levels), expected, rtol=0, atol=0)


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


def test_behind_a_neck_nothing_is_asked():
    """What an encoder takes from another node is not of the size of an input."""
    nodes = [Node("encoder", Timm("mixer_s32_224"), "image"), Node("out", composer.IdentityDecoder(), "encoder")]
    typed = composer.infer(composer.Graph(inputs={"image": Image()}, nodes=nodes, outputs=["out"]))
    assert str(typed.sizes) == "exactly 224 × 224"


def test_an_img_size_that_is_not_whole_patches_is_rejected():
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(build_graph(Timm("eva02_tiny_patch14_224", img_size=[128, 192]), None))
    assert str(caught.value) == (
        "error[sizes] encoder.img_size: timm/eva02_tiny_patch14_224 takes img_size: multiple of 14, at least 14, any "
        "shape (got 128 × 192).\n  fix: img_size: [140, 196]"
    )


@pytest.mark.parametrize(
    ("encoder", "size", "needed"),
    [
        (Timm("eva02_tiny_patch14_224"), (128, 192), "multiple of 14, at least 14, any shape"),
        (Timm("mixer_s32_224", img_size=128), (64, 64), "exactly 128 × 128"),
        # timm takes img_size, and makes the same network.
        (Timm("efficientformer_l1"), (256, 256), "exactly 224 × 224"),
    ],
    ids=["not whole patches", "an img_size that is set", "a network that ignores img_size"],
)
def test_an_input_that_a_network_cannot_be_made_for_is_rejected(encoder, size, needed):
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(build_graph(encoder, size))
    assert str(caught.value) == (
        f"error[sizes] encoder: no image size suits both: image takes exactly {size[0]} × {size[1]}; encoder takes "
        f"{needed}.\n  fix: change the input's size or the encoder's img_size to one that both take"
    )
