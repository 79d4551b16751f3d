"""Networks that lose pixels at the borders: their levels have floor((H - offset) / stride) cells, at any image size."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
import timm
import torch
from attrs import evolve
from torch import nn
from torch.nn import functional as F

import composer
from composer.adapters.timm.modules import probe
from composer.inference import compute_symbolic_shape
from composer.layouts import Feature, Image
from composer.parts.decoders import IdentityDecoder, LinearDecoder, UNetDecoder
from composer.parts.encoders import Custom, Timm
from composer.parts.heads import EmbeddingHead, SegmentationHead
from composer.parts.necks import SelectIndices
from composer.sizes import SizeConstraint

NETWORKS = {"legacy_xception": ([5, 3, -1, -9, -25], 7), "inception_v3": ([5, 15, 19, 27, 43], 75)}


@pytest.mark.parametrize("name", NETWORKS)
def test_their_levels_are_timms_own_at_any_size(name):
    offsets, least = NETWORKS[name]
    model = composer.build(composer.chain(Timm(name), EmbeddingHead())).eval()
    assert model.typed.sizes == SizeConstraint(least=least)
    levels = [(f.stride, f.offset) for f in model.typed.features["encoder"]]
    assert levels == list(zip((2, 4, 8, 16, 32), offsets, strict=True))
    with torch.device("meta"):
        theirs = timm.create_model(name).eval()
    theirs.load_state_dict(model.encoder.state_dict(), strict=False, assign=True)
    images = [torch.rand(1, 3, *size) for size in ((75, 75), (76, 131), (107, 90))]

    with torch.no_grad():
        outputs = [list(model(x).output) for x in images]
        expected = [theirs.forward_intermediates(x, intermediates_only=True) for x in images]

    torch.testing.assert_close(outputs, expected, rtol=0, atol=0)
    shapes = [[("b", *x.shape[1:]) for x in output] for output in outputs]
    assert shapes == [list(model.typed.shape("head", *x.shape[-2:])) for x in images]


def test_an_image_below_the_least_is_padded():
    model = composer.build(composer.chain(Timm("inception_v3"), IdentityDecoder(out_index=2), rescale=False)).eval()
    with torch.no_grad():
        output = model(torch.rand(1, 3, 20, 80)).output
    assert output.shape == (1, *model.typed.shape("decoder", 20, 80)[1:]) == (1, 288, 1, 7)


@pytest.mark.parametrize(
    "arguments", [{"options": {"drop_rate": 0.1}}, {"any_size": True}], ids=["options", "any size"]
)
def test_a_probe_finds_what_the_catalogue_says(arguments):
    found = probe(Timm("legacy_xception", **arguments), 5)
    known = composer.describe(Timm("legacy_xception"), 5)
    assert (found.features, found.sizes) == (known.features, known.sizes)


class Borders(nn.Module):
    """Two convolutions of stride 2 without padding: (H - 1) // 2 cells, and (H - 3) // 4."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, kernel_size=3, stride=2)
        self.second = nn.Conv2d(4, 8, kernel_size=3, stride=2)

    def forward(self, x):
        fine = self.first(x)
        return [fine, self.second(fine)]


FINE = Feature(channels=4, stride=2, rounding="floor", offset=1)
COARSE = Feature(channels=8, stride=4, rounding="floor", offset=3)


def borders(**changes):
    return Custom(Borders(), **{"features": [FINE, COARSE], "channels": 3} | changes)


def test_a_module_of_ones_own_declares_its_offsets():
    model = composer.build(
        composer.chain(borders(), UNetDecoder(channels=[8, 4]), SegmentationHead(num_classes=2))
    ).eval()
    x = torch.rand(1, 3, 30, 41)

    with torch.no_grad():
        (cells,) = model.head(model.decoder(model.encoder(x)))
        given = model(x).output

    assert model.typed.sizes == SizeConstraint(least=7)
    assert cells.shape == (1, 2, 14, 20)
    assert torch.equal(given, F.interpolate(cells, size=(30, 41), mode="bilinear"))


def test_a_wrong_offset_is_seen_when_the_module_is_built():
    wrong = borders(features=[FINE, evolve(COARSE, offset=7)])
    with pytest.raises(composer.SpecError) as caught:
        composer.build(composer.chain(wrong, EmbeddingHead()))
    assert str(caught.value) == (
        "error[features] encoder: Custom must give 1 × 4 × 5 × 10, 1 × 8 × 1 × 3 for an image of 11 × 22 (got "
        "1 × 4 × 5 × 10, 1 × 8 × 2 × 4).\n  fix: correct features= or sizes="
    )


def test_a_map_of_the_images_own_resolution_that_lost_its_borders_is_brought_to_the_images_size():
    graph = composer.chain(borders(), LinearDecoder(num_classes=2, upsampling_size=4))
    model = composer.build(graph).eval()
    x = torch.rand(1, 3, 32, 40)

    with torch.no_grad():
        (cells,) = model.decoder(model.encoder(x))
        given = model(x).output

    assert cells.shape == (1, 2, 28, 36)
    assert torch.equal(given, F.interpolate(cells, size=(32, 40), mode="bilinear"))


def test_an_input_at_another_resolution_has_offsets_in_reference_pixels():
    at = {
        stride: composer.contract(borders(), (Image(stride=stride).feature,)).features for stride in (2, Fraction(1, 2))
    }
    assert {stride: [(f.stride, f.offset) for f in features] for stride, features in at.items()} == {
        2: [(4, 2), (8, 6)],
        Fraction(1, 2): [(1, Fraction(1, 2)), (2, Fraction(3, 2))],
    }


WRONG = {
    "of a vector": ({"axes": "b c", "stride": None, "offset": 3}, "a vector has no offset (got 3)"),
    "of half a cell": (
        {"stride": 4, "offset": 6},
        "an offset with rounding exact is a whole number of strides (got 6, stride 4)",
    ),
    "beside rounding up": ({"stride": 4, "rounding": "ceil", "offset": 3}, "rounding ceil has no offset (got 3)"),
    "that is no number": (
        {"stride": 4, "rounding": "floor", "offset": 1.5},
        "an offset is a whole number of pixels (got 1.5)",
    ),
}


@pytest.mark.parametrize(("fields", "message"), WRONG.values(), ids=WRONG)
def test_an_invalid_offset_is_an_error(fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Feature(channels=8, **fields)


def test_an_offset_is_shown():
    typed = composer.infer(composer.chain(borders(), EmbeddingHead()))
    assert compute_symbolic_shape(typed, "head") == (
        ("b", 4, "floor((H-1)/2)", "floor((W-1)/2)"),
        ("b", 8, "floor((H-3)/4)", "floor((W-3)/4)"),
    )
    cells = composer.infer(composer.chain(borders(), SelectIndices(indices=[1]), IdentityDecoder(), rescale=False))
    assert compute_symbolic_shape(cells, "decoder") == ("b", 8, "ceil(H/4)-1", "ceil(W/4)-1")
