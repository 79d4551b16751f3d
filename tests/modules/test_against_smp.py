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

PYRAMID = tuple(Feature(channels=c, stride=s, rounding="ceil") for c, s in ((16, 4), (24, 8), (32, 16), (48, 32)))
WIDTHS = (64, 40, 32, 16)
NORMS = ["batchnorm", True, "identity", False, "instancenorm"]


@pytest.fixture(autouse=True)
def exact():
    """Double precision, so that two ways to compute a thing agree."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def theirs(norm, attention, count=4) -> UnetDecoder:
    """smp's decoder; it passes over the first map, so it is told of one more."""
    torch.manual_seed(0)
    widths = [f.channels for f in PYRAMID[:count]]
    return UnetDecoder([widths[0], *widths], WIDTHS[:count], n_blocks=count, use_norm=norm, attention_type=attention)


def ours(norm, attention, count=4) -> nn.Module:
    torch.manual_seed(0)
    part = UNetDecoder(channels=WIDTHS[:count], use_batchnorm=norm, attention_type=attention)
    return module(part, PYRAMID[:count])


def without_last_attention(state, count=4):
    """smp's weights without the attention before its last block, which it makes and never uses."""
    unused = f"blocks.{count - 1}.attention1."
    return {name: value for name, value in state.items() if not name.startswith(unused)}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("size", [(64, 96), (75, 90)], ids=["whole", "rounded"])
@pytest.mark.parametrize("attention", [None, "scse"], ids=["plain", "scse"])
@pytest.mark.parametrize("norm", NORMS)
def test_unet_gives_what_smp_gives(norm, attention, size, training):
    reference, decoder = theirs(norm, attention).train(training), ours(norm, attention).train(training)
    decoder.decoder.load_state_dict(without_last_attention(reference.state_dict()))
    features = [torch.randn(f.shape(2, *size)) for f in PYRAMID]

    (y_BCHW,) = decoder(features)

    torch.testing.assert_close(y_BCHW, reference([features[0], *features]))


@pytest.mark.parametrize("count", [1, 2, 3], ids=["1", "2", "3"])
def test_unet_of_any_depth_gives_what_smp_gives(count):
    reference, decoder = theirs("batchnorm", "scse", count), ours("batchnorm", "scse", count)
    decoder.decoder.load_state_dict(without_last_attention(reference.state_dict(), count))
    features = [torch.randn(f.shape(2, 64, 96)) for f in PYRAMID[:count]]

    (y_BCHW,) = decoder(features)

    torch.testing.assert_close(y_BCHW, reference([features[0], *features]))


@pytest.mark.parametrize("attention", [None, "scse"], ids=["plain", "scse"])
@pytest.mark.parametrize("norm", ["batchnorm", "identity"])
def test_weights_are_drawn_once_and_as_smp_draws_them(norm, attention):
    reference = theirs(norm, attention)
    if attention:
        reference.blocks[-1].attention1 = nn.Identity()
    torch.manual_seed(0)
    # smp draws anew what torch has drawn; what it draws is what counts.
    initialize_decoder(reference)

    state = ours(norm, attention).decoder.state_dict()

    assert list(state) == list(reference.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in reference.state_dict().items())
