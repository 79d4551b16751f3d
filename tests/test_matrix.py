"""The matrix: what becomes of a pair, which encoders are equivalent, and the forms in which it is printed."""

from __future__ import annotations

import csv
import io
import json
from functools import cache

import pytest

import composer
from composer.cli.main import main
from composer.compatibility import evaluate_pairs, list_decoder_names
from composer.parts import PARTS
from composer.parts.encoders import Timm
from composer.parts.rules import Rejection

DECODERS = {name: PARTS[name] for name in list_decoder_names(PARTS)}


@cache
def cells(network, describe=composer.describe):
    return dict(zip(DECODERS, evaluate_pairs(Timm(network), DECODERS, describe), strict=True))


def told(cell):
    return cell.verdict, cell.levels, [type(neck).__name__ for neck in cell.necks]


PAIRS = {
    "as many widths as there are levels": ("convnext_atto", "smp/Unet", ("fits", None, [])),
    "a deep network and a U-Net": (
        "vit_tiny_patch16_224",
        "UNetDecoder",
        ("necks", (2, 5, 8, 11), ["LearnedInterpolateToPyramidal"]),
    ),
    "a pyramid that ends too coarse": ("resnet18", "smp/DeepLabV3Plus", ("necks", None, ["SelectIndices"])),
    "a first path that image sizes rule out": ("coat_tiny", "smp/PAN", ("necks", None, ["InterpolateToPyramidal"])),
    "levels that lose pixels, each to be doubled": ("inception_v3", "smp/Linknet", ("refused", None, [])),
    "maps of one size, to be concatenated": ("vit_tiny_patch16_224", "MLPDecoder", ("fits", None, [])),
    "three levels where four are needed": ("efficientvit_m0", "smp/FPN", ("refused", None, [])),
}


@pytest.mark.parametrize("case", PAIRS)
def test_what_becomes_of_a_pair(case):
    network, decoder, expected = PAIRS[case]
    assert told(cells(network)[decoder]) == expected


def test_an_encoder_without_facts_fits_nothing():
    refusal = Rejection(code="install", kind="policy", expected="needs timm", got="no installation of it")
    found = cells("resnet18", lambda *_: refusal)
    assert {cell.because for cell in found.values()} == {"timm/resnet18 needs timm (got no installation of it)."}


def test_csv_has_a_line_for_each_pair_that_several_patterns_match(capsys):
    patterns = ["--encoders", "timm/resnet18", "timm/resnet[15]?", "--decoders", "smp/DeepLabV3", "*DeepLabV3*"]
    assert main(["matrix", *patterns, "--format", "csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(one["encoder"], one["decoder"], one["verdict"], one["necks"] + one["fields"]) for one in lines] == [
        ("timm/resnet18", "smp/DeepLabV3", "fits", ""),
        ("timm/resnet18", "smp/DeepLabV3Plus", "necks", '[{"SelectIndices": {"indices": [0, 1, 2, 3]}}]'),
        ("timm/resnet50", "smp/DeepLabV3", "fits", ""),
        ("timm/resnet50", "smp/DeepLabV3Plus", "necks", '[{"SelectIndices": {"indices": [0, 1, 2, 3]}}]'),
    ]


def test_json_in_a_file_holds_what_a_spec_needs(capsys, tmp_path):
    arguments = ["--encoders", "timm/deit_tiny_patch16_224", "--decoders", "UNet*", "--format", "json"]
    assert main(["matrix", *arguments, "-o", str(tmp_path / "pairs.json")]) == 0
    assert json.loads((tmp_path / "pairs.json").read_text()) == [
        {
            "encoder": "timm/deit_tiny_patch16_224",
            "decoder": "UNetDecoder",
            "verdict": "necks",
            "out_indices": [2, 5, 8, 11],
            "necks": ["LearnedInterpolateToPyramidal"],
            "fields": {"channels": [256, 128, 64, 32]},
            "because": None,
        }
    ]
    assert capsys.readouterr().err.startswith("1 encoder × 1 decoder, 1 pair:")


def test_few_pairs_are_listed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["matrix", "--encoders", "timm/cait_s24_224", "--decoders", "U*Decoder"]) == 0
    heads, rule, *lines = capsys.readouterr().out.splitlines()
    assert heads.split("  ")[0] == "encoder"
    assert set(rule) == {"─"}
    assert lines == [
        "timm/cait_s24_224   UNetDecoder      ◐   out_indices: [5, 11, 17, 23]; necks: [LearnedInterpolateToPyramidal]",
        "                    UperNetDecoder   ●",
        "",
        "1 encoder × 2 decoders, 2 pairs:",
        "● 1 fits as it is",
        "◐ 1 fits with necks, or with other levels of the encoder",
        "· 0 does not fit",
    ]


def test_of_many_pairs_the_verdicts_are_counted(capsys):
    assert main(["matrix", "--encoders", "timm/resnet[1-5]*", "--decoders", "*", "-j", "1"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    encoders = next(int(line[0]) for line in lines if line[1:3] == ["encoders", "×"])
    assert lines[0] == ["decoder", "●", "◐", "·"]
    assert ["UNetDecoder", str(encoders), "0", "0"] in lines
    assert ["MLPDecoder", "0", "0", str(encoders)] in lines
    assert ["smp/DeepLabV3Plus", "0", str(encoders), "0"] in lines


def test_two_processes_find_what_one_finds(capsys, monkeypatch):
    monkeypatch.setattr("composer.cli.list.CHUNK", 1)
    arguments = ["matrix", "--encoders", "timm/resnet[1-5]?", "--decoders", "smp/*", "--format", "json"]
    assert main([*arguments, "-j", "1"]) == 0
    alone = capsys.readouterr().out
    assert main([*arguments, "-j", "2"]) == 0
    assert capsys.readouterr().out == alone


WRONG = {
    "no such encoder": (
        ["--encoders", "nix"],
        "no encoder is named 'nix'; a pattern has stars, in quotes: 'timm/*resnet*'\n",
    ),
    "no such decoder": (
        ["--encoders", "timm/resnet18", "--decoders", "nix"],
        "no decoder is named 'nix'; there are Id",
    ),
    "a file of another form": (
        ["--format", "csv", "-o", "matrix.png"],
        "matrix.png: the name must end in .csv.\n",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_says_what_is_wrong(case, capsys):
    arguments, message = WRONG[case]
    assert main(["matrix", *arguments]) == 2
    assert capsys.readouterr().err.startswith(message)


def test_a_network_that_timm_does_not_know_is_no_encoder(capsys):
    assert main(["matrix", "--encoders", "timm/resnet19", "--decoders", "UNetDecoder", "--format", "json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "refused"
    assert told["because"] == "timm/resnet19 is not a network of timm (got timm 1.0.31)."
