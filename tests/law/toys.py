"""An encoder that gives whatever features it is told to: a part of one's own, as a third party would write it."""

from __future__ import annotations

from attrs import frozen
from einops import rearrange, repeat
from torch import nn
from torch.nn import functional as F

import composer
from composer.layouts import Feature
from composer.sizes import ANY_SIZE, SizeConstraint


@frozen(kw_only=True)
class Toy(composer.Encoder):
    """Gives `features` of an image of `channels`, or of so many `frames` at once, at the sizes that it says."""

    features: tuple[Feature, ...]
    channels: int = 3
    frames: int | None = None
    sizes: SizeConstraint = ANY_SIZE


@composer.contract.register(Toy)
def _(toy, image):
    facts = composer.EncoderInfo(features=toy.features, channels=toy.channels, frames=toy.frames, sizes=toy.sizes)
    return composer.contract(facts, image)


@composer.module.register(Toy)
def _(toy, image):
    return ToyNet(toy)


class ToyNet(nn.Module):
    """Pools the image to each feature's grid, mixes its channels, and lays the result out as promised.

    Of several frames taken at once it sees the mean.
    """

    def __init__(self, toy):
        super().__init__()
        self.features = toy.features
        self.dims = 4 if toy.frames is None else 5
        self.mixes = nn.ModuleList(nn.Conv2d(toy.channels, f.channels, 1) for f in toy.features)

    def forward(self, x):
        assert x.dim() == self.dims
        x_BCHW = x if x.dim() == 4 else x.mean(2)
        return [self._level(mix, f, x_BCHW) for mix, f in zip(self.mixes, self.features, strict=True)]

    def _level(self, mix, feature, x_BCHW):
        names = set(feature.axes.split())
        if feature.stride is None:
            x, axes = repeat(mix(x_BCHW).mean((2, 3)), "b c -> b t c", t=feature.frames), "b t c"
        else:
            grid = [feature.cells(side) for side in x_BCHW.shape[-2:]]
            cells_BCHW = mix(F.adaptive_avg_pool2d(x_BCHW, grid))
            x, axes = repeat(cells_BCHW, "b c h w -> b t c h w", t=feature.frames), "b t c h w"
        if "n" in names:
            together, axes = ("b t (h w) c", "b t n c") if "t" in names else ("b (t h w) c", "b n c")
            x = F.pad(rearrange(x, f"b t c h w -> {together}"), (0, 0, feature.prefix, 0))
        return rearrange(x, f"{axes if names >= set(axes.split()) else axes.replace('t', '1')} -> {feature.axes}")
