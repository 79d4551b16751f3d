"""The law for every backbone of TerraTorch: what is found out is what a forward pass gives, with gradients, and the
numbers are those of TerraTorch's own module.
"""

from __future__ import annotations

import random

import pytest
import torch
from terratorch.models.backbones.scalemae import create_model, scalemae_model_registry
from terratorch.registry import BACKBONE_REGISTRY, TERRATORCH_BACKBONE_REGISTRY

import composer
from composer.adapters.terratorch.parts import FAMILIES, SCALE_MAE, UNREGISTERED, UNSUPPORTED_BACKBONES, TerraTorch
from composer.layouts import Feature
from composer.parts.rules import Rejection

SMALLEST = (
    "prithvi_eo_tiny",
    "terramind_v1_tiny",
    "terramind_v1_tokenizer_dem",
    "dofa_small_patch16_224",
    "satlas_resnet50_sentinel2_mi_ms_satlas",
    "satlas_swin_t_sentinel2_mi_ms",
    "ssl4eol_resnet18_landsat_tm_toa_moco",
    "ssl4eos12_vit_small_patch16_224_sentinel2_all_dino",
    "seco_resnet18_sentinel2_rgb_seco",
    "fmow_resnet50_fmow_rgb_gassl",
    "UNet",
    "IdentityBackbone",
    "clay_v1_base",
    "prithvi_swin_B",
    "scalemae_vit_base_patch16",
)
"""One backbone of each family; the others are of the same code, and take minutes."""

LARGEST = (
    *("prithvi_eo_v2_300", "prithvi_eo_v2_600", "terramind_v1_large", "dofa_large", "satlas_resnet152"),
    *("prithvi_swin_L", "scalemae_vit_large", "scalemae_vit_huge"),
)
"""What the names of those begin with that are too large to draw; they run without numbers."""

UNTOLD = ("terramind_v01_base_tim", "terramind_v1_base_tim", "terramind_v1_large_tim")
"""Those that draw at random, by numbers that a tensor without them has not, and are too large to hold twice."""

NAMES = [
    pytest.param(name, marks=[] if name in SMALLEST else pytest.mark.slow) for name in FAMILIES if name not in UNTOLD
]
BANDS = ["BLUE", "GREEN", "RED", "NIR_NARROW"]
OF_TOKENIZERS = {"dem": 1, "lulc": 10, "ndvi": 1, "s1grd": 2, "s1rtc": 2, "s2l2a": 12}


def channels_of(name):
    if "tokenizer" in name:
        return OF_TOKENIZERS[name.rpartition("_")[2]]
    return 12 if name.startswith("terramind") else 4


def part_of(name):
    fields = {}
    if name == "clay_v1_base":
        # Its own size is 256, of a thousand tokens.
        fields["options"] = {"img_size": 64}
    if name.startswith(("dofa", "ssl4", "satlas", "seco", "fmow", "clay", "scalemae")):
        fields["bands"] = BANDS
    if "modalities" in FAMILIES[name].fields:
        fields["modalities"] = ["S2L2A"]
    return TerraTorch(name, **fields)


@pytest.fixture(scope="module", params=NAMES)
def backbone(request):
    """The name of a backbone, what is known of it, and its module."""
    part = part_of(request.param)
    channels = channels_of(request.param)
    facts = composer.describe(part, channels)
    assert not isinstance(facts, Rejection), facts
    device = "meta" if request.param.startswith(LARGEST) else "cpu"
    with torch.random.fork_rng(devices=[]), torch.device(device), rates(device):
        module = composer.module(part, (Feature(channels=channels),), info=facts, pretrained=False)
    return request.param, facts, module.to(device).eval()


def rates(device):
    from contextlib import nullcontext

    from composer.adapters.probing import CPULinspace

    return CPULinspace() if device == "meta" else nullcontext()


def sides(sizes, *, wide):
    unit = sizes.compute_padded_size(sizes.height or 1, sizes.width or 1)[0]
    if sizes.height:
        return sizes.height, sizes.width
    return 2 * unit, 3 * unit if wide and not sizes.square else 2 * unit


def image_for(module, channels, height, width):
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    return torch.rand(2, channels, height, width, device=device, requires_grad=True)


@pytest.mark.parametrize("wide", [False, True], ids=["square", "wide"])
def test_a_backbone_gives_what_is_promised(backbone, wide):
    _, facts, module = backbone
    height, width = sides(facts.sizes, wide=wide)
    image = image_for(module, facts.channels, height, width)

    given = module(image)

    assert [tuple(x.shape) for x in given] == [f.shape(2, height, width) for f in facts.features]
    gradients = [torch.autograd.grad((x * torch.rand_like(x)).sum(), image, retain_graph=True)[0] for x in given]
    assert [gradient.is_meta or bool(gradient.any()) for gradient in gradients] == [True] * len(given)


def library_s(name, **given):
    """TerraTorch's own module; ScaleMAE's no registry has."""
    if name in SCALE_MAE:
        return create_model(name.removeprefix("scalemae_"), **given)
    return BACKBONE_REGISTRY.build(name, **given)


@pytest.mark.parametrize("wide", [False, True], ids=["square", "wide"])
def test_the_numbers_are_those_of_the_library(backbone, wide):
    name, facts, module = backbone
    if name.startswith(LARGEST):
        pytest.skip("too large to hold twice")
    given = (
        {"bands": BANDS}
        if name.startswith("prithvi") or name in UNREGISTERED
        else {"model_bands": BANDS}
        if "bands" in TerraTorch.defaults[name] and "modalities" not in FAMILIES[name].fields
        else {}
    )
    given |= {"modalities": ["S2L2A"]} if "modalities" in FAMILIES[name].fields else {}
    given |= {"dynamic_img_size": True} if "_vit_" in name else {}
    given |= {"in_channels": 4} if name == "UNet" else {}
    given |= {"img_size": 64} if name == "clay_v1_base" else {}
    peer = library_s(name, **given)
    peer.load_state_dict(module.state_dict())
    peer.eval()  # which returns nothing, in the case of UNet
    image = image_for(module, facts.channels, *sides(facts.sizes, wide=wide)).detach()

    with torch.no_grad():
        random.seed(0)
        theirs = peer(image.clone())
        random.seed(0)
        ours = module(image)

    assert [torch.equal(one, other) for one, other in zip(ours, theirs, strict=True)] == [True] * len(ours)


def test_no_name_is_left_out():
    """Those of TerraTorch 1.2.11, but for the ones that its extra `surya` has, if that is there."""
    known = {name for name in TERRATORCH_BACKBONE_REGISTRY if not name.startswith("heliofm")}
    assert known == {*FAMILIES, *UNSUPPORTED_BACKBONES} - {*UNREGISTERED}
    assert {f"scalemae_{name}" for name in scalemae_model_registry} == {*SCALE_MAE}
    with_timm = {name for name in BACKBONE_REGISTRY if name.startswith(("timm_clay", "timm_prithvi"))}
    assert {name.removeprefix("timm_") for name in with_timm} == {*UNREGISTERED} - {*SCALE_MAE}
