"""The U-Net decoder beside the one whose mathematics and initial weights it has, at equal weights."""

import pytest
import torch
from torch import nn

from composer.layouts import Feature
from composer.modules.base import module
from composer.parts import UNetDecoder

pytest.importorskip("segmentation_models_pytorch", reason="the extra smp is not installed")
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

pytestmark = pytest.mark.usefixtures("exact")

PYRAMID = tuple(Feature(channels=c, stride=s, rounding="ceil") for c, s in ((16, 4), (24, 8), (32, 16), (48, 32)))
WIDTHS = (64, 40, 32, 16)


def build_smp_decoder(norm, attention, count=4) -> UnetDecoder:
    """smp's decoder; it passes over the first map, so it is told of one more."""
    torch.manual_seed(0)
    widths = [f.channels for f in PYRAMID[:count]]
    return UnetDecoder([widths[0], *widths], WIDTHS[:count], n_blocks=count, use_norm=norm, attention_type=attention)


def build_decoder(norm, attention, count=4) -> nn.Module:
    torch.manual_seed(0)
    part = UNetDecoder(channels=WIDTHS[:count], use_batchnorm=norm, attention_type=attention)
    return module(part, PYRAMID[:count])


CASES = {
    "plain": {"attention": None, "size": (64, 96), "training": False},
    "scse, trained": {"attention": "scse", "size": (75, 90), "training": True},
    "one map": {"attention": "scse", "size": (64, 96), "training": False, "count": 1},
    "three maps": {"attention": None, "size": (64, 96), "training": True, "count": 3},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("norm", ["batchnorm", True, "identity", False, "instancenorm"])
def test_unet_gives_what_smp_gives(norm, case):
    count = case.get("count", 4)
    reference, decoder = (
        build(norm, case["attention"], count).train(case["training"]) for build in (build_smp_decoder, build_decoder)
    )
    # smp makes attention before its last block, and never uses it.
    unused = f"blocks.{count - 1}.attention1."
    state = {name: value for name, value in reference.state_dict().items() if not name.startswith(unused)}
    decoder.decoder.load_state_dict(state)
    features = [torch.randn(f.shape(2, *case["size"])) for f in PYRAMID[:count]]

    (y_BCHW,) = decoder(features)

    torch.testing.assert_close(y_BCHW, reference([features[0], *features]))


@pytest.mark.parametrize("attention", [None, "scse"], ids=["plain", "scse"])
@pytest.mark.parametrize("norm", ["batchnorm", "identity"])
def test_weights_are_drawn_once_and_as_smp_draws_them(norm, attention):
    reference = build_smp_decoder(norm, attention)
    if attention:
        reference.blocks[-1].attention1 = nn.Identity()
    torch.manual_seed(0)
    # smp draws anew what torch has drawn; what it draws is what counts.
    initialize_decoder(reference)

    state = build_decoder(norm, attention).decoder.state_dict()

    assert list(state) == list(reference.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in reference.state_dict().items())
