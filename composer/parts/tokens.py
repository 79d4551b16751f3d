"""The neck that makes vectors of tokens. Names and defaults are TerraTorch's. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from attrs import Attribute, field, frozen

from composer.parts.fields import BOOL, INDEX, NON_EMPTY, convert_int_list
from composer.parts.kinds import Neck

AGGREGATIONS = ("mean", "max", "min", "cls")
MAX_PREFIX = 1024


@frozen
class _Pooling:
    """One of the ways of pooling, or the position of a token of the prefix."""

    known: ClassVar[tuple[str, ...]] = AGGREGATIONS

    def __call__(self, _: object, attribute: Attribute[Any], value: Any) -> None:
        position = type(value) is int and 0 <= value < MAX_PREFIX
        if not position and not (isinstance(value, str) and value in self.known):
            ways = f"{', '.join(self.known)}, or a whole number from 0 to {MAX_PREFIX - 1}"
            raise ValueError(f"{attribute.name} must be one of {ways} (got {value!r})")


def _convert_indices(value: int | Iterable[int] | None) -> tuple[int, ...]:
    """One position, several, or none given: the last."""
    if value is None:
        return (-1,)
    return (value,) if type(value) is int else convert_int_list(value)  # type: ignore[arg-type]


@frozen(kw_only=True)
class AggregateTokens(Neck):
    """Makes one vector of each feature at `indices`: the mean, maximum or minimum of its tokens, or one of its prefix.

    `indices` is a list, or one position; null is the last. `pooling: cls` is the first token of the prefix, and a
    whole number is that token of the prefix. The prefix is pooled along with the grid unless `drop_cls` drops it,
    however many tokens it has. Of tokens or maps per frame each frame is pooled alone.
    """

    pooling: str | int = field(default="mean", validator=_Pooling())
    indices: tuple[int, ...] | int | None = field(
        default=None, converter=_convert_indices, validator=[NON_EMPTY, INDEX]
    )
    drop_cls: bool = field(default=False, validator=BOOL)

    def __attrs_post_init__(self) -> None:
        if self.drop_cls and (self.pooling == "cls" or isinstance(self.pooling, int)):
            raise ValueError(f"drop_cls and pooling: {self.pooling} exclude each other: that token would be dropped")

    @property
    def positions(self) -> tuple[int, ...]:
        """Which features are taken: `indices`, however it was given."""
        assert isinstance(self.indices, tuple)
        return self.indices
