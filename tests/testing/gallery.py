"""Necks that are each wrong in one way that was seen in the wild, with the law that each breaks. None is registered
anywhere but in the functions of composer, as any part is.
"""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

import numpy as np
import torch
from attrs import evolve, frozen
from torch import nn
from torch.nn import functional as F

import composer
from tests.testing.sound import Levels

BROKEN: dict[type, str] = {}
"""The necks, each with the name of the law that it breaks."""


def declare(name, contract=None, module=None, kind=composer.Neck) -> type:
    """A part with this contract and module, as far as they are given."""
    part = frozen(type(name, (kind,), {"__slots__": ()}))
    if contract:
        composer.contract.register(part)(contract)
    if module:
        composer.module.register(part)(module)
    return part


def wrong(law: str, promise):
    """A neck with `promise(features)` for a contract, which returns None to refuse; the class is its module too."""

    def register(network: type[nn.Module]) -> type:
        def accept_maps(neck, features):
            promised = promise(features) if all(f.axes == "b c h w" for f in features) else None
            return promised or composer.Rejection(code="layout", kind="wrong_output", expected="takes maps")

        part = declare(network.__name__, accept_maps, lambda neck, features: network(features))
        BROKEN[part] = law
        return part

    return register


def same(features):
    return features


class Net(nn.Module):
    """Does nothing yet; the others derive from it."""

    def __init__(self, features):
        super().__init__()

    def forward(self, features):
        return [self.one(x) for x in features]

    def one(self, x):
        return x * 2


class Lambda(Net):
    """Applies `function` to each level."""

    def one(self, x):
        return type(self).function(x)


def rescaled(factor):
    return lambda features: [evolve(f, stride=f.stride / factor, rounding="floor") for f in features]


def flatten_square(x):
    return x.flatten(2).unflatten(2, (isqrt(x.shape[2] * x.shape[3]),) * 2)


FUNCTIONS = {
    "WrongStride": ("shapes", lambda x: F.interpolate(x, scale_factor=3.0), rescaled(2)),
    "OnlySquare": ("shapes", flatten_square, same),
    "Sideways": ("shapes", lambda x: x.transpose(2, 3), same),
    "OnlyEven": ("shapes", lambda x: F.max_pool2d(x, 2, ceil_mode=True), rescaled(Fraction(1, 2))),
    "ForgetsEval": ("again", lambda x: F.dropout(x, 0.5, training=True), same),
    "MixesTheBatch": ("batch", lambda x: x - x.mean(), same),
    "CentresLargeBatches": ("batch", lambda x: x - x.mean(0) if len(x) > 3 else x * 2, same),
    "MixesInPlace": ("inputs", lambda x: x.sub_(x.mean()), same),
    "ReadsMemory": ("memory", lambda x: torch.as_strided(x, (x.numel(),), (1,)).view(x.shape) * 2, same),
    "OverflowsInHalf": ("precision", lambda x: (x * 1e5) / 1e5, same),
    "Narrows": ("precision", lambda x: x.float() if x.dtype is torch.float64 else x * 2, same),
    "CutsTheGradient": ("gradients", lambda x: x.detach() * 2, same),
    "HasAnInfiniteGradient": ("gradients", lambda x: (x * 0).sqrt() + x, same),
}
"""What is wrong with each level, and what is promised."""

for name, (law, function, promise) in FUNCTIONS.items():
    wrong(law, promise)(type(name, (Lambda,), {"function": staticmethod(function)}))


@wrong("shapes", lambda features: [features[-1]] * 4)
class PromisesFour(Net):
    """Says four maps, and gives one."""

    def forward(self, features):
        return [features[-1] * 2]


@wrong("inputs", lambda features: features if len(features) == 1 else None)
class AppendsToItsInput(Net):
    """Appends to the list that it was given, which is the encoder's, and returns the first of it."""

    def forward(self, features):
        features.append(features[0] * 2)
        return features[1:]


@wrong("inputs", same)
class WritesInTraining(Net):
    """Writes on what it is fed in train mode, and in no other."""

    def one(self, x):
        return x.mul_(2) if self.training else x * 2


@wrong("itself", same)
class FlipsAFlag(Net):
    """Remembers for ever that a batch was odd once."""

    def __init__(self, features):
        super().__init__(features)
        self.seen_odd = False

    def one(self, x):
        self.seen_odd = self.seen_odd or x.shape[0] % 2 == 1
        return x * 2


class Holds(Net):
    """Holds a mean that is saved, a private count, a table, a mean that is not saved; the others change one of them."""

    def __init__(self, features):
        super().__init__(features)
        self.register_buffer("saved", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(()), persistent=False)
        self.tables = {"mean": [torch.zeros(5000), np.zeros(2)]}
        self._runs = 0

    def one(self, x):
        self.change(x)
        return x * 2


def grow(network, x):
    if not hasattr(network, "cache"):
        network.register_buffer("cache", torch.zeros(1))


CHANGES = {
    "LearnsInEval": lambda self, x: self.saved.mul_(0.9).add_(0.1 * x.mean().to(self.saved.dtype)),
    "CountsPrivately": lambda self, x: setattr(self, "_runs", self._runs + 1),
    "FillsATable": lambda self, x: self.tables["mean"][0][2500].add_(1),
    "FillsAnArray": lambda self, x: self.tables["mean"][1].put(1, self.tables["mean"][1][1] + 1),
    "AveragesUnsaved": lambda self, x: setattr(self, "mean", 0.9 * self.mean + 0.1 * x.mean()),
    "GrowsItsState": grow,
    "DrawsInEval": lambda self, x: torch.rand(()),
}
"""What a run changes, whatever the mode."""

for name, change in CHANGES.items():
    wrong("itself", same)(type(name, (Holds,), {"change": change}))


@wrong("precision", same)
class BuffersInSingle(Net):
    """Multiplies with a constant that stays in single precision."""

    def __init__(self, features):
        super().__init__(features)
        self.scale = torch.full((1, 1, 1, 1), 2.0)

    def one(self, x):
        return x * self.scale


class TwoWeights(Net):
    def __init__(self, features):
        super().__init__(features)
        self.used, self.unused = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))


@wrong("gradients", same)
class DeadParameter(TwoWeights):
    """Holds a weight that nothing flows through."""

    def one(self, x):
        return x * self.used


@wrong("gradients", same)
class ZeroGate(TwoWeights):
    """Adds a branch behind a gate that no gradient opens."""

    def one(self, x):
        return x * self.used + 0.0 * (x * self.unused)


@wrong("gradients", same)
class CutsTheLastOfSeveral(Net):
    """Lets nothing learn through its last level, where there are several."""

    def forward(self, features):
        *others, last = features
        return [*(x * 2 for x in others), last.detach() * 2 if others else last]


def refuse_several(neck, features):
    """Calls impossible what its module would do just as well."""
    if len(features) > 1:
        return composer.Rejection(code="count", kind="raises", expected="takes one map", got="several")
    return features


RefusesWhatItCan = declare("RefusesWhatItCan", refuse_several, lambda neck, features: Net(features))
BROKEN[RefusesWhatItCan] = "refusals"


class RowsForColumns(Levels):
    """Gives rows for columns: of a plain neck no heights and widths are promised, but these are not meant."""

    def forward(self, features):
        return [F.interpolate(x.transpose(2, 3), scale_factor=2) for x in features]


class Miscounts(Levels):
    """Says that it gives twice as many channels as it gives."""

    def process_channel_list(self, channel_list):
        return [2 * channels for channels in channel_list]


class OffByOne(Levels):
    """Looks one level too far: right for a single one."""

    def forward(self, features):
        return [*features[:1], *(features[index] + features[index + 1] for index in range(1, len(features)))]


class Misspelt(Levels):
    """Has a name in it that is not there, behind a condition that one level does not meet."""

    def forward(self, features):
        return features if len(features) == 1 else [x * self.skale for x in features]


class SquareMaps(Levels):
    """Finds the grid of its tokens by a square root."""

    def forward(self, features):
        return [flatten_square(x) for x in features]
