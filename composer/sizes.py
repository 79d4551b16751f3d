"""Which image sizes a graph takes, and how an image is padded into one. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import lcm
from typing import Any

from attrs import Attribute, evolve, field, frozen
from attrs.validators import optional

PADDING_MODES = ("reflect", "replicate", "zeros")


PADDING_SIDES = ("both", "end")


MAX_MULTIPLE = 2**20
"""What a side may be asked to be a multiple of, by one or by all together."""


def _check_positive(_: object, attribute: Attribute[int], value: Any) -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"{attribute.name} must be a whole number of at least 1 (got {value!r})")


def _check_multiple(_: object, attribute: Attribute[int], value: Any) -> None:
    _check_positive(_, attribute, value)
    if value > MAX_MULTIPLE:
        raise ValueError(f"multiple must be at most {MAX_MULTIPLE:,} (got {value:,})")


def _check_bool(_: object, attribute: Attribute[bool], value: Any) -> None:
    if type(value) is not bool:
        raise ValueError(f"{attribute.name} must be true or false (got {value!r})")


@frozen(kw_only=True)
class SizeConstraint:
    """A set of image sizes, in reference pixels: what a part demands, or what a whole graph takes.

    Both sides are whole multiples of `multiple` and at least `least`; `height` and `width` are fixed where they
    are given; `square` asks that they be equal. The default admits every size. Raises ValueError for
    numbers that are not whole, or below 1.
    """

    multiple: int = field(default=1, validator=_check_positive)
    least: int = field(default=1, validator=_check_positive)
    height: int | None = field(default=None, validator=optional(_check_positive))
    width: int | None = field(default=None, validator=optional(_check_positive))
    square: bool = field(default=False, validator=_check_bool)

    def is_valid_size(self, height: int, width: int) -> bool:
        """Whether an image of `height` x `width` pixels needs no padding."""
        return self.compute_padded_size(height, width) == (height, width)

    def compute_padded_size(self, height: int, width: int) -> tuple[int, int] | None:
        """The smallest admitted size that `height` x `width` can be padded into; None where it is too large."""
        if self.square:
            height = width = max(height, width)
        padded = (self._compute_padded_side(height, self.height), self._compute_padded_side(width, self.width))
        return padded if padded[0] >= height and padded[1] >= width else None

    def _compute_padded_side(self, pixels: int, fixed: int | None) -> int:
        return fixed if fixed is not None else round_up(pixels, self.multiple, self.least)

    def __str__(self) -> str:
        """`multiple of 32, at least 32, any shape`."""
        sides = ["any" if side is None else str(side) for side in (self.height, self.width)]
        if self.height is not None and self.width is not None:
            return f"exactly {self.height} × {self.width}"
        shape = "square" if self.square else "any shape" if self.height is self.width else " × ".join(sides)
        return f"multiple of {self.multiple}, at least {round_up(1, self.multiple, self.least)}, {shape}"


ANY_SIZE = SizeConstraint()


def round_up(pixels: int, multiple: int, least: int, largest: Callable[..., Any] = max) -> int:
    """The smallest multiple of `multiple` that is neither under `pixels` nor under `least`.

    `largest` is `max` for plain numbers; the built model hands in torch's for sizes that are symbols.
    """
    # Not -(-pixels // multiple): ONNX rounds the quotient of a negative symbol towards zero.
    cells = (pixels + multiple - 1) // multiple
    fewest = (least + multiple - 1) // multiple
    # Cells first and pixels last, so that of a symbol too it is known to be a whole multiple.
    most: int = cells if fewest <= 1 else largest(cells, fewest)
    return most * multiple


def _pick_fixed_side(one: int | None, other: int | None) -> int | None:
    return other if one is None else one


def _intersect_two(one: SizeConstraint, other: SizeConstraint) -> SizeConstraint | None:
    """The sizes that both admit; None where there is none, or none but enormous ones."""
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
    lawful = all(side % both.multiple == 0 and side >= both.least for side in fixed)
    return both if lawful else None


@frozen
class Conflict:
    """Two demands that no image size meets: who makes them, and what they are."""

    first: str
    first_sizes: SizeConstraint
    second: str
    second_sizes: SizeConstraint


def intersect(demands: Iterable[tuple[str, SizeConstraint]]) -> SizeConstraint | Conflict:
    """The sizes that every demand admits, each given with the name of who makes it; or the first pair that conflicts.

    Where no two demands conflict but three do, the pair names the last demand and what the others left.
    """
    met = ANY_SIZE
    # Most demands of a graph are made by several of its nodes, and change nothing the second time.
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


@frozen
class _OneOf:
    """One of the ways of padding."""

    ways: tuple[str, ...]

    def __call__(self, _: object, __: Attribute[str], value: Any) -> None:
        if value not in self.ways:
            raise ValueError(f"padding is one of {', '.join(self.ways)} (got {value!r})")


@frozen(kw_only=True)
class Padding:
    """How an image is brought to a size that the graph takes, and its output back.

    `mode`: `reflect` mirrors the image as far as it goes and repeats the edge beyond; `replicate` repeats the edge;
    `zeros` fills with 0. `side`: `both` puts half of the padding before the image (the smaller half where it is odd),
    `end` puts all of it after. `multiple` asks for sides that are whole multiples of it, beside what the graph takes.
    """

    mode: str = field(default="reflect", validator=_OneOf(PADDING_MODES))
    side: str = field(default="both", validator=_OneOf(PADDING_SIDES))
    multiple: int = field(default=1, validator=_check_multiple)

    def before(self, total: int, unit: int) -> int:
        """How much of `total` padding comes before the image: whole `unit`s, so that cells stay on the image's grid."""
        return 0 if self.side == "end" else total // 2 // unit * unit
