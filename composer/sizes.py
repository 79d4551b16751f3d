"""Constraints on image sizes, and how an image is padded to meet them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import lcm
from typing import Any

from attrs import evolve, field, frozen

from composer.layouts import Choice, IntRange, validate_bool

PADDING_MODES = ("reflect", "replicate", "zeros")
PADDING_SIDES = ("both", "end")

MAX_MULTIPLE = 2**20
"""The largest multiple that constraints may demand, alone or combined."""


@frozen(kw_only=True)
class SizeConstraint:
    """A set of valid image sizes, in reference pixels: those of a part, or of a whole graph.

    Both sides are multiples of `multiple` and at least `least`; `height` and `width` fix a side; `square` requires
    equal sides. By default every size is valid. Raises ValueError for numbers that are not whole, or below 1.
    """

    multiple: int = field(default=1, validator=IntRange())
    least: int = field(default=1, validator=IntRange())
    height: int | None = field(default=None, validator=IntRange(optional=True))
    width: int | None = field(default=None, validator=IntRange(optional=True))
    square: bool = field(default=False, validator=validate_bool)

    def is_valid_size(self, height: int, width: int) -> bool:
        """Return whether an image of `height` x `width` pixels needs no padding."""
        return self.compute_padded_size(height, width) == (height, width)

    def compute_padded_size(self, height: int, width: int) -> tuple[int, int] | None:
        """Return the smallest valid size that `height` x `width` can be padded to; None where it is too large."""
        if self.square:
            height = width = max(height, width)
        padded = (self._compute_padded_side(height, self.height), self._compute_padded_side(width, self.width))
        return padded if padded[0] >= height and padded[1] >= width else None

    def _compute_padded_side(self, pixels: int, fixed: int | None) -> int:
        return fixed if fixed is not None else round_up(pixels, self.multiple, self.least)

    def __str__(self) -> str:
        """Return `multiple of 32, at least 32, any shape`."""
        sides = ["any" if side is None else str(side) for side in (self.height, self.width)]
        if self.height is not None and self.width is not None:
            return f"exactly {self.height} × {self.width}"
        shape = "square" if self.square else "any shape" if self.height is self.width else " × ".join(sides)
        return f"multiple of {self.multiple}, at least {round_up(1, self.multiple, self.least)}, {shape}"


ANY_SIZE = SizeConstraint()


def round_up(pixels: int, multiple: int, least: int, largest: Callable[..., Any] = max) -> int:
    """Return the smallest multiple of `multiple` that is at least `pixels` and at least `least`.

    `largest` is `max` for plain numbers; the built model passes torch's for symbolic sizes.
    """
    # Not -(-pixels // multiple): ONNX rounds negative quotients of symbols towards zero.
    cells = (pixels + multiple - 1) // multiple
    fewest = (least + multiple - 1) // multiple
    # Multiplied last, so that a symbol is known to be a multiple too.
    most: int = cells if fewest <= 1 else largest(cells, fewest)
    return most * multiple


def _pick_fixed_side(one: int | None, other: int | None) -> int | None:
    return other if one is None else one


def _intersect_two(one: SizeConstraint, other: SizeConstraint) -> SizeConstraint | None:
    """Return the sizes valid for both; None where there are none, or only enormous ones."""
    if lcm(one.multiple, other.multiple) > MAX_MULTIPLE:
        return None
    for mine, theirs in ((one.height, other.height), (one.width, other.width)):
        if mine is not None and theirs is not None and mine != theirs:
            return None
    both = SizeConstraint(
        multiple=lcm(one.multiple, other.multiple),
        least=max(one.least, other.least),
        height=_pick_fixed_side(one.height, other.height),
        width=_pick_fixed_side(one.width, other.width),
        square=one.square or other.square,
    )
    if both.square and both.height != both.width:
        if both.height is not None and both.width is not None:
            return None
        both = evolve(
            both, height=_pick_fixed_side(both.height, both.width), width=_pick_fixed_side(both.width, both.height)
        )
    fixed = [side for side in (both.height, both.width) if side is not None]
    valid = all(side % both.multiple == 0 and side >= both.least for side in fixed)
    return both if valid else None


@frozen
class Conflict:
    """Two constraints that no image size meets, each with the name of its node."""

    first: str
    first_sizes: SizeConstraint
    second: str
    second_sizes: SizeConstraint


def intersect(demands: Iterable[tuple[str, SizeConstraint]]) -> SizeConstraint | Conflict:
    """Return the sizes that meet every named constraint, or the first pair that conflicts.

    Where no two constraints conflict but three do, the pair is the last one and the intersection of the others.
    """
    met = ANY_SIZE
    # Several nodes of a graph mostly have the same constraint.
    seen: dict[SizeConstraint, str] = {}
    for name, sizes in demands:
        if sizes in seen:
            continue
        both = _intersect_two(met, sizes)
        if both is None:
            rivals = ((other, made_by) for other, made_by in seen.items() if _intersect_two(other, sizes) is None)
            first_sizes, first = next(rivals, (met, "the nodes before it"))
            return Conflict(first, first_sizes, name, sizes)
        met = both
        seen[sizes] = name
    return met


@frozen(kw_only=True)
class Padding:
    """Padding of an image to a size that is valid for the graph; its output is cropped back.

    `mode`: `reflect` mirrors the image as far as it goes and repeats the edge beyond; `replicate` repeats the edge;
    `zeros` fills with 0. `side`: `both` puts half of the padding before the image (the smaller half where it is odd),
    `end` puts all of it after. `multiple` requires sides that are multiples of it, beside the graph's constraint.
    """

    mode: str = field(default="reflect", validator=Choice(PADDING_MODES))
    side: str = field(default="both", validator=Choice(PADDING_SIDES))
    multiple: int = field(default=1, validator=IntRange(1, MAX_MULTIPLE))

    def before(self, total: int, unit: int) -> int:
        """Return how much of `total` padding goes before the image: whole `unit`s, which keep the grid aligned."""
        return 0 if self.side == "end" else total // 2 // unit * unit
