"""`any_size`: images go into a network unpadded, and its levels are what was inferred, rounded down or up."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from torch.nn import functional as F

import composer
from composer import encoder_info as facts
from composer.adapters.timm.modules import probe
from composer.errors import SpecError
from composer.graph import Graph, Node
from composer.layouts import Image
from composer.modules.encoders import TimmEncoder
from composer.parts.decoders import IdentityDecoder, LinearDecoder, UNetDecoder, UperNetDecoder
from composer.parts.encoders import Timm
from composer.parts.heads import ClassificationHead, RegressionHead, SegmentationHead
from composer.parts.necks import ConcatFeatures, ReshapeTokensToImage
from composer.sizes import SizeConstraint

CEIL, FLOOR, ANY = ["ceil"] * 5, ["floor"] * 5, SizeConstraint()
NETWORKS = {
    "resnet18": (Timm("resnet18", any_size=True), CEIL, ANY),
    "resnet50 wrapped": (Timm("resnet50", any_size=True, features_only=True), CEIL, ANY),
    "resnet18 dilated": (Timm("resnet18", any_size=True, output_stride=16, out_indices=[0, 1, 2, 3]), CEIL[:4], ANY),
    "convnext": (Timm("convnext_atto", any_size=True), FLOOR[:4], SizeConstraint(least=32)),
    "efficientnet": (Timm("efficientnet_b0", any_size=True, features_only=True), CEIL, ANY),
    "padded as in tensorflow": (Timm("test_efficientnet", any_size=True, options={"pad_type": "same"}), CEIL, ANY),
    "regnet": (Timm("regnety_002", any_size=True), CEIL, ANY),
    "mobilenet": (Timm("mobilenetv3_small_050", any_size=True), CEIL, ANY),
    "vgg": (Timm("vgg11", any_size=True), ["exact", *FLOOR], SizeConstraint(least=32)),
    # Up twice and then down is neither: it has an offset.
    "densenet": (Timm("densenet121", any_size=True), ["ceil", "ceil", *FLOOR[:3]], SizeConstraint(least=29)),
    # It raises for an image that its patches do not divide, and then rounds up.
    "swin": (
        Timm("swin_tiny_patch4_window7_224", any_size=True),
        ["exact", *CEIL[:3]],
        SizeConstraint(multiple=4, least=4),
    ),
}
OFFSETS = {"densenet": [0, 0, -3, -3, -3]}
SIZES = [(1, 1), (1, 33), (31, 47), (32, 32), (33, 65), (63, 64), (95, 129), (97, 31), (100, 50), (120, 120), (127, 61),
         (201, 67)]  # fmt: skip


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """A network, the roundings of its levels, and the sizes it takes."""
    return NETWORKS[request.param]


def test_levels_are_described_as_they_round(network):
    part, roundings, sizes = network
    found = composer.describe(part, 3)
    assert ([f.rounding for f in found.features], found.sizes) == (roundings, sizes)


@pytest.mark.parametrize("name", NETWORKS)
def test_levels_that_round_in_turn_up_and_down_have_an_offset(name):
    part, roundings, _ = NETWORKS[name]
    found = composer.describe(part, 3)
    assert [f.offset for f in found.features] == OFFSETS.get(name, [0] * len(roundings))


def three_heads(part):
    """A graph with every way to go on from a pyramid: cells of two decoders, not rescaled, and a vector."""
    levels = len(composer.describe(part, 3).features)
    nodes = [
        Node("encoder", part, "image"),
        Node("unet", UNetDecoder(channels=[4] * levels), "encoder"),
        Node("upernet", UperNetDecoder(channels=4), "encoder"),
        Node("coarsest", IdentityDecoder(), "encoder"),
        Node("cover", SegmentationHead(num_classes=3), "unet"),
        Node("height", RegressionHead(), "upernet"),
        Node("kind", ClassificationHead(num_classes=2), "coarsest"),
    ]
    return Graph(inputs={"image": Image()}, nodes=nodes, outputs=["cover", "height", "kind", "coarsest"], rescale=False)


def test_what_is_inferred_is_what_a_forward_pass_gives(network):
    model = composer.build(three_heads(network[0])).eval()
    typed = model.typed
    padded = {typed.sizes.compute_padded_size(*size) for size in SIZES}

    with torch.no_grad():
        levels = {size: [tuple(x.shape) for x in model.encoder(torch.rand(1, 3, *size))] for size in padded}
        ends = {size: model(torch.rand(1, 3, *size)).output for size in SIZES}

    assert levels == {size: [f.shape(1, *size) for f in typed.features["encoder"]] for size in padded}
    assert {size: {name: ("b", *x.shape[1:]) for name, x in out.items()} for size, out in ends.items()} == {
        size: {name: typed.shape(name, *size) for name in typed.ends} for size in SIZES
    }


@pytest.mark.parametrize("features_only", [False, True], ids=["plain", "wrapped"])
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_the_numbers_are_those_of_timm_on_the_image_as_it_is(name, features_only):
    part = Timm(name, any_size=True, features_only=features_only)
    model = composer.build(composer.chain(part, IdentityDecoder(), rescale=False)).eval()
    theirs = timm.create_model(name, features_only=True).eval()
    names = theirs.state_dict()
    theirs.load_state_dict(dict(zip(names, model.encoder.state_dict().values(), strict=True)))
    x = torch.rand(2, 3, 101, 75)

    with torch.no_grad():
        ours, expected = model(x).output, theirs(x)[-1]

    assert expected.shape[-2:] in ((4, 3), (3, 2))  # up, or down
    assert torch.equal(ours, expected)


def test_with_a_decoder_and_a_head_nothing_is_padded_or_cropped():
    graph = composer.chain(
        Timm("test_resnet", any_size=True), UperNetDecoder(channels=4), SegmentationHead(num_classes=2)
    )
    model = composer.build(graph).eval()
    x = torch.rand(1, 3, 101, 75)

    with torch.no_grad():
        (cells,) = model.head(model.decoder(model.encoder(x)))
        assert torch.equal(model(x).output, F.interpolate(cells, size=(101, 75), mode="bilinear"))


def test_padding_gives_other_numbers():
    """The control of the two tests above: they tell an image that was padded from one that was not."""
    x = torch.rand(1, 3, 101, 75)
    one, other = (
        composer.build(composer.chain(Timm("test_resnet", any_size=way), IdentityDecoder(), rescale=False)).eval()
        for way in (True, False)
    )
    with torch.no_grad():
        ours, padded = one(x).output, other(x).output
    assert ours.shape == padded.shape
    assert not torch.allclose(ours, padded, rtol=1e-2)


def test_a_decoder_that_needs_whole_grids_still_asks_for_them():
    graph = composer.chain(Timm("test_resnet", any_size=True), LinearDecoder(num_classes=4, upsampling_size=2))
    model = composer.build(graph).eval()
    assert str(model.typed.sizes) == "multiple of 32, at least 32, any shape"
    assert model(torch.rand(1, 3, 70, 33)).output.shape == (1, 4, 70, 33)


def test_branches_that_round_differently_meet_where_both_are_whole():
    nodes = [
        Node("up", Timm("resnet18", any_size=True, out_indices=[1, 2]), "image"),
        Node("down", Timm("convnext_atto", any_size=True, out_indices=[0, 1]), "image"),
        Node("joined", ConcatFeatures(), ["up", "down"]),
        Node("fine", IdentityDecoder(out_index=0), "joined"),
    ]
    model = composer.build(Graph(inputs={"image": Image()}, nodes=nodes, outputs=["fine"])).eval()
    assert model.typed.sizes == SizeConstraint(multiple=8, least=8)
    assert model(torch.rand(1, 3, 70, 33)).output.shape == (1, 64 + 40, 70, 33)


def test_tokens_round_too_where_a_network_pads_to_its_patches_itself():
    part = Timm("test_vit", any_size=True, tokens=True, options={"dynamic_img_pad": True})
    model = composer.build(composer.chain(part, ReshapeTokensToImage(), IdentityDecoder(), rescale=False)).eval()
    level = model.typed.features["encoder"][0]
    assert (level.axes, level.rounding, level.prefix) == ("b n c", "ceil", 1)
    assert composer.describe(part, 3).sizes == ANY
    x = torch.rand(1, 3, 33, 50)

    with torch.no_grad():
        shapes = {tuple(tokens.shape) for tokens in model.encoder(x)}

    assert shapes == {level.shape(1, 33, 50)} == {(1, 1 + 3 * 4, 64)}


def test_what_was_found_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPOSER_CACHE", str(tmp_path))
    part = NETWORKS["vgg"][0]
    facts._describe_cached.cache_clear()
    first = composer.describe(part, 3)
    (file,) = tmp_path.rglob("*.json")
    facts._describe_cached.cache_clear()
    monkeypatch.setattr(facts, "_probe_encoder", None)

    assert composer.describe(part, 3) == first
    assert [f["rounding"] for f in json.loads(file.read_text())["info"]["features"]] == NETWORKS["vgg"][1]
    facts._describe_cached.cache_clear()


REFUSED = {
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
    "one size or an error": (
        "timm/visformer_tiny",
        "works at one image size only (got exactly 224 × 224).",
        "leave any_size out",
    ),
}


@pytest.mark.parametrize(("name", "message", "fix"), REFUSED.values(), ids=REFUSED)
def test_a_network_that_must_be_padded_is_refused(name, message, fix):
    with pytest.raises(SpecError) as caught:
        composer.infer(composer.reads(f"encoder: {{{name}: {{any_size: true}}}}\ndecoder: IdentityDecoder\n"))

    place = f"<text>:1:{len(name) + 24}: error[sizes] encoder.any_size"
    assert str(caught.value) == f"{place}: {name} {message}\n  fix: {fix}"


@pytest.mark.parametrize(
    ("name", "level", "raised"),
    [
        ("test_vit", 0, "should be divisible by patch size"),
        ("dla34", 5, "must match the size of tensor"),
        ("visformer_tiny", 0, "doesn't match model"),
    ],
    ids=["patches", "branches", "one size"],
)
def test_what_is_refused_as_impossible_raises(name, level, raised):
    assert probe(Timm(name, any_size=True), 3).kind == "raises"

    with pytest.raises((AssertionError, RuntimeError), match=raised), torch.no_grad():
        TimmEncoder(timm.create_model(name), [level]).eval()(torch.zeros(1, 3, 97, 97))


@pytest.mark.parametrize(("name", "level", "stride"), [("mobilevitv2_050", 2, 8)])
def test_what_is_refused_as_a_lie_rounds_neither_down_nor_up(name, level, stride):
    assert probe(Timm(name, any_size=True), 3).kind == "wrong_output"

    with torch.no_grad():
        (given,) = TimmEncoder(timm.create_model(name), [level]).eval()(torch.zeros(1, 3, 97, 97))

    assert given.shape[-1] not in (97 // stride, -(-97 // stride))


class Ramp(torch.nn.Module):
    """The mean column of each cell of 8 pixels: of a last cell that reaches beyond the image, where it would be."""

    def forward(self, x):
        cells = -(-x.shape[-1] // 8)
        centres = torch.arange(cells) * 8 + 4.0
        return centres.expand(len(x), 1, -(-x.shape[-2] // 8), cells).contiguous()


def seen_at_the_last_column(rounding, width):
    """Where it thinks it is, at the last column that lies between two centres of the padded image's cells."""
    encoder = composer.Custom(Ramp(), features=[composer.Feature(channels=1, stride=8, rounding=rounding)], channels=3)
    model = composer.build(composer.chain(encoder, IdentityDecoder(), padding=composer.Padding(side="end"))).eval()
    with torch.no_grad():
        row = model(torch.rand(1, 3, 8, width)).output[0, 0, 0]
    return row[width - 1].item(), row[width // 2].item()


def test_what_is_seen_stays_where_it_is_when_images_are_padded():
    assert seen_at_the_last_column("exact", 33) == (32.5, 16.5)


def test_what_is_seen_moves_when_rounded_cells_are_stretched_over_the_image():
    """Five cells of 8 pixels over 33: as `any_size` says, by up to a stride less one."""
    last, middle = seen_at_the_last_column("ceil", 33)
    assert (last, middle) == (36.0, 20.0)
    assert last - 32.5 <= 8 - 1


def test_nothing_moves_where_the_stride_divides_the_image():
    assert seen_at_the_last_column("ceil", 40) == seen_at_the_last_column("exact", 40)
