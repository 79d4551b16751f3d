"""Published configs give TerraTorch's numbers, from TerraTorch's checkpoint."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from terratorch.models.necks import ReshapeTokensToImage
from torch.nn import functional as F

from composer.terratorch import TerraTorchWarning
from tests.terratorch.config_pairs import (
    CELLS_OF_13,
    CELLS_OF_14,
    CELLS_OF_16,
    CONVNEXT,
    DOFA,
    PRITHVI,
    RESNET,
    SATLAS,
    SWIN,
    TINY,
    TINY_NECKS,
    UPRIGHT,
    V1_100,
    WHOLE_64,
    WHOLE_128,
    Case,
    build_pair,
    compute_error,
)

CASES = {
    # timm's networks: six bands, a U-Net.
    "c2753d9": Case(),
    "c25acc6": Case(smaller=RESNET),
    "cd5fa73": Case(smaller=RESNET),
    "c454bb9": Case(smaller=RESNET),
    "c8578e2": Case(smaller=RESNET),
    "ce4c439": Case(smaller=CONVNEXT),
    "ce95174": Case(smaller=CONVNEXT),
    "c63d421": Case(smaller=CONVNEXT),
    "c8b8cd2": Case(smaller=CONVNEXT),
    # Prithvi with necks: bands by name and number, frames, auxiliary heads, sizes of images and patches, all decoders.
    "c075347": Case(smaller=PRITHVI, sizes=UPRIGHT),
    "c5ddb98": Case(smaller=PRITHVI, sizes=UPRIGHT),
    "ced72e6": Case(smaller=PRITHVI | {"decoder_channels": 64}, sizes=UPRIGHT),
    "c091522": Case(smaller=PRITHVI | {"decoder_channels": 64}, sizes=UPRIGHT),
    "c12cd23": Case(smaller=PRITHVI, sizes=UPRIGHT),
    "cc78fc2": Case(smaller=PRITHVI, sizes=UPRIGHT),
    "c2a08bf": Case(smaller=PRITHVI, sizes=UPRIGHT),
    "c319912": Case(smaller=PRITHVI, sizes=UPRIGHT),
    "cd0e135": Case(smaller=PRITHVI, sizes=UPRIGHT),
    "c7ca6b7": Case(smaller=PRITHVI, sizes=UPRIGHT),
    "c852ed5": Case(smaller=PRITHVI, sizes=UPRIGHT),
    "c58b87b": Case(smaller=PRITHVI, sizes=UPRIGHT),
    "ccf3524": Case(smaller=PRITHVI, sizes=UPRIGHT),
    "cd58740": Case(smaller=PRITHVI, sizes=UPRIGHT),
    "c672e04": Case(smaller=PRITHVI, sizes=CELLS_OF_14),
    "cd07398": Case(smaller=PRITHVI, sizes=CELLS_OF_14),
    # Prithvi without necks: its own hook.
    "c6cf89b": Case(),
    "c8931bf": Case(smaller=PRITHVI),
    "cc15320": Case(smaller=PRITHVI | {"decoder_channels": 64}),
    # TerraMind: one modality, its bands, two modalities, none that it knows, frames, thinking in modalities.
    "c1c0857": Case(smaller=TINY, sizes=UPRIGHT),
    "c3e506a": Case(smaller=TINY, sizes=UPRIGHT),
    "c6690af": Case(smaller=TINY, sizes=UPRIGHT),
    "c6cfec8": Case(smaller=TINY, sizes=UPRIGHT),
    "c9ebc91": Case(smaller=TINY, sizes=UPRIGHT),
    "ce57d9d": Case(smaller=TINY, sizes=UPRIGHT),
    "cf381c9": Case(smaller=TINY, sizes=UPRIGHT),
    "cf7fbf4": Case(smaller=TINY, sizes=UPRIGHT),
    "c61182d": Case(smaller=TINY | {"necks": TINY_NECKS}, sizes=UPRIGHT),
    "c1c7013": Case(sizes=UPRIGHT),
    "c3659bf": Case(smaller=TINY | {"backbone_temporal_n_timestamps": 2}, sizes=UPRIGHT),
    "cb36a75": Case(sizes=UPRIGHT),
    "c02ac43": Case(smaller={"backbone": "terramind_v1_tiny_tim"}, sizes=WHOLE_64),
    # The others that TerraTorch has.
    "c7a3cf9": Case(smaller={"backbone_img_size": 64, "decoder_channels": 32}, sizes=WHOLE_64, single=True),
    "c437bcf": Case(smaller=DOFA, sizes=WHOLE_64, single=True),
    "cb1bb64": Case(smaller=DOFA | {"backbone_out_indices": [2, 5, 8, 11]}, sizes=WHOLE_64, single=True),
    "c804d1e": Case(smaller={"backbone_img_size": 64}, sizes=WHOLE_64, single=True),
    "c09fb42": Case(sizes=CELLS_OF_16[:2]),
    "ccf98b5": Case(smaller=SATLAS, sizes=CELLS_OF_16[:2]),
    "c229694": Case(sizes=((8, 8), (8, 12), (7, 9))),
    "ce871d4": Case(smaller={"backbone_out_channels": 4}, theirs={"backbone_pretrained": None}, sizes=WHOLE_128),
    "cb2e784": Case(smaller={"backbone_out_channels": 4}, theirs={"backbone_pretrained": None}, sizes=WHOLE_128),
    # PrithviModelFactory: ViTs.
    "ceea876": Case(smaller=PRITHVI),
    "c17b4c1": Case(smaller=PRITHVI),
    "c1dfc28": Case(smaller=PRITHVI, sizes=CELLS_OF_13),
    "cd075f2": Case(smaller=PRITHVI),
    "cf7a72d": Case(smaller=PRITHVI),
    "c202807": Case(smaller=PRITHVI, sizes=CELLS_OF_14),
    "c271889": Case(smaller=PRITHVI, sizes=CELLS_OF_14),
    "c4860da": Case(smaller=PRITHVI, sizes=CELLS_OF_14),
    "cd59951": Case(smaller=PRITHVI, sizes=CELLS_OF_14),
    # Their name in older versions, for prithvi_eo_v1_100.
    "c1b5d9c": Case(smaller=PRITHVI, theirs=V1_100),
    "c68863e": Case(smaller=PRITHVI, theirs=V1_100),
    "cca6b51": Case(smaller=PRITHVI, theirs=V1_100),
    # PrithviModelFactory: Swins.
    "c0d6bfd": Case(smaller=SWIN, sizes=CELLS_OF_16[:2]),
    "c529fcd": Case(smaller=SWIN, sizes=CELLS_OF_16[:2]),
    "c58a0f5": Case(smaller=SWIN, sizes=CELLS_OF_16[:2]),
    "c6b00d6": Case(smaller=SWIN, sizes=CELLS_OF_16[:2]),
    "c72be2e": Case(smaller=SWIN, sizes=CELLS_OF_16[:2]),
    "cb377bb": Case(smaller=SWIN, sizes=CELLS_OF_16[:2]),
    "cd9c80d": Case(smaller=SWIN, sizes=CELLS_OF_16[:2]),
    "c0de0c2": Case(smaller=SWIN, sizes=CELLS_OF_16[:2]),
    "c2f0de4": Case(smaller=SWIN, sizes=CELLS_OF_16[:2]),
    "cb13d11": Case(smaller=SWIN, sizes=CELLS_OF_16[:2]),
    "cbd5428": Case(smaller=SWIN, sizes=CELLS_OF_16[:2]),
    # Whole models of smp and timm.
    "cee8081": Case(sizes=CELLS_OF_16[:2]),
    "cded3ae": Case(sizes=CELLS_OF_16[:2]),
    "ce053b6": Case(sizes=CELLS_OF_16[:2]),
    "c5eb62d": Case(sizes=((224, 224),)),
}
"""All configs of public repositories whose models TerraTorch 1.2.11 runs, of factories that composer has, by name."""

GOLDEN = Path(__file__).parents[1] / "golden"
MAX_ERROR = 1e-12
"""In double precision. What the deepest levels of a U-Net add to its output is itself less than 1e-6 of it."""
CLEARLY = 1e-3
WITHOUT_PATCHES = {
    "U-Net": ("ce871d4", (100, 130), (63, 63, 14, 14), pytest.raises(AssertionError, match="divisible by the whole")),
    "ResNet": ("c09fb42", (50, 61), (1, 2, 7, 7), nullcontext()),
    "Swin": ("ccf98b5", (50, 61), (1, 2, 7, 7), nullcontext()),
    "Prithvi's Swin": ("c0de0c2", (50, 61), (1, 2, 7, 7), nullcontext()),
    "smp": ("cee8081", (50, 61), (1, 2, 7, 7), nullcontext()),
}
"""Configs with a size that is not of whole cells, the margins that make it so (left, right, top, bottom), and whether
TerraTorch fails without them.
"""
SHAPES = ("square", "oblong", "odd")


def test_every_config_that_is_imported_is_compared():
    golden = json.loads((GOLDEN / "terratorch.json").read_text(encoding="utf-8"))
    imported = {stem for stem, entry in golden.items() if re.fullmatch("c[0-9a-f]{6}", stem) and "spec" in entry}
    # The last one with the number of frames for which its error asks.
    assert imported | {"c3659bf"} == CASES.keys()


@pytest.fixture(scope="module")
def get_pair(tmp_path_factory):
    """Return the models of a config; those of the last one are kept for its other sizes."""
    file = tmp_path_factory.mktemp("weights") / "last.ckpt"

    @lru_cache(maxsize=1)
    def build(stem):
        return build_pair(stem, CASES[stem], file)

    return build


@pytest.mark.parametrize(
    ("stem", "size"),
    [
        pytest.param(stem, size, id=f"{stem}-{shape}")
        for stem, case in CASES.items()
        for shape, size in zip(SHAPES, case.sizes, strict=False)
    ],
)
def test_a_config_gives_terratorchs_numbers(get_pair, stem, size, record_property):
    pair = get_pair(stem)
    count = len(pair.ours.state_dict())
    assert pair.report.splitlines()[0] == f"{count} of {count} tensors were set"

    images = pair.draw_images(size)
    theirs, ours = pair.run_theirs(images), pair.run_ours(images)

    assert ours.keys() == theirs.keys()
    errors = {name: compute_error(theirs[name], ours[name]) for name in theirs}
    record_property("error", max(errors.values()))
    assert max(errors.values()) <= MAX_ERROR, errors


def test_times_and_places_give_terratorchs_numbers(get_pair):
    pair = get_pair("c58b87b")
    images = pair.draw_images((64, 64))
    told = {
        "temporal_coords": torch.tensor([[[2020.0, 30.0]], [[2021.0, 200.0]]]),
        "location_coords": torch.tensor([[40.0, -75.0], [-3.0, 20.0]]),
    }
    theirs, ours, untold = pair.run_theirs(images, **told), pair.run_ours(images, **told), pair.run_theirs(images)

    assert compute_error(theirs["output"], ours["output"]) <= MAX_ERROR
    assert compute_error(untold["output"], ours["output"]) > CLEARLY


def test_a_hook_takes_an_upright_image_for_a_wide_one(get_pair, monkeypatch):
    """Six rows of four cells are four rows of six in TerraTorch; with the neck that the hook is, the numbers agree."""
    pair = get_pair("c6cf89b")
    images = pair.draw_images((96, 64))
    ours, theirs = pair.run_ours(images), pair.run_theirs(images)
    monkeypatch.setattr(pair.theirs, "neck", ReshapeTokensToImage(pair.theirs.encoder.out_channels).forward)

    assert compute_error(theirs["output"], ours["output"]) > CLEARLY
    assert compute_error(pair.run_theirs(images)["output"], ours["output"]) <= MAX_ERROR


@pytest.mark.parametrize(("stem", "size", "margins", "unpadded"), WITHOUT_PATCHES.values(), ids=WITHOUT_PATCHES)
def test_networks_without_patches_see_whole_cells(get_pair, stem, size, margins, unpadded):
    """TerraTorch feeds other sizes as they are: most give other numbers, and its U-Net fails."""
    pair = get_pair(stem)
    images = pair.draw_images(size)
    left, _, top, _ = margins
    whole = {name: F.pad(image, margins, mode="reflect") for name, image in images.items()}
    right = pair.run_theirs(whole)["output"][..., top : top + size[0], left : left + size[1]]

    assert compute_error(right, pair.run_ours(images)["output"]) <= MAX_ERROR
    with unpadded:
        assert compute_error(right, pair.run_theirs(images)["output"]) > CLEARLY


def test_a_checkpoint_with_adapters_loads_into_the_model_of_the_factory(tmp_path):
    case = CASES["ced72e6"]
    with pytest.warns(TerraTorchWarning, match="auxiliary heads get the arguments of the main head"):
        pair = build_pair("ced72e6", case, tmp_path / "last.ckpt", with_adapters=True)
    images = pair.draw_images((50, 61))
    theirs, ours = pair.run_theirs(images), pair.run_ours(images)

    assert sum("lora" in name for name in pair.ours.state_dict()) > 0
    assert ours.keys() == theirs.keys() == {"output", "aux_head"}
    assert max(compute_error(theirs[name], ours[name]) for name in theirs) <= MAX_ERROR
