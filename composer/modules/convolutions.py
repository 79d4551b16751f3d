"""The block that several decoders are made of. B batch, C channels, H and W cells."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def build_conv_norm_act(incoming: int, outgoing: int, kernel: int, dilation: int = 1) -> nn.Module:
    """A convolution without bias that keeps the grid, batch norm and ReLU, under the names `conv`, `norm`, `act`."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(incoming, outgoing, kernel, padding=padding, dilation=dilation, bias=False),
            norm=nn.BatchNorm2d(outgoing),
            act=nn.ReLU(inplace=True),
        )
    )
