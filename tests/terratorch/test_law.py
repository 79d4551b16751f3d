"""The law for every backbone of TerraTorch: what is found out is what a forward pass gives, with gradients, and the
numbers are those of TerraTorch's own module.
"""

from __future__ import annotations

import random
from contextlib import nullcontext

import pytest
import torch
from terratorch.models.backbones.scalemae import create_model, scalemae_model_registry
from terratorch.registry import BACKBONE_REGISTRY, TERRATORCH_BACKBONE_REGISTRY

import composer
from composer.adapters.probing import CPULinspace
from composer.adapters.terratorch.parts import FAMILIES, UNREGISTERED, UNSUPPORTED_BACKBONES, TerraTorch
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

S2L2A = {"modalities": ["S2L2A"]}
ARGUMENTS = {
    "prithvi": {"bands": BANDS},
    "swin": {"bands": BANDS},
    "scalemae": {"bands": BANDS},
    "clay": {"bands": BANDS, "img_size": 64},
    "dofa": {"model_bands": BANDS},
    "torchgeo": {"model_bands": BANDS},
    "torchgeo_vit": {"model_bands": BANDS, "dynamic_img_size": True},
    "unet": {"in_channels": 4},
    "terramind": S2L2A,
    "tim": S2L2A,
}
"""What TerraTorch's own constructor is handed, by kind. Clay's own size is 256, of a thousand tokens."""


def part_of(name):
    kind = FAMILIES[name].kind
    named = {"bands": BANDS} if kind in ("clay", "dofa", "torchgeo", "torchgeo_vit", "scalemae") else {}
    options = {"options": {"img_size": 64}} if kind == "clay" else {}
    return TerraTorch(name, **named, **options, **(S2L2A if "modalities" in FAMILIES[name].fields else {}))


def channels_of(name):
    if "tokenizer" in name:
        return OF_TOKENIZERS[name.rpartition("_")[2]]
    return 12 if name.startswith("terramind") else 4


@pytest.fixture(scope="module", params=NAMES)
def backbone(request):
    """The name of a backbone, what is known of it, and its module."""
    name = request.param
    part, channels = part_of(name), channels_of(name)
    facts = composer.describe(part, channels)
    assert not isinstance(facts, Rejection), facts
    device = "meta" if name.startswith(LARGEST) else "cpu"
    with torch.random.fork_rng(devices=[]), torch.device(device), CPULinspace() if device == "meta" else nullcontext():
        module = composer.module(part, (Feature(channels=channels),), info=facts, pretrained=False)
    return name, facts, module.to(device).eval()


def image_for(module, facts, *, wide):
    """An image of two by two of the units that the network takes, or two by three."""
    sizes = facts.sizes
    unit = sizes.compute_padded_size(sizes.height or 1, sizes.width or 1)[0]
    free = 2 * unit, 3 * unit if wide and not sizes.square else 2 * unit
    height, width = (sizes.height, sizes.width) if sizes.height else free
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    return torch.rand(2, facts.channels, height, width, device=device, requires_grad=True)


@pytest.mark.parametrize("wide", [False, True], ids=["square", "wide"])
def test_a_backbone_gives_what_is_promised(backbone, wide):
    _, facts, module = backbone
    image = image_for(module, facts, wide=wide)

    given = module(image)

    assert [tuple(x.shape) for x in given] == [f.shape(2, *image.shape[2:]) for f in facts.features]
    gradients = [torch.autograd.grad((x * torch.rand_like(x)).sum(), image, retain_graph=True)[0] for x in given]
    assert [gradient.is_meta or bool(gradient.any()) for gradient in gradients] == [True] * len(given)


@pytest.mark.parametrize("wide", [False, True], ids=["square", "wide"])
def test_the_numbers_are_those_of_the_library(backbone, wide):
    name, facts, module = backbone
    kind = FAMILIES[name].kind
    if name.startswith(LARGEST):
        pytest.skip("too large to hold twice")
    make, called = (BACKBONE_REGISTRY.build, name)
    if kind == "scalemae":
        make, called = create_model, name.removeprefix("scalemae_")
    peer = make(called, **ARGUMENTS.get(kind, {}))
    peer.load_state_dict(module.state_dict())
    peer.eval()  # which returns nothing, in the case of UNet
    image = image_for(module, facts, wide=wide).detach()

    with torch.no_grad():
        random.seed(0)
        theirs = peer(image.clone())
        random.seed(0)
        ours = module(image)

    assert [torch.equal(one, other) for one, other in zip(ours, theirs, strict=True)] == [True] * len(ours)


def test_no_name_is_left_out():
    """Those of TerraTorch 1.2.11, but for the ones that its extra `surya` has, if that is there."""
    known = {name for name in TERRATORCH_BACKBONE_REGISTRY if not name.startswith("heliofm")}
    with_timm = {name for name in BACKBONE_REGISTRY if name.startswith(("timm_clay", "timm_prithvi"))}
    outside = {*(f"scalemae_{name}" for name in scalemae_model_registry), *(n.removeprefix("timm_") for n in with_timm)}
    assert known == {*FAMILIES, *UNSUPPORTED_BACKBONES} - {*UNREGISTERED}
    assert outside == {*UNREGISTERED}
