"""What is said of TerraTorch's backbones without TerraTorch: names, fields, frames, images by name, keyword extras."""

from __future__ import annotations

import pytest
import torch
from attrs import frozen
from torch import nn

import composer
from composer.adapters.terratorch.parts import TerraTorch
from composer.layouts import FRAMES, Feature
from composer.parts.encoders import EncoderInfo
from composer.sizes import SizeConstraint

SEEN = Feature(channels=8, stride=16, axes="b n c", prefix=1)
TWO = EncoderInfo(features=[SEEN], inputs={"S2L2A": 12, "S1GRD": 2}, sizes=SizeConstraint(multiple=16, least=16))
TERRAMIND = """
inputs: {{optical: {optical}, radar: {radar}}}
nodes:
  encoder: {{part: {part}, from: {images}}}
  out: {{part: EmbeddingHead, from: encoder}}
outputs: [out]
"""


def terramind(
    part="terratorch/terramind_v1_tiny",
    images="{S2L2A: optical, S1GRD: radar}",
    optical="{channels: 12}",
    radar="{channels: 2}",
):
    return composer.reads(TERRAMIND.format(part=part, images=images, optical=optical, radar=radar))


def problem_of(graph, facts):
    with pytest.raises(composer.SpecError) as raised:
        composer.infer(graph, lambda *_: facts)
    (problem,) = raised.value.problems
    return problem


def test_images_by_name_are_asked_about_by_name():
    asked = []

    def describe(part, channels):
        asked.append((part, channels))
        return TWO

    typed = composer.infer(terramind(), describe)

    assert asked == [(TerraTorch("terramind_v1_tiny"), (("S2L2A", 12), ("S1GRD", 2)))]
    assert typed.features["encoder"] == (SEEN,)
    assert str(typed.sizes) == "multiple of 16, at least 16, any shape"


def test_stills_by_name_are_run_on_each_frame_and_counted_in_reference_pixels():
    graph = terramind(optical="{channels: 12, stride: 2, frames: 3}", radar="{channels: 2, stride: 2, frames: 3}")
    typed = composer.infer(graph, lambda *_: TWO)
    (feature,) = typed.features["encoder"]
    assert (typed.per_frame, feature.axes, feature.frames) == ({"encoder"}, "b t n c", 3)
    assert (feature.stride, typed.sizes.multiple) == (32, 32)


BY_NAME = "takes images by name: S2L2A, S2L1C, S1GRD, S1RTC, RGB, DEM (got 2 images without a name)."
NAMED = {
    "other channels": (
        terramind(radar="{channels: 3}"),
        'takes an image of 2 channels as S1GRD; radar gives map "b c h w" (3 channels, stride 1).',
        "input: {channels: 2}",
    ),
    "another resolution": (
        terramind(radar="{channels: 2, stride: 2}"),
        "takes images of one resolution and as many frames, and S2L2A is ",
        "bring the images to one resolution before they enter the model",
    ),
    "another name": (
        terramind(images="{S2L2A: optical, DEM: radar}"),
        "takes images named S1GRD, S2L2A (got images named S2L2A, DEM).",
        "from: {S1GRD: IMAGE, S2L2A: IMAGE}",
    ),
    "two images without names": (terramind(images="[radar, optical]"), BY_NAME, "from: {S1GRD: radar, S2L2A: optical}"),
    "two images of modalities that are listed": (
        terramind(part="{terratorch/terramind_v1_tiny: {modalities: [own, S2L2A]}}", images="[optical, radar]"),
        "takes images by name: own, S2L2A (got 2 images without a name).",
        "from: {S2L2A: optical, own: radar}",
    ),
    "two images of no known channels": (
        terramind(radar="{channels: 5}", images="[optical, radar]"),
        BY_NAME,
        "from: {NAME: optical, NAME: radar}",
    ),
    "a backbone of one image": (
        terramind(part="terratorch/prithvi_eo_tiny"),
        "does not take inputs by these names (got S2L2A, S1GRD).",
        "from: [optical, radar]",
    ),
}


@pytest.mark.parametrize(("graph", "message", "fix"), NAMED.values(), ids=NAMED)
def test_images_that_are_not_those_it_takes_are_refused(graph, message, fix):
    problem = problem_of(graph, TWO)
    assert problem.message.partition(" ")[2].startswith(message)
    assert (problem.fix, problem.place.path) == (fix, "encoder")


def test_the_frames_of_an_image_are_told_to_the_part():
    image = Feature(channels=6, axes=FRAMES, frames=3)
    assert TerraTorch("prithvi_eo_tiny").copy_with_inputs(image) == TerraTorch("prithvi_eo_tiny", frames=3)
    assert TerraTorch("prithvi_eo_tiny", frames=2).copy_with_inputs(image) == TerraTorch("prithvi_eo_tiny", frames=2)
    assert TerraTorch("UNet").copy_with_inputs(image) == TerraTorch("UNet")
    assert composer.Timm("resnet18").copy_with_inputs(image) == composer.Timm("resnet18")


def test_frames_that_contradict_the_image_are_refused():
    image = composer.Image(channels=6, frames=3)
    graph = composer.chain(TerraTorch("prithvi_eo_tiny", frames=2), composer.EmbeddingHead(), input=image)
    problem = problem_of(graph, EncoderInfo(features=[SEEN], channels=6, frames=2))
    assert problem.fix == "input: {frames: 2}"


WRONG = {
    "no name": ({"name": "prithvi"}, "TerraTorch has no backbone 'prithvi': did you mean prithvi_swin_L or "),
    "a refused name": (
        {"name": "dinov3_vits16"},
        "terratorch/dinov3_vits16 cannot be had: TerraTorch downloads the code of this network from GitHub and ",
    ),
    "a name that people look for": (
        {"name": "clay_v1_5"},
        "terratorch/clay_v1_5 cannot be had: TerraTorch has Clay 1.5 as a masked autoencoder alone, which downloads ",
    ),
    "frames of a backbone of stills": ({"name": "UNet", "frames": 2}, "terratorch/UNet has no field 'frames'"),
    "bands that are no list": ({"name": "dofa_base_patch16_224", "bands": "RED"}, "a list of names is needed"),
    "a band twice": ({"name": "prithvi_eo_tiny", "bands": ["RED", "RED"]}, "each name is given once"),
    "a barred option": (
        {"name": "prithvi_eo_tiny", "options": {"num_frames": 2}},
        "options must not hold 'num_frames': it is the frames of the input",
    ),
    "weights": ({"name": "UNet", "pretrained": 1}, "pretrained must be true, false, the path of a weights file"),
}


@pytest.mark.parametrize(("fields", "message"), WRONG.values(), ids=WRONG)
def test_a_part_that_cannot_be_says_so(fields, message):
    with pytest.raises(ValueError, match=r".") as raised:
        TerraTorch(**fields)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("part", "message", "fix"),
    [
        ("{terratorch/UNet: {frames: 3}}", "has no field 'frames'.", "known: options, out_indices, pretrained"),
        ("terratorch/convnextv2_atto", "cannot be had: it gives the scores of a cl", "use timm/convnextv2_atto"),
    ],
    ids=["field", "name"],
)
def test_a_text_is_told_what_there_is(part, message, fix):
    with pytest.raises(composer.SpecError) as raised:
        composer.reads(f"encoder: {part}\nhead: EmbeddingHead")
    (problem,) = raised.value.problems
    assert problem.message.partition(" ")[2].startswith(message)
    assert problem.fix == fix


@frozen
class Dated(composer.ProbedEncoder):
    """An encoder that takes images by name, and dates."""

    pretrained: bool = False

    @property
    def takes_names(self):
        return True


class DatedModule(nn.Module):
    extras = frozenset(["dates"])

    def forward(self, images, dates=None):
        self.seen = sorted(images), dates
        (one, other) = images.values()
        return one[:, :2] + other


@composer.module.register(Dated)
def _(part, *, info, pretrained, **named):
    assert {name: image[0].channels for name, image in named.items()} == dict(info.inputs)
    return DatedModule()


def dated():
    inputs = {"one": composer.Image(channels=3), "two": composer.Image(channels=2)}
    nodes = [
        composer.Node("encoder", Dated(), {"A": "one", "B": "two"}),
        composer.Node("out", composer.EmbeddingHead(), "encoder"),
    ]
    graph = composer.Graph(inputs=inputs, nodes=nodes, outputs=["out"])
    facts = EncoderInfo(features=[Feature(channels=2)], inputs={"A": 3, "B": 2}, sizes=SizeConstraint(multiple=4))
    return composer.build(graph, describe=lambda *_: facts)


def test_a_module_is_called_with_its_images_by_name_and_padded():
    model = dated()
    out = model({"one": torch.ones(1, 3, 6, 8), "two": torch.ones(1, 2, 6, 8)}, dates=7)
    assert model.encoder.seen == (["A", "B"], 7)
    assert torch.equal(out.output[0], torch.full((1, 2, 8, 8), 2.0))


def test_an_extra_that_no_encoder_takes_is_an_error():
    with pytest.raises(TypeError, match=r"^no encoder of the model takes 'date'; there is dates$"):
        dated()({"one": torch.ones(1, 3, 4, 4), "two": torch.ones(1, 2, 4, 4)}, date=7)
