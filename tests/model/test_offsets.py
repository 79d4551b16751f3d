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
from composer.parts.decoders import FCNDecoder, IdentityDecoder, LinearDecoder, MLPDecoder, UNetDecoder
from composer.parts.encoders import Custom, Timm
from composer.parts.heads import EmbeddingHead, RegressionHead, SegmentationHead
from composer.parts.necks import ConcatFeatures, MaxpoolToPyramidal, ReshapeTokensToImage, SelectIndices
from composer.parts.rules import Outputs, Rejection
from composer.sizes import SizeConstraint

SLOW = pytest.mark.slow
NETWORKS = [
    pytest.param("legacy_xception", [5, 3, -1, -9, -25], 7, id="legacy_xception"),
    pytest.param("inception_v3", [5, 15, 19, 27, 43], 75, id="inception_v3"),
    pytest.param("inception_v4", [5, 7, 19, 27, 43], 75, id="inception_v4", marks=SLOW),
    pytest.param("inception_resnet_v2", [5, 15, 19, 27, 43], 75, id="inception_resnet_v2", marks=SLOW),
    pytest.param("nasnetalarge", [1, -1, -5, -13, -29], 3, id="nasnetalarge", marks=SLOW),
    pytest.param("pnasnet5large", [1, -1, -5, -13, -29], 3, id="pnasnet5large", marks=SLOW),
]


@pytest.mark.parametrize(("name", "offsets", "least"), NETWORKS)
def test_their_levels_are_timms_own_at_any_size(name, offsets, least):
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


def test_levels_that_are_whole_at_some_multiple_stay_so():
    info = composer.describe(Timm("nasnetalarge", out_indices=[2, 3, 4]), 3)
    assert info.sizes == SizeConstraint(multiple=32, least=32)
    assert [(f.rounding, f.offset) for f in info.features] == [("exact", 0)] * 3


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


@pytest.mark.parametrize("size", [(7, 7), (30, 41)], ids=str)
@pytest.mark.parametrize(
    "parts",
    [
        [FCNDecoder(channels=4, num_convs=1), SegmentationHead(num_classes=2)],
        [MaxpoolToPyramidal(), IdentityDecoder(out_index=1)],
        [IdentityDecoder(out_index=0), RegressionHead(learned_upscale_layers=2)],
        [LinearDecoder(num_classes=2, upsampling_size=4)],
        [IdentityDecoder(out_index=1)],
    ],
    ids=["enlarged", "pooled", "enlarged in a head", "enlarged to pixels", "as it is"],
)
def test_what_is_inferred_is_what_a_forward_pass_gives(parts, size):
    model = composer.build(composer.chain(borders(), *parts, rescale=False)).eval()
    end = model.graph.outputs[0]
    padded = model.typed.sizes.compute_padded_size(*size)
    with torch.no_grad():
        outputs = {
            name: model(torch.rand(1, 3, *shape)).output for name, shape in {"as it is": padded, "padded": size}.items()
        }
    (feature,) = model.typed.features[end]
    assert tuple(outputs["as it is"].shape) == feature.shape(1, *padded)
    assert tuple(outputs["padded"].shape) == (1, *model.typed.shape(end, *size)[1:])


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


class Tokens(nn.Module):
    """A convolution without padding, as tokens behind a class token."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, kernel_size=7, stride=4)

    def forward(self, x):
        return F.pad(self.stem(x).flatten(2).transpose(1, 2), (0, 0, 1, 0))


def test_tokens_are_laid_out_on_their_grid():
    tokens = Feature(channels=8, stride=4, axes="b n c", prefix=1, rounding="floor", offset=3)
    encoder = Custom(Tokens(), features=[tokens], channels=3)
    model = composer.build(composer.chain(encoder, ReshapeTokensToImage(), IdentityDecoder(), rescale=False)).eval()
    x = torch.rand(1, 3, 24, 40)

    with torch.no_grad():
        assert torch.equal(model(x).output, encoder.module.stem(x))
    assert model.typed.sizes == SizeConstraint(multiple=4, least=8)


WHOLE = Feature(channels=8, stride=4)
LINKNET = [(FINE, evolve(COARSE, offset=7), evolve(COARSE, stride=8, offset=7))]
DPT = composer.Smp("DPT", decoder_intermediate_channels=[8])
REJECTED = {
    "joined with a grid that loses nothing": (
        ConcatFeatures(),
        [(COARSE,), (WHOLE,)],
        "joins level 0 with map .*offset 3",
    ),
    "concatenated": (MLPDecoder(), [(COARSE, WHOLE)], "concatenates its inputs, so they must be of one .*offset"),
    "doubled, to meet the next": (composer.Smp("Linknet"), LINKNET, "exactly twice the cells of .*so of one offset"),
    "made into a pyramid inside": (DPT, [(COARSE,)], "takes features that cover the whole image, so of offset 0"),
}


@pytest.mark.parametrize(("part", "inputs", "expected"), REJECTED.values(), ids=REJECTED)
def test_a_part_that_cannot_take_an_offset_is_rejected(part, inputs, expected):
    rejection = composer.contract(part, *inputs)
    assert isinstance(rejection, Rejection)
    assert re.search(expected, rejection.expected)


@pytest.mark.parametrize(
    ("one", "other", "joined", "sizes"),
    [
        (COARSE, COARSE, COARSE, SizeConstraint()),
        # Up and down in turn is an offset that is gone where the image is a whole multiple of the stride.
        (evolve(WHOLE, rounding="floor", offset=-2), WHOLE, WHOLE, SizeConstraint(multiple=4)),
    ],
    ids=["of one offset", "whole at some multiple"],
)
def test_branches_with_offsets_are_joined(one, other, joined, sizes):
    features = [evolve(joined, channels=16)]
    assert composer.contract(ConcatFeatures(), (one,), (other,)) == Outputs(features=features, sizes=sizes)


WRONG = {
    "of a vector": ({"axes": "b c", "stride": None, "offset": 3}, "a vector has no offset (got 3)"),
    "beside rounding up": ({"stride": 4, "rounding": "ceil", "offset": 3}, "rounding ceil has no offset (got 3)"),
    "of half a cell": (
        {"stride": 4, "offset": 6},
        "an offset with rounding exact is a whole number of strides (got 6, stride 4)",
    ),
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
