"""What a newcomer tries: an encoder and a decoder that do not meet, mended by pasting what is printed as `repair:`."""

from __future__ import annotations

import re

import pytest
import torch

import composer

HEAD = "head: {SegmentationHead: {num_classes: 2}}\n"
UNET = "decoder: {UNetDecoder: {channels: [256, 128, 64, 32]}}\n"
SWIN = "encoder: {timm/swin_tiny_patch4_window7_224: {features_only: true}}\n"
TOKENS = "encoder: {timm/vit_small_patch14_reg4_dinov2: {out_indices: [2, 5, 8, 11], tokens: true}}\n"
VIT = "encoder: {timm/vit_tiny_patch16_224: {out_indices: [2, 5, 8, 11]}}\n"

ATTEMPTS = {
    "a ViT and a U-Net": (f"{VIT}{UNET}{HEAD}", ["necks: [LearnedInterpolateToPyramidal]"]),
    "a ViT as it is, and a U-Net of four levels": (
        f"encoder: timm/vit_tiny_patch16_224\n{UNET}{HEAD}",
        ["channels: [512, 256, 128]", "necks: [InterpolateToPyramidal]"],
    ),
    "channels last and one level": (
        f"{SWIN}decoder: FCNDecoder\n{HEAD}",
        ["necks: [PermuteDims: {new_order: [0, 3, 1, 2]}]"],
    ),
    "channels last and a pyramid": (
        f"{SWIN}decoder: UperNetDecoder\n{HEAD}",
        ["necks: [PermuteDims: {new_order: [0, 3, 1, 2]}]"],
    ),
    "five levels and a decoder of four": (
        f"encoder: timm/resnet18\n{UNET}{HEAD}",
        ["channels: [512, 256, 128, 64, 32]"],
    ),
    "tokens with registers, and a neck that takes maps": (
        f"{TOKENS}necks: [FeaturePyramidNetworkNeck]\ndecoder: FCNDecoder\n{HEAD}",
        ["necks: [ReshapeTokensToImage, FeaturePyramidNetworkNeck]"],
    ),
    "tokens with registers, and smp's FPN": (
        f"{TOKENS}decoder: smp/FPN\n{HEAD}",
        ["necks: [ReshapeTokensToImage, LearnedInterpolateToPyramidal]"],
    ),
    "strides that are not whole": (
        f"encoder: timm/pit_ti_224\ndecoder: {{UNetDecoder: {{channels: [128, 64, 32]}}}}\n{HEAD}",
        ["necks: [SelectIndices: {indices: [1, 2]}, AddBottleneckLayer]"],
    ),
    "one stride and a pyramid of smp's": (
        f"{VIT}decoder: {{smp/UnetPlusPlus: {{decoder_channels: [64, 32, 16, 8]}}}}\n{HEAD}",
        ["necks: [InterpolateToPyramidal]"],
    ),
    "a pyramid upside down": (
        (
            "encoder: timm/convnext_atto\nnecks: [SelectIndices: {indices: [3, 2, 1, 0]}]\n"
            f"decoder: UperNetDecoder\n{HEAD}"
        ),
        ["necks: [SelectIndices: {indices: [3, 2, 1, 0]}, SelectIndices: {indices: [3, 2, 1, 0]}]"],
    ),
    "tokens and a classification": (
        "encoder: {timm/vit_tiny_patch16_224: {tokens: true}}\nhead: {ClassificationHead: {num_classes: 4}}\n",
        ["necks: [ReshapeTokensToImage, SelectIndices: {indices: [2]}]"],
    ),
    "vectors of several frames and a classification": (
        (
            "input: {frames: 4}\nencoder: {timm/vit_tiny_patch16_224: {tokens: true}}\nnecks: [AggregateTokens]\n"
            "head: {ClassificationHead: {num_classes: 4}}\n"
        ),
        ["necks: [AggregateTokens, TemporalPooling]"],
    ),
    "a finest level that smp's decoder does not want": (
        f"encoder: timm/resnet18\ndecoder: smp/DeepLabV3Plus\n{HEAD}",
        ["necks: [SelectIndices: {indices: [0, 1, 2, 3]}]"],
    ),
    "too few widths for smp's levels": (
        f"encoder: timm/convnext_atto\ndecoder: {{smp/Unet: {{decoder_channels: [64, 32, 16]}}}}\n{HEAD}",
        ["decoder_channels: [256, 128, 64, 32, 16]"],
    ),
    "a first level that is the image's own resolution": (
        f"encoder: timm/convnext_atto\ndecoder: {{smp/Unet: {{first_level: 0}}}}\n{HEAD}",
        ["decoder_channels: [256, 128, 64]"],
    ),
    "frames and a decoder of stills": (
        f"input: {{frames: 4}}\nencoder: timm/convnext_atto\ndecoder: UperNetDecoder\n{HEAD}",
        ["necks: [TemporalPooling]"],
    ),
    "a head behind one of mmseg's, which predicts": (
        f"encoder: timm/resnet18\ndecoder: {{mmseg/UPerHead: {{num_classes: 2}}}}\n{HEAD}",
        ["leave this head out"],
    ),
    "tokens and a head of mmseg's": (
        (
            "encoder: {timm/vit_tiny_patch16_224: {tokens: true, out_indices: [2, 5, 8, 11]}}\n"
            "decoder: {mmseg/FPNHead: {num_classes: 2}}\n"
        ),
        ["necks: [ReshapeTokensToImage]"],
    ),
    "two branches of other strides": (
        """\
inputs: {a: {}, b: {channels: 2}}
nodes:
  one: {part: {timm/resnet18: {out_indices: [1, 2, 3]}}, from: a}
  other: {part: {timm/resnet18: {out_indices: [2, 3, 4]}}, from: b}
  both: {part: ConcatFeatures, from: [one, other]}
  decoded: {part: FCNDecoder, from: both}
  out: {part: {SegmentationHead: {num_classes: 2}}, from: decoded}
outputs: [out]
""",
        [
            (
                "put SelectIndices: {indices: [1, 2]} between one and both "
                "and SelectIndices: {indices: [0, 1]} between other and both"
            )
        ],
    ),
}


def pasted(text, problem):
    """A spec with a repair in it, word for word: the line of a key, a field, a line that goes, or nodes in between."""
    key, lines, at = problem.repair.partition(":")[0], text.splitlines(keepends=True), problem.place.line - 1
    if problem.repair.startswith("put "):
        for part, source in re.findall(r"(?:put | and )(.+?) between (\w+) and \w+", problem.repair):
            lines[at] = lines[at].replace(source, f"{source}_mended")
            lines.insert(at, f"  {source}_mended: {{part: {{{part}}}, from: {source}}}\n")
            at += 1
    elif problem.repair.startswith("leave this"):
        del lines[at]
    elif key == "necks":
        lines = [line for line in lines if not line.startswith("necks:")]
        encoder = next(number for number, line in enumerate(lines) if line.startswith("encoder:"))
        lines.insert(encoder + 1, f"{problem.repair}\n")
    elif f"{key}:" in lines[at]:
        lines[at] = re.sub(rf"\b{key}: \[[^]]*\]", problem.repair, lines[at])
    else:
        lines[at] = lines[at].replace("}}", f", {problem.repair}}}}}")
    return "".join(lines)


def mended(text, repairs=()):
    """A spec that is lawful, and the repairs that made it so: the first that is printed, as often as one is."""
    try:
        composer.infer(composer.reads(text))
    except composer.SpecError as error:
        first = error.problems[0]
        assert len(repairs) < 3, f"{repairs} do not mend {text}"
        return mended(pasted(text, first), (*repairs, first.repair))
    return text, list(repairs)


@pytest.mark.parametrize(("attempt", "repairs"), ATTEMPTS.values(), ids=ATTEMPTS)
def test_an_attempt_is_mended_by_what_is_printed(attempt, repairs):
    assert mended(attempt)[1] == repairs


def without_mmseg(attempt):
    """mmseg is not there to be built."""
    return "mmseg/" not in attempt


BUILT = {name: attempt for name, (attempt, _) in ATTEMPTS.items() if without_mmseg(attempt)}


@pytest.mark.parametrize("attempt", BUILT.values(), ids=BUILT)
def test_what_is_mended_runs(attempt):
    typed = composer.infer(composer.reads(mended(attempt)[0]))
    model = composer.build(typed, device="meta").eval()
    height, width = typed.sizes.compute_padded_size(64, 96) or typed.sizes.compute_padded_size(1, 1)
    images = {
        name: torch.empty(image.feature.shape(1, height, width), device="meta") for name, image in typed.graph.inputs
    }

    with torch.no_grad():
        out = model(images).output

    assert ("b", *out.shape[1:]) == typed.shape(typed.ends[0], height, width)
