"""The neck that pools frames. T frames; x is of any layout that has them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from composer.feature import Features
from composer.modules.dispatch import module
from composer.parts import TemporalPooling


class PoolFrames(nn.Module):
    """Pools each tensor along its own axis of frames, after the frames of each subset have been averaged."""

    def __init__(self, neck: TemporalPooling, features: Features) -> None:
        super().__init__()
        self.pooling = neck.pooling
        self.lengths = neck.subset_lengths
        layouts = [feature.axes.split() for feature in features]
        self.axes = tuple((axes.index("t"), axes.index("c")) for axes in layouts)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give for each tensor one without the axis t; with `keep`, one that has it still."""
        return tuple(self._pool_frames(x, *axes) for x, axes in zip(features, self.axes, strict=True))

    def _pool_frames(self, x: Tensor, t: int, c: int) -> Tensor:
        if self.lengths is not None:
            x = torch.stack([subset.mean(t) for subset in x.split_with_sizes(self.lengths, t)], t)
        if self.pooling == "mean":
            return x.mean(t)
        if self.pooling == "max":
            # Not amax, which shares the gradient among equal frames: behind a ReLU many are equal.
            return x.max(t).values
        if self.pooling == "diff":
            first, second = x.unbind(t)
            return first - second
        if self.pooling == "concat":
            # The frames are taken out of the layout, so that an axis behind t moves up by one.
            return torch.cat(x.unbind(t), c - 1 if c > t else c)
        return x


@module.register(TemporalPooling)
def _(neck: TemporalPooling, features: Features) -> nn.Module:
    return PoolFrames(neck, features)
