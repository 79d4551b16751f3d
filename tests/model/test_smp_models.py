"""smp's whole models at equal weights: what they save becomes a spec and a file of ours, and gives the same numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import composer
from composer.adapters.smp.translation import build_graph, read_folder
from composer.cli.main import main

pytest.importorskip("segmentation_models_pytorch", reason="the extra smp is not installed")
import segmentation_models_pytorch as smp
from safetensors.torch import load_file

ENCODERS = ("resnet18", "vgg11", "mit_b0", "efficientnet-b0", "tu-convnext_atto")
VITS = ("test_vit", "test_vit2", "test_vit3", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224")
NAMES = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet")
UNDILATED = ("DeepLabV3", "DeepLabV3Plus", "PAN")
"""The models that dilate their encoder, which smp does not do with VGG."""

PAIRS = [
    *((name, encoder) for name in (*NAMES, "Segformer") for encoder in ENCODERS),
    # smp builds DPT with the ViTs of timm alone.
    *(("DPT", f"tu-{vit}") for vit in VITS),
]
REFUSED_BY_SMP = [("UnetPlusPlus", "mit_b0"), ("Linknet", "mit_b0"), *((name, "vgg11") for name in UNDILATED)]
QUICK = [
    *(("Unet", "resnet18"), ("UnetPlusPlus", "efficientnet-b0"), ("MAnet", "mit_b0"), ("Linknet", "resnet18")),
    *(("FPN", "efficientnet-b0"), ("PSPNet", "tu-convnext_atto"), ("DeepLabV3", "efficientnet-b0")),
    *(("DeepLabV3Plus", "tu-convnext_atto"), ("PAN", "mit_b0"), ("UPerNet", "tu-convnext_atto")),
    *(("Segformer", "mit_b0"), ("DPT", "tu-test_vit")),
]
"""A pair for each model."""

PARAMS = [
    pytest.param(*pair, id="-".join(pair), marks=() if pair in QUICK else pytest.mark.slow)
    for pair in PAIRS
    if pair not in REFUSED_BY_SMP
]


def build_peer(name, encoder="resnet18", **arguments):
    """smp's model with random weights, and norms whose statistics are not those of a new one."""
    torch.manual_seed(0)
    sized = {"dynamic_img_size": True} if name == "DPT" else {}
    model = getattr(smp, name)(encoder, encoder_weights=None, **{"classes": 3, **sized, **arguments})
    for norm in (layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.1, 0.1)
        norm.running_var.uniform_(0.8, 1.2)
    return model


def build_ours(peer, tmp_path):
    """Our model of the same config and weights, and the report on the weights."""
    torch.save(peer.state_dict(), tmp_path / "weights.pt")
    ours = composer.build(build_graph(type(peer).__name__, peer.config))
    return ours, composer.load_weights(ours, tmp_path / "weights.pt")


def run(model, image):
    """The outputs, with what dropout draws."""
    torch.manual_seed(1)
    with torch.no_grad():
        found = model(image)
    if isinstance(found, composer.ModelOutput):
        return (found.output, *found.auxiliary_heads.values())
    return found if isinstance(found, tuple) else (found,)


def compare(peer, ours, report, image):
    """Compare outputs in both modes, and then what the norms have seen."""
    for mode in (False, True):
        pairs = zip(run(ours.train(mode), image), run(peer.train(mode), image), strict=True)
        assert [torch.equal(*pair) or torch.testing.assert_close(*pair, rtol=1e-6, atol=1e-7) for pair in pairs]
    own, theirs = ours.state_dict(), peer.state_dict()
    assert [name for name, source in report.matched if not torch.equal(own[name], theirs[source])] == []


@pytest.mark.parametrize(("name", "encoder"), PARAMS)
def test_the_whole_model_gives_smps_numbers(name, encoder, tmp_path):
    peer = build_peer(name, encoder)

    ours, report = build_ours(peer, tmp_path)

    # PAN halves its last map three times.
    compare(peer, ours, report, torch.randn(2, 3, *((256, 128) if name == "PAN" else (64, 96))))
    aside = [source for source, _ in report.set_aside]
    assert sorted([*(source for _, source in report.matched), *aside]) == sorted(peer.state_dict())
    assert all(name == "DPT" and source.startswith("encoder.model.") for source in aside)


SMALL = {"encoder_depth": 3, "decoder_channels": (24, 16, 8)}
ARGUMENTS = {
    "scores of the maximum": ("Unet", {**SMALL, "aux_params": {"classes": 4, "pooling": "max", "dropout": 0.5}}),
    "scores beside maps": ("FPN", {"aux_params": {"classes": 4, "activation": "sigmoid"}, "encoder_name": "mit_b0"}),
    "softmax2d": ("UPerNet", {"activation": "softmax2d", "decoder_channels": 16}),
    "logsoftmax": ("Segformer", {"activation": "logsoftmax", "decoder_segmentation_channels": 16}),
    "sigmoid": (
        "DPT",
        {"activation": "sigmoid", "encoder_name": "tu-test_vit", "encoder_output_indices": [0, 2, 3, 5]},
    ),
    "tanh": ("Linknet", {"activation": "tanh", "encoder_depth": 4}),
    "half the resolution": ("FPN", {"upsampling": 2}),
    "twice the resolution": ("FPN", {"encoder_depth": 4}),
    "a quarter of it": ("PSPNet", {"encoder_depth": 5, "psp_out_channels": 16}),
    "an output stride": ("DeepLabV3", {"encoder_depth": 4, "encoder_output_stride": 16, "decoder_channels": 16}),
    "a depth below it": ("DeepLabV3", {"encoder_depth": 3, "encoder_output_stride": 16, "decoder_channels": 16}),
    "an old name": ("Unet", {**SMALL, "decoder_use_batchnorm": False}),
    "bands": ("MAnet", {**SMALL, "in_channels": 5}),
    "an option of timm": ("Unet", {**SMALL, "encoder_name": "tu-resnet18", "drop_path_rate": 0.3}),
    "an old name of an encoder": ("Unet", {**SMALL, "encoder_name": "timm-mobilenetv3_small_100"}),
    "levels from the image on": ("Unet", {**SMALL, "encoder_name": "tu-darknet17"}),
    "channels last": ("UPerNet", {"encoder_name": "tu-swin_tiny_patch4_window7_224", "img_size": (64, 96)}),
}
SLOW = ("sigmoid", "tanh", "a quarter of it", "a depth below it", "bands", "an option of timm", "channels last")
CASES = [
    pytest.param(*case, id=name, marks=pytest.mark.slow if name in SLOW else ()) for name, case in ARGUMENTS.items()
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:segmentation_models_pytorch|tests")
@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_arguments_mean_what_they_mean_in_smp(name, arguments, tmp_path):
    encoder = arguments.get("encoder_name", "resnet18")
    peer = build_peer(name, **{"encoder": encoder, **{k: v for k, v in arguments.items() if k != "encoder_name"}})

    ours, report = build_ours(peer, tmp_path)

    compare(peer, ours, report, torch.randn(2, arguments.get("in_channels", 3), 64, 96))


def test_a_checkpoint_of_lightning_is_read(tmp_path):
    peer = build_peer("Unet", **SMALL)
    state = {f"model.{name}": value for name, value in peer.state_dict().items()}
    torch.save({"state_dict": {**state, "loss.weight": torch.ones(3)}}, tmp_path / "last.ckpt")
    ours = composer.build(build_graph("Unet", peer.config))

    report = composer.load_weights(ours, tmp_path / "last.ckpt")

    assert str(report) == "158 of 158 tensors were set\n  set aside: loss.weight (not behind model.)"
    own = ours.state_dict()
    assert all(torch.equal(own[name], state[source]) for name, source in report.matched)


FOLDERS = {
    "unet": ("Unet", {**SMALL, "aux_params": {"classes": 4}, "activation": "sigmoid"}),
    "fpn": ("FPN", {"encoder": "mit_b0", "decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32}),
    "deeplab": ("DeepLabV3Plus", {"encoder": "tu-convnext_atto", "decoder_channels": 16, "in_channels": 4}),
    "pspnet": ("PSPNet", {"encoder": "efficientnet-b0", "psp_out_channels": 16, "activation": "softmax2d"}),
    "segformer": ("Segformer", {"encoder": "tu-test_resnet", "encoder_depth": 4}),
}


@pytest.mark.parametrize(("name", "arguments"), FOLDERS.values(), ids=FOLDERS)
def test_a_saved_folder_becomes_a_spec_and_a_file_and_goes_back(name, arguments, tmp_path, capsys):
    peer = build_peer(name, **arguments).eval()
    peer.save_pretrained(tmp_path / "saved")
    spec, file = str(tmp_path / "spec.yaml"), str(tmp_path / "ours.safetensors")

    assert main(["import", "smp", str(tmp_path / "saved"), "-o", spec, "--save", file]) == 0

    written = capsys.readouterr()
    assert written.out == f"wrote {spec}\n"
    weights, count = tmp_path / "saved" / "model.safetensors", len(peer.state_dict())
    assert written.err.splitlines()[-2:] == [f"weights: {count} tensors from {weights}", f"wrote {file}"]
    assert composer.read(spec) == composer.read(file) == read_folder(tmp_path / "saved")
    ours = composer.load(file)
    image = torch.randn(1, arguments.get("in_channels", 3), 64, 96)
    assert all(map(torch.equal, run(ours.eval(), image), run(peer, image)))

    state = ours.state_dict()
    back = {source: state[key] for key, source in composer.load_weights(ours, weights).matched}
    assert back.keys() == load_file(weights).keys() == peer.state_dict().keys()
    again = build_peer(name, **arguments).eval()
    again.load_state_dict(back)
    assert all(map(torch.equal, run(again, image), run(peer, image)))


def write_config(tmp_path, **config):
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(tmp_path)


def test_a_config_is_read_without_smp(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    folder = write_config(
        tmp_path, _model_class="PAN", encoder_name="tu-resnet18", in_channels=6, aux_params={"classes": 2}
    )
    assert main(["import", "smp", folder]) == 0
    assert capsys.readouterr().out == (
        "input: {channels: 6}\n"
        "encoder: {timm/resnet18: {out_indices: [0, 1, 2, 3, 4], output_stride: 16, features_only: true}}\n"
        "decoder: smp/PAN\n"
        "head: {SegmentationHead: {num_classes: 1, kernel_size: 3, upsampling: 4}}\n"
        "aux:\n"
        "  classification:\n"
        "    decoder: IdentityDecoder\n"
        "    head: {ClassificationHead: {num_classes: 2, dropout: 0.2, linear_after_pool: true}}\n"
    )


def test_the_spec_of_a_whole_model_is_that_of_smps():
    widths = {"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 32}
    arguments = {"classes": 3, "activation": "softmax2d", "aux_params": {"classes": 5}, **widths}
    spec = Path(__file__).parents[2] / "specs" / "smp-whole-fpn.yaml"
    assert composer.read(spec) == build_graph("FPN", {"encoder_name": "resnet18", **arguments})


FOLDER = "smp saved no model in this folder: its config.json, with a _model_class, cannot be read."
UNET = {"_model_class": "Unet"}
WRONG = {
    "no config": (None, "file", FOLDER),
    "another library's": ({"architectures": ["SegformerForSemanticSegmentation"]}, "file", FOLDER),
    "no mapping": ([], "file", FOLDER),
    "another model": (
        {"_model_class": "Unett"},
        "part",
        "smp has no model 'Unett'.\n  fix: did you mean Unet or MAnet?",
    ),
    "another encoder": (
        {**UNET, "encoder_name": "resnet19"},
        "part",
        "encoder: there is no encoder 'smp/resnet19'.\n  fix: did you mean smp/resnet18 or smp/resnet152",
    ),
    "another network of timm": (
        {**UNET, "encoder_name": "tu-resnet19"},
        "part",
        "encoder_name: timm/resnet19 is not a network of timm (got timm 1.0.31).",
    ),
    "an encoder without a name": ({**UNET, "encoder_name": "tu-"}, "part", "encoder: there is no encoder 'smp/tu-'."),
    "a depth in words": (
        {**UNET, "encoder_depth": "5"},
        "value",
        "encoder_depth: encoder_depth must be a whole number from 1 to 64 (got '5').",
    ),
    "a depth that smp has not": ({**UNET, "encoder_depth": 6}, "value", "encoder.depth: depth must be a whole number"),
    "an argument": ({**UNET, "encoder_dropout": 1}, "key", "encoder.encoder_dropout: smp/resnet34 has no field"),
    "an activation": ({**UNET, "activation": "argmax2d"}, "value", "head.final_act: final_act must be one of null, "),
    "widths of another depth": (
        {**UNET, "decoder_channels": [1, 2]},
        "count",
        "decoder.decoder_channels: smp/Unet has 2 widths in decoder_channels, one for each level it climbs (got 5 ",
    ),
    "a norm": ({**UNET, "decoder_use_norm": {"type": "inplace"}}, "type", "decoder.decoder_use_norm: expected true"),
    "scores that are no mapping": (
        {**UNET, "aux_params": [4]},
        "value",
        "aux_params: aux_params must be a mapping, and null for DPT, whose encoder gives tokens (got [4]).",
    ),
    "scores without classes": (
        {**UNET, "aux_params": {"pooling": "max"}},
        "type",
        "aux.classification.head.num_classes: expected a whole number (got null).",
    ),
    "scores of tokens": (
        {"_model_class": "DPT", "aux_params": {"classes": 4}},
        "value",
        "aux_params: aux_params must be a mapping, and null for DPT, whose encoder gives tokens (got {'classes': 4}).",
    ),
    **{
        f"{name} of VGG": (
            {"_model_class": name, "encoder_name": "vgg11"},
            "key",
            "encoder.output_stride: smp/vgg11 has no field 'output_stride'.",
        )
        for name in UNDILATED
    },
}


@pytest.mark.parametrize(("config", "code", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_imported_is_one_error_with_the_next_step(config, code, message, tmp_path, capsys):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")

    assert main(["import", "smp", str(tmp_path)]) == 1

    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith(f"{tmp_path}/config.json: error[{code}] {message}")
    assert found.err.count("error[") == found.err.count("\n  fix: ") == 1


def test_weights_of_another_model_are_rejected(tmp_path, capsys):
    build_peer("Unet", **SMALL).save_pretrained(tmp_path)
    write_config(tmp_path, _model_class="PSPNet", encoder_name="tu-test_resnet")
    out = tmp_path / "out.safetensors"

    assert main(["import", "smp", str(tmp_path), "--save", str(out)]) == 1

    assert f"{tmp_path}/model.safetensors: error[weights] lacks " in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_without_weights_has_a_spec_alone(tmp_path, capsys):
    folder = write_config(tmp_path, _model_class="Unet", encoder_name="tu-test_resnet", **SMALL)

    assert main(["import", "smp", folder]) == 0
    assert main(["import", "smp", folder, "--save", str(tmp_path / "out.safetensors")]) == 1

    assert capsys.readouterr().err == (
        f"{tmp_path}/model.safetensors: error[weights] is not a file.\n  fix: check the path\n"
    )
