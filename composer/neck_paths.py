"""Search chains of necks that lead from features to a part that does not accept them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
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
from composer.parts.base import contract, get_part_name
from composer.parts.rules import Rejection, get_grid_key
from composer.parts.validators import MAX_LEVELS
from composer.spec.writer import format_value, get_written_fields

MAX_NECKS = 4
"""The longest path: reshape tokens of frames, pool the frames, select levels, make a pyramid."""

MAX_BRANCHES, MAX_BRANCH_LEVELS = 4, 32
"""The largest join that is searched: the work grows exponentially with branches and quadratically with levels."""


@frozen
class NeckPath:
    """A chain of necks. A shorter one is better, and of two equally long ones the one that costs less.

    `cost` counts what is lost (levels, frames) and computed. `features` are the result. `levels` are those that the
    encoder is asked for, if they are not its own choice.
    """

    length: int
    cost: float
    necks: tuple[Neck, ...]
    features: Features
    levels: tuple[int, ...] | None = None


def expand_paths(starts: Iterable[NeckPath], longest: int = MAX_NECKS) -> Iterator[NeckPath]:
    """Yield `starts` and all paths that begin with one of them, the shortest and cheapest first.

    A path has at most `longest` necks. Of two paths to the same features the better one is kept. Paths are extended
    only when all of their length are yielded, because nobody may ask for longer ones.
    """
    starts = list(starts)
    seen: set[Features] = set()
    ends: list[NeckPath] = []
    for length in range(max((start.length for start in starts), default=0) + longest + 1):
        level = [start for start in starts if start.length == length]
        level += [further for end in ends if len(end.necks) < longest for further in _extend_path(end)]
        ends = []
        for path in sorted(level, key=lambda path: path.cost):
            if path.features not in seen:
                seen.add(path.features)
                ends.append(path)
                yield path


def _extend_path(path: NeckPath) -> Iterator[NeckPath]:
    """Yield the paths that are longer by one neck."""
    for neck, cost in iter_candidate_necks(path.features):
        further = apply_part(neck, path.features)
        if further is not None:
            yield NeckPath(path.length + 1, path.cost + cost, (*path.necks, neck), further, path.levels)


def align_branches(branches: Sequence[Features], accept: Callable[..., bool]) -> Iterator[tuple[NeckPath, ...]]:
    """Yield a path for each of several branches to features that can be joined, the cheapest first.

    `accept` gets the features of all branches, which have the same layouts and strides by then. More than
    `MAX_BRANCHES` branches, or `MAX_BRANCH_LEVELS` levels, are not searched.
    """
    if len(branches) > MAX_BRANCHES or any(len(features) > MAX_BRANCH_LEVELS for features in branches):
        return iter(())
    grids: list[dict[Any, list[NeckPath]]] = [{} for _ in branches]
    for found, features in zip(grids, branches, strict=True):
        for path in expand_paths([NeckPath(0, 0.0, (), features)], longest=2):
            found.setdefault(tuple(map(get_grid_key, path.features)), []).append(path)
    common = set.intersection(*map(set, grids))
    pairs = [pair for grid in common for pair in product(*(found[grid] for found in grids))]
    accepted = [pair for pair in pairs if accept(*(path.features for path in pair))]
    accepted.sort(key=lambda pair: (sum(path.length for path in pair), sum(path.cost for path in pair)))
    return iter(accepted)


def apply_part(part: Part, *inputs: Features) -> Features | None:
    """Return the features that a part emits, or None if it rejects its inputs."""
    result = contract(part, *inputs)
    return None if isinstance(result, Rejection) else result.features


def iter_candidate_necks(features: Features) -> Iterator[tuple[Neck, float]]:
    """Yield the necks to try on these features, with their costs.

    Changing the layout costs least. Pooling frames and dropping levels lose information. A learned pyramid is
    preferred to an interpolated one, which works for any number of maps, and that to one that only shrinks.
    """
    axes = {feature.axes for feature in features}
    if len(axes) == 1:
        yield from _iter_permutations(features[0].axes)
    if any("n" in one.split() for one in axes):
        # Pooling frames first leaves less to reshape.
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
    """Yield selections of fewer levels, evenly spaced or in a row, coarse ones first; or all levels, finest first.

    Of more levels than `SelectIndices` can name, the last ones are left out.
    """
    features = features[:MAX_LEVELS]
    levels = len(features)
    strides = [feature.stride or 0 for feature in features]
    if strides != sorted(strides):
        yield SelectIndices(indices=sorted(range(levels), key=strides.__getitem__)), 0.01
    flat = len(set(strides)) == 1
    for fewer in range(levels - 1, 0, -1):
        lost = 0.02 * (levels - fewer)
        # Levels of one stride differ most if they are far apart; those of a pyramid must be neighbours.
        rows = [levels - fewer, 0] if flat else range(levels - fewer, -1, -1)
        spread = {pick_evenly_spaced(levels, fewer): lost if flat else lost + 0.05}
        in_a_row = {
            tuple(range(first, first + fewer)): lost + 0.02 * flat + 0.001 * place for place, first in enumerate(rows)
        }
        picks = in_a_row | spread if flat else spread | in_a_row
        for indices, cost in picks.items():
            yield SelectIndices(indices=indices), cost


def pick_evenly_spaced(levels: int, fewer: int) -> tuple[int, ...]:
    """Return `fewer` evenly spaced level indices that include the last: of 12 levels, the four 2, 5, 8 and 11."""
    return tuple(round((position + 1) * levels / fewer) - 1 for position in range(fewer))


def format_part(part: Part) -> str:
    """Return a part as a spec writes it, in one line: `SelectIndices: {indices: [1, 2]}`."""
    fields = get_written_fields(part)
    return f"{get_part_name(part)}: {format_value(fields)}" if fields else get_part_name(part)
