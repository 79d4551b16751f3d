"""The feature pyramid network beside torchvision's, bit for bit. B batch, C channels, H and W cells."""

from collections import OrderedDict

import pytest
import torch
from torchvision.ops import FeaturePyramidNetwork

from composer.layouts import Feature
from composer.modules.base import module
from composer.parts import FeaturePyramidNetworkNeck

pytestmark = pytest.mark.usefixtures("exact")


def level(channels, stride, rounding="exact"):
    return Feature(channels=channels, stride=stride, rounding=rounding)


PYRAMIDS = {
    "doubling": (level(4, 4), level(6, 8), level(8, 16)),
    "rounded up": (level(4, 4, "ceil"), level(6, 8, "ceil"), level(8, 16, "ceil")),
    "equal strides": (level(4, 8), level(6, 8), level(8, 16), level(8, 16)),
    "steps of three and four": (level(4, 2), level(6, 6), level(8, 24)),
    "one map": (level(6, 8),),
}


def ours(features, width=5):
    torch.manual_seed(0)
    return module(FeaturePyramidNetworkNeck(out_channel=width), features)


def theirs(features, width=5):
    torch.manual_seed(0)
    return FeaturePyramidNetwork([f.channels for f in features], width)


def test_torchvision_draws_as_often():
    """So that what is made after the neck has the weights of its seed too."""
    ours(PYRAMIDS["doubling"])
    state = torch.random.get_rng_state()
    theirs(PYRAMIDS["doubling"])

    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("features", PYRAMIDS.values(), ids=PYRAMIDS)
def test_equal_seeds_give_the_weights_and_the_maps_of_torchvision(features):
    neck, reference = ours(features), theirs(features)
    height, width = (75, 90) if features[0].rounding == "ceil" else (96, 144)
    given = [torch.randn(f.shape(2, height, width)) for f in features]

    out = neck(given)

    assert list(neck.fpn.state_dict()) == list(reference.state_dict())
    expected = reference(OrderedDict((str(place), x) for place, x in enumerate(given)))
    assert all(torch.equal(y, x) for y, x in zip(out, expected.values(), strict=True))
