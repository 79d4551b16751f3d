"""What is said to somebody who writes what another library, a habit or the Hub calls it: whole messages."""

import pytest
import timm
import torch
from PIL import Image
from torch import nn

import composer
from composer.cli.main import main

ENDS = "\ndecoder: FCNDecoder\nhead: {SegmentationHead: {num_classes: 2}}\n"
NAMES_AND_COLORS = "leave it out: a model does not store the names and colors of its classes"
TIMM_FIELDS = "any_size, features_only, img_size, norm, options, out_indices, output_stride, pretrained, tokens"

READ = {
    "backbone": (
        f"backbone: timm/resnet18{ENDS}",
        "<text>:1:1: error[key] backbone: a model has no key 'backbone'.\n  fix: did you mean encoder?",
    ),
    "decode_head": (
        "encoder: timm/resnet18\ndecode_head: FCNDecoder\n",
        "<text>:2:1: error[key] decode_head: a model has no key 'decode_head'.\n  fix: did you mean decoder?",
    ),
    "auxiliary_head": (
        f"auxiliary_head: {{}}\nencoder: timm/resnet18{ENDS}",
        "<text>:1:1: error[key] auxiliary_head: a model has no key 'auxiliary_head'.\n  fix: did you mean aux?",
    ),
    "class_names": (
        "encoder: timm/resnet18\nhead: {SegmentationHead: {num_classes: 2, class_names: [a, b]}}\n",
        (
            "<text>:2:43: error[key] head.class_names: SegmentationHead has no field 'class_names'.\n"
            f"  fix: {NAMES_AND_COLORS}"
        ),
    ),
    "class_names without num_classes": (
        "encoder: timm/resnet18\nhead: {SegmentationHead: {class_names: [a, b]}}\n",
        (
            "<text>:2:7: error[key] head: SegmentationHead needs num_classes.\n"
            "  fix: add num_classes, a whole number\n"
            "<text>:2:27: error[key] head.class_names: SegmentationHead has no field 'class_names'.\n"
            f"  fix: {NAMES_AND_COLORS}"
        ),
    ),
    "colors": (
        f"colors: [red]\nencoder: timm/resnet18{ENDS}",
        f"<text>:1:1: error[key] colors: a model has no key 'colors'.\n  fix: {NAMES_AND_COLORS}",
    ),
    "in_channels": (
        f"in_channels: 6\nencoder: timm/resnet18{ENDS}",
        (
            "<text>:1:1: error[key] in_channels: a model has no key 'in_channels'.\n"
            "  fix: set the channels of the input: input: {channels: …}"
        ),
    ),
    "dynamic_img_size": (
        f"encoder: {{timm/test_vit: {{dynamic_img_size: true}}}}{ENDS}",
        (
            "<text>:1:27: error[key] encoder.dynamic_img_size: timm/test_vit has no field 'dynamic_img_size'.\n"
            "  fix: leave it out: it is always on where the network supports it"
        ),
    ),
    "strict_img_size": (
        f"encoder: {{timm/test_vit: {{strict_img_size: false}}}}{ENDS}",
        (
            "<text>:1:27: error[key] encoder.strict_img_size: timm/test_vit has no field 'strict_img_size'.\n"
            "  fix: leave it out: it is always off where the network supports it"
        ),
    ),
    "in_chans": (
        f"encoder: {{timm/resnet18: {{in_chans: 6}}}}{ENDS}",
        (
            "<text>:1:27: error[key] encoder.in_chans: timm/resnet18 has no field 'in_chans'.\n"
            "  fix: set the channels of the input: input: {channels: …}"
        ),
    ),
    "num_classes of an encoder": (
        f"encoder: {{timm/resnet18: {{num_classes: 6}}}}{ENDS}",
        (
            "<text>:1:27: error[key] encoder.num_classes: timm/resnet18 has no field 'num_classes'.\n"
            "  fix: leave it out: an encoder has no classifier"
        ),
    ),
    "checkpoint_path": (
        f"encoder: {{timm/resnet18: {{checkpoint_path: a.pth}}}}{ENDS}",
        (
            "<text>:1:27: error[key] encoder.checkpoint_path: timm/resnet18 has no field 'checkpoint_path'.\n"
            "  fix: pretrained: FILE"
        ),
    ),
    "drop_path_rate": (
        f"encoder: {{timm/resnet18: {{drop_path_rate: 0.1}}}}{ENDS}",
        (
            "<text>:1:27: error[key] encoder.drop_path_rate: timm/resnet18 has no field 'drop_path_rate'.\n"
            "  fix: options: {drop_path_rate: …}, if it is an argument of the network; "
            f"known: {TIMM_FIELDS}"
        ),
    ),
    "a misspelled field of a part with options": (
        f"encoder: {{timm/resnet18: {{pretraind: true}}}}{ENDS}",
        (
            "<text>:1:27: error[key] encoder.pretraind: timm/resnet18 has no field 'pretraind'.\n"
            "  fix: did you mean pretrained?"
        ),
    ),
    "the Hub": (
        f"encoder: hf-hub:timm/resnet50.a1_in1k{ENDS}",
        (
            "<text>:1:10: error[part] encoder: there is no encoder 'hf-hub:timm/resnet50.a1_in1k'.\n"
            "  fix: did you mean timm/resnet50.a1_in1k?"
        ),
    ),
    "the Hub, with a network that nearly is one": (
        f"encoder: hf_hub:timm/resnet5000{ENDS}",
        (
            "<text>:1:10: error[part] encoder: there is no encoder 'hf_hub:timm/resnet5000'.\n"
            "  fix: did you mean timm/resnet50 or timm/resnet50t or timm/resnet50s?"
        ),
    ),
    "an address on the Hub": (
        f"encoder: https://huggingface.co/timm/resnet50.a1_in1k{ENDS}",
        (
            "<text>:1:10: error[part] encoder: there is no encoder 'https://huggingface.co/timm/resnet50.a1_in1k'.\n"
            "  fix: did you mean timm/resnet50.a1_in1k?"
        ),
    ),
    "a path": (
        "specs/vit-unet.yaml",
        (
            "<text>:1:1: error[type] expected a mapping of keys (got 'specs/vit-unet.yaml', a string).\n"
            "  fix: composer.read reads a file"
        ),
    ),
}


@pytest.mark.parametrize(("text", "message"), READ.values(), ids=READ)
def test_a_word_of_elsewhere_gets_the_word_of_here(text, message):
    with pytest.raises(composer.SpecError) as caught:
        composer.reads(text)
    assert str(caught.value) == message


VERSION = f"timm {timm.__version__}"
TAGS = ", ".join(name.partition(".")[2] for name in timm.models.get_arch_pretrained_cfgs("resnet50"))
INFERRED = {
    "a wrong tag": (
        "resnet50.a9_in1k",
        (
            f"error[part] encoder: timm/resnet50.a9_in1k has no weights with the tag a9_in1k (got {VERSION}).\n"
            f"  fix: use one of its tags: {TAGS}; or none: timm/resnet50"
        ),
    ),
    "a tag of a network with one": (
        "test_vit4.none",
        (
            f"error[part] encoder: timm/test_vit4.none has no weights with the tag none (got {VERSION}).\n"
            "  fix: use one of its tags: r160_in1k; or none: timm/test_vit4"
        ),
    ),
    "the Hub behind the source": (
        "hf-hub:timm/resnet50.a1_in1k",
        (
            f"error[part] encoder: timm/hf-hub:timm/resnet50.a1_in1k is not a network of timm (got {VERSION}).\n"
            "  fix: did you mean timm/resnet50.a1_in1k?"
        ),
    ),
}


@pytest.mark.parametrize(("name", "message"), INFERRED.values(), ids=INFERRED)
def test_a_name_of_timm_that_is_nearly_right(name, message):
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(composer.chain(composer.Timm(name), composer.IdentityDecoder()))
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["encoder: timm/resnet18", f"encoder: timm/resnet18{ENDS}"], ids=["a line", "lines"])
def test_a_text_in_place_of_a_path(text):
    with pytest.raises(composer.SpecError) as caught:
        composer.read(text)
    assert str(caught.value) == (
        "error[file] expected the path of a file (got a text that begins with 'encoder: timm/resnet18').\n"
        "  fix: use composer.reads for a text"
    )


def test_neither_a_path_nor_a_text():
    with pytest.raises(TypeError) as caught:
        composer.read({"encoder": "timm/resnet18"})
    assert str(caught.value) == "read takes the path of a file, and composer.reads a text (got dict)"


ENCODER, DECODER = composer.Timm("resnet18"), composer.FCNDecoder()
MODULE = (
    "Conv2d is an nn.Module, not a part; wrap an encoder in composer.Custom(module, "
    "features=[composer.Feature(channels=…, stride=…)]); register any other part with @composer.module.register"
)
MISTAKEN = {
    "a module as the encoder": (lambda: composer.chain(nn.Conv2d(3, 4, 1), DECODER), MODULE),
    "a module as a neck": (lambda: composer.chain(ENCODER, nn.Conv2d(3, 4, 1), DECODER), MODULE),
    "a module in a branch": (
        lambda: composer.chain(ENCODER, DECODER, aux={"early": [nn.Conv2d(3, 4, 1)]}),
        f"aux.early: {MODULE}",
    ),
    "a module in a node": (lambda: composer.Node("a", nn.Conv2d(3, 4, 1), "image"), MODULE),
    "the name of a network": (
        lambda: composer.chain("resnet18", DECODER),
        "'resnet18' is a name, not a part; use composer.Timm('resnet18')",
    ),
    "the name of a network with its source": (
        lambda: composer.chain("timm/resnet18", DECODER),
        "'timm/resnet18' is a name, not a part; use composer.Timm('resnet18')",
    ),
    "the name of a decoder of smp": (
        lambda: composer.chain(ENCODER, "smp/Unet"),
        "'smp/Unet' is a name, not a part; use composer.Smp('Unet')",
    ),
    "a name of an unknown source": (
        lambda: composer.chain("mine/resnet18", DECODER),
        "'mine/resnet18' is a name, not a part; use a part, such as composer.Timm('resnet18')",
    ),
    "the name of a decoder": (
        lambda: composer.chain(ENCODER, "FCNDecoder"),
        "'FCNDecoder' is a name, not a part; use composer.FCNDecoder(…)",
    ),
    "a class": (
        lambda: composer.chain(ENCODER, composer.FCNDecoder),
        "FCNDecoder is a class, not a part; use composer.FCNDecoder(…)",
    ),
}


@pytest.mark.parametrize(("mistake", "message"), MISTAKEN.values(), ids=MISTAKEN)
def test_what_is_no_part_is_told_how_to_become_one(mistake, message):
    with pytest.raises(ValueError, match="not a part") as caught:
        mistake()
    assert str(caught.value) == message


TOO_LARGE = "an image of 512 × 384 pixels is too large: the graph takes exactly 160 × 160. Crop or resize the image"
FIXED = {
    "by timm": (
        composer.Timm("test_vit2", options={"dynamic_img_size": False}),
        f"{TOO_LARGE}, or build the model for this size, if timm supports it: input: {{size: [512, 384]}}.",
    ),
    "by its declaration": (
        composer.Timm("test_vit2", img_size=160, options={"dynamic_img_size": False}),
        f"{TOO_LARGE}.",
    ),
}


@pytest.mark.parametrize(("encoder", "message"), FIXED.values(), ids=FIXED)
def test_an_image_larger_than_a_fixed_size(encoder, message):
    model = composer.build(composer.chain(encoder, composer.IdentityDecoder()), device="meta")
    with pytest.raises(ValueError, match="too large") as caught:
        model(torch.zeros(1, 3, 512, 384, device="meta"))
    assert str(caught.value) == message


def test_a_picture_larger_than_a_fixed_size(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(
        "encoder: {timm/test_vit2: {options: {dynamic_img_size: false}}}\n"
        "necks: [SelectIndices: {indices: [-1]}]\nhead: {ClassificationHead: {num_classes: 2}}\n",
        encoding="utf-8",
    )
    Image.new("RGB", (384, 512)).save("image.png")
    assert main(["run", "spec.yaml", "--image", "image.png"]) == 2
    assert capsys.readouterr().err == (
        f"image.png: {TOO_LARGE}, or build the model for this size, if timm supports it: input: {{size: [512, 384]}}.\n"
    )
