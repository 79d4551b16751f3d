"""What is said to somebody who writes what another library, a habit or the Hub calls it: whole messages."""

import pytest
import timm
import torch
from PIL import Image
from torch import nn

import composer
from composer.cli.main import main

NAMES_AND_COLORS = "leave it out: a model does not store the names and colors of its classes"
BANDS = "set the channels of the input: input: {channels: …}"
TIMM_FIELDS = "any_size, features_only, img_size, norm, options, out_indices, output_stride, pretrained, tokens"

UNKNOWN = {
    "backbone": ("{}backbone: x\n", "a model has no key 'backbone'", "did you mean encoder?"),
    "decode_head": ("{}decode_head: x\n", "a model has no key 'decode_head'", "did you mean decoder?"),
    "auxiliary_head": ("{}auxiliary_head: x\n", "a model has no key 'auxiliary_head'", "did you mean aux?"),
    "colors": ("{}colors: [red]\n", "a model has no key 'colors'", NAMES_AND_COLORS),
    "in_channels": ("{}in_channels: 6\n", "a model has no key 'in_channels'", BANDS),
    "class_names": (
        "{}head: {{SegmentationHead: {{num_classes: 2, class_names: [a]}}}}\n",
        "SegmentationHead has no field 'class_names'",
        NAMES_AND_COLORS,
    ),
}
FIELDS = {
    "dynamic_img_size": "leave it out: it is always on where the network supports it",
    "strict_img_size": "leave it out: it is always off where the network supports it",
    "in_chans": BANDS,
    "num_classes": "leave it out: an encoder has no classifier",
    "checkpoint_path": "pretrained: FILE",
    "drop_path_rate": f"options: {{drop_path_rate: …}}, if it is an argument of the network; known: {TIMM_FIELDS}",
    "pretraind": "did you mean pretrained?",
}
NAMES = {
    "hf-hub:timm/resnet50.a1_in1k": "timm/resnet50.a1_in1k",
    "hf_hub:timm/resnet5000": "timm/resnet50 or timm/resnet50t or timm/resnet50s",
    "https://huggingface.co/timm/resnet50.a1_in1k": "timm/resnet50.a1_in1k",
}


def problems_of(text):
    with pytest.raises(composer.SpecError) as caught:
        composer.reads(text)
    return [(problem.message, problem.fix) for problem in caught.value.problems]


@pytest.mark.parametrize(("text", "message", "fix"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_key_of_elsewhere_gets_the_key_of_here(text, message, fix):
    assert problems_of(text.format("encoder: timm/test_vit\n")) == [(f"{message}.", fix)]


@pytest.mark.parametrize(("name", "fix"), FIELDS.items(), ids=FIELDS)
def test_a_field_that_an_encoder_has_not(name, fix):
    message = f"timm/test_vit has no field {name!r}."
    assert problems_of(f"encoder: {{timm/test_vit: {{{name}: 6}}}}\n") == [(message, fix)]


@pytest.mark.parametrize(("name", "meant"), NAMES.items(), ids=NAMES)
def test_an_address_gets_the_name_of_the_network(name, meant):
    assert problems_of(f"encoder: {name}\n") == [(f"there is no encoder {name!r}.", f"did you mean {meant}?")]


def test_another_key_of_an_unsupported_kind_is_not_taken_for_a_misspelling():
    text = "encoder: timm/resnet18\nhead: {SegmentationHead: {class_names: [a, b]}}\n"
    assert problems_of(text) == [
        ("SegmentationHead needs num_classes.", "add num_classes, a whole number"),
        ("SegmentationHead has no field 'class_names'.", NAMES_AND_COLORS),
    ]


MISPLACED = {
    "a list of one": (
        "head: {SegmentationHead: {num_classes: [2]}}",
        "expected a whole number (got a list of 1).",
        "write 2",
    ),
    "fields that are none": (
        "decoder: {FCNDecoder: 5}",
        "expected the fields of FCNDecoder as a mapping (got 5, a whole number).",
        None,
    ),
    "a crop of nothing": ("crop: [0, 64]", "crop must be two whole numbers, height and width (got (0, 64)).", None),
}


@pytest.mark.parametrize(("line", "message", "fix"), MISPLACED.values(), ids=MISPLACED)
def test_values_that_do_not_belong_there(line, message, fix):
    assert problems_of(f"encoder: timm/resnet18\n{line}\n") == [(message, fix)]


def test_a_path_in_place_of_a_text():
    message = "expected a mapping of keys (got 'specs/vit-unet.yaml', a string)."
    assert problems_of("specs/vit-unet.yaml") == [(message, "composer.read reads a file")]


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


@pytest.mark.parametrize("text", ["encoder: timm/resnet18", "encoder: timm/resnet18\nx: 1"], ids=["a line", "lines"])
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
CONV = nn.Conv2d(3, 4, 1)
MODULE = (
    "Conv2d is an nn.Module, not a part; wrap an encoder in composer.Custom(module, "
    "features=[composer.Feature(channels=…, stride=…)]); register any other part with @composer.module.register"
)
MISTAKEN = {
    "a module": (CONV, MODULE),
    "a network": ("resnet18", "'resnet18' is a name, not a part; use composer.Timm('resnet18')"),
    "a network with its source": (
        "timm/resnet18",
        "'timm/resnet18' is a name, not a part; use composer.Timm('resnet18')",
    ),
    "a decoder of smp": ("smp/Unet", "'smp/Unet' is a name, not a part; use composer.Smp('Unet')"),
    "an unknown source": (
        "mine/resnet18",
        "'mine/resnet18' is a name, not a part; use a part, such as composer.Timm('resnet18')",
    ),
    "a decoder": ("FCNDecoder", "'FCNDecoder' is a name, not a part; use composer.FCNDecoder(…)"),
    "a class": (composer.FCNDecoder, "FCNDecoder is a class, not a part; use composer.FCNDecoder(…)"),
}


@pytest.mark.parametrize(("mistake", "message"), MISTAKEN.values(), ids=MISTAKEN)
def test_what_is_no_part_is_told_how_to_become_one(mistake, message):
    with pytest.raises(ValueError, match="not a part") as caught:
        composer.chain(ENCODER, mistake)
    assert str(caught.value) == message


PLACES = {
    "the encoder": (lambda: composer.chain(CONV, DECODER), MODULE),
    "a branch": (lambda: composer.chain(ENCODER, DECODER, aux={"early": [CONV]}), f"aux.early: {MODULE}"),
    "a node": (lambda: composer.Node("a", CONV, "image"), MODULE),
}


@pytest.mark.parametrize(("mistake", "message"), PLACES.values(), ids=PLACES)
def test_a_module_in_any_place_is_no_part(mistake, message):
    with pytest.raises(ValueError, match="not a part") as caught:
        mistake()
    assert str(caught.value) == message


TOO_LARGE = "an image of 512 × 384 pixels is too large: the graph takes exactly 160 × 160. Crop or resize the image"
OTHER_SIZE = ", or build the model for this size, if timm supports it: input: {size: [512, 384]}"


@pytest.mark.parametrize(("size", "other"), [(None, OTHER_SIZE), (160, "")], ids=["by timm", "by its declaration"])
def test_an_image_larger_than_a_fixed_size(size, other):
    encoder = composer.Timm("test_vit2", img_size=size, options={"dynamic_img_size": False})
    model = composer.build(composer.chain(encoder, composer.IdentityDecoder()), device="meta")
    with pytest.raises(ValueError, match="too large") as caught:
        model(torch.zeros(1, 3, 512, 384, device="meta"))
    assert str(caught.value) == f"{TOO_LARGE}{other}."


def test_a_picture_larger_than_a_fixed_size(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(
        "encoder: {timm/test_vit2: {options: {dynamic_img_size: false}}}\n"
        "necks: [SelectIndices: {indices: [-1]}]\nhead: {ClassificationHead: {num_classes: 2}}\n",
        encoding="utf-8",
    )
    Image.new("RGB", (384, 512)).save("image.png")
    assert main(["run", "spec.yaml", "--image", "image.png"]) == 2
    assert capsys.readouterr().err == f"image.png: {TOO_LARGE}{OTHER_SIZE}.\n"
