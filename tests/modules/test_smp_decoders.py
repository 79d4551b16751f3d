"""smp's decoders beside those in smp's own models, at equal weights, on the features of smp's own encoders."""

from __future__ import annotations

import inspect
import math
from fractions import Fraction

import pytest
import torch
from torch import nn

import composer
from composer.adapters.smp.parts import SMP_DECODER_ARGUMENTS
from composer.layouts import Feature
from composer.parts.rules import Rejection

pytest.importorskip("segmentation_models_pytorch", reason="the extra smp is not installed")
import segmentation_models_pytorch as smp

import composer.adapters.smp.modules

CNN = {"encoder_name": "resnet18", "encoder_weights": None, "in_channels": 3, "classes": 1}
NAMES = tuple(SMP_DECODER_ARGUMENTS)
LEVELLED = tuple(name for name in NAMES if name != "DPT")
STRIDES = {
    "DeepLabV3": (2, 4, 8, 8, 8),
    "DeepLabV3Plus": (2, 4, 8, 16, 16),
    "PAN": (2, 4, 8, 16, 16),
    "PSPNet": (2, 4, 8),
}
"""The strides of resnet18 in smp's models, where the encoder is told to keep its resolution or to stop early."""

OTHERS = {
    "Unet": {
        "decoder_channels": (40, 32, 24, 20, 16),
        "decoder_use_norm": False,
        "decoder_attention_type": "scse",
        "decoder_interpolation": "bilinear",
    },
    "UnetPlusPlus": {
        "decoder_channels": (40, 32, 24, 20, 16),
        "decoder_use_norm": "identity",
        "decoder_attention_type": "scse",
        "decoder_interpolation": "bicubic",
    },
    "MAnet": {
        "decoder_channels": (40, 32, 24, 20, 12),
        "decoder_use_norm": True,
        "decoder_pab_channels": 12,
        "decoder_interpolation": "nearest-exact",
    },
    "Linknet": {"decoder_use_norm": False},
    "FPN": {
        "decoder_pyramid_channels": 24,
        "decoder_segmentation_channels": 32,
        "decoder_merge_policy": "cat",
        "decoder_dropout": 0.4,
        "decoder_interpolation": "area",
    },
    "PSPNet": {"psp_out_channels": 24, "decoder_use_norm": "identity", "psp_dropout": 0.5},
    "DeepLabV3": {
        "decoder_channels": 24,
        "decoder_atrous_rates": (2, 3, 5),
        "decoder_aspp_separable": True,
        "decoder_aspp_dropout": 0.1,
    },
    "DeepLabV3Plus": {
        "decoder_channels": 24,
        "decoder_atrous_rates": (2, 3, 5),
        "decoder_aspp_separable": False,
        "decoder_aspp_dropout": 0.1,
    },
    "PAN": {"decoder_channels": 24, "decoder_interpolation": "nearest"},
    "UPerNet": {"decoder_channels": 24, "decoder_use_norm": "identity"},
    "Segformer": {"decoder_segmentation_channels": 24},
    "DPT": {
        "decoder_readout": "add",
        "decoder_intermediate_channels": (8, 12, 16, 20),
        "decoder_fusion_channels": 24,
    },
}
"""Each argument with a value that is not its default."""


@pytest.fixture(autouse=True)
def exact():
    """Double precision, so that two ways to compute a thing agree."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def theirs(name, **told):
    """smp's whole model with random weights, and norms whose statistics are not those of a new one."""
    torch.manual_seed(0)
    vit = {"encoder_name": "tu-test_vit", "encoder_weights": None, "dynamic_img_size": True}
    model = getattr(smp, name)(**(vit if name == "DPT" else CNN), **told).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    return model


def pyramid_of(model, name, skip=1):
    """What smp's encoder gives from level `skip` on, as features."""
    strides = STRIDES.get(name, (2, 4, 8, 16, 32))
    widths = model.encoder.out_channels[1:]
    return tuple(Feature(channels=c, stride=s) for c, s in zip(widths, strides, strict=True) if c)[skip - 1 :]


def ours(part, features, decoder):
    """Our module with the weights of smp's decoder."""
    module = composer.module(part, features).eval()
    module._smp_decoder.load_state_dict(decoder.state_dict())
    return module


@pytest.mark.parametrize("cells", [(4, 4), (4, 6)], ids=["square", "wide"])
@pytest.mark.parametrize("told", [pytest.param({}, id="defaults"), pytest.param(OTHERS, id="others")])
@pytest.mark.parametrize("name", LEVELLED)
def test_gives_what_smp_gives(name, told, cells):
    told = told.get(name, {})
    model = theirs(name, **told)
    features = pyramid_of(model, name)
    part = composer.Smp(name, **told)
    decoder = ours(part, features, model.decoder)
    size = tuple(side * (32 if name == "PAN" else 16) for side in cells)
    with torch.no_grad():
        given = model.encoder(torch.randn(2, 3, *size))
        before = [x.clone() for x in given]

        (y_BCHW,) = decoder(given[1:])

        assert torch.equal(y_BCHW, model.decoder(given))
    (promised,) = composer.contract(part, features).features
    assert tuple(y_BCHW.shape) == promised.shape(2, *size)
    assert all(map(torch.equal, given, before))


STRIDE_OUT = {
    "Unet": 1,
    "UnetPlusPlus": 1,
    "MAnet": 1,
    "Linknet": 1,
    "FPN": 4,
    "PSPNet": 32,
    "DeepLabV3": 32,
    "PAN": 4,
    "UPerNet": 4,
    "Segformer": 4,
}
PYRAMID = tuple(Feature(channels=8 * s, stride=s) for s in (2, 4, 8, 16, 32))


@pytest.mark.parametrize(("name", "stride"), STRIDE_OUT.items(), ids=STRIDE_OUT)
@pytest.mark.parametrize("first", [1, 2], ids=["five maps", "four maps"])
def test_the_stride_that_comes_out(name, stride, first):
    """Of an encoder with a level at half resolution, and of one without."""
    (promised,) = composer.contract(composer.Smp(name), PYRAMID[first - 1 :]).features
    assert promised.stride == stride


@pytest.mark.parametrize("name", [name for name in LEVELLED if name != "DeepLabV3Plus"])
def test_an_encoder_that_begins_at_stride_4_is_taken_as_smp_takes_it(name):
    """smp gives such encoders a level 1 without channels; ours takes the four levels that there are."""
    told = {"encoder_depth": 5} if name == "PSPNet" else {}
    tu = {**CNN, "encoder_name": "tu-convnext_atto"}
    torch.manual_seed(0)
    if name in STRIDES and name != "PSPNet":
        # smp tells the encoder to keep its resolution; the decoder itself takes any.
        tu["encoder_output_stride"] = {"DeepLabV3": 8, "PAN": 16}[name]
    model = getattr(smp, name)(**tu, **told).eval()
    side = 128 if name == "PAN" else 64
    x = torch.randn(1, 3, side, side + 32)
    with torch.no_grad():
        given = model.encoder(x)
        features = tuple(Feature(channels=level.shape[1], stride=Fraction(side, level.shape[2])) for level in given[2:])
        decoder = ours(composer.Smp(name), features, model.decoder)

        (y_BCHW,) = decoder(given[2:])

        assert [level.shape[1] for level in given[:2]] == [3, 0]
        assert torch.equal(y_BCHW, model.decoder(given))


@pytest.mark.parametrize("name", LEVELLED)
def test_the_first_map_may_stand_for_the_image(name):
    """Its content counts for nothing, and its size where smp looks at the image's."""
    count = 5 if name != "FPN" else 4
    strides = (4, 8, 16, 32, 32) if name == "DeepLabV3Plus" else (2, 4, 8, 16, 32)
    features = tuple(Feature(channels=24, stride=s) for s in strides[:count])
    widths = {"decoder_channels": (24, 20, 16, 12)[: count - 1]} if name in ("Unet", "UnetPlusPlus", "MAnet") else {}
    part = composer.Smp(name, first_level=0, **widths)
    decoder = composer.module(part, features).eval()
    size = (256, 320) if name == "PAN" else (64, 96)
    maps = [torch.randn(f.shape(1, *size)) for f in features]
    changed = [torch.randn_like(maps[0]), *maps[1:]]
    with torch.no_grad():
        (y_BCHW,), (z_BCHW,) = decoder(maps), decoder(changed)
        assert torch.equal(y_BCHW, decoder._smp_decoder(maps))
    (promised,) = composer.contract(part, features).features
    assert tuple(y_BCHW.shape) == promised.shape(1, *size)
    # FPN counts from the last map, and with four takes them all.
    assert torch.equal(y_BCHW, z_BCHW) == (name != "FPN")


def test_smps_own_fpn_with_three_levels_looks_at_the_image_itself():
    """Which no other decoder of smp does, and this one is refused for: it takes four maps."""
    model = theirs("FPN", encoder_depth=3)
    with torch.no_grad():
        given = model.encoder(torch.randn(1, 3, 64, 64))
        other = [torch.randn_like(given[0]), *given[1:]]
        assert not torch.equal(model.decoder(given), model.decoder(other))
    refusal = composer.contract(composer.Smp("FPN"), PYRAMID[:3])
    assert isinstance(refusal, Rejection)
    assert refusal.expected == "takes at least 4 maps"


class TestDPT:
    @pytest.mark.parametrize("size", [(64, 64), (96, 160)], ids=["square", "wide"])
    @pytest.mark.parametrize(
        "told",
        [
            pytest.param({}, id="cat"),
            pytest.param(OTHERS["DPT"], id="add"),
            pytest.param({"decoder_readout": "ignore"}, id="ignore"),
        ],
    )
    def test_tokens_give_what_smp_gives(self, told, size):
        model = theirs("DPT", **told)
        features = tuple(Feature(channels=c, stride=16, axes="b n c", prefix=1) for c in model.encoder.out_channels)
        part = composer.Smp("DPT", **told)
        decoder = ours(part, features, model.decoder)
        with torch.no_grad():
            maps, prefixes = model.encoder(torch.randn(2, 3, *size))
            tokens = [torch.cat([p, x.flatten(2).transpose(1, 2)], dim=1) for x, p in zip(maps, prefixes, strict=True)]

            (y_BCHW,) = decoder(tokens, image_size=size)

            assert torch.equal(y_BCHW, model.decoder(maps, prefixes))
        (promised,) = composer.contract(part, features).features
        assert tuple(y_BCHW.shape) == promised.shape(2, *size)

    @pytest.mark.parametrize("readout", ["cat", "add", "ignore"])
    def test_maps_have_no_prefix_to_read_out(self, readout):
        features = tuple(Feature(channels=12, stride=8) for _ in range(3))
        part = composer.Smp("DPT", decoder_readout=readout, decoder_intermediate_channels=(8, 12, 16))
        decoder = composer.module(part, features).eval()
        # As PermuteDims might leave it: not in the order in which it lies in memory.
        maps = [torch.randn(2, 8, 12, 12).permute(0, 3, 1, 2) for _ in features]
        with torch.no_grad():
            (y_BCHW,) = decoder(maps, image_size=(64, 96))
            reference = decoder._smp_decoder([x.contiguous() for x in maps], [None] * 3)
        assert torch.equal(y_BCHW, reference)
        assert tuple(y_BCHW.shape) == (2, 256, 32, 48)

    def test_a_factor_that_is_not_whole_is_cut_as_smp_cuts_it(self):
        """Stride 3 is neither a multiple of 4 nor of 8: the maps stay at it, and shrink to half of it."""
        features = (Feature(channels=12, stride=3),) * 2
        part = composer.Smp("DPT", decoder_intermediate_channels=(8, 12), decoder_fusion_channels=16)
        (promised,) = composer.contract(part, features).features
        with torch.no_grad():
            (y_BCHW,) = composer.module(part, features).eval()([torch.randn(2, 12, 16, 24)] * 2, image_size=(48, 72))
        assert promised.stride == Fraction(3, 2)
        assert tuple(y_BCHW.shape) == promised.shape(2, 48, 72)


HEADS = {
    "encoder_name",
    "encoder_depth",
    "encoder_weights",
    "encoder_output_stride",
    "encoder_output_indices",
    "in_channels",
    "classes",
    "activation",
    "upsampling",
    "aux_params",
    "kwargs",
}
"""The arguments of smp's models that are the encoder's and the head's."""


@pytest.mark.parametrize("name", NAMES)
def test_the_arguments_and_their_defaults_are_those_of_smps_model(name):
    parameters = inspect.signature(getattr(smp, name).__init__.__wrapped__).parameters
    told = {n: p.default for n, p in parameters.items() if n not in HEADS | {"self"}}
    assert dict(SMP_DECODER_ARGUMENTS[name]) == told


def spread(module):
    """How far convolutions' weights spread, by the inverse root of what they sum over: sqrt(6) in smp, 1 in torch."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 2000]
    return [round(float(layer.weight.detach().abs().max()) * math.sqrt(layer.weight[0].numel()), 1) for layer in layers]


@pytest.mark.parametrize("name", NAMES)
def test_weights_begin_as_in_smps_model(name):
    model = theirs(name)
    if name == "DPT":
        features = tuple(Feature(channels=c, stride=16, axes="b n c", prefix=1) for c in model.encoder.out_channels)
    else:
        features = pyramid_of(model, name)
    torch.manual_seed(1)
    decoder = composer.module(composer.Smp(name), features)

    assert list(decoder.state_dict()) == [f"_smp_decoder.{key}" for key in model.decoder.state_dict()]
    assert spread(decoder) == spread(model.decoder)
    assert set(spread(decoder)) == ({1.0} if name.startswith("DeepLab") else {2.4})
    biases = [layer.bias for layer in decoder.modules() if isinstance(layer, nn.Conv2d) and layer.bias is not None]
    assert [bool(bias.any()) for bias in biases] == [name.startswith("DeepLab")] * len(biases)
