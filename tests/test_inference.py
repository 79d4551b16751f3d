"""infer(): whole messages of what only graphs can get wrong, and problems that do not breed others."""

from __future__ import annotations

import pytest

import composer
from composer.layouts import Feature
from composer.parts.encoders import EncoderInfo, Timm

FACTS = {
    Timm("resnet18"): EncoderInfo(features=[Feature(channels=64, stride=4), Feature(channels=128, stride=8)]),
}

WRONG = {
    "a join by name": (
        """\
inputs: {i: {}}
nodes:
  e: {part: timm/resnet18, from: i}
  j: {part: ConcatFeatures, from: {x: e, y: e}}
  h: {part: IdentityDecoder, from: j}
outputs: [h]
""",
        (
            "<text>:4:13: error[inputs] j: ConcatFeatures does not take inputs by these names (got x, y).\n"
            "  fix: from: [e, e]"
        ),
    ),
    "an encoder of two images": (
        """\
inputs: {i: {}, k: {}}
nodes:
  e: {part: timm/resnet18, from: [i, k]}
  h: {part: IdentityDecoder, from: e}
outputs: [h]
""",
        (
            "<text>:3:13: error[inputs] e: timm/resnet18 takes one input (got 2 inputs).\n"
            "  fix: join them first, with ConcatFeatures or AddFeatures"
        ),
    ),
    "the share of a refused node": (
        """\
inputs: {i: {}, k: {}}
nodes:
  e: {part: timm/resnet34, from: i}
  f: {share: e, from: k}
  j: {part: ConcatFeatures, from: [e, f]}
  h: {part: IdentityDecoder, from: j}
outputs: [h]
""",
        "<text>:3:13: error[features] e: timm/resnet34 is not among the encoders of describe= (got no entry).",
    ),
    "an output named twice": (
        """\
inputs: {i: {}}
nodes:
  e: {part: timm/resnet18, from: i}
  h: {part: IdentityDecoder, from: e}
outputs: [h, h]
""",
        "<text>:5:14: error[reference] outputs[1]: h is named 2 times.\n  fix: name each output once",
    ),
    "a join in a chain": (
        "encoder: timm/resnet18\nnecks: [ConcatFeatures]\ndecoder: IdentityDecoder\n",
        (
            "<text>:2:9: error[inputs] necks[0]: ConcatFeatures joins at least two inputs (got 1 input).\n"
            "  fix: write the model as nodes, and say what it joins: from: [one, other]"
        ),
    ),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_one_fault_is_one_problem(text, message):
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(composer.reads(text), FACTS)

    assert str(caught.value) == message


ARGUMENTS = {
    "depth": (
        Timm("vit_tiny_patch16_224", options={"depth": 0}),
        "refuses its arguments (got timm says AssertionError: last-n (3) is out of range (1 to 0)).",
        "correct or leave out depth",
    ),
    "size": (
        Timm("test_vit", img_size=7),
        (
            "runs at no image size tried with 3 input channels (got timm says AssertionError: "
            "Input height (7) should be divisible by patch size (16).)."
        ),
        "correct or leave out img_size",
    ),
    "stride": (
        Timm("test_resnet", output_stride=5),
        "refuses its arguments (got timm says AssertionError: no reason given).",
        "correct or leave out output_stride",
    ),
    "patch": (
        Timm("vit_tiny_patch16_224", options={"patch_size": [8, 16]}),
        (
            "runs at no image size tried with 3 input channels "
            "(got cells that are not square, or levels of other channels than it states)."
        ),
        "correct or leave out patch_size",
    ),
}


@pytest.mark.parametrize(("part", "message", "fix"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_what_timm_refuses_is_said_in_its_own_words(part, message, fix):
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(composer.chain(part, composer.IdentityDecoder()))

    (problem,) = caught.value.problems
    assert (problem.message, problem.fix) == (f"timm/{part.name} {message}", fix)


DECODERS = {
    "linear": "LinearDecoder: {num_classes: 3, upsampling_size: 4",
    "aspp segmentation": "ASPPSegmentationHead: {channels: 8, num_classes: 3",
    "aspp regression": "ASPPRegressionHead: {channels: 8, out_channels: 3",
}


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
def test_a_head_follows_a_decoder_that_is_told_so(decoder):
    text = f"encoder: timm/resnet18\ndecoder: {{{decoder}}}}}\nhead: RegressionHead\n"

    with pytest.raises(composer.SpecError, match=r"takes features \(got a prediction, from decoder\)"):
        composer.infer(composer.reads(text), FACTS)

    typed = composer.infer(composer.reads(text.replace("}}", ", includes_head: false}}")), FACTS)
    assert [typed.features[node][0].channels for node in ("decoder", "head")] == [3, 1]
