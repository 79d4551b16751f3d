"""Maps whose last two share a resolution, as AddBottleneckLayer leaves them: which decoders take them, and which not."""

# ruff: noqa: E501  messages stand here as they are printed

from __future__ import annotations

import pytest
import torch

import composer
from composer.layouts import Feature
from tests.law.toys import Toy

PYRAMID = tuple(Feature(channels=c, stride=s) for c, s in ((16, 4), (24, 8), (32, 16), (40, 32)))
WIDTHS = (48, 40, 32, 24, 16, 16)


def after(*parts):
    """A chain of `parts` that ends in features, or in the scores of a decoder that predicts."""
    end = () if parts[-1].includes_head else (composer.EmbeddingHead(),)
    return composer.chain(Toy(features=PYRAMID), composer.AddBottleneckLayer(), *parts, *end)


TAKEN = {
    "UNetDecoder": (composer.UNetDecoder(channels=WIDTHS[:5]), 4),
    "UperNetDecoder": (composer.UperNetDecoder(channels=16), 4),
    "FCNDecoder": (composer.FCNDecoder(channels=16), 2),
    "smp/Unet": (composer.Smp("Unet", decoder_channels=WIDTHS), 1),
    "smp/PSPNet": (composer.Smp("PSPNet"), 32),
    "smp/DeepLabV3": (composer.Smp("DeepLabV3"), 32),
    "smp/UPerNet": (composer.Smp("UPerNet"), 4),
    "smp/Segformer": (composer.Smp("Segformer"), 4),
    "mmseg/UPerHead": (composer.Mmseg("UPerHead", num_classes=3), 4),
    "mmseg/FCNHead": (composer.Mmseg("FCNHead", num_classes=3), 32),
}
"""Those that take all five maps, or the last, each with the stride of what it gives."""


@pytest.mark.parametrize(("decoder", "stride"), TAKEN.values(), ids=TAKEN)
def test_taken(decoder, stride):
    assert composer.infer(after(decoder)).features["decoder"][0].stride == stride


@pytest.mark.parametrize("name", [name for name in TAKEN if not name.startswith("mmseg/")])
def test_what_is_taken_runs(name):
    model = composer.build(after(TAKEN[name][0])).eval()
    with torch.no_grad():
        (given,) = model(torch.rand(1, 3, 64, 96)).output
    assert tuple(given.shape) == model.typed.features["decoder"][0].shape(1, 64, 96)


GOT = 'necks[0] gives 5 × map "b c h w" (16, 24, 32, 40, 20 channels, stride 4, 8, 16, 32, 32)'
ONCE_EACH = (
    "error[stride] decoder: smp/{} takes maps whose stride doubles from one to the next; "
    f"{GOT}.\n  fix: necks: [AddBottleneckLayer, SelectIndices: {{{{indices: [0, 1, 2, 3]}}}}]"
)
REFUSED = {
    **{name: ONCE_EACH.format(name) for name in ("UnetPlusPlus", "MAnet", "Linknet", "FPN")},
    "DeepLabV3Plus": "error[stride] decoder: smp/DeepLabV3Plus enlarges the last map by 4 or 2, to meet the map of level 2; "
    f"{GOT}.\n  fix: necks: [AddBottleneckLayer, SelectIndices: {{indices: [1, 2, 3, 4]}}]",
    "PAN": "error[count] decoder: smp/PAN has gates for the levels up to 5, and would pass over those between them and the "
    "last (got level 6).\n  fix: necks: [AddBottleneckLayer, SelectIndices: {indices: [1, 2, 3, 4]}]",
}
FIXES = {
    "UnetPlusPlus": [0, 1, 2, 3],
    "MAnet": [0, 1, 2, 3],
    "Linknet": [0, 1, 2, 3],
    "FPN": [0, 1, 2, 3],
    "DeepLabV3Plus": [1, 2, 3, 4],
    "PAN": [1, 2, 3, 4],
}


@pytest.mark.parametrize(("name", "message"), REFUSED.items(), ids=REFUSED)
def test_refused(name, message):
    with pytest.raises(composer.SpecError) as raised:
        composer.infer(after(composer.Smp(name)))
    assert str(raised.value) == message


@pytest.mark.parametrize(("name", "indices"), FIXES.items(), ids=FIXES)
def test_the_fix_is_all_that_it_takes(name, indices):
    composer.infer(after(composer.SelectIndices(indices=indices), composer.Smp(name)))
