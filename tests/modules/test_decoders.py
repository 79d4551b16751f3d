"""The modules of decoders against formulas written out. B batch, C channels, H and W cells."""

import math

import pytest
import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from composer.layouts import VECTOR, Feature
from composer.modules.base import module
from composer.parts import (
    ASPPRegressionHead,
    ASPPSegmentationHead,
    FCNDecoder,
    IdentityDecoder,
    LearnedInterpolateToPyramidal,
    LinearDecoder,
    MLPDecoder,
    UNetDecoder,
    UperNetDecoder,
)

HEIGHT, WIDTH = 64, 96


def level(channels=6, stride=16, rounding="exact"):
    return Feature(channels=channels, stride=stride, rounding=rounding)


def vector(channels):
    return Feature(channels=channels, stride=None, axes=VECTOR)


PYRAMID = (level(4, 8), level(6, 16), level(8, 32))
WITH_BOTTLENECK = (*PYRAMID, level(4, 32))
ALIKE = (level(4), level(6), level(8))
FOUR = (*ALIKE, level(10))
ROUNDED = (level(4, 8, "ceil"), level(6, 16, "ceil"), level(8, 32, "ceil"))

CASES = [
    pytest.param(IdentityDecoder(out_index=0), PYRAMID, id="identity"),
    pytest.param(LinearDecoder(num_classes=3, upsampling_size=4), PYRAMID, id="linear"),
    pytest.param(MLPDecoder(channels=7, out_dim=5), ALIKE, id="mlp"),
    pytest.param(MLPDecoder(channels=None, out_dim=None, activation="GELU"), ALIKE, id="mlp-hidden-only"),
    pytest.param(MLPDecoder(), (vector(4), vector(6)), id="mlp-vectors"),
    pytest.param(FCNDecoder(channels=5, num_convs=2), PYRAMID, id="fcn"),
    pytest.param(UNetDecoder(channels=(24, 20, 16)), PYRAMID, id="unet"),
    pytest.param(UNetDecoder(channels=(24, 20, 16, 8), use_batchnorm=False), WITH_BOTTLENECK, id="unet-bottleneck"),
    pytest.param(UNetDecoder(channels=(24, 20, 5), use_batchnorm="instancenorm"), PYRAMID, id="unet-instancenorm"),
    pytest.param(UNetDecoder(channels=(36, 20, 5), attention_type="scse"), PYRAMID, id="unet-scse"),
    pytest.param(UNetDecoder(channels=(8,)), PYRAMID[:1], id="unet-of-one"),
    pytest.param(UperNetDecoder(channels=5), PYRAMID, id="upernet"),
    pytest.param(UperNetDecoder(channels=5, align_corners=False), ALIKE, id="upernet-alike"),
    pytest.param(UperNetDecoder(channels=5, pool_scales=(2,)), PYRAMID[:1], id="upernet-of-one"),
    pytest.param(UperNetDecoder(channels=5, scale_modules=True), FOUR, id="upernet-scaled"),
    pytest.param(ASPPSegmentationHead(channels=5), PYRAMID, id="aspp"),
    pytest.param(
        ASPPRegressionHead(channels=5, in_index=[0, 2], input_transform="resize_concat"), PYRAMID, id="aspp-of-two"
    ),
]


@pytest.fixture(autouse=True)
def exact():
    """Double precision, so that two ways to compute a thing agree."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def made(part, features) -> nn.Module:
    """The module in eval mode with the same weights each time, and norms that have seen something."""
    torch.manual_seed(0)
    decoder = module(part, features).eval()
    for layer in decoder.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -1, 1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.uniform_(layer.bias, -1, 1)
    return decoder


def fed(features, height=HEIGHT, width=WIDTH, batch=2) -> list[Tensor]:
    return [torch.randn(f.shape(batch, height, width)) for f in features]


# --- what holds for all of them


@pytest.mark.parametrize("kind", [tuple, list], ids=["tuple", "list"])
@pytest.mark.parametrize(("part", "features"), CASES)
def test_inputs_are_left_as_they_were(part, features, kind):
    given = kind(fed(features))
    before = [x.clone() for x in given]
    identities = [(id(x), x._version) for x in given]

    out = made(part, features).train()(given)

    assert isinstance(out, tuple)
    assert len(out) == 1
    assert [(id(x), x._version) for x in given] == identities
    assert all(torch.equal(x, y) for x, y in zip(given, before, strict=True))


@pytest.mark.parametrize(("part", "features"), CASES)
def test_eval_gives_the_same_twice_and_changes_nothing(part, features):
    decoder = made(part, features)
    state = {name: value.clone() for name, value in decoder.state_dict().items()}
    given = fed(features)

    (first,), (second,) = decoder(given), decoder(given)

    assert torch.equal(first, second)
    assert all(torch.equal(value, state[name]) for name, value in decoder.state_dict().items())


@pytest.mark.parametrize(("part", "features"), CASES)
def test_gradient_reaches_every_parameter(part, features, monkeypatch):
    # In nets as narrow as these a ReLU may be closed everywhere by chance.
    monkeypatch.setattr(nn.ReLU, "forward", lambda _, x: F.leaky_relu(x, 0.1))
    decoder = made(part, features)

    (y,) = decoder([x.requires_grad_() for x in fed(features)])
    (y * torch.randn_like(y)).sum().backward()

    assert [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


EXPORTED = {"fcn", "unet-scse", "upernet", "upernet-scaled", "aspp", "aspp-of-two"}


class _OfOneImage(nn.Module):
    """A decoder fed with maps that are all functions of one image, so that one image has one set of sizes."""

    def __init__(self, part, features):
        super().__init__()
        self.decoder = made(part, features)
        self.features = features

    def forward(self, image_BCHW):
        return self.decoder([self._of(image_BCHW, f) for f in self.features])

    def _of(self, image_BCHW, feature):
        if feature.axes == VECTOR:
            return image_BCHW.mean((2, 3)).expand(-1, feature.channels)
        return F.avg_pool2d(image_BCHW, int(feature.stride)).expand(-1, feature.channels, -1, -1)


@pytest.mark.parametrize(("part", "features"), [case for case in CASES if case.id in EXPORTED])
def test_height_and_width_stay_free_in_an_export(part, features):
    model = _OfOneImage(part, features)
    sides = {axis: 32 * torch.export.Dim(name, min=2, max=64) for axis, name in ((2, "h"), (3, "w"))}

    exported = torch.export.export(model, (torch.randn(2, 1, 64, 96),), dynamic_shapes=(sides,)).module()

    image_BCHW = torch.randn(2, 1, 160, 64)
    torch.testing.assert_close(exported(image_BCHW), model(image_BCHW))


def parameters(place: str, *suffixes: str) -> set[str]:
    return {f"{place}.{suffix}" for suffix in suffixes}


def norm(place: str) -> set[str]:
    return parameters(place, "weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def scse(place: str) -> set[str]:
    return {name for layer in ("cSE.1", "cSE.3", "sSE.0") for name in parameters(f"{place}.{layer}", "weight", "bias")}


def union(*sets: set[str]) -> set[str]:
    return set().union(*sets)


def unet_block(block: int) -> set[str]:
    places = [f"decoder.blocks.{block}.conv{which}" for which in (1, 2)]
    return union(*({f"{place}.0.weight"} | norm(f"{place}.1") for place in places))


def upernet_convolutions(*places: str) -> set[str]:
    return union(*({f"{place}.conv.weight"} | norm(f"{place}.norm") for place in places))


@pytest.mark.parametrize(
    ("part", "features", "names"),
    [
        pytest.param(IdentityDecoder(), PYRAMID, set(), id="identity"),
        pytest.param(
            LinearDecoder(num_classes=3, upsampling_size=4),
            PYRAMID,
            parameters("conv", "weight", "bias"),
            id="linear",
        ),
        pytest.param(
            MLPDecoder(channels=None, out_dim=None), ALIKE, parameters("hidden_layer", "weight", "bias"), id="mlp"
        ),
        pytest.param(
            MLPDecoder(),
            ALIKE,
            parameters("hidden_layer", "weight", "bias") | parameters("output_layer", "weight", "bias"),
            id="mlp-with-output",
        ),
        pytest.param(
            FCNDecoder(num_convs=2),
            PYRAMID,
            union(*(parameters(f"convs.{i}.{j}", "weight", "bias") for i in (0, 1) for j in (0, 1, "2.ln"))),
            id="fcn",
        ),
        pytest.param(UNetDecoder(channels=(8, 8, 8)), PYRAMID, union(*map(unet_block, range(3))), id="unet"),
        pytest.param(
            UNetDecoder(channels=(8, 8), use_batchnorm="identity"),
            PYRAMID[:2],
            union(
                *(parameters(f"decoder.blocks.{i}.conv{j}.0", "weight", "bias") for i in (0, 1) for j in (1, 2)),
            ),
            id="unet-without-norm",
        ),
        pytest.param(
            UNetDecoder(channels=(8, 8), use_batchnorm="instancenorm"),
            PYRAMID[:2],
            {f"decoder.blocks.{i}.conv{j}.0.weight" for i in (0, 1) for j in (1, 2)},
            id="unet-instancenorm",
        ),
        pytest.param(
            UNetDecoder(channels=(8, 8), attention_type="scse"),
            PYRAMID[:2],
            union(
                unet_block(0),
                unet_block(1),
                scse("decoder.blocks.0.attention1.attention"),
                scse("decoder.blocks.0.attention2.attention"),
                scse("decoder.blocks.1.attention2.attention"),
            ),
            id="unet-scse",
        ),
        pytest.param(
            UperNetDecoder(pool_scales=(1, 2)),
            PYRAMID,
            upernet_convolutions(
                "psp_modules.0.1",
                "psp_modules.1.1",
                "bottleneck",
                "lateral_convs.0",
                "lateral_convs.1",
                "fpn_convs.0",
                "fpn_convs.1",
                "fpn_bottleneck",
            ),
            id="upernet",
        ),
        pytest.param(
            UperNetDecoder(pool_scales=(1,), scale_modules=True),
            FOUR,
            union(
                *(parameters(f"fpn1.{place}", "weight", "bias") for place in (0, 3)),
                norm("fpn1.1"),
                parameters("fpn2.0", "weight", "bias"),
                upernet_convolutions("psp_modules.0.1", "bottleneck", "fpn_bottleneck"),
                *(upernet_convolutions(f"lateral_convs.{level}", f"fpn_convs.{level}") for level in range(3)),
            ),
            id="upernet-scaled",
        ),
    ],
)
def test_weights_have_published_names(part, features, names):
    assert set(made(part, features).state_dict()) == names


# --- the small ones


def test_identity_gives_the_tensor_itself():
    given = fed(PYRAMID)

    (out,) = made(IdentityDecoder(out_index=1), PYRAMID)(given)

    assert out is given[1]


def enlarged(x_BCHW: Tensor, layer: nn.ConvTranspose2d) -> Tensor:
    """A transposed convolution whose stride is its kernel: each cell makes a square of its own."""
    y = torch.einsum("bchw,coij->bohiwj", x_BCHW, layer.weight)
    return rearrange(y, "b o h i w j -> b o (h i) (w j)") + layer.bias.view(1, -1, 1, 1)


@pytest.mark.parametrize("size", [1, 2, 5], ids=["1", "2", "5"])
def test_linear_is_its_formula(size):
    decoder = made(LinearDecoder(num_classes=3, upsampling_size=size, in_index=1), PYRAMID)
    given = fed(PYRAMID)

    (y_BCHW,) = decoder(given)

    torch.testing.assert_close(y_BCHW, enlarged(given[1], decoder.conv))


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """A linear layer over axis 1."""
    return torch.einsum("bc...,oc->bo...", x, layer.weight) + layer.bias.view(1, -1, *[1] * (x.dim() - 2))


@pytest.mark.parametrize("features", [ALIKE, (vector(3), vector(5))], ids=["maps", "vectors"])
def test_mlp_mixes_the_channels_of_each_cell(features):
    decoder = made(MLPDecoder(channels=7, out_dim=5, activation="Tanh"), features)
    given = fed(features)

    (y,) = decoder(given)

    hidden = torch.tanh(linear(torch.cat(given, 1), decoder.hidden_layer))
    torch.testing.assert_close(y, linear(hidden, decoder.output_layer))


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
    decoder = made(part, ALIKE)

    (y_BCHW,) = decoder(fed(ALIKE))

    assert (decoder.hidden_layer.out_features, y_BCHW.shape[1]) == widths
    assert decoder.hidden_layer.in_features == 18


def test_mlp_without_output_layer_ends_in_the_activation():
    decoder = made(MLPDecoder(channels=None, out_dim=None), ALIKE)
    given = fed(ALIKE)

    (y_BCHW,) = decoder(given)

    torch.testing.assert_close(y_BCHW, linear(torch.cat(given, 1), decoder.hidden_layer).clamp(min=0))


# --- FCNDecoder


def fcn_step(x_BCHW: Tensor, step: nn.Sequential) -> Tensor:
    x = F.conv2d(enlarged(x_BCHW, step[0]), step[1].weight, step[1].bias, padding=1)
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
    normed = (x - mean) / (variance + 1e-6).sqrt()
    scaled = normed * step[2].ln.weight.view(1, -1, 1, 1) + step[2].ln.bias.view(1, -1, 1, 1)
    return scaled * 0.5 * (1 + torch.erf(scaled / math.sqrt(2)))


def test_fcn_is_its_formula():
    decoder = made(FCNDecoder(channels=5, num_convs=2, in_index=1), PYRAMID)
    nn.init.uniform_(decoder.convs[0][2].ln.weight)
    nn.init.uniform_(decoder.convs[0][2].ln.bias)
    given = fed(PYRAMID)

    (y_BCHW,) = decoder(given)

    expected_BCHW = fcn_step(fcn_step(given[1], decoder.convs[0]), decoder.convs[1])
    torch.testing.assert_close(y_BCHW, expected_BCHW)


@pytest.mark.parametrize("count", [1, 4], ids=["1", "4"])
def test_fcn_doubles_as_often_as_it_is_told(count):
    decoder = made(FCNDecoder(channels=5, num_convs=count), PYRAMID)

    (y_BCHW,) = decoder(fed(PYRAMID))

    assert y_BCHW.shape == (2, 5, HEIGHT // 32 * 2**count, WIDTH // 32 * 2**count)


# --- UNetDecoder


def normalised(x_BCHW: Tensor, layer: nn.Module) -> Tensor:
    if isinstance(layer, nn.Identity):
        return x_BCHW
    if isinstance(layer, nn.InstanceNorm2d):
        mean = x_BCHW.mean((2, 3), keepdim=True)
        return (x_BCHW - mean) / (x_BCHW.var((2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
    mean, variance, weight, bias = (
        value.view(1, -1, 1, 1) for value in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )
    return (x_BCHW - mean) / (variance + 1e-5).sqrt() * weight + bias


def convolved(x_BCHW: Tensor, layers) -> Tensor:
    """A convolution, a norm, ReLU."""
    convolution, norm_layer = layers[0], layers[1]
    y = F.conv2d(x_BCHW, convolution.weight, convolution.bias, padding=convolution.weight.shape[-1] // 2)
    return normalised(y, norm_layer).clamp(min=0)


def attended(x_BCHW: Tensor, attention: nn.Module) -> Tensor:
    if isinstance(attention, nn.Identity):
        return x_BCHW
    gates = attention.attention
    squeezed = linear(x_BCHW.mean((2, 3)), _as_linear(gates.cSE[1])).clamp(min=0)
    channel = torch.sigmoid(linear(squeezed, _as_linear(gates.cSE[3])))[:, :, None, None]
    cell = torch.sigmoid(linear(x_BCHW, _as_linear(gates.sSE[0])))
    return x_BCHW * channel + x_BCHW * cell


def _as_linear(convolution: nn.Conv2d) -> nn.Linear:
    layer = nn.Linear(convolution.in_channels, convolution.out_channels)
    layer.load_state_dict({"weight": convolution.weight[:, :, 0, 0], "bias": convolution.bias})
    return layer


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
        x = attended(convolved(convolved(x, block.conv1), block.conv2), block.attention2)
    return x


@pytest.mark.parametrize("attention", [None, "scse"], ids=["plain", "scse"])
@pytest.mark.parametrize("norm_name", ["batchnorm", True, "identity", False, "instancenorm"])
def test_unet_is_its_formula(norm_name, attention):
    part = UNetDecoder(channels=(36, 20, 5), use_batchnorm=norm_name, attention_type=attention)
    decoder = made(part, PYRAMID)
    given = fed(PYRAMID)

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
    decoder = made(UNetDecoder(channels=(9, 8, 7, 6)[: len(features)]), features)
    given = fed(features, height, width)

    (y_BCHW,) = decoder(given)

    assert y_BCHW.shape[-2:] == given[0].shape[-2:]
    torch.testing.assert_close(y_BCHW, unet(decoder, given))


def _pass_the_first_channel(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.zeros_(layer.weight)
        layer.weight.data[0, 0, 1, 1] = 1


def test_unet_upsamples_by_repeating_cells():
    """Two cells below a map that nothing looks at."""
    decoder = made(UNetDecoder(channels=(1, 1), use_batchnorm=False), (level(1, 8), level(1, 16)))
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
    decoder = made(UNetDecoder(channels=(channels,), attention_type="scse"), (level(4),))

    assert decoder.decoder.blocks[0].attention2.attention.cSE[1].out_channels == squeezed


@pytest.mark.parametrize("count", [2, 4], ids=["2", "4"])
def test_unet_with_other_than_a_width_for_each_map_raises(count):
    with pytest.raises(ValueError, match="zip"):
        module(UNetDecoder(channels=(8, 8, 8, 8)[:count]), PYRAMID)


# --- UperNetDecoder


def bilinear(x_BCHW: Tensor, like: Tensor, align_corners: bool) -> Tensor:
    return F.interpolate(x_BCHW, like.shape[-2:], mode="bilinear", align_corners=align_corners)


def upernet(decoder: nn.Module, given: list[Tensor], scales: tuple[int, ...], align: bool) -> Tensor:
    pooled = [
        bilinear(convolved(F.adaptive_avg_pool2d(given[-1], cells), branch[1]), given[-1], align)
        for cells, branch in zip(scales, decoder.psp_modules, strict=True)
    ]
    top = convolved(torch.cat([given[-1], *pooled], 1), decoder.bottleneck)
    laterals = [top]
    for lateral, x in zip(reversed(decoder.lateral_convs), reversed(given[:-1]), strict=True):
        y = convolved(x, lateral)
        laterals.insert(0, y + bilinear(laterals[0], y, align))
    levels = [convolved(x, fpn) for fpn, x in zip(decoder.fpn_convs, laterals[:-1], strict=True)] + [top]
    return convolved(torch.cat([bilinear(x, given[0], align) for x in levels], 1), decoder.fpn_bottleneck)


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
    decoder = made(part, features)
    given = fed(features, height, width)

    (y_BCHW,) = decoder(given)

    torch.testing.assert_close(y_BCHW, upernet(decoder, given, (1, 3), align))


def test_upernet_pools_to_the_mean_of_the_coarsest_map():
    decoder = made(UperNetDecoder(channels=5, pool_scales=(1, 2)), PYRAMID)
    x_BCHW = torch.randn(2, 8, 4, 6)

    one_BCHW, two_BCHW = (branch[0](x_BCHW) for branch in decoder.psp_modules)

    torch.testing.assert_close(one_BCHW, reduce(x_BCHW, "b c h w -> b c 1 1", "mean"))
    torch.testing.assert_close(two_BCHW, reduce(x_BCHW, "b c (h i) (w j) -> b c h w", "mean", h=2, w=2))


@pytest.mark.parametrize("align", [True, False], ids=["aligned", "half-pixel"])
def test_upernet_that_scales_is_the_learned_pyramid_and_then_upernet(align):
    decoder = made(UperNetDecoder(channels=5, pool_scales=(1, 3), align_corners=align, scale_modules=True), FOUR)
    neck = module(LearnedInterpolateToPyramidal(), FOUR).eval()
    neck.load_state_dict({name: x for name, x in decoder.state_dict().items() if name.startswith(("fpn1.", "fpn2."))})
    given = fed(FOUR, 80, 112)

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
