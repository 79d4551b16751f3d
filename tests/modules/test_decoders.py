"""The modules of decoders against formulas written out. B batch, C channels, H and W cells."""

import math

import pytest
import torch
from einops import reduce, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from composer.modules.base import module
from composer.parts import (
    FCNDecoder,
    IdentityDecoder,
    LearnedInterpolateToPyramidal,
    LinearDecoder,
    MLPDecoder,
    UNetDecoder,
    UperNetDecoder,
)
from tests.modules.formulas import (
    ALIKE,
    FOUR,
    HEIGHT,
    PYRAMID,
    ROUNDED,
    WIDTH,
    WITH_BOTTLENECK,
    build,
    convolve,
    draw,
    enlarge,
    level,
    mix,
    vector,
)

pytestmark = pytest.mark.usefixtures("exact")


def test_identity_gives_the_tensor_itself():
    given = draw(PYRAMID)

    (out,) = build(IdentityDecoder(out_index=1), PYRAMID)(given)

    assert out is given[1]


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


@pytest.mark.parametrize(
    ("part", "widths"),
    [
        pytest.param(MLPDecoder(), (100, 100), id="default"),
        pytest.param(MLPDecoder(channels=7), (7, 100), id="channels"),
        pytest.param(MLPDecoder(channels=None, out_dim=5, out_index=0), (4, 5), id="width-of-an-input"),
        pytest.param(MLPDecoder(channels=None, out_dim=None, out_index=1), (6, 6), id="no-output-layer"),
    ],
)
def test_mlp_has_the_widths_it_is_told(part, widths):
    decoder = build(part, ALIKE)

    (y_BCHW,) = decoder(draw(ALIKE))

    assert (decoder.hidden_layer.out_features, y_BCHW.shape[1]) == widths
    assert decoder.hidden_layer.in_features == 18


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


@pytest.mark.parametrize("count", [1, 4], ids=["1", "4"])
def test_fcn_doubles_as_often_as_it_is_told(count):
    decoder = build(FCNDecoder(channels=5, num_convs=count), PYRAMID)

    (y_BCHW,) = decoder(draw(PYRAMID))

    assert y_BCHW.shape == (2, 5, HEIGHT // 32 * 2**count, WIDTH // 32 * 2**count)


def attended(x_BCHW: Tensor, attention: nn.Module) -> Tensor:
    if isinstance(attention, nn.Identity):
        return x_BCHW
    gates = attention.attention
    squeezed = mix(x_BCHW.mean((2, 3)), gates.cSE[1]).clamp(min=0)
    channel = torch.sigmoid(mix(squeezed, gates.cSE[3]))[:, :, None, None]
    cell = torch.sigmoid(mix(x_BCHW, gates.sSE[0]))
    return x_BCHW * channel + x_BCHW * cell


def nearest(x_BCHW: Tensor, like: Tensor) -> Tensor:
    rows, columns = (
        torch.arange(new) * old // new for old, new in zip(x_BCHW.shape[-2:], like.shape[-2:], strict=True)
    )
    return x_BCHW[:, :, rows][:, :, :, columns]


def unet(decoder: nn.Module, given: list[Tensor]) -> Tensor:
    *finer, x = given
    for block, skip in zip(decoder.decoder.blocks, [*reversed(finer), None], strict=True):
        if skip is not None:
            x = attended(torch.cat([nearest(x, skip), skip], 1), block.attention1)
        x = attended(convolve(convolve(x, block.conv1), block.conv2), block.attention2)
    return x


@pytest.mark.parametrize("attention", [None, "scse"], ids=["plain", "scse"])
@pytest.mark.parametrize("norm_name", ["batchnorm", True, "identity", False, "instancenorm"])
def test_unet_is_its_formula(norm_name, attention):
    part = UNetDecoder(channels=(36, 20, 5), use_batchnorm=norm_name, attention_type=attention)
    decoder = build(part, PYRAMID)
    given = draw(PYRAMID)

    (y_BCHW,) = decoder(given)

    torch.testing.assert_close(y_BCHW, unet(decoder, given))


@pytest.mark.parametrize(
    ("features", "height", "width"),
    [
        pytest.param(PYRAMID[:1], 64, 96, id="one-map"),
        pytest.param(WITH_BOTTLENECK, 64, 96, id="equal-strides-at-the-end"),
        pytest.param(ROUNDED, 225, 250, id="sizes-rounded-up"),
        pytest.param(PYRAMID[::-1], 64, 96, id="upside-down"),
    ],
)
def test_unet_is_its_formula_on_any_pyramid(features, height, width):
    decoder = build(UNetDecoder(channels=(9, 8, 7, 6)[: len(features)]), features)
    given = draw(features, height, width)

    (y_BCHW,) = decoder(given)

    assert y_BCHW.shape[-2:] == given[0].shape[-2:]
    torch.testing.assert_close(y_BCHW, unet(decoder, given))


def _pass_the_first_channel(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.zeros_(layer.weight)
        layer.weight.data[0, 0, 1, 1] = 1


def test_unet_upsamples_by_repeating_cells():
    """Two cells below a map that nothing looks at."""
    decoder = build(UNetDecoder(channels=(1, 1), use_batchnorm=False), (level(1, 8), level(1, 16)))
    decoder.apply(_pass_the_first_channel)
    coarse_BCHW = torch.tensor([[[[3.0, 5.0]]]])

    (y_BCHW,) = decoder([torch.full((1, 1, 2, 4), 9.0), coarse_BCHW])

    assert torch.equal(y_BCHW, repeat(coarse_BCHW, "b c h w -> b c (h i) (w j)", i=2, j=2))


def test_unet_starts_with_uniform_weights_made_for_relu_and_without_bias():
    torch.manual_seed(0)
    decoder = module(UNetDecoder(channels=(40, 32), use_batchnorm=False), (level(16, 8), level(48, 16)))
    weight = decoder.decoder.blocks[0].conv1[0].weight

    bound = math.sqrt(6 / (64 * 9))
    assert bound * 0.99 < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not any(p.any() for name, p in decoder.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize(("channels", "squeezed"), [(3, 1), (16, 1), (40, 2)], ids=["3", "16", "40"])
def test_scse_squeezes_sixteen_channels_into_one_and_at_least_to_one(channels, squeezed):
    decoder = build(UNetDecoder(channels=(channels,), attention_type="scse"), (level(4),))

    assert decoder.decoder.blocks[0].attention2.attention.cSE[1].out_channels == squeezed


@pytest.mark.parametrize("count", [2, 4], ids=["2", "4"])
def test_unet_with_other_than_a_width_for_each_map_raises(count):
    with pytest.raises(ValueError, match="zip"):
        module(UNetDecoder(channels=(8, 8, 8, 8)[:count]), PYRAMID)


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


def test_upernet_pools_to_the_mean_of_the_coarsest_map():
    decoder = build(UperNetDecoder(channels=5, pool_scales=(1, 2)), PYRAMID)
    x_BCHW = torch.randn(2, 8, 4, 6)

    one_BCHW, two_BCHW = (branch[0](x_BCHW) for branch in decoder.psp_modules)

    torch.testing.assert_close(one_BCHW, reduce(x_BCHW, "b c h w -> b c 1 1", "mean"))
    torch.testing.assert_close(two_BCHW, reduce(x_BCHW, "b c (h i) (w j) -> b c h w", "mean", h=2, w=2))


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
