"""An encoder that gives whatever features it is told to: a part of one's own, as a third party would write it."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import nn
from torch.nn import functional as F

import composer
from composer.feature import Feature
from composer.sizes import ANY, Sizes


@frozen(kw_only=True)
class Toy(composer.Encoder):
    """Gives `features` of an image of `channels`, at the sizes that it says."""

    features: tuple[Feature, ...]
    channels: int = 3
    sizes: Sizes = ANY


@composer.contract.register(Toy)
def _(toy, image):
    facts = composer.Facts(features=toy.features, channels=toy.channels, sizes=toy.sizes)
    return composer.contract(facts, image)


@composer.module.register(Toy)
def _(toy, image):
    return ToyNet(toy)


class ToyNet(nn.Module):
    """Pools the image to each feature's grid, mixes its channels, and lays the result out as promised."""

    def __init__(self, toy):
        super().__init__()
        self.features = toy.features
        self.mixes = nn.ModuleList(nn.Conv2d(toy.channels, f.channels, 1) for f in toy.features)

    def forward(self, x_BCHW):
        return [self._level(mix, f, x_BCHW) for mix, f in zip(self.mixes, self.features, strict=True)]

    def _level(self, mix, feature, x_BCHW):
        names = feature.axes.split()
        if feature.stride is None:
            return mix(x_BCHW).mean((2, 3))
        grid = [feature.cells(side) for side in x_BCHW.shape[-2:]]
        x = mix(F.adaptive_avg_pool2d(x_BCHW, grid))
        x_BTCHW = torch.stack([x] * feature.frames, dim=1)
        if "n" not in names:
            order = [("b", "t", "c", "h", "w").index(name) for name in names]
            return x_BTCHW.permute(*order, *({1} - set(order))).reshape(feature_shape(x_BTCHW, names))
        x_BNC = x_BTCHW.permute(0, 1, 3, 4, 2).flatten(1, 3)
        x_BNC = F.pad(x_BNC, (0, 0, feature.prefix, 0))
        return x_BNC if names == ["b", "n", "c"] else x_BNC.transpose(1, 2)


def feature_shape(x_BTCHW, names):
    sizes = dict(zip("btchw", x_BTCHW.shape, strict=True))
    return [sizes[name] for name in names]
