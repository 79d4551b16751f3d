"""Few combinations of options in which every two options that go together do so at least once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product
from random import Random

Combination = dict[str, str]
Pair = tuple[tuple[str, str], tuple[str, str]]

LOOKED_AT = 200
"""How many of the combinations that hold a missing pair are compared before one is chosen."""


def covering(factors: Mapping[str, Sequence[str]], works: Callable[[Combination], bool]) -> list[Combination]:
    """Combinations of one option of each factor, all of which work, that have every pair of options that can.

    Greedy: of those that have a pair not yet had, one that has as many of these as any of a fixed random choice. Always
    the same for the same factors.
    """
    every = (dict(zip(factors, options, strict=True)) for options in product(*factors.values()))
    lawful = [one for one in every if works(one)]
    holding: dict[Pair, list[Combination]] = {}
    for one in lawful:
        for pair in pairs_of(one):
            holding.setdefault(pair, []).append(one)
    choose, missing, chosen = Random(0), dict.fromkeys(holding), []
    while missing:
        some = holding[next(iter(missing))]
        candidates = some if len(some) <= LOOKED_AT else choose.sample(some, LOOKED_AT)
        best = max(candidates, key=lambda one: sum(pair in missing for pair in pairs_of(one)))
        chosen.append(best)
        for pair in pairs_of(best):
            missing.pop(pair, None)
    return chosen


def pairs_of(one: Combination) -> list[Pair]:
    """Every two options of a combination, in the order of the factors."""
    return list(combinations(one.items(), 2))
