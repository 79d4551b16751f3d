"""Bands of the input: TerraTorch's names are ours, and its backbones take those that the input names."""

from __future__ import annotations

import pytest
import torch
from terratorch.datasets import HLSBands, OpticalBands, SARBands
from terratorch.datasets.utils import MetadataBands
from terratorch.models.backbones.clay_v1.modules import WAVELENGTHS
from terratorch.models.backbones.dofa_vit import waves_list
from terratorch.models.backbones.terramind.model.terramind_register import PRETRAINED_BANDS
from terratorch.models.backbones.torchgeo_vit import look_up_table
from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY

import composer
from composer.adapters.terratorch.parts import TerraTorch
from composer.bands import BAND_SYNONYMS, find_band

SIX = ["BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2"]
LANDSAT = "ssl4eol_resnet18_landsat_oli_sr_moco"


@pytest.mark.parametrize("enum", [HLSBands, OpticalBands, SARBands, MetadataBands], ids=lambda enum: enum.__name__)
def test_the_bands_of_terratorch_are_bands(enum):
    assert {band.value for band in enum} <= BAND_SYNONYMS.keys()
    assert [find_band(band.value) for band in enum] == [band.value for band in enum]


def test_the_numbers_of_sentinel_2_are_those_of_terratorch():
    assert {name: find_band(name) for name in look_up_table} == look_up_table


def test_other_names_of_terratorch_are_bands():
    names = {*waves_list, *WAVELENGTHS, *(name for names in PRETRAINED_BANDS.values() for name in names)}
    # A slip of TerraTorch: THERMAL_INFRARED_2 is meant.
    assert {name for name in names if find_band(name) is None} == {"THERMAL_INFRARED_12"}


def build(part, **image):
    graph = composer.chain(part, composer.EmbeddingHead(), input=composer.Image(**image))
    return composer.build(graph, seed=1).encoder


def refuse(part, **image):
    with pytest.raises(composer.SpecError) as raised:
        build(part, **image)
    return str(raised.value)


@pytest.fixture
def prithvi(tmp_path):
    file = tmp_path / "prithvi.pt"
    torch.save(TERRATORCH_BACKBONE_REGISTRY.build("prithvi_eo_tiny").state_dict(), file)
    return str(file)


def test_prithvi_takes_the_bands_of_the_input(prithvi):
    state = torch.load(prithvi)["patch_embed.proj.weight"]
    encoder = build(TerraTorch("prithvi_eo_tiny", pretrained=prithvi), bands=["B04", "B03", "B02", "L8_B5"])
    assert torch.equal(encoder.get_parameter("patch_embed.proj.weight"), state[:, [2, 1, 0, 3]])


def test_bands_of_the_part_and_of_the_input_agree(prithvi):
    part = TerraTorch("prithvi_eo_tiny", pretrained=prithvi, bands=["RED", "B3"])
    assert build(part, bands=["B04", "GREEN"]).get_parameter("patch_embed.proj.weight").shape[1] == 2
    assert refuse(part, bands=["GREEN", "RED"]) == (
        "error[argument] encoder.bands: terratorch/prithvi_eo_tiny has the bands RED, B3 "
        "(got an image of GREEN, RED).\n"
        "  fix: leave bands out of the encoder, or out of the input"
    )


def test_dofa_takes_the_wavelengths_of_the_bands_of_the_input():
    named, unnamed = ("dofa_small_patch16_224", {"bands": ["RED", "VV"]}), {"bands": ["B4", "VV"]}
    typed = composer.infer(
        composer.chain(TerraTorch(named[0]), composer.EmbeddingHead(), input=composer.Image(**unnamed))
    )
    assert typed.order[0].part == TerraTorch(named[0], **named[1])
    assert "does not know this band (got PAN)" in refuse(TerraTorch(named[0]), bands=["RED", "PAN"])


def test_numbers_of_landsat_are_those_of_its_weights(tmp_path):
    network = TERRATORCH_BACKBONE_REGISTRY.build(LANDSAT, model_bands=list(range(7)))
    torch.save(network.resnet_model.state_dict(), tmp_path / "resnet.pth")
    stem = network.resnet_model.conv1.weight
    file = str(tmp_path / "resnet.pth")
    named = build(TerraTorch(LANDSAT, pretrained=file), bands=["NIR_NARROW", "RED"])
    numbered = build(TerraTorch(LANDSAT, pretrained=file, bands=["SR_B5", "SR_B4"]), bands=["L8_B5", "L9_B4"])
    assert torch.equal(named.get_parameter("resnet_model.conv1.weight"), stem[:, [4, 3]])
    assert torch.equal(numbered.get_parameter("resnet_model.conv1.weight"), stem[:, [4, 3]])


TERRAMIND = """\
inputs: {optical: {bands: [RED, GREEN]}, radar: RADAR, own: {bands: [DEM, NDVI]}}
nodes:
  encoder:
    part: {terratorch/terramind_v1_tiny: {BANDSmodalities: [S2L2A, S1GRD, mine]}}
    from: {S2L2A: optical, S1GRD: radar, mine: own}
  all: {part: EmbeddingHead, from: encoder}
outputs: [all]
"""


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("", {"S1GRD": ("VH", "VV"), "S2L2A": ("RED", "GREEN")}),
        ("bands: {S1GRD: [VH, VV]}, ", {"S1GRD": ("VH", "VV"), "S2L2A": ("RED", "GREEN")}),
    ],
    ids=["all", "some are declared"],
)
def test_terramind_takes_the_bands_of_each_input(declared, expected):
    text = TERRAMIND.replace("BANDS", declared).replace("RADAR", "{bands: [VH, VV]}")
    (encoder, *_) = composer.infer(composer.reads(text)).order
    assert encoder.part.bands == expected


def test_terramind_takes_the_bands_of_one_image():
    part = TerraTorch("terramind_v1_tiny", modalities=["S2L2A"])
    typed = composer.infer(composer.chain(part, composer.EmbeddingHead(), input=composer.Image(bands=SIX)))
    assert typed.order[0].part.bands == {"S2L2A": tuple(SIX)}
    other = TerraTorch("terramind_v1_tiny", modalities=["S2L2A"], bands=["RED"])
    assert "has the bands RED (got an image of BLUE)" in refuse(other, bands=["BLUE"])
