"""TerraTorch's own backbones by name: the specs that calls come to, without TerraTorch, what is noted and refused."""

from __future__ import annotations

from enum import Enum

import pytest

import composer
from composer.adapters.terratorch.parts import CONSTRUCTORS, FAMILIES, UNSUPPORTED_BACKBONES, TerraTorch
from composer.adapters.timm.catalogue import list_networks
from composer.encoder_info import describe
from composer.parts import Timm
from composer.terratorch import translate
from composer.terratorch.named import LEGACY_NAMES
from tests.factory_calls import call_of

ENDS = ("decoder: FCNDecoder", "head: {SegmentationHead: {num_classes: 2}}")
RGB = ["BLUE", "GREEN", "RED"]
HLS = "bands: [BLUE, GREEN, RED, NIR_NARROW, SWIR_1, SWIR_2]"
RESHAPED = "necks:\n  - ReshapeTokensToImage\n"
RESNET, SATLAS_SWIN = "satlas_resnet50_sentinel2_mi_ms_satlas", "satlas_swin_t_sentinel2_mi_ms"
SSL_VIT = "ssl4eos12_vit_small_patch16_224_sentinel2_all_dino"
IMAGE = {"name": "ReshapeTokensToImage", "remove_cls_token": False}


class Bands(Enum):
    """Bands as TerraTorch enumerates them."""

    RED = "RED"


def describe_timm(part, channels):
    """Describe networks of timm; a test fails that asks for one of TerraTorch's."""
    assert isinstance(part, Timm)
    return describe(part, channels)


def translated(backbone, **changes):
    changes = {name if name == "necks" else f"backbone_{name}": value for name, value in changes.items()}
    return translate(call_of(backbone=backbone, **changes), describe_timm)


SPECS = {
    "prithvi": (
        {"backbone": "prithvi_eo_v2_300", "img_size": 512, "drop_path": 0.1, "pretrained": True},
        (
            "input: {channels: 6}\n"
            "encoder:\n"
            "  terratorch/prithvi_eo_v2_300:\n"
            "    pretrained: true\n"
            f"    {HLS}\n"
            "    options: {drop_path: 0.1, img_size: 512}\n"
            f"{RESHAPED}padding: {{multiple: 32}}\n"
        ),
    ),
    "frames, and bands of other kinds": (
        {"backbone": "prithvi_eo_v2_600", "bands": [Bands.RED, "HLSBands.BLUE", "NIR"], "num_frames": 3},
        (
            "input: {frames: 3}\n"
            "encoder: {terratorch/prithvi_eo_v2_600: {bands: [RED, BLUE, NIR]}}\n"
            f"{RESHAPED}padding: {{multiple: 28}}\n"
        ),
    ),
    "numbers and intervals": (
        {"backbone": "prithvi_eo_tiny", "bands": [(0, 2), 7], "num_frames": 1, "in_channels": 4},
        f"input: {{channels: 4}}\nencoder: terratorch/prithvi_eo_tiny\n{RESHAPED}padding: {{multiple: 32}}\n",
    ),
    "necks in place of the hook": (
        {"backbone": "prithvi_eo_tiny", "bands": RGB, "necks": [{"name": "SelectIndices", "indices": [1]}]},
        (
            "encoder: {terratorch/prithvi_eo_tiny: {bands: [BLUE, GREEN, RED]}}\n"
            "necks:\n  - SelectIndices: {indices: [1]}\n"
            "padding: {multiple: 32}\n"
        ),
    ),
    "padding of a call": (
        {"backbone": "prithvi_eo_tiny", "bands": RGB, "padding": "constant", "patch_size": [1, 8, 8]},
        (
            "encoder: {terratorch/prithvi_eo_tiny: {bands: [BLUE, GREEN, RED], options: {patch_size: [1, 8, 8]}}}\n"
            f"{RESHAPED}padding: {{mode: zeros, multiple: 16}}\n"
        ),
    ),
    "an adapter's maps": (
        {"backbone": "prithvi_eo_v1_100", "bands": RGB, "vit_adapter": True, "n_points": 2},
        (
            "encoder:\n"
            "  terratorch/prithvi_eo_v1_100:\n"
            "    bands: [BLUE, GREEN, RED]\n"
            "    options: {n_points: 2, vit_adapter: true}\n"
            "padding: {multiple: 32}\n"
        ),
    ),
    "an old name": (
        {"backbone": "timm_prithvi_vit_100", "bands": RGB},
        (
            "encoder: {terratorch/prithvi_eo_v1_100: {bands: [BLUE, GREEN, RED]}}\n"
            f"{RESHAPED}padding: {{multiple: 32}}\n"
        ),
    ),
    "swin": (
        {"backbone": "timm_prithvi_swin_B", "num_frames": 1, "window_size": 7},
        (
            "input: {channels: 6}\n"
            "encoder:\n"
            "  terratorch/prithvi_swin_B:\n"
            f"    {HLS}\n"
            "    options: {window_size: 7}\n"
            "necks:\n  - PermuteDims: {new_order: [0, 3, 1, 2]}\n"
        ),
    ),
    "clay": (
        {"backbone": "clay_v1_base"},
        (
            "input: {channels: 6}\n"
            "encoder: {terratorch/clay_v1_base: {bands: [blue, green, red, nir, swir16, swir22]}}\n"
            "necks:\n  - SelectIndices: {indices: [-1]}\n  - ReshapeTokensToImage\n"
            "padding: {multiple: 16}\n"
        ),
    ),
    "scale mae": (
        {"backbone": "scalemae_vit_huge_patch14"},
        (
            "encoder: {terratorch/scalemae_vit_huge_patch14: {bands: [RED, GREEN, BLUE]}}\n"
            f"{RESHAPED}padding: {{multiple: 28}}\n"
        ),
    ),
    "dofa": (
        {"backbone": "terratorch_dofa_small_patch16_224", "model_bands": ["OpticalBands.RED"], "out_indices": [-1, 2]},
        (
            "input: {channels: 1}\n"
            "encoder: {terratorch/dofa_small_patch16_224: {out_indices: [2, 11], bands: [RED]}}\n"
            "padding: {multiple: 32}\n"
        ),
    ),
    "dofa of a size that TerraTorch never feeds": (
        {"backbone": "dofa_small_patch16_224", "model_bands": RGB, "img_size": 240},
        "encoder: {terratorch/dofa_small_patch16_224: {bands: [BLUE, GREEN, RED], options: {img_size: 240}}}\n",
    ),
    "a resnet": (
        {"backbone": RESNET, "model_bands": RGB, "out_indices": [3, 1]},
        f"encoder:\n  terratorch/{RESNET}:\n    out_indices: [1, 3]\n    bands: [BLUE, GREEN, RED]\n",
    ),
    "a vit of torchgeo": (
        {"backbone": SSL_VIT, "model_bands": list(range(13)), "in_chans": 13},
        f"input: {{channels: 13}}\nencoder: terratorch/{SSL_VIT}\npadding: {{multiple: 32}}\n",
    ),
    "unet": (
        {"backbone": "UNet", "in_channels": 2, "out_channels": 8},
        "input: {channels: 2}\nencoder: {terratorch/UNet: {options: {out_channels: 8}}}\n",
    ),
    "identity": (
        {"backbone": "IdentityBackbone", "out_channels": [384]},
        "input: {channels: 384}\nencoder: terratorch/IdentityBackbone\n",
    ),
    "identity without channels": (
        {"backbone": "IdentityBackbone", "in_channels": 4},
        "input: {channels: 4}\nencoder: terratorch/IdentityBackbone\n",
    ),
    "a tokenizer": (
        {"backbone": "terramind_v1_tokenizer_s2l2a"},
        "input: {channels: 12}\nencoder: terratorch/terramind_v1_tokenizer_s2l2a\npadding: {multiple: 32}\n",
    ),
    "one modality": (
        {"backbone": "terramind_v1_base", "modalities": ["S2L2A"], "bands": {"S2L2A": RGB}, "merge_method": "mean"},
        (
            "encoder:\n"
            "  terratorch/terramind_v1_base:\n"
            "    bands: {S2L2A: [BLUE, GREEN, RED]}\n"
            "    modalities: [S2L2A]\n"
            "    options: {merge_method: mean}\n"
            "padding: {multiple: 32}\n"
        ),
    ),
    "no modality": (
        {"backbone": "terramind_v1_base", "in_chans": 5},
        (
            "input: {channels: 5}\n"
            "encoder: {terratorch/terramind_v1_base: {modalities: [image]}}\n"
            "padding: {multiple: 32}\n"
        ),
    ),
    "a list of bands of the only modality": (
        {"backbone": "terramind_v1_base", "modalities": ["S1"], "bands": ["VV"]},
        (
            "input: {channels: 1}\n"
            "encoder: {terratorch/terramind_v1_base: {bands: {S1GRD: [VV]}, modalities: [S1GRD]}}\n"
            "padding: {multiple: 32}\n"
        ),
    ),
    "several modalities": (
        {"backbone": "terramind_v1_tiny", "modalities": ["sen2l2a", "untok_dem@224", {"own": 4}], "necks": [IMAGE]},
        (
            "inputs: {sen2l2a: {channels: 12}, DEM: {channels: 1}, own: {channels: 4}}\n"
            "nodes:\n"
            "  encoder:\n"
            "    part: {terratorch/terramind_v1_tiny: {modalities: [S2L2A, DEM, own]}}\n"
            "    from: {S2L2A: sen2l2a, DEM: DEM, own: own}\n"
            '  "necks[0]": {part: {ReshapeTokensToImage: {remove_cls_token: false}}, from: encoder}\n'
            '  decoder: {part: FCNDecoder, from: "necks[0]"}\n'
            "  head: {part: {SegmentationHead: {num_classes: 2}}, from: decoder}\n"
            "outputs: [head]\n"
            "padding: {multiple: 32}\n"
        ),
    ),
    "thinking": (
        {"backbone": "terramind_v1_base_tim", "modalities": ["S1GRD"], "tim_modalities": ["DEM"]},
        (
            "input: {channels: 2}\n"
            "encoder: {terratorch/terramind_v1_base_tim: {modalities: [S1GRD], options: {tim_modalities: [DEM]}}}\n"
            "padding: {multiple: 32}\n"
        ),
    ),
    "a file of weights of timm's": (
        {"backbone": "resnet18", "pretrained": True, "pretrained_cfg_overlay": {"file": "a.pt"}},
        "encoder: {timm/resnet18: {pretrained: a.pt, features_only: true, any_size: true}}\n",
    ),
}
"""Calls of the factory, each with its spec but for decoder and head."""


@pytest.mark.parametrize(("call", "spec"), SPECS.values(), ids=SPECS)
def test_a_call_comes_to_a_spec(call, spec):
    text = composer.write(translated(**call).graph)

    assert "".join(f"{line}\n" for line in text.splitlines() if line not in ENDS) == spec


def test_every_backbone_has_a_graph():
    words = {name: CONSTRUCTORS[family.kind].bands_argument for name, family in FAMILIES.items()}
    calls = {name: {word: RGB} if word == "model_bands" else {} for name, word in words.items()}
    encoders = {name: translated(name, **arguments).graph.nodes[0].part for name, arguments in calls.items()}

    assert {name: (type(encoder), encoder.name) for name, encoder in encoders.items()} == {
        name: (TerraTorch, name) for name in FAMILIES
    }


@pytest.mark.parametrize(
    ("backbone", "arguments", "pretrained"),
    [
        pytest.param("prithvi_eo_tiny", {"ckpt_path": "a.pt", "pretrained": True}, "a.pt", id="prithvi"),
        pytest.param("prithvi_eo_tiny", {"ckpt_path": "a.pt"}, False, id="without pretrained"),
        pytest.param("prithvi_eo_tiny", {"ckpt_path": None, "pretrained": True}, True, id="null"),
        pytest.param("prithvi_eo_tiny", {"pretrained": None}, False, id="pretrained is null"),
        pytest.param("terramind_v1_tiny", {"ckpt_path": "a.pt", "pretrained": False}, "a.pt", id="terramind"),
        pytest.param(RESNET, {"ckpt_data": "a.pt", "pretrained": True, "model_bands": RGB}, "a.pt", id="torchgeo"),
        pytest.param(
            "prithvi_swin_L",
            {"pretrained_cfg_overlay": {"file": "a.pt"}, "pretrained": True},
            "a.pt",
            id="overlay",
        ),
        pytest.param("UNet", {"pretrained": "None"}, False, id="unet"),
    ],
)
def test_weights_are_those_that_terratorch_reads(backbone, arguments, pretrained):
    assert translated(backbone, **arguments).graph.nodes[0].part.pretrained == pretrained


NOTED = {
    "what a prithvi swallows": (
        {"backbone": "prithvi_eo_tiny", "drop_path_rate": 0.1, "window": 7},
        [
            (
                "backbone_drop_path_rate: TerraTorch ignores drop_path_rate: prithvi_eo_tiny does not read it. "
                "-> did you mean backbone_drop_path?"
            ),
            "backbone_window: TerraTorch ignores window: prithvi_eo_tiny does not read it.",
        ],
    ),
    "channels beside modalities": (
        {"backbone": "terramind_v1_tiny", "modalities": ["S1GRD"], "in_chans": 5},
        ["backbone_in_chans: TerraTorch ignores in_chans: the modalities tell the channels."],
    ),
    "modalities of a prithvi": (
        {"backbone": "prithvi_eo_tiny", "modalities": ["S2L2A"]},
        ["backbone_modalities: TerraTorch ignores modalities: prithvi_eo_tiny does not read it."],
    ),
    "frames of a swin": (
        {"backbone": "prithvi_swin_B", "num_frames": 3},
        ["backbone_num_frames: TerraTorch ignores num_frames: prithvi_swin_B does not read it."],
    ),
    "other channels than bands": (
        {"backbone": "prithvi_eo_tiny", "bands": RGB, "in_channels": 4},
        ["backbone_in_channels: TerraTorch ignores in_channels: there are 3 bands."],
    ),
    "numbers of bands of weights": (
        {"backbone": "prithvi_eo_tiny", "bands": list("012345"), "pretrained": True},
        [
            (
                "backbone_bands: TerraTorch starts the kernels of numbers at random; here they are those of the "
                "weights, in order. -> name them: backbone_bands: [BLUE, …]"
            )
        ],
    ),
    "numbers of bands of clay": (
        {"backbone": "clay_v1_base", "bands": [0, 1], "necks": [{"name": "ReshapeTokensToImage"}]},
        [
            (
                "backbone_bands: Clay has a wavelength of no number, and makes the same kernel for each of these "
                "bands. -> name them: backbone_bands: [BLUE, …]"
            )
        ],
    ),
    "a file that is not read": (
        {"backbone": "prithvi_eo_tiny", "ckpt_path": "a.pt"},
        ["backbone_ckpt_path: TerraTorch ignores ckpt_path: pretrained is not true. -> backbone_pretrained: true"],
    ),
    "an old name": (
        {"backbone": "prithvi_vit_tiny"},
        ["backbone: TerraTorch 1.2.11 has no 'prithvi_vit_tiny', only its successor. -> backbone: prithvi_eo_tiny"],
    ),
    "levels that there are not": (
        {"backbone": SATLAS_SWIN, "model_bands": RGB, "out_indices": [7, 8]},
        [f"backbone_out_indices: TerraTorch ignores 8: {SATLAS_SWIN} has the levels 0 to 7."],
    ),
    "levels of a vit that gives all": (
        {"backbone": SSL_VIT, "model_bands": RGB, "out_indices": [3]},
        [f"backbone_out_indices: TerraTorch ignores out_indices: {SSL_VIT} does not read it."],
    ),
    "levels of a prithvi": (
        {"backbone": "prithvi_eo_tiny", "out_indices": [3]},
        [
            (
                "backbone_out_indices: TerraTorch counts all levels for the decoder, and fails where it reads more "
                "than these. -> necks: [{name: SelectIndices, indices: [3]}, …]"
            )
        ],
    ),
    "the last feature of clay": (
        {"backbone": "clay_v1_base"},
        [
            (
                "backbone: the backbone's own hook hands on its last feature alone, and TerraTorch builds a decoder "
                "for all. -> necks: [{name: ReshapeTokensToImage}] hands on all of them"
            )
        ],
    ),
}
"""Calls, each with the notes on it."""


def format_problem(problem):
    return f"{problem.place.path}: {problem.message}{f' -> {problem.fix}' if problem.fix else ''}"


@pytest.mark.parametrize(("call", "notes"), NOTED.values(), ids=NOTED)
def test_what_terratorch_does_otherwise_is_noted(call, notes):
    assert [format_problem(note) for note in translated(**call).notes] == notes


UNNOTED = {
    "one frame of a swin": {"backbone": "prithvi_swin_B", "num_frames": 1},
    "as many channels as bands": {"backbone": "prithvi_eo_tiny", "bands": RGB, "in_channels": 3},
    "numbers of bands without weights": {"backbone": "prithvi_eo_tiny", "bands": [0, 1]},
}
"""Calls that TerraTorch takes as they are."""


@pytest.mark.parametrize("call", UNNOTED.values(), ids=UNNOTED)
def test_nothing_is_noted_where_terratorch_does_the_same(call):
    assert translated(**call).notes == ()


LISTED = "-> python -m composer list encoders 'terratorch/*' lists them"
TAKEN = "TerraTorch downloads the code of this network from GitHub and runs it"
REFUSED = {
    "no backbone": (
        {"backbone": "thor_v1_base", "input_params": {}},
        [f"backbone: TerraTorch 1.2.11 has no backbone 'thor_v1_base'. {LISTED}"],
    ),
    "no name": ({"backbone": "timm_"}, [f"backbone: TerraTorch 1.2.11 has no backbone 'timm_'. {LISTED}"]),
    "a misspelled one": (
        {"backbone": "prithvi_eo_v2_30"},
        [
            (
                "backbone: TerraTorch 1.2.11 has no backbone 'prithvi_eo_v2_30'. "
                "-> did you mean prithvi_eo_v2_300 or prithvi_eo_v2_600 or prithvi_eo_v2_300_tl?"
            )
        ],
    ),
    "one of timm's that TerraTorch does not have itself": (
        {"backbone": "terratorch_resnet18"},
        ["backbone: TerraTorch 1.2.11 has no backbone 'terratorch_resnet18'. -> did you mean resnet18?"],
    ),
    "code of others": (
        {"backbone": "dinov3_vits16"},
        [f"backbone: dinov3_vits16 cannot be had: {TAKEN}. -> backbone: timm_vit_small_patch16_dinov3"],
    ),
    "bands that have to be named": (
        {"backbone": RESNET},
        [
            (
                f"backbone: {RESNET} needs model_bands, the names of its channels. "
                "-> backbone_model_bands: [BLUE, GREEN, RED]"
            )
        ],
    ),
    "an argument that is a field": (
        {"backbone": "terramind_v1_tiny", "num_frames": 2},
        [
            (
                "backbone_num_frames: num_frames cannot be handed to terratorch/terramind_v1_tiny: "
                "it is the frames of the input."
            )
        ],
    ),
    "frames one by one": (
        {"backbone": "prithvi_eo_tiny", "use_temporal": True, "temporal_n_timestamps": 4},
        [
            (
                "backbone_use_temporal: a Prithvi takes all frames at once here; TerraTorch would feed it one by one. "
                "-> backbone_num_frames: 4 in place of use_temporal"
            )
        ],
    ),
    "a list for an interval": (
        {"backbone": "prithvi_eo_tiny", "bands": [[0, 5]]},
        [
            (
                "backbone_bands: prithvi_eo_tiny needs bands, the names of its channels. "
                "-> backbone_bands: [BLUE, GREEN, RED]"
            )
        ],
    ),
    "fewer numbers than bands of the weights": (
        {"backbone": "scalemae_vit_base_patch16", "bands": [0, 1], "pretrained": True},
        [
            (
                "backbone_bands: the weights are of RED, GREEN, BLUE, and 2 numbers do not tell which of them to take. "
                "-> name them: backbone_bands: [BLUE, …]"
            )
        ],
    ),
    "channels of a modality with weights": (
        {"backbone": "terramind_v1_tiny", "modalities": [{"S2L2A": 4}]},
        [
            (
                "backbone_modalities: TerraTorch takes S2L2A: 4 for a new modality, and not for the one with weights. "
                "-> S2L2A without a number in a list of modalities, or {own_S2L2A: 4}"
            )
        ],
    ),
    "an argument that a network of timm does not have": (
        {"backbone": "resnet18", "in_channels": 4},
        [
            (
                "backbone_in_channels: timm/resnet18 refuses its arguments (got timm says TypeError: "
                "ResNet.__init__() got an unexpected keyword argument 'in_channels'). "
                "-> correct or leave out in_channels"
            )
        ],
    ),
    "bands twice": (
        {"backbone": "prithvi_eo_tiny", "bands": ["RED", "RED"]},
        ["backbone_bands: terratorch/prithvi_eo_tiny: each name is given once (got ['RED', 'RED'])."],
    ),
    "bands that are none": (
        {"backbone": "terramind_v1_tiny", "bands": 3},
        ["backbone_bands: terratorch/terramind_v1_tiny: a list of names is needed (got 3)."],
    ),
    "an interval without an end": (
        {"backbone": "prithvi_eo_tiny", "bands": [(0, 10**12)]},
        ["backbone: channels must be a whole number from 1 to 65536 (got 65537)."],
    ),
    "bands of thinking": (
        {"backbone": "terramind_v1_tiny_tim", "modalities": ["S1GRD"], "bands": {"S1GRD": ["VV"]}},
        ["backbone: terratorch/terramind_v1_tiny_tim: terratorch/terramind_v1_tiny_tim has no field 'bands'."],
    ),
    "what is no image": (
        {"backbone": "terramind_v1_tiny", "modalities": ["S2L2A", "lulc"]},
        [
            (
                "backbone_modalities: terramind_v1_tiny takes images of S2L2A, S2L1C, S1GRD, S1RTC, RGB, DEM "
                "(got 'lulc'). -> {lulc: CHANNELS} is a modality of your own, without weights"
            )
        ],
    ),
    "no number of frames": (
        {"backbone": "prithvi_eo_tiny", "num_frames": "3"},
        ["backbone_num_frames: frames must be a whole number from 1 to 1024 (got '3')."],
    ),
    "no number of channels": (
        {"backbone": "UNet", "in_channels": 0},
        ["backbone_in_channels: channels must be a whole number from 1 to 65536 (got 0)."],
    ),
    "another padding": (
        {"backbone": "prithvi_eo_tiny", "padding": "circular"},
        ["backbone_padding: padding is one of reflect, replicate, constant, zeros (got 'circular')."],
    ),
}
"""Calls, each with its problems."""


@pytest.mark.parametrize(("call", "problems"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_a_problem_at_its_argument(call, problems):
    with pytest.raises(composer.SpecError) as raised:
        translated(**call)
    assert [format_problem(problem) for problem in raised.value.problems] == problems


def test_what_terratorch_cannot_run_is_timms_where_timm_has_it():
    assert translated("convnextv2_atto").graph.nodes[0].part.name == "convnextv2_atto"


@pytest.mark.parametrize(
    "name", ["terratorch_convnextv2_atto", *(name for name in UNSUPPORTED_BACKBONES if name.startswith("dinov3"))]
)
def test_other_networks_have_one_of_timms_as_a_fix(name):
    with pytest.raises(composer.SpecError) as raised:
        translated(name)
    (problem,) = raised.value.problems
    start, _, network = problem.fix.partition("timm_")
    assert (start, network.partition(".")[0] in list_networks()) == ("backbone: ", True)


def test_old_names_are_of_backbones_that_there_are():
    assert LEGACY_NAMES.keys().isdisjoint(FAMILIES)
    assert FAMILIES.keys() >= {*LEGACY_NAMES.values()}
