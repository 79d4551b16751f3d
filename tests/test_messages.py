"""What is said to somebody who calls a thing or a function by another name or kind: whole messages."""

import pytest
import timm
import torch
from torch import nn

import composer
from composer.errors import Place, Problem

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


def test_a_problem_is_an_object():
    with pytest.raises(composer.SpecError) as caught:
        composer.reads("encoder: timm/x\nhead: {SegmentationHead: {num_classes: '64'}}\n", name="x.yaml")
    assert caught.value.problems == (
        Problem(
            code="type",
            message="expected a whole number (got '64', a string).",
            place=Place("head.num_classes", "x.yaml", 2, 40),
            expected="a whole number",
            got="'64', a string",
            fix="write 64 without quotes",
        ),
    )


ENCODER = composer.Timm("resnet18")
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
    "a branch": (lambda: composer.chain(ENCODER, composer.FCNDecoder(), aux={"early": [CONV]}), f"aux.early: {MODULE}"),
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
