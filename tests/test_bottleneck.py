"""Maps of which the last two have one resolution, as from AddBottleneckLayer: which decoders take them."""

from __future__ import annotations

import pytest
import torch

import composer
from composer.layouts import Feature
from tests.law.toys import Toy

PYRAMID = tuple(Feature(channels=c, stride=s) for c, s in ((16, 4), (24, 8), (32, 16), (40, 32)))
WIDTHS = (48, 40, 32, 24, 16, 16)


def chain(*parts):
    """Return a chain of `parts` that ends in features, or in the scores of a decoder that predicts."""
    end = () if parts[-1].includes_head else (composer.EmbeddingHead(),)
    return composer.chain(Toy(features=PYRAMID), composer.AddBottleneckLayer(), *parts, *end)


@pytest.mark.parametrize(
    ("decoder", "stride"),
    [
        pytest.param(composer.UNetDecoder(channels=WIDTHS[:5]), 4, id="UNetDecoder"),
        pytest.param(composer.UperNetDecoder(channels=16), 4, id="UperNetDecoder"),
        pytest.param(composer.FCNDecoder(channels=16), 2, id="FCNDecoder"),
        pytest.param(composer.Smp("Unet", decoder_channels=WIDTHS), 1, id="smp/Unet"),
        pytest.param(composer.Smp("PSPNet"), 32, id="smp/PSPNet"),
        pytest.param(composer.Smp("UPerNet"), 4, id="smp/UPerNet"),
        pytest.param(composer.Smp("Segformer"), 4, id="smp/Segformer"),
        pytest.param(composer.Mmseg("UPerHead", num_classes=3), 4, id="mmseg/UPerHead"),
        pytest.param(composer.Mmseg("FCNHead", num_classes=3), 32, id="mmseg/FCNHead"),
    ],
)
def test_decoders_that_take_them(decoder, stride):
    typed = composer.infer(chain(decoder))
    assert typed.features["decoder"][0].stride == stride
    if decoder.source != "mmseg":  # may not be installed
        with torch.no_grad():
            (found,) = composer.build(typed).eval()(torch.rand(1, 3, 64, 96)).output
        assert tuple(found.shape) == typed.features["decoder"][0].shape(1, 64, 96)


MAPS = 'necks[0] gives 5 × map "b c h w" (16, 24, 32, 40, 20 channels, stride 4, 8, 16, 32, 32)'
ONCE_EACH = f"[stride] decoder: smp/{{}} takes maps whose stride doubles from one to the next; {MAPS}."
REJECTED = {
    "Linknet": (ONCE_EACH.format("Linknet"), [0, 1, 2, 3]),
    "FPN": (ONCE_EACH.format("FPN"), [0, 1, 2, 3]),
    "DeepLabV3Plus": (
        f"[stride] decoder: smp/DeepLabV3Plus enlarges the last map by 4 or 2, to meet the map of level 2; {MAPS}.",
        [1, 2, 3, 4],
    ),
    "PAN": (
        (
            "[count] decoder: smp/PAN has gates for the levels up to 5, and would pass over those between them and the "
            "last (got level 6)."
        ),
        [1, 2, 3, 4],
    ),
}


@pytest.mark.parametrize(("name", "message", "indices"), [(k, *v) for k, v in REJECTED.items()], ids=REJECTED)
def test_decoders_that_reject_them_accept_the_fix(name, message, indices):
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(chain(composer.Smp(name)))
    fix = f"necks: [AddBottleneckLayer, SelectIndices: {{indices: {indices}}}]"
    assert str(caught.value) == f"error{message}\n  fix: {fix}"
    composer.infer(chain(composer.SelectIndices(indices=indices), composer.Smp(name)))
