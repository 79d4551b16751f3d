"""The modules of decoders against formulas written out. B batch, C channels, H and W cells."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from composer.modules.base import module
from composer.parts import (
    FCNDecoder,
    LearnedInterpolateToPyramidal,
    LinearDecoder,
    MLPDecoder,
    UNetDecoder,
    UperNetDecoder,
)
from tests.modules.formulas import (
    ALIKE,
    FOUR,
    PYRAMID,
    ROUNDED,
    build,
    convolve,
    draw,
    enlarge,
    level,
    mix,
    vector,
)

pytestmark = pytest.mark.usefixtures("exact")


@pytest.mark.parametrize("size", [1, 2, 5], ids=["1", "2", "5"])
def test_linear_is_its_formula(size):
    decoder = build(LinearDecoder(num_classes=3, upsampling_size=size, in_index=1), PYRAMID)
    given = draw(PYRAMID)

    (y_BCHW,) = decoder(given)

    torch.testing.assert_close(y_BCHW, enlarge(given[1], decoder.conv))


@pytest.mark.parametrize("features", [ALIKE, (vector(3), vector(5))], ids=["maps", "vectors"])
def test_mlp_mixes_the_channels_of_each_cell(features):
    decoder = build(MLPDecoder(channels=7, out_dim=5, activation="Tanh"), features)
    given = draw(features)

    (y,) = decoder(given)

    hidden = torch.tanh(mix(torch.cat(given, 1), decoder.hidden_layer))
    torch.testing.assert_close(y, mix(hidden, decoder.output_layer))


def test_mlp_without_output_layer_ends_in_the_activation():
    decoder = build(MLPDecoder(channels=None, out_dim=None), ALIKE)
    given = draw(ALIKE)

    (y_BCHW,) = decoder(given)

    torch.testing.assert_close(y_BCHW, mix(torch.cat(given, 1), decoder.hidden_layer).clamp(min=0))


def fcn_step(x_BCHW: Tensor, step: nn.Sequential) -> Tensor:
    x = F.conv2d(enlarge(x_BCHW, step[0]), step[1].weight, step[1].bias, padding=1)
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
    normed = (x - mean) / (variance + 1e-6).sqrt()
    scaled = normed * step[2].ln.weight.view(1, -1, 1, 1) + step[2].ln.bias.view(1, -1, 1, 1)
    return scaled * 0.5 * (1 + torch.erf(scaled / math.sqrt(2)))


def test_fcn_is_its_formula():
    decoder = build(FCNDecoder(channels=5, num_convs=2, in_index=1), PYRAMID)
    nn.init.uniform_(decoder.convs[0][2].ln.weight)
    nn.init.uniform_(decoder.convs[0][2].ln.bias)
    given = draw(PYRAMID)

    (y_BCHW,) = decoder(given)

    expected_BCHW = fcn_step(fcn_step(given[1], decoder.convs[0]), decoder.convs[1])
    torch.testing.assert_close(y_BCHW, expected_BCHW)


@pytest.mark.parametrize(("channels", "squeezed"), [(3, 1), (16, 1), (40, 2)], ids=["3", "16", "40"])
def test_scse_squeezes_sixteen_channels_into_one_and_at_least_to_one(channels, squeezed):
    decoder = build(UNetDecoder(channels=(channels,), attention_type="scse"), (level(4),))

    assert decoder.decoder.blocks[0].attention2.attention.cSE[1].out_channels == squeezed


def bilinear(x_BCHW: Tensor, like: Tensor, align_corners: bool) -> Tensor:
    return F.interpolate(x_BCHW, like.shape[-2:], mode="bilinear", align_corners=align_corners)


def upernet(decoder: nn.Module, given: list[Tensor], scales: tuple[int, ...], align: bool) -> Tensor:
    pooled = [
        bilinear(convolve(F.adaptive_avg_pool2d(given[-1], cells), branch[1]), given[-1], align)
        for cells, branch in zip(scales, decoder.psp_modules, strict=True)
    ]
    top = convolve(torch.cat([given[-1], *pooled], 1), decoder.bottleneck)
    laterals = [top]
    for lateral, x in zip(reversed(decoder.lateral_convs), reversed(given[:-1]), strict=True):
        y = convolve(x, lateral)
        laterals.insert(0, y + bilinear(laterals[0], y, align))
    levels = [convolve(x, fpn) for fpn, x in zip(decoder.fpn_convs, laterals[:-1], strict=True)] + [top]
    return convolve(torch.cat([bilinear(x, given[0], align) for x in levels], 1), decoder.fpn_bottleneck)


@pytest.mark.parametrize("align", [True, False], ids=["aligned", "half-pixel"])
@pytest.mark.parametrize(
    ("features", "height", "width"),
    [
        pytest.param(PYRAMID, 64, 96, id="pyramid"),
        pytest.param(ALIKE, 64, 96, id="equal-strides"),
        pytest.param((PYRAMID[1], PYRAMID[2], PYRAMID[2]), 64, 96, id="two-of-four"),
        pytest.param(ROUNDED, 225, 250, id="sizes-rounded-up"),
        pytest.param(PYRAMID[:1], 64, 96, id="one-map"),
    ],
)
def test_upernet_is_its_formula(features, height, width, align):
    part = UperNetDecoder(channels=5, pool_scales=(1, 3), align_corners=align)
    decoder = build(part, features)
    given = draw(features, height, width)

    (y_BCHW,) = decoder(given)

    torch.testing.assert_close(y_BCHW, upernet(decoder, given, (1, 3), align))


@pytest.mark.parametrize("align", [True, False], ids=["aligned", "half-pixel"])
def test_upernet_that_scales_is_the_learned_pyramid_and_then_upernet(align):
    decoder = build(UperNetDecoder(channels=5, pool_scales=(1, 3), align_corners=align, scale_modules=True), FOUR)
    neck = module(LearnedInterpolateToPyramidal(), FOUR).eval()
    neck.load_state_dict({name: x for name, x in decoder.state_dict().items() if name.startswith(("fpn1.", "fpn2."))})
    given = draw(FOUR, 80, 112)

    (y_BCHW,) = decoder(given)

    pyramid = neck(given)
    assert [x.shape[2] for x in pyramid] == [20, 10, 5, 2]
    torch.testing.assert_close(y_BCHW, upernet(decoder, list(pyramid), (1, 3), align))


def test_what_scales_is_made_first():
    """Published seeds were drawn in this order."""
    torch.manual_seed(0)
    state = module(UperNetDecoder(scale_modules=True), FOUR).state_dict()
    torch.manual_seed(0)
    neck = module(LearnedInterpolateToPyramidal(), FOUR)

    assert all(torch.equal(value, state[name]) for name, value in neck.named_parameters())
