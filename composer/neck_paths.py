"""Search chains of necks that lead from features to a part that does not accept them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import count, product
from typing import Any

from attrs import frozen

from composer.layouts import FRAMES, MAP, MAP_PER_FRAME, TOKENS_PER_FRAME, Features
from composer.parts import (
    AddBottleneckLayer,
    FeaturePyramidNetworkNeck,
    InterpolateToPyramidal,
    LearnedInterpolateToPyramidal,
    MaxpoolToPyramidal,
    Neck,
    Part,
    PermuteDims,
    ReshapeTokensToImage,
    SelectIndices,
    TemporalPooling,
)
from composer.parts.base import contract
from composer.parts.rules import Rejection
from composer.spec.writer import get_non_default_fields

MAX_NECKS = 4
"""How many necks a way has at most: tokens per frame, made maps, pooled, picked and made a pyramid."""


MAX_BRANCHES, MAX_LEVELS = 4, 32
"""How many branches are brought together, of how many levels each: the work grows with the power of the one, and with
the square of the other."""


Accepts = Callable[[Features], bool]


@frozen(order=True)
class NeckPath:
    """Necks one after the other. Shorter is better, and of two as short the one that costs less.

    `cost` weighs what is lost (levels, frames) and what is computed. `features` are what comes out. `levels` are those
    that the encoder is asked for, where they are not its own choice.
    """

    length: int
    cost: float
    necks: tuple[Neck, ...]
    features: Features
    levels: tuple[int, ...] | None = None


def find_paths(features: Features, accepts: Accepts, longest: int = MAX_NECKS) -> Iterator[NeckPath]:
    """Every way to features that `accepts` takes, the best first; the empty one too, where it takes them as given."""
    return (way for way in expand_paths([NeckPath(0, 0.0, (), features)], longest) if accepts(way.features))


def expand_paths(starts: Iterable[NeckPath], longest: int = MAX_NECKS) -> Iterator[NeckPath]:
    """Every way on from one of `starts`, the best first, themselves among them, with `longest` necks at most.

    Dijkstra's search with contracts for edges. Two ways to the same features are one, the better of the two.
    """
    order = count()
    waiting = [(start.length, start.cost, next(order), start) for start in starts]
    heapify(waiting)
    seen: set[Features] = set()
    ends: list[NeckPath] = []
    while waiting or ends:
        if ends and (not waiting or waiting[0][0] > ends[0].length):
            # Only now, because nobody may have asked for longer ways.
            for onward in (further for end in ends for further in _extend_path(end) if further.features not in seen):
                heappush(waiting, (onward.length, onward.cost, next(order), onward))
            ends.clear()
            continue
        *_, way = heappop(waiting)
        if way.features in seen:
            continue
        seen.add(way.features)
        yield way
        if len(way.necks) < longest:
            ends.append(way)


def _extend_path(way: NeckPath) -> Iterator[NeckPath]:
    """The ways that are longer by one neck."""
    for neck, cost in iter_candidate_necks(way.features):
        further = apply_neck(neck, way.features)
        if further is not None:
            yield NeckPath(way.length + 1, way.cost + cost, (*way.necks, neck), further, way.levels)


def align_branches(branches: Sequence[Features], accept: Callable[..., bool]) -> Iterator[tuple[NeckPath, ...]]:
    """A way for each of several branches to features that can be joined, the fewest and cheapest necks first.

    `accept` is asked of the features of all, which by then are of the same layouts and strides, level by level. None
    is looked for where there are more than `BRANCHES`, or one has more than `LEVELS` levels.
    """
    if len(branches) > MAX_BRANCHES or any(len(features) > MAX_LEVELS for features in branches):
        return iter(())
    grids: list[dict[Any, list[NeckPath]]] = [{} for _ in branches]
    for found, features in zip(grids, branches, strict=True):
        for way in find_paths(features, lambda _: True, longest=2):
            found.setdefault(_get_grid_key(way.features), []).append(way)
    common = set.intersection(*map(set, grids))
    pairs = [pair for grid in common for pair in product(*(found[grid] for found in grids))]
    return iter(sorted((pair for pair in pairs if accept(*(way.features for way in pair))), key=compute_path_cost))


def _get_grid_key(features: Features) -> tuple[Any, ...]:
    """What has to be alike where tensors are joined along their channels."""
    return tuple((f.axes, f.stride, f.prefix, f.frames) for f in features)


def compute_path_cost(pair: Iterable[NeckPath]) -> tuple[int, float]:
    """How many necks several ways have together, and what these cost."""
    every = tuple(pair)
    return sum(way.length for way in every), sum(way.cost for way in every)


def apply_neck(neck: Neck, features: Features) -> Features | None:
    """What a neck gives, None where it refuses."""
    outcome = contract(neck, features)
    return None if isinstance(outcome, Rejection) else outcome.features


def iter_candidate_necks(features: Features) -> Iterator[tuple[Neck, float]]:
    """The necks worth a try on these features, each with what it costs.

    Changing the layout costs next to nothing. Pooling frames loses what was in them, and every level that is not
    picked is lost. A pyramid that is learned is preferred to one that is interpolated, which is to be had for any
    number of maps, and that to one that only shrinks.
    """
    axes = {feature.axes for feature in features}
    if len(axes) == 1:
        yield from _iter_permutations(features[0].axes)
    if any("n" in one.split() for one in axes):
        # Frames are rather pooled first: there is less left to be laid out.
        yield ReshapeTokensToImage(), 0.02 if any("t" in one.split() for one in axes) else 0.01
    if all("t" in one.split() for one in axes):
        yield TemporalPooling(), 0.5
    yield from _iter_level_selections(features)
    if axes == {MAP}:
        yield LearnedInterpolateToPyramidal(), 0.2
        yield InterpolateToPyramidal(), 0.4
        yield MaxpoolToPyramidal(), 0.6
        yield AddBottleneckLayer(), 0.7
        yield FeaturePyramidNetworkNeck(), 0.8


_LAYOUTS = (MAP, MAP_PER_FRAME, FRAMES, TOKENS_PER_FRAME)


def _iter_permutations(axes: str) -> Iterator[tuple[Neck, float]]:
    given = axes.split()
    for layout in _LAYOUTS:
        if axes != layout and sorted(given) == sorted(layout.split()):
            yield PermuteDims(new_order=[given.index(axis) for axis in layout.split()]), 0.01


def _iter_level_selections(features: Features) -> Iterator[tuple[Neck, float]]:
    """Fewer levels, spread evenly or in a row, rather the coarse ones; or all of them, finest first."""
    levels = len(features)
    strides = [feature.stride or 0 for feature in features]
    if strides != sorted(strides):
        yield SelectIndices(indices=sorted(range(levels), key=strides.__getitem__)), 0.01
    flat = len(set(strides)) == 1
    for fewer in range(levels - 1, 0, -1):
        lost = 0.02 * (levels - fewer)
        # Networks of one stride say more in levels far apart than in neighbours; those of a pyramid stand in a row.
        rows = [levels - fewer, 0] if flat else range(levels - fewer, -1, -1)
        spread = {pick_evenly_spaced(levels, fewer): lost if flat else lost + 0.05}
        in_a_row = {
            tuple(range(first, first + fewer)): lost + 0.02 * flat + 0.001 * place for place, first in enumerate(rows)
        }
        picks = in_a_row | spread if flat else spread | in_a_row
        for indices, cost in picks.items():
            yield SelectIndices(indices=indices), cost


def pick_evenly_spaced(levels: int, fewer: int) -> tuple[int, ...]:
    """`fewer` of so many levels, spread evenly, the last of all among them: of 12, the four 2, 5, 8 and 11."""
    return tuple(round((position + 1) * levels / fewer) - 1 for position in range(fewer))


def format_necks_entry(necks: Sequence[Part]) -> str:
    """Necks as a spec writes them, in one line: `necks: [SelectIndices: {indices: [1, 2]}]`."""
    return f"necks: [{format_neck_list(necks)}]"


def format_neck_list(necks: Sequence[Part]) -> str:
    """The same without the key and the brackets."""
    return ", ".join(map(_format_neck, necks))


def _format_neck(neck: Part) -> str:
    name = type(neck).__name__
    fields = get_non_default_fields(neck, name)
    told = ", ".join(f"{key}: {json.dumps(value)}" for key, value in fields.items())
    return f"{name}: {{{told}}}" if told else name
