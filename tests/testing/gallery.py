"""Necks that are each wrong in one way that was seen in the wild, with the law that each breaks. None is registered
anywhere but in the functions of composer, as any part is.
"""

from __future__ import annotations

from math import isqrt

import torch
from attrs import evolve, frozen
from torch import nn
from torch.nn import functional as F

import composer
from tests.testing.sound import Levels

BROKEN: dict[type, str] = {}
"""The necks, each with the name of the law that it breaks."""


def wrong(law: str, promise):
    """A neck with `promise(features)` for a contract, which returns None to refuse; the class is its module too."""

    def register(network: type[nn.Module]) -> type:
        part = frozen(type(network.__name__, (composer.Neck,), {"__doc__": network.__doc__, "__slots__": ()}))

        @composer.contract.register(part)
        def _(neck, features):
            promised = promise(features) if all(f.axes == "b c h w" for f in features) else None
            if promised is None:
                return composer.Rejection(code="layout", kind="wrong_output", expected="takes maps")
            return promised

        @composer.module.register(part)
        def _(neck, features):
            return network(features)

        BROKEN[part] = law
        return part

    return register


def same(features):
    return features


def alone(features):
    return features if len(features) == 1 else None


class Net(nn.Module):
    """Does nothing yet; the others derive from it."""

    def __init__(self, features):
        super().__init__()

    def forward(self, features):
        return [self.one(x) for x in features]

    def one(self, x):
        return x * 2


@wrong("shapes", lambda features: [evolve(f, stride=f.stride / 2) for f in features])
class WrongStride(Net):
    """Says that it doubles every map, and makes it three times as large."""

    def one(self, x):
        return F.interpolate(x, scale_factor=3.0)


@wrong("shapes", lambda features: [features[-1]] * 4)
class PromisesFour(Net):
    """Says four maps, and gives one."""

    def forward(self, features):
        return [features[-1] * 2]


@wrong("shapes", same)
class OnlySquare(Net):
    """Finds the grid of its tokens by a square root."""

    def one(self, x):
        side = isqrt(x.shape[2] * x.shape[3])
        return x.flatten(2).unflatten(2, (side, side))


@wrong("shapes", same)
class Sideways(Net):
    """Gives rows for columns: right for squares alone."""

    def one(self, x):
        return x.transpose(2, 3)


@wrong("shapes", lambda features: [evolve(f, stride=f.stride * 2, rounding="floor") for f in features])
class OnlyEven(Net):
    """Halves a map: right for even sides, and one cell too many for odd ones."""

    def one(self, x):
        return F.max_pool2d(x, 2, ceil_mode=True)


@wrong("inputs", alone)
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


@wrong("itself", same)
class LearnsInEval(Net):
    """Updates its statistics whatever the mode."""

    def __init__(self, features):
        super().__init__(features)
        self.register_buffer("mean", torch.zeros(()))

    def one(self, x):
        self.mean.mul_(0.9).add_(0.1 * x.mean().to(self.mean.dtype))
        return x * 2


@wrong("itself", same)
class CountsPrivately(Net):
    """Counts its runs behind an underscore."""

    def __init__(self, features):
        super().__init__(features)
        self._runs = 0

    def one(self, x):
        self._runs += 1
        return x * 2


@wrong("itself", same)
class FillsATable(Net):
    """Writes into one of many numbers, in a tensor that a dict holds."""

    def __init__(self, features):
        super().__init__(features)
        self.tables = {"mean": torch.zeros(5000)}

    def one(self, x):
        self.tables["mean"][2500] += 1
        return x * 2


@wrong("itself", same)
class AveragesUnsaved(Net):
    """Updates statistics in a buffer that is not saved, whatever the mode."""

    def __init__(self, features):
        super().__init__(features)
        self.register_buffer("mean", torch.zeros(()), persistent=False)

    def one(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean()
        return x * 2


@wrong("itself", same)
class GrowsItsState(Net):
    """Registers a buffer, which is saved, when it is run first."""

    def one(self, x):
        if not hasattr(self, "cache"):
            self.register_buffer("cache", torch.zeros(1))
        return x * 2


@wrong("again", same)
class ForgetsEval(Net):
    """Drops out in eval mode too."""

    def one(self, x):
        return F.dropout(x, 0.5, training=True)


@wrong("batch", same)
class MixesTheBatch(Net):
    """Takes off the mean of the batch, where that of each image was meant."""

    def one(self, x):
        return x - x.mean()


@wrong("batch", same)
class CentresLargeBatches(Net):
    """Takes off the mean of the batch where that has more than three images."""

    def one(self, x):
        return x - x.mean(0) if len(x) > 3 else x * 2


@wrong("inputs", same)
class MixesInPlace(Net):
    """Takes off the mean of the batch, in place: it breaks the law of the batch too, and that of memory not."""

    def one(self, x):
        return x.sub_(x.mean())


@wrong("memory", same)
class ReadsMemory(Net):
    """Folds the rows by what lies beside what in memory."""

    def one(self, x):
        flat = torch.as_strided(x, (x.numel(),), (1,))
        return flat.view(x.shape) * 2


@wrong("precision", same)
class OverflowsInHalf(Net):
    """Scales up and down again, past what half precision holds."""

    def one(self, x):
        return (x * 1e5) / 1e5


@wrong("precision", same)
class BuffersInSingle(Net):
    """Multiplies with a constant that stays in single precision."""

    def __init__(self, features):
        super().__init__(features)
        self.scale = torch.full((1, 1, 1, 1), 2.0)

    def one(self, x):
        return x * self.scale


@wrong("gradients", same)
class DeadParameter(Net):
    """Holds a weight that nothing flows through."""

    def __init__(self, features):
        super().__init__(features)
        self.used = nn.Parameter(torch.ones(()))
        self.unused = nn.Parameter(torch.ones(()))

    def one(self, x):
        return x * self.used


@wrong("gradients", same)
class ZeroGate(Net):
    """Adds a branch behind a gate that no gradient opens."""

    def __init__(self, features):
        super().__init__(features)
        self.weight = nn.Parameter(torch.ones(()))

    def one(self, x):
        return x + 0.0 * (x * self.weight)


@wrong("gradients", same)
class CutsTheGradient(Net):
    """Lets nothing before it learn."""

    def one(self, x):
        return x.detach() * 2


@wrong("gradients", same)
class CutsTheLastOfSeveral(Net):
    """Lets nothing learn through its last level, where there are several."""

    def forward(self, features):
        *others, last = features
        return [*(x * 2 for x in others), last.detach() * 2 if others else last]


@frozen
class RefusesWhatItCan(composer.Neck):
    """Calls impossible what it would do just as well."""


@composer.contract.register(RefusesWhatItCan)
def _(neck, features):
    if len(features) > 1:
        return composer.Rejection(code="count", kind="raises", expected="takes one map", got="several")
    return features


@composer.module.register(RefusesWhatItCan)
def _(neck, features):
    return Net(features)


BROKEN[RefusesWhatItCan] = "refusals"


class RowsForColumns(Levels):
    """Gives rows for columns: of a plain neck no heights and widths are promised, but these are not meant."""

    def forward(self, features):
        return [F.interpolate(x.transpose(2, 3), scale_factor=2) for x in features]


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
        return [x.flatten(2).unflatten(2, (isqrt(x.shape[2] * x.shape[3]),) * 2) for x in features]
