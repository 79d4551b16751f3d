"""What is known of TerraTorch without it, held against TerraTorch, and the models of calls with its names."""

from __future__ import annotations

import inspect
from contextlib import nullcontext

import pytest
import torch
from terratorch.models import EncoderDecoderFactory as TheirFactory
from terratorch.models.backbones.clay_v1.embedder import Embedder
from terratorch.models.backbones.prithvi_mae import PrithviViT
from terratorch.models.backbones.scalemae import PRETRAINED_BANDS, create_model
from terratorch.registry import BACKBONE_REGISTRY

import composer
from composer.adapters.probing import CPULinspace
from composer.adapters.terratorch.parts import CONSTRUCTORS, FAMILIES, TOKENIZER_CHANNELS, TerraTorch, get_patch_side
from composer.terratorch import EncoderDecoderFactory
from composer.terratorch.named import HOOKS

RGB = ["BLUE", "GREEN", "RED"]
RESNET, SATLAS_SWIN = "satlas_resnet50_sentinel2_mi_ms_satlas", "satlas_swin_t_sentinel2_mi_ms"
TOKENIZER = "terramind_v1_tokenizer_lulc"
NAMES = (
    *("prithvi_eo_tiny", "prithvi_eo_v2_600", "terramind_v1_tiny", TOKENIZER, "dofa_small_patch16_224", RESNET),
    *(SATLAS_SWIN, "ssl4eos12_vit_small_patch16_224_sentinel2_all_dino", "clay_v1_base", "prithvi_swin_B", "UNet"),
    "scalemae_vit_huge_patch14",
)


@pytest.fixture(scope="module", params=NAMES)
def network(request):
    """The name of a backbone, and TerraTorch's network of this name, without values where that is possible."""
    name = request.param
    bands = {"model_bands": RGB} if CONSTRUCTORS[FAMILIES[name].kind].bands_argument == "model_bands" else {}
    on_meta = name != TOKENIZER
    with torch.device("meta") if on_meta else nullcontext(), CPULinspace() if on_meta else nullcontext():
        if name.startswith("scalemae"):
            return name, create_model(name.removeprefix("scalemae_"))
        return name, BACKBONE_REGISTRY.build(name, **bands)


def test_patches_are_those_that_the_factory_finds(network):
    name, made = network
    found = next((module.patch_size for module in made.modules() if hasattr(module, "patch_size")), None)
    sides = set(found[-2:]) if isinstance(found, list | tuple) else {found}

    assert sides == {get_patch_side(name)}


def test_a_hook_is_one_that_is_known(network):
    name, made = network
    # A wrapper of timm's networks has one that returns what it is given.
    assert hasattr(made, "prepare_features_for_image_model") == (FAMILIES[name].kind in HOOKS)


def test_bands_are_those_of_a_call_that_names_none(network):
    name, made = network
    bands = CONSTRUCTORS[FAMILIES[name].kind].bands
    stem = next((m for m in made.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Conv3d)), None)
    known = len(bands) if bands else {TOKENIZER: TOKENIZER_CHANNELS["lulc"]}.get(name, 3)

    # The others make their first layer when they are run.
    assert stem is None or stem.in_channels == known


def list_arguments(constructor):
    return inspect.signature(constructor).parameters.keys() - {"kwargs"}


def test_options_are_all_that_a_lenient_constructor_reads():
    images = {"in_chans", "num_frames", "bands", "ckpt_path", "out_indices"}
    assert {*CONSTRUCTORS["prithvi"].options} == (list_arguments(PrithviViT) - images) | {"vit_adapter"}
    assert {*CONSTRUCTORS["clay"].options} == list_arguments(Embedder) - images


def test_bands_without_names_are_those_of_the_weights():
    assert CONSTRUCTORS["scalemae"].bands == tuple(band.value for band in PRETRAINED_BANDS)
    assert list(CONSTRUCTORS["clay"].bands) == inspect.signature(Embedder).parameters["bands"].default


SMALL_SWIN = {"depths": (1, 1), "num_heads": (1, 2), "strides": (4, 2), "embed_dim": 16}
CALLS = {
    "frames": (
        {
            "backbone": "prithvi_eo_tiny",
            "backbone_num_frames": 2,
            "backbone_bands": ["RED", 7],
            "decoder": "FCNDecoder",
        },
        (2, 2, 2, 64, 64),
    ),
    "a vector": ({"backbone": "prithvi_eo_tiny", "task": "classification"}, (2, 6, 40, 64)),
    "swin": ({"backbone": "prithvi_swin_B", **{f"backbone_{k}": v for k, v in SMALL_SWIN.items()}}, (2, 6, 64, 48)),
    "the first stage of swin": (
        {
            "backbone": "prithvi_swin_B",
            **{f"backbone_{k}": v for k, v in SMALL_SWIN.items()},
            "backbone_out_indices": [0],
            "necks": [{"name": "PermuteDims", "new_order": [0, 3, 1, 2]}],
        },
        (2, 6, 64, 48),
    ),
    "clay of numbers": (
        {"backbone": "clay_v1_base", "backbone_img_size": 64, "backbone_bands": [0, 1]},
        (1, 2, 64, 64),
    ),
    "levels of dofa in another order": (
        {
            "backbone": "dofa_small_patch16_224",
            "backbone_model_bands": RGB,
            "backbone_out_indices": [-1, 2, 99],
            "backbone_img_size": 64,
            "necks": [{"name": "ReshapeTokensToImage"}],
            "decoder_out_index": 0,
        },
        (2, 3, 64, 64),
    ),
    "levels that a resnet does not have": (
        {
            "backbone": RESNET,
            "backbone_model_bands": RGB,
            "backbone_out_indices": [1, 2, 7],
            "decoder": "UperNetDecoder",
        },
        (2, 3, 64, 64),
    ),
    "unet": ({"backbone": "UNet", "backbone_in_channels": 2, "backbone_out_channels": 4}, (2, 2, 32, 48)),
    "the image itself": (
        {"backbone": "IdentityBackbone", "backbone_out_channels": [8], "decoder": "FCNDecoder"},
        (2, 8, 16, 20),
    ),
    "one modality": (
        {"backbone": "terramind_v1_tiny", "backbone_modalities": ["S2L2A"], "backbone_bands": {"S2L2A": RGB}},
        {"S2L2A": (1, 3, 64, 96)},
    ),
    "no modality": ({"backbone": "terramind_v1_tiny"}, (1, 3, 50, 96)),
    "several modalities": (
        {
            "backbone": "terramind_v1_tiny",
            "backbone_modalities": ["S2L2A", "s1grd", {"own": 4}],
            "backbone_bands": {"S2L2A": RGB},
            "backbone_merge_method": "max",
        },
        {"S2L2A": (1, 3, 64, 96), "s1grd": (1, 2, 64, 96), "own": (1, 4, 64, 96)},
    ),
    "several modalities over time": (
        {
            "backbone": "terramind_v1_tiny",
            "backbone_modalities": ["S2L2A", "S1GRD"],
            "backbone_use_temporal": True,
            "backbone_temporal_n_timestamps": 2,
        },
        {"S2L2A": (1, 12, 2, 32, 64), "S1GRD": (1, 2, 2, 32, 64)},
    ),
}
"""Calls of the factory, each with the shape of its image, or of each image by modality."""

TOKENS = {"necks": [{"name": "ReshapeTokensToImage", "remove_cls_token": False}]}
SMALL_DECODERS = {
    "IdentityDecoder": {},
    "FCNDecoder": {"decoder_channels": 8, "decoder_num_convs": 1},
    "UperNetDecoder": {"decoder_channels": 8},
}


@pytest.mark.parametrize(("changes", "shape"), CALLS.values(), ids=CALLS)
def test_a_call_gives_the_numbers_of_terratorch_with_its_checkpoint(changes, shape, tmp_path):
    necks = TOKENS if changes["backbone"].startswith("terramind") else {}
    plain = {"task": "segmentation", "decoder": "IdentityDecoder", "num_classes": 2, **necks}
    call = {**plain, **changes} | SMALL_DECODERS[changes.get("decoder", "IdentityDecoder")]
    theirs = TheirFactory().build_model(**call)
    theirs.eval()
    torch.save({f"model.{name}": x for name, x in theirs.state_dict().items()}, tmp_path / "last.ckpt")
    ours = EncoderDecoderFactory().build_model(**call).eval()
    shapes = shape if isinstance(shape, dict) else {"": shape}
    images = {name: torch.rand(sides) for name, sides in shapes.items()}
    image = images if isinstance(shape, dict) else images[""]

    report = composer.load_weights(ours, tmp_path / "last.ckpt")
    with torch.no_grad():
        given, expected = ours(image).output, theirs(dict(image) if isinstance(image, dict) else image).output

    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())
    torch.testing.assert_close(given, expected, rtol=1e-6, atol=1e-6)


REFUSED = {
    "frames that patches do not cover": (
        {"backbone": "prithvi_eo_tiny", "backbone_num_frames": 3, "backbone_patch_size": [2, 16, 16]},
        "backbone_patch_size -> backbone_num_frames: 4",
    ),
    "channels that are not those of the bands": (
        {"backbone": RESNET, "backbone_model_bands": ["RED"], "backbone_in_chans": 3},
        "backbone_model_bands -> backbone_in_chans: 1",
    ),
    "an unknown band": (
        {"backbone": "dofa_small_patch16_224", "backbone_model_bands": ["BLU"]},
        "backbone_model_bands[0] -> did you mean BLUE?",
    ),
    "bands of an image that is not fed": (
        {**CALLS["several modalities over time"][0], "backbone_bands": {"DEM": ["DEM"]}},
        "backbone_bands.DEM -> known: S1GRD, S2L2A",
    ),
    "bands of no modality": (
        {**CALLS["several modalities over time"][0], "backbone_bands": ["RED"]},
        "backbone_bands -> backbone_bands: {MODALITY: [BAND, …]}",
    ),
    "channels last": (
        {"backbone": SATLAS_SWIN, "backbone_model_bands": RGB, "decoder": "FCNDecoder"},
        "decoder -> necks: [{name: PermuteDims, new_order: [0, 3, 1, 2]}]",
    ),
}
"""Calls that only TerraTorch's own networks refuse, each with the argument and the fix."""


@pytest.mark.parametrize(("changes", "problem"), REFUSED.values(), ids=REFUSED)
def test_a_fix_is_of_arguments(changes, problem):
    call = {"task": "segmentation", "decoder": "IdentityDecoder", "num_classes": 2, **changes}
    with pytest.raises(composer.SpecError) as raised:
        EncoderDecoderFactory().build_model(**call)
    assert [f"{found.place.path} -> {found.fix}" for found in raised.value.problems] == [problem]


def test_the_network_of_scale_mae_has_the_hook_that_is_known():
    """TerraTorch has it in a table of its own, which its factory does not read."""
    part = TerraTorch("scalemae_vit_base_patch16")
    graph = composer.chain(part, *HOOKS["scalemae"], composer.EmbeddingHead(), input=composer.Image(channels=3))
    model = composer.build(graph).eval()
    peer = create_model("vit_base_patch16").eval()
    peer.load_state_dict(model.encoder.state_dict())
    image = torch.rand(1, 3, 64, 64)

    with torch.no_grad():
        expected = peer.prepare_features_for_image_model(peer(image))[0]
        given = model(image).output[-1]

    torch.testing.assert_close(given, expected, rtol=0, atol=0)


def test_a_deep_unet_takes_whole_cells():
    stages = {name: [1] * 8 for name in ("strides", "enc_dilations", "enc_num_convs")}
    steps = {"downsamples": [True] * 7, "dec_num_convs": [1] * 7, "dec_dilations": [1] * 7}
    info = composer.describe(TerraTorch("UNet", options={"num_stages": 8, "out_channels": 2, **stages, **steps}), 2)

    assert (info.sizes.multiple, [int(feature.stride) for feature in info.features[:2]]) == (128, [128, 64])
