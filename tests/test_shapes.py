"""Running for shapes alone: every tensor is of the shape and the layout in memory that the whole computation gives."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.nn import functional as F

from composer.adapters.probing import ShapeInferenceMode

NETWORKS = ["test_convnext", "test_vit", "densenet121", "swin_tiny_patch4_window7_224", "hrnet_w18_small"]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_the_same_shapes_and_layouts(name):
    with torch.device("meta"):
        network = timm.create_model(name).eval()
        x = torch.empty(2, *network.pretrained_cfg["input_size"])

    def levels():
        with torch.no_grad():
            given = network.forward_intermediates(x, intermediates_only=True)
        return [(tuple(level.shape), level.stride()) for level in given]

    expected = levels()
    with ShapeInferenceMode():
        assert levels() == expected


def meta(*shape):
    return torch.empty(*shape, device="meta")


FIRST = {
    "contiguous": meta(2, 3, 4, 5),
    "channels last": meta(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "permuted": meta(2, 4, 5, 3).permute(0, 3, 1, 2).permute(0, 2, 3, 1),
    "turned": meta(5, 4, 3, 2).permute(3, 2, 1, 0),
    "cut": meta(2, 3, 4, 9)[..., ::2],
}
CALLS = {
    "activation": F.silu,
    "norm over channels": lambda x: F.batch_norm(x, meta(x.shape[1]), meta(x.shape[1])),
    "norm over the last axis": lambda x: F.layer_norm(x, x.shape[-1:]),
    "sum": lambda x: x + meta(*x.shape),
    "scaled": lambda x: x * meta(x.shape[1], 1, 1),
    "by a number": lambda x: x * 2,
    "spread": lambda x: x[:, :1] + meta(*x.shape),
    "of more axes": lambda x: x + meta(7, *x.shape),
    "by name": lambda x: F.relu(input=x),
    "number first": lambda x: 2 - x,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
def test_a_call_gives_the_same_shape_and_layout(first, call):
    expected = call(first)
    with ShapeInferenceMode():
        given = call(first)
    assert (given.shape, given.stride()) == (expected.shape, expected.stride())


def test_shapes_that_do_not_fit_still_raise():
    """Branches of a network that meet at other sizes than they should are found by this."""
    with ShapeInferenceMode(), pytest.raises(RuntimeError, match="broadcast"):
        meta(2, 3, 4, 5) + meta(2, 3, 4, 6)


UNFIT = {
    "batch norm, mean": lambda x: F.batch_norm(x, meta(4), meta(4)),
    "batch norm of one value": lambda x: F.batch_norm(x[:, :, :1, :1], None, None, training=True),
    "layer norm": lambda x: F.layer_norm(x, (4,)),
    "layer norm of two axes": lambda x: F.layer_norm(x, (5, 5)),
}


@pytest.mark.parametrize("call", UNFIT.values(), ids=UNFIT)
def test_weights_that_do_not_fit_raise_what_torch_raises(call):
    x = meta(1, 6, 4, 5)
    with pytest.raises((RuntimeError, ValueError)) as expected:
        call(x)
    with ShapeInferenceMode(), pytest.raises(expected.type) as raised:
        call(x)
    assert str(raised.value) == str(expected.value)
