"""The decoders that are small: identity, linear, MLP. B batch, C channels, H and W cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from composer.feature import VECTOR, Features
from composer.modules.activations import build_activation
from composer.modules.dispatch import module
from composer.modules.necks import Select
from composer.parts import IdentityDecoder, LinearDecoder, MLPDecoder


class Linear(nn.Module):
    """One transposed convolution whose kernel is its stride: each cell becomes a square of its own."""

    def __init__(self, decoder: LinearDecoder, features: Features) -> None:
        super().__init__()
        self.index = decoder.in_index
        size = decoder.upsampling_size
        channels = features[self.index].channels
        self.conv = nn.ConvTranspose2d(channels, decoder.num_classes, kernel_size=size, stride=size)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give one map `(b, num_classes, h * size, w * size)` for the map `(b, c, h, w)` at `index`."""
        return (self.conv(features[self.index]),)


class MLP(nn.Module):
    """The channels of all inputs mixed per cell: a hidden layer, an activation, and an output layer if one is asked."""

    def __init__(self, decoder: MLPDecoder, features: Features) -> None:
        super().__init__()
        self.vectors = features[0].axes == VECTOR
        width = decoder.channels or features[decoder.out_index].channels
        self.hidden_layer = nn.Linear(sum(f.channels for f in features), width)
        self.activation = build_activation(decoder.activation)
        self.output_layer = nn.Identity() if decoder.out_dim is None else nn.Linear(width, decoder.out_dim)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give one map `(b, width, h, w)` for maps `(b, c_i, h, w)`, or one vector for vectors."""
        x = torch.cat(tuple(features), dim=1)
        if self.vectors:
            return (self._project(x),)
        return (self._project(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),)

    def _project(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.output_layer(self.activation(self.hidden_layer(x)))
        return mixed


@module.register(IdentityDecoder)
def _(decoder: IdentityDecoder, features: Features) -> nn.Module:
    return Select((decoder.out_index,))


@module.register(LinearDecoder)
def _(decoder: LinearDecoder, features: Features) -> nn.Module:
    return Linear(decoder, features)


@module.register(MLPDecoder)
def _(decoder: MLPDecoder, features: Features) -> nn.Module:
    return MLP(decoder, features)
