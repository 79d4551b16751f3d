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
from composer.adapters.smp.translation import SMP_MODELS
from composer.layouts import Feature

pytest.importorskip("segmentation_models_pytorch", reason="the extra smp is not installed")
import segmentation_models_pytorch as smp

import composer.adapters.smp.modules

CNN = {"encoder_name": "resnet18", "encoder_weights": None}
VIT = {"encoder_name": "tu-test_vit", "encoder_weights": None, "dynamic_img_size": True}
STRIDES = {
    "DeepLabV3": (2, 4, 8, 8, 8),
    "DeepLabV3Plus": (2, 4, 8, 16, 16),
    "PAN": (2, 4, 8, 16, 16),
    "PSPNet": (2, 4, 8),
}
"""The strides of resnet18 in smp's models, where the encoder is told to keep its resolution or to stop early."""

SCSE = {"decoder_channels": (40, 32, 24, 20, 16), "decoder_attention_type": "scse"}
ASPP = {"decoder_channels": 24, "decoder_atrous_rates": (2, 3, 5), "decoder_aspp_dropout": 0.1}
OTHERS = {
    "Unet": {**SCSE, "decoder_use_norm": False, "decoder_interpolation": "bilinear"},
    "UnetPlusPlus": {**SCSE, "decoder_use_norm": "identity", "decoder_interpolation": "bicubic"},
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
    "DeepLabV3": {**ASPP, "decoder_aspp_separable": True},
    "DeepLabV3Plus": {**ASPP, "decoder_aspp_separable": False},
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

LEVELLED = tuple(name for name in OTHERS if name != "DPT")


def build_smp_model(name, **arguments):
    """smp's whole model with random weights, and norms whose statistics are not those of a new one."""
    torch.manual_seed(0)
    model = getattr(smp, name)(**(VIT if name == "DPT" else CNN), **arguments).eval()
    for norm in (layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    return model


def list_features(model, name):
    """The features of smp's encoder from level 1 on; of its ViT, tokens."""
    if name == "DPT":
        return tuple(Feature(channels=c, stride=16, axes="b n c", prefix=1) for c in model.encoder.out_channels)
    widths, strides = model.encoder.out_channels[1:], STRIDES.get(name, (2, 4, 8, 16, 32))
    return tuple(Feature(channels=c, stride=s) for c, s in zip(widths, strides, strict=True))


def build_with_weights(part, features, decoder):
    """Our module with the weights of smp's decoder."""
    module = composer.module(part, features).eval()
    module._smp_decoder.load_state_dict(decoder.state_dict())
    return module


@pytest.mark.parametrize("name", LEVELLED)
def test_gives_what_smp_gives(name):
    model = build_smp_model(name, **OTHERS[name])
    features, part = list_features(model, name), composer.Smp(name, **OTHERS[name])
    decoder = build_with_weights(part, features, model.decoder)
    size = (128, 192) if name == "PAN" else (64, 96)
    with torch.no_grad():
        levels = model.encoder(torch.randn(2, 3, *size))
        before = [x.clone() for x in levels]

        (y_BCHW,) = decoder(levels[1:])

        assert torch.equal(y_BCHW, model.decoder(levels))
    assert tuple(y_BCHW.shape) == composer.contract(part, features).features[0].shape(2, *size)
    assert all(map(torch.equal, levels, before))


@pytest.mark.parametrize("name", ["Unet", "Linknet", "FPN", "Segformer"])
def test_an_encoder_that_begins_at_stride_4_is_taken_as_smp_takes_it(name):
    """smp gives such encoders a level 1 without channels; ours takes the four levels that there are."""
    torch.manual_seed(0)
    model = getattr(smp, name)(**{**CNN, "encoder_name": "tu-convnext_atto"}, **OTHERS[name]).eval()
    with torch.no_grad():
        levels = model.encoder(torch.randn(1, 3, 64, 96))
        features = tuple(Feature(channels=x.shape[1], stride=Fraction(64, x.shape[2])) for x in levels[2:])
        decoder = build_with_weights(composer.Smp(name, **OTHERS[name]), features, model.decoder)

        (y_BCHW,) = decoder(levels[2:])

        assert [level.shape[1] for level in levels[:2]] == [3, 0]
        assert torch.equal(y_BCHW, model.decoder(levels))


@pytest.mark.parametrize("name", LEVELLED)
def test_the_first_map_may_stand_for_the_image(name):
    """Its content counts for nothing, and its size where smp looks at the image's."""
    count = 5 if name != "FPN" else 4
    strides = (4, 8, 16, 32, 32) if name == "DeepLabV3Plus" else (2, 4, 8, 16, 32)
    features = tuple(Feature(channels=24, stride=s) for s in strides[:count])
    widths = {"decoder_channels": (24, 20, 16, 16)} if name in ("Unet", "UnetPlusPlus", "MAnet") else {}
    part = composer.Smp(name, **{**OTHERS[name], **widths}, first_level=0)
    decoder = composer.module(part, features).eval()
    size = (256, 320) if name == "PAN" else (64, 96)
    maps = [torch.randn(f.shape(1, *size)) for f in features]
    with torch.no_grad():
        (y_BCHW,), (z_BCHW,) = decoder(maps), decoder([torch.randn_like(maps[0]), *maps[1:]])
        assert torch.equal(y_BCHW, decoder._smp_decoder(maps))
    assert tuple(y_BCHW.shape) == composer.contract(part, features).features[0].shape(1, *size)
    # FPN counts from the last map, and with four takes them all.
    assert torch.equal(y_BCHW, z_BCHW) == (name != "FPN")


class TestDPT:
    @pytest.mark.parametrize("readout", ["cat", "add", "ignore"])
    def test_tokens_give_what_smp_gives(self, readout):
        arguments = {**OTHERS["DPT"], "decoder_readout": readout}
        model, part = build_smp_model("DPT", **arguments), composer.Smp("DPT", **arguments)
        features = list_features(model, "DPT")
        decoder = build_with_weights(part, features, model.decoder)
        with torch.no_grad():
            maps, prefixes = model.encoder(torch.randn(2, 3, 64, 96))
            tokens = [torch.cat([p, x.flatten(2).transpose(1, 2)], dim=1) for x, p in zip(maps, prefixes, strict=True)]

            (y_BCHW,) = decoder(tokens, image_size=(64, 96))

            assert torch.equal(y_BCHW, model.decoder(maps, prefixes))
        assert tuple(y_BCHW.shape) == composer.contract(part, features).features[0].shape(2, 64, 96)

    @pytest.mark.parametrize("readout", ["cat", "add", "ignore"])
    def test_maps_have_no_prefix_to_read_out(self, readout):
        features = tuple(Feature(channels=12, stride=8) for _ in range(4))
        part = composer.Smp("DPT", **{**OTHERS["DPT"], "decoder_readout": readout})
        decoder = composer.module(part, features).eval()
        # As PermuteDims might leave it: not in the order in which it lies in memory.
        maps = [torch.randn(2, 8, 12, 12).permute(0, 3, 1, 2) for _ in features]
        with torch.no_grad():
            (y_BCHW,) = decoder(maps, image_size=(64, 96))
            reference = decoder._smp_decoder([x.contiguous() for x in maps], [None] * 4)
        assert torch.equal(y_BCHW, reference)
        assert tuple(y_BCHW.shape) == (2, 24, 32, 48)

    def test_a_factor_that_is_not_whole_is_cut_as_smp_cuts_it(self):
        """Stride 3 is neither a multiple of 4 nor of 8: the maps stay at it, and shrink to half of it."""
        features = (Feature(channels=12, stride=3),) * 2
        part = composer.Smp("DPT", decoder_intermediate_channels=(8, 12), decoder_fusion_channels=16)
        (out,) = composer.contract(part, features).features
        with torch.no_grad():
            (y_BCHW,) = composer.module(part, features).eval()([torch.randn(2, 12, 16, 24)] * 2, image_size=(48, 72))
        assert out.stride == Fraction(3, 2)
        assert tuple(y_BCHW.shape) == out.shape(2, 48, 72)


@pytest.mark.parametrize("name", OTHERS)
def test_the_arguments_and_their_defaults_are_those_of_smps_model(name):
    parameters = inspect.signature(getattr(smp, name).__init__.__wrapped__).parameters
    own = {key: parameter.default for key, parameter in parameters.items() if key not in ("self", "kwargs")}
    assert {**SMP_DECODER_ARGUMENTS[name], **SMP_MODELS[name]} == own


@pytest.mark.parametrize("name", OTHERS)
def test_names_and_shapes_of_weights_are_those_of_smps_model(name):
    with torch.device("meta"):
        model = getattr(smp, name)(**(VIT if name == "DPT" else CNN))
        decoder = composer.module(composer.Smp(name), list_features(model, name))
    own = {f"_smp_decoder.{key}": tensor.shape for key, tensor in model.decoder.state_dict().items()}
    assert {key: tensor.shape for key, tensor in decoder.state_dict().items()} == own


def measure_spread(module):
    """How far convolutions' weights spread, by the inverse root of what they sum over: sqrt(6) in smp, 1 in torch."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 2000]
    return [round(float(layer.weight.detach().abs().max()) * math.sqrt(layer.weight[0].numel()), 1) for layer in layers]


@pytest.mark.parametrize("name", OTHERS)
def test_weights_begin_as_in_smps_model(name):
    model = build_smp_model(name, **OTHERS[name])
    torch.manual_seed(1)
    decoder = composer.module(composer.Smp(name, **OTHERS[name]), list_features(model, name))

    assert measure_spread(decoder) == measure_spread(model.decoder)
    assert set(measure_spread(decoder)) == ({1.0} if name.startswith("DeepLab") else {2.4})
    biases = [layer.bias for layer in decoder.modules() if isinstance(layer, nn.Conv2d) and layer.bias is not None]
    assert [bool(bias.any()) for bias in biases] == [name.startswith("DeepLab")] * len(biases)
