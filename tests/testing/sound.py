"""Necks with nothing wrong, each of which was once taken for broken, or might be: attention over a single cell, levels
that are mixed, tokens that are chosen, caches, what is frozen, and what is not a number.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

SOUND: dict[type[nn.Module], dict[str, object]] = {}
"""The necks, each with what `check_contract` has to be told of it."""


def sound(**told):
    def register(neck):
        SOUND[neck] = told
        return neck

    return register


class Levels(nn.Module):
    """Gives as many channels as it takes, and changes each level alone; the others derive from it."""

    def __init__(self, channel_list):
        super().__init__()
        self.channel_list = channel_list

    def forward(self, features):
        return [self.one(x, index) for index, x in enumerate(features)]

    def one(self, x, index):
        return x * 2

    def process_channel_list(self, channel_list):
        return channel_list


def convolutions(channel_list, width=None):
    return nn.ModuleList(nn.Conv2d(channels, width or channels, 1) for channels in channel_list)


class Mixing(Levels):
    """Mixes the channels of each level; the others derive from it."""

    def __init__(self, channel_list):
        super().__init__(channel_list)
        self.mixes = convolutions(channel_list)

    def one(self, x, index):
        return self.mixes[index](x)


@sound()
class NonLocal(Mixing):
    """Attention over a map, with weights of its own for queries, keys and values: constant over a single cell."""

    def __init__(self, channel_list):
        super().__init__(channel_list)
        self.q, self.k = convolutions(channel_list, 4), convolutions(channel_list, 4)

    def one(self, x, index):
        q, k, v = (layers[index](x).flatten(2) for layers in (self.q, self.k, self.mixes))
        return x + (v @ (q.transpose(1, 2) @ k).softmax(-1).transpose(1, 2)).view_as(x)


@sound()
class MixesLevels(Levels):
    """Levels of the finest grid, weighted by a softmax that is constant over a single level."""

    def __init__(self, channel_list):
        super().__init__(channel_list)
        self.lateral, self.weights = convolutions(channel_list, 8), nn.Parameter(torch.zeros(len(channel_list)))

    def forward(self, features):
        weights, size = self.weights.softmax(0), features[0].shape[-2:]
        levels = [F.interpolate(layer(x), size) for layer, x in zip(self.lateral, features, strict=True)]
        return [sum(weight * x for weight, x in zip(weights, levels, strict=True))]

    def process_channel_list(self, channel_list):
        return [8]


@sound()
class NormsTokens(Levels):
    """Norms over the channels of tokens; over maps they would norm the columns."""

    def __init__(self, channel_list):
        super().__init__(channel_list)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in channel_list)

    def one(self, x, index):
        return self.norms[index](x)


@sound()
class KeepsTopTokens(NormsTokens):
    """Keeps the half of the tokens that is longest: by a hair, another one in half precision."""

    def one(self, x, index):
        chosen = x.norm(dim=-1).topk(max(1, x.shape[1] // 2), dim=1).indices
        return super().one(x.gather(1, chosen[..., None].expand(-1, -1, x.shape[-1])), index)


@sound(least=2)
class NormsInstances(Mixing):
    """Norms over the cells of a map, of which it needs two."""

    def __init__(self, channel_list):
        super().__init__(channel_list)
        self.norms = nn.ModuleList(nn.InstanceNorm2d(channels, affine=True) for channels in channel_list)

    def one(self, x, index):
        return F.leaky_relu(self.norms[index](super().one(x, index)))


@sound()
class HoldsOddThings(Levels):
    """Holds what is not a number, as a mark of no data, a sparse buffer, arrays, and a state of its own."""

    def __init__(self, channel_list):
        super().__init__(channel_list)
        self.no_data, self.scales = float("nan"), [np.ones(2), np.ones(3)]
        self.register_buffer("mark", torch.tensor(float("nan")))
        self.register_buffer("graph", torch.eye(3).to_sparse())

    def one(self, x, index):
        return torch.where(x == self.mark, 0, x)

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        assert state == {"version": 1}


@sound()
class FrozenBranch(Mixing):
    """A branch that is not trained beside one that is."""

    def __init__(self, channel_list):
        super().__init__(channel_list)
        self.frozen = convolutions(channel_list).requires_grad_(requires_grad=False)

    def one(self, x, index):
        return super().one(x, index) + self.frozen[index](x)


@sound()
class CachesPositions(Levels):
    """Keeps the positions of each grid that it has seen, and those of the last one in a buffer that is not saved."""

    def __init__(self, channel_list):
        super().__init__(channel_list)
        self._grids = {}
        self.register_buffer("last", None, persistent=False)

    def one(self, x, index):
        size = x.shape[-2:]
        if size not in self._grids:
            self._grids[size] = torch.linspace(0, 1, size[0])[:, None] + torch.linspace(0, 1, size[1])
        self.last = self._grids[size].to(x.dtype)
        return x + self.last


@sound()
class GivesPositions(Levels):
    """Gives a level more, which is learnt and the same whatever it is fed."""

    def __init__(self, channel_list):
        super().__init__(channel_list)
        self.position = nn.Parameter(torch.randn(5))

    def forward(self, features):
        return [*features, self.position.expand(len(features[0]), -1)]

    def process_channel_list(self, channel_list):
        return [*channel_list, 5]


@sound()
class WaitsForChannels(Mixing):
    """Takes its numbers of channels from the first that it is fed."""

    def __init__(self, channel_list):
        super().__init__(channel_list)
        self.mixes = nn.ModuleList(nn.LazyConv2d(channels, 1) for channels in channel_list)


@sound()
class ScaledByNothing(Mixing):
    """A branch that is multiplied by zero at first, in place, and dropped for some images in training."""

    def __init__(self, channel_list):
        super().__init__(channel_list)
        self.gammas = nn.ParameterList(torch.zeros(channels, 1, 1) for channels in channel_list)

    def one(self, x, index):
        branch = super().one(x, index).mul_(self.gammas[index])
        kept = torch.rand(len(x), 1, 1, 1) > 0.2 if self.training else 1
        return x + branch * kept
