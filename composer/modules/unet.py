"""The U-Net decoder. B batch, C channels, H and W cells."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from composer.feature import Features
from composer.modules.dispatch import module
from composer.modules.grids import is_same_grid, resize_like
from composer.parts import UNetDecoder

SQUEEZE_RATIO = 16
"""How many channels become one where scse looks at the channels."""

_NORMS: dict[bool | str, Callable[[int], nn.Module]] = {
    True: nn.BatchNorm2d,
    False: nn.Identity,
    "batchnorm": nn.BatchNorm2d,
    "instancenorm": nn.InstanceNorm2d,
    "identity": nn.Identity,
}


class UNet(nn.Module):
    """From the coarsest map up: enlarge, concatenate the next finer map, convolve twice; in the end without a map."""

    def __init__(self, decoder: UNetDecoder, features: Features) -> None:
        super().__init__()
        # Published weights are called decoder.decoder.blocks, so the blocks live one level down.
        self.decoder = _Blocks(decoder, features)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give one map `(b, channels[-1], h, w)` on the grid of the first of the maps `(b, c_i, h_i, w_i)`."""
        return (self.decoder(features),)


class _Blocks(nn.Module):
    def __init__(self, decoder: UNetDecoder, features: Features) -> None:
        super().__init__()
        coarse_to_fine = features[::-1]
        skips = [f.channels for f in coarse_to_fine[1:]] + [0]
        incoming = [coarse_to_fine[0].channels, *decoder.channels[:-1]]
        self.blocks = nn.ModuleList(
            _Block(decoder, *widths) for widths in zip(incoming, skips, decoder.channels, strict=True)
        )
        self.grows = tuple(not is_same_grid(*pair) for pair in pairwise(coarse_to_fine))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x_BCHW, *skips = reversed(features)
        # All but the last block take a finer map; the last one works on what has reached the finest grid.
        *joining, last = self.blocks
        for block, skip_BCHW, grows in zip(joining, skips, self.grows, strict=True):
            x_BCHW = resize_like(x_BCHW, skip_BCHW, "nearest") if grows else x_BCHW
            x_BCHW = block(torch.cat([x_BCHW, skip_BCHW], dim=1))
        y_BCHW: Tensor = last(x_BCHW)
        return y_BCHW


class _Block(nn.Module):
    def __init__(self, decoder: UNetDecoder, incoming: int, skip: int, outgoing: int) -> None:
        super().__init__()
        norm = _NORMS[decoder.use_batchnorm]
        self.conv1 = _build_conv_block(incoming + skip, outgoing, norm)
        # Attention before the convolutions chooses between the map from below and the skip: without one, no choice.
        self.attention1 = _build_attention(decoder.attention_type if skip else None, incoming + skip)
        self.conv2 = _build_conv_block(outgoing, outgoing, norm)
        self.attention2 = _build_attention(decoder.attention_type, outgoing)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self.attention2(self.conv2(self.conv1(self.attention1(x_BCHW))))
        return y_BCHW


def _build_conv_block(incoming: int, outgoing: int, norm: Callable[[int], nn.Module]) -> nn.Module:
    # A norm subtracts what a bias would add.
    convolution = _build_conv2d(incoming, outgoing, kernel=3, bias=norm is nn.Identity)
    return nn.Sequential(convolution, norm(outgoing), nn.ReLU(inplace=True))


def _build_conv2d(incoming: int, outgoing: int, kernel: int, *, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps the grid, with weights uniform in ±√(6 / fan-in) and no bias to begin with.

    torch's own weights are not drawn first only to be replaced: drawing is most of what it takes to make a model.
    """
    layer: nn.Conv2d = skip_init(  # type: ignore[no-untyped-call]
        nn.Conv2d, incoming, outgoing, kernel, padding=kernel // 2, bias=bias, device=torch.get_default_device()
    )
    nn.init.kaiming_uniform_(layer.weight, mode="fan_in", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _build_attention(kind: str | None, channels: int) -> nn.Module:
    if kind is None:
        return nn.Identity()
    return nn.Sequential(OrderedDict(attention=_SCSE(channels)))


class _SCSE(nn.Module):
    """Each value times the sum of two gates in 0..1: one for its channel, one for its cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # At least one: a squeeze to no channels at all would leave a constant gate, and weights that never learn.
        squeezed = max(channels // SQUEEZE_RATIO, 1)
        self.cSE = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            _build_conv2d(channels, squeezed, kernel=1),
            nn.ReLU(inplace=True),
            _build_conv2d(squeezed, channels, kernel=1),
            nn.Sigmoid(),
        )
        self.sSE = nn.Sequential(_build_conv2d(channels, 1, kernel=1), nn.Sigmoid())

    def forward(self, x_BCHW: Tensor) -> Tensor:
        gates_BCHW: Tensor = self.cSE(x_BCHW) + self.sSE(x_BCHW)
        return x_BCHW * gates_BCHW


@module.register(UNetDecoder)
def _(decoder: UNetDecoder, features: Features) -> nn.Module:
    return UNet(decoder, features)
