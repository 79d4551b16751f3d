"""`any_size`: images go into a network unpadded, and its levels are what was inferred, rounded down or up."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.nn import functional as F

import composer
from composer.adapters.timm.modules import TimmEncoder, probe
from composer.errors import SpecError
from composer.graph import Graph, Node
from composer.layouts import Image
from composer.parts.decoders import IdentityDecoder, UperNetDecoder
from composer.parts.encoders import Timm
from composer.parts.heads import SegmentationHead
from composer.parts.necks import ConcatFeatures
from composer.sizes import SizeConstraint

UP, DOWN, EXACT, ANY = ("ceil", 0), ("floor", 0), ("exact", 0), SizeConstraint()
NETWORKS = {
    "resnet": (Timm("test_resnet", any_size=True), [UP] * 5, ANY),
    "dilated": (Timm("test_resnet", any_size=True, output_stride=16, out_indices=[0, 1, 2, 3]), [UP] * 4, ANY),
    "wrapped": (Timm("test_efficientnet", any_size=True, features_only=True), [UP] * 5, ANY),
    "padded as in tensorflow": (Timm("test_efficientnet", any_size=True, options={"pad_type": "same"}), [UP] * 5, ANY),
    "convnext": (Timm("test_convnext", any_size=True), [DOWN] * 4, SizeConstraint(least=32)),
    "vgg": (Timm("vgg11", any_size=True), [EXACT, *[DOWN] * 5], SizeConstraint(least=32)),
    # Up twice and then down is neither: it has an offset.
    "densenet": (
        Timm("densenet121", any_size=True, options={"block_config": [1, 1, 1, 1]}),
        [UP, UP, *[("floor", -3)] * 3],
        SizeConstraint(least=29),
    ),
    # It raises for an image that its patches do not divide, and then rounds up.
    "swin": (
        Timm(
            "swin_tiny_patch4_window7_224",
            any_size=True,
            options={"depths": [1, 1, 1, 1], "embed_dim": 8, "num_heads": [1, 1, 1, 1]},
        ),
        [EXACT, *[UP] * 3],
        SizeConstraint(multiple=4, least=4),
    ),
}


@pytest.mark.parametrize(("part", "roundings", "sizes"), NETWORKS.values(), ids=NETWORKS)
def test_levels_round_as_they_are_described(part, roundings, sizes):
    info = composer.describe(part, 3)
    assert ([(f.rounding, f.offset) for f in info.features], info.sizes) == (roundings, sizes)
    model = composer.build(composer.chain(part, composer.EmbeddingHead()), device="meta").eval()
    taken = [sizes.compute_padded_size(*size) for size in ((1, 1), (31, 47), (33, 65), (63, 64), (97, 31))]

    with torch.no_grad():
        levels = [[tuple(x.shape) for x in model.encoder(torch.empty(1, 3, *size, device="meta"))] for size in taken]

    assert levels == [[f.shape(1, *size) for f in info.features] for size in taken]


@pytest.mark.parametrize(
    ("name", "features_only"), [("test_resnet", False), ("test_convnext", True)], ids=["up", "down, wrapped"]
)
def test_the_numbers_are_those_of_timm_on_the_image_as_it_is(name, features_only):
    part = Timm(name, any_size=True, features_only=features_only)
    models = [
        composer.build(composer.chain(encoder, IdentityDecoder(), rescale=False)).eval()
        for encoder in (part, Timm(name, features_only=features_only))
    ]
    theirs = timm.create_model(name, features_only=True).eval()
    names = theirs.state_dict()
    theirs.load_state_dict(dict(zip(names, models[0].encoder.state_dict().values(), strict=True)))
    x = torch.rand(2, 3, 101, 75)

    with torch.no_grad():
        ours, padded, expected = models[0](x).output, models[1](x).output, theirs(x)[-1]

    assert expected.shape[-2:] == ((3, 2) if features_only else (4, 3))
    assert torch.equal(ours, expected)
    assert padded.shape != ours.shape or not torch.allclose(padded, ours, rtol=1e-2)


def test_with_a_decoder_and_a_head_nothing_is_padded_or_cropped():
    graph = composer.chain(
        Timm("test_resnet", any_size=True), UperNetDecoder(channels=4), SegmentationHead(num_classes=2)
    )
    model = composer.build(graph).eval()
    x = torch.rand(1, 3, 101, 75)

    with torch.no_grad():
        (cells,) = model.head(model.decoder(model.encoder(x)))
        assert torch.equal(model(x).output, F.interpolate(cells, size=(101, 75), mode="bilinear"))


def test_branches_that_round_differently_meet_where_both_are_whole():
    nodes = [
        Node("up", Timm("test_resnet", any_size=True, out_indices=[1, 2]), "image"),
        Node("down", Timm("test_convnext", any_size=True, out_indices=[0, 1]), "image"),
        Node("joined", ConcatFeatures(), ["up", "down"]),
        Node("fine", IdentityDecoder(out_index=0), "joined"),
    ]
    model = composer.build(Graph(inputs={"image": Image()}, nodes=nodes, outputs=["fine"])).eval()
    assert model.typed.sizes == SizeConstraint(multiple=8, least=8)
    assert model(torch.rand(1, 3, 70, 33)).output.shape == (1, 32 + 24, 70, 33)


REJECTED = {
    "multiples of the patch": (
        "timm/test_vit",
        (
            "does not run at every image size (got at 161 × 161, timm says AssertionError: Input height (161) should "
            "be divisible by patch size (16).)."
        ),
        "leave any_size out: images are then padded to multiples of 16",
    ),
    "grids made even": (
        "timm/mobilevitv2_050",
        "has levels that round neither down nor up at every image size (got at 257 × 257, 34 × 34 cells of stride 8).",
        "leave any_size out: images are then padded to multiples of 64",
    ),
    "one size": ("timm/visformer_tiny", "works at one image size only (got exactly 224 × 224).", "leave any_size out"),
    # On the meta device it also runs at sizes at which it indexes its tables beyond their end.
    "tables of one size": (
        "timm/mvitv2_tiny",
        "works at one image size only (got exactly 224 × 224).",
        "leave any_size out",
    ),
}


@pytest.mark.parametrize(("name", "message", "fix"), REJECTED.values(), ids=REJECTED)
def test_a_network_that_must_be_padded_is_rejected(name, message, fix):
    with pytest.raises(SpecError) as caught:
        composer.infer(composer.reads(f"encoder: {{{name}: {{any_size: true}}}}\ndecoder: IdentityDecoder\n"))

    place = f"<text>:1:{len(name) + 24}: error[sizes] encoder.any_size"
    assert str(caught.value) == f"{place}: {name} {message}\n  fix: {fix}"


@pytest.mark.parametrize(
    ("name", "level", "message"),
    [("test_vit", 0, "should be divisible by patch size"), ("dla34", 5, "must match the size of tensor")],
    ids=["patches", "branches"],
)
def test_what_is_rejected_as_raising_raises(name, level, message):
    assert probe(Timm(name, any_size=True), 3).kind == "raises"

    with pytest.raises((AssertionError, RuntimeError), match=message), torch.no_grad():
        TimmEncoder(timm.create_model(name), [level]).eval()(torch.zeros(1, 3, 97, 97))


class Ramp(torch.nn.Module):
    """The mean column of each cell of 8 pixels: of a last cell that reaches beyond the image, where it would be."""

    def forward(self, x):
        cells = -(-x.shape[-1] // 8)
        centres = torch.arange(cells) * 8 + 4.0
        return centres.expand(len(x), 1, -(-x.shape[-2] // 8), cells).contiguous()


@pytest.mark.parametrize(
    ("rounding", "width", "last", "middle"),
    [("exact", 33, 32.5, 16.5), ("ceil", 33, 36.0, 20.0), ("exact", 40, 36.0, 20.5), ("ceil", 40, 36.0, 20.5)],
    ids=["padded", "stretched", "whole", "whole, any size"],
)
def test_output_moves_where_rounded_cells_are_stretched_over_the_image(rounding, width, last, middle):
    """Five cells of 8 pixels over 33 move the output by up to a stride less one, as `any_size` says."""
    encoder = composer.Custom(Ramp(), features=[composer.Feature(channels=1, stride=8, rounding=rounding)], channels=3)
    model = composer.build(composer.chain(encoder, IdentityDecoder(), padding=composer.Padding(side="end"))).eval()
    with torch.no_grad():
        row = model(torch.rand(1, 3, 8, width)).output[0, 0, 0]
    assert (row[width - 1].item(), row[width // 2].item()) == (last, middle)
