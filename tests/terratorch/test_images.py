"""Frames, images by name, sizes, copies, and what is said of arguments that cannot be."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY

import composer
from composer.adapters.terratorch.networks import probe
from composer.adapters.terratorch.parts import TerraTorch

RGB = ["BLUE", "GREEN", "RED"]
CLAY = TerraTorch("clay_v1_base", bands=RGB, out_indices=[0, 1], options={"img_size": 64})
SCALE_MAE = TerraTorch("scalemae_vit_base_patch16", bands=RGB, out_indices=[1, 0])
SMALL_SWIN = {"depths": [1, 1], "num_heads": [1, 2], "strides": [4, 2], "embed_dim": 16}
SWIN = TerraTorch("prithvi_swin_B", bands=RGB, options=SMALL_SWIN)


def built(part, **image):
    graph = composer.chain(part, composer.EmbeddingHead(), input=composer.Image(**image))
    return composer.build(graph).eval()


def run(model, *images, **extras):
    with torch.no_grad():
        return model(*images, **extras).output


def test_prithvi_sees_all_frames_at_once():
    model = built(TerraTorch("prithvi_eo_tiny", out_indices=[1, -1]), channels=6, frames=3)
    peer = TERRATORCH_BACKBONE_REGISTRY.build("prithvi_eo_tiny", num_frames=3, out_indices=[1, 3])
    peer.load_state_dict(model.encoder.state_dict())
    film = torch.rand(2, 6, 3, 32, 48)

    assert [(f.axes, f.frames, f.prefix) for f in model.typed.features["encoder"]] == [("b n c", 3, 1)] * 2
    pairs = list(zip(run(model, film), peer.eval()(film), strict=True))
    assert [torch.equal(one, other) for one, other in pairs] == [True, True]


def test_a_backbone_of_stills_runs_on_each_frame():
    model = built(TerraTorch("seco_resnet18_sentinel2_rgb_seco"), channels=3, frames=2)
    film = torch.rand(1, 3, 2, 64, 64)
    (out,) = run(model, film)
    with torch.no_grad():
        (alone,) = model.encoder(film[:, :, 1])
    assert out.shape == (1, 2, 512, 2, 2)
    assert torch.allclose(out[:, 1], alone, atol=1e-5)


def test_levels_come_in_the_order_asked_for():
    model = built(TerraTorch("satlas_resnet50_sentinel2_mi_ms_satlas", out_indices=[4, 0]), channels=4)
    assert [(f.channels, f.stride) for f in model.typed.features["encoder"]] == [(2048, 32), (64, 2)]
    assert [x.shape[1] for x in run(model, torch.rand(1, 4, 64, 64))] == [2048, 64]


PARTS = {"Prithvi": TerraTorch("prithvi_eo_tiny"), "Clay": CLAY, "ScaleMAE": SCALE_MAE, "Swin": SWIN}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deep", "pickle"]
)
def test_a_copy_has_weights_of_its_own(part, copied):
    model = built(part, channels=3)
    other = copied(model)
    image = torch.rand(1, 3, 64, 64)
    before = run(model, image)[0]
    with torch.no_grad():
        next(other.encoder.parameters()).add_(1)
    assert torch.equal(before, run(model, image)[0])
    assert not torch.equal(before, run(other, image)[0])


SEVERAL = """
inputs: {{optical: {{channels: 12}}, other: {{channels: {channels}}}}}
nodes:
  encoder: {{part: {{terratorch/terramind_v1_tiny: {fields}}}, from: {{S2L2A: optical, {name}: other}}}}
  out: {{part: EmbeddingHead, from: encoder}}
outputs: [out]
"""


def several(fields="{}", name="S1GRD", channels=2):
    return composer.reads(SEVERAL.format(fields=fields, name=name, channels=channels))


@pytest.mark.parametrize("merged", ["mean", "concat"])
def test_terramind_takes_images_by_name(merged):
    model = composer.build(several(f"{{options: {{merge_method: {merged}}}}}")).eval()
    peer = TERRATORCH_BACKBONE_REGISTRY.build("terramind_v1_tiny", modalities=["S2L2A", "S1GRD"], merge_method=merged)
    peer.load_state_dict(model.encoder.state_dict())
    optical, radar = torch.rand(2, 12, 32, 48), torch.rand(2, 2, 32, 48)

    ours = run(model, {"optical": optical, "other": radar})
    theirs = peer.eval()({"S2L2A": optical, "S1GRD": radar})
    assert {x.shape for x in ours} == {(2, 6, 192 if merged == "mean" else 384)}
    assert [torch.equal(one, other) for one, other in zip(ours, theirs, strict=True)] == [True] * 12


def test_a_modality_of_ones_own_is_declared():
    model = composer.build(several("{modalities: [S2L2A, thermal]}", "thermal", 5)).eval()
    assert run(model, {"optical": torch.rand(1, 12, 32, 32), "other": torch.rand(1, 5, 32, 32)})[0].shape == (1, 4, 192)


def still(part, channels, frames=None):
    return composer.chain(part, composer.EmbeddingHead(), input=composer.Image(channels=channels, frames=frames))


DEEP = TerraTorch("prithvi_eo_tiny", options={"patch_size": [2, 16, 16]})

REFUSED = {
    "a new modality": (
        several("{}", "S2L2", 4),
        "terratorch/terramind_v1_tiny has no weights for a modality 'S2L2' (got images named S2L2A, S2L2).",
    ),
    "channels of another modality": (
        several(channels=3),
        "terratorch/terramind_v1_tiny takes an image of 2 channels as S1GRD (got 3 channels).",
    ),
    "no modality": (
        still(TerraTorch("terramind_v1_tiny"), 12),
        "terratorch/terramind_v1_tiny takes images by their modality (got an image without a name).",
    ),
    "other modalities": (
        several("{modalities: [S2L2A, DEM]}"),
        "terratorch/terramind_v1_tiny is declared to take S2L2A, DEM (got images named S2L2A, S1GRD).",
    ),
    "tokens side by side": (
        several("{options: {merge_method: null}}"),
        "terratorch/terramind_v1_tiny runs at no image size tried with these images (got no maps, and no tokens that ",
    ),
    "an argument that is swallowed": (
        still(TerraTorch("prithvi_eo_tiny", options={"img_sise": 96}), 6),
        "terratorch/prithvi_eo_tiny has no argument 'img_sise' (got terratorch 1.2.11).",
    ),
    "frames that fill no patch": (
        still(DEEP, 6, frames=3),
        "terratorch/prithvi_eo_tiny has patches of 2 frames, so frames must be a multiple of 2 (got 3 frames).",
    ),
    "a level that is not there": (
        still(TerraTorch("prithvi_eo_tiny", out_indices=[0, 4]), 6),
        "terratorch/prithvi_eo_tiny has levels 0 to 3 (got level 4).",
    ),
    "bands and channels": (
        still(TerraTorch("prithvi_eo_tiny", bands=["RED", "BLUE"]), 6),
        "terratorch/prithvi_eo_tiny has 2 bands, one for each channel of its image (got 6 channels).",
    ),
    "DOFA without bands": (
        still(TerraTorch("dofa_small_patch16_224"), 3),
        "terratorch/dofa_small_patch16_224 makes its first layer for the wavelengths of its bands (got 3 channels with",
    ),
    "a band that Clay does not know": (
        still(TerraTorch("clay_v1_base", bands=["BLUE", "GREEN", "REDD"]), 3),
        "terratorch/clay_v1_base does not know this band (got REDD).",
    ),
    "an argument that Clay swallows": (
        still(TerraTorch("clay_v1_base", bands=RGB, options={"img_sise": 64}), 3),
        "terratorch/clay_v1_base has no argument 'img_sise' (got terratorch 1.2.11).",
    ),
    "an argument that ScaleMAE leaves out": (
        still(TerraTorch("scalemae_vit_base_patch16", bands=RGB, options={"reg_tokens": 4}), 3),
        "terratorch/scalemae_vit_base_patch16 has no argument 'reg_tokens' (got terratorch 1.2.11).",
    ),
    "another number of bands": (
        still(TerraTorch("terramind_v1_tiny", modalities=["S2L2A"], bands=["RED"]), 3),
        "terratorch/terramind_v1_tiny has 1 band, one for each channel of its image (got 3 channels).",
    ),
    "bands of another modality": (
        still(TerraTorch("terramind_v1_tiny", modalities=["S2L2A"], bands={"S2L1C": RGB}), 3),
        "terratorch/terramind_v1_tiny is not fed an image whose bands have names (got S2L1C).",
    ),
    "positions that are no square": (
        still(TerraTorch("terramind_v1_tiny", modalities=["DEM"], options={"img_size": [112, 448]}), 1),
        "terratorch/terramind_v1_tiny takes its positions for those of a square (got img_size: [112, 448]).",
    ),
}


@pytest.mark.parametrize(("graph", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(graph, message):
    with pytest.raises(composer.SpecError) as raised:
        composer.infer(graph)
    (problem,) = raised.value.problems
    assert problem.message.startswith(message)
    assert problem.fix


@pytest.mark.parametrize(("frames", "enough"), [(None, 2), (3, 4)])
def test_frames_that_fill_patches_are_named_and_taken(frames, enough):
    with pytest.raises(composer.SpecError) as raised:
        composer.infer(still(DEEP, 6, frames=frames))
    (problem,) = raised.value.problems
    assert problem.fix == f"input: {{frames: {enough}}}, and frames: {enough} if the encoder says frames"
    model = composer.build(still(DEEP, 6, frames=enough)).eval()
    assert {x.shape for x in run(model, torch.rand(1, 6, enough, 32, 32))} == {(1, 1 + 4 * (enough // 2), 256)}


SIZES = {
    "DOFA": (TerraTorch("dofa_small_patch16_224", bands=RGB), (224, 224, False)),
    "Clay": (CLAY, (64, 64, False)),
    "ScaleMAE": (SCALE_MAE, (None, None, True)),
}


@pytest.mark.parametrize(("part", "expected"), SIZES.values(), ids=SIZES)
def test_a_shape_of_as_many_cells_is_not_taken(part, expected):
    """Positions of a square would be taken for those of it, without a word."""
    sizes = composer.describe(part, 3).sizes
    assert (sizes.height, sizes.width, sizes.square) == expected


def test_the_first_build_leaves_the_random_states_of_python_and_numpy_as_found():
    """What TerraTorch imports draws, when it is imported."""
    program = """
import random
import numpy as np
import composer
random.seed(1), np.random.seed(1)
graph = composer.chain(composer.TerraTorch("IdentityBackbone"), composer.EmbeddingHead())
composer.build(graph)
drawn = random.random(), np.random.random()
random.seed(1), np.random.seed(1)
print(drawn == (random.random(), np.random.random()))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "True"


def test_finding_out_which_sizes_fit_warns_of_none():
    """TerraTorch warns of a border that is left out: of 224 pixels in patches of 15, say."""
    part = TerraTorch("prithvi_eo_tiny", options={"patch_size": [1, 15, 15]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        facts = probe(part, 6)
    assert facts.sizes.multiple == 15
