"""The neck that pools frames. Its ways and their names are those of TerraTorch's wrapper. No torch here."""

from __future__ import annotations

from attrs import field, frozen

from composer.parts.fields import NON_EMPTY, Choice, IntRange, convert_optional_int_list
from composer.parts.kinds import Neck

POOLINGS = ("mean", "max", "diff", "concat", "keep")


@frozen(kw_only=True)
class TemporalPooling(Neck):
    """Pools features along their axis of frames, t, which may stand anywhere in their layout.

    `mean` and `max` are taken over the frames, `diff` is the first minus the second of exactly two, `concat` puts the
    channels of all frames one after the other, frame by frame, and `keep` leaves the frames as they are. With
    `subset_lengths`, such as [2, 3] of five frames, the frames of each subset are averaged first, and it is the
    averages that are pooled.
    """

    pooling: str = field(default="mean", validator=Choice(POOLINGS))
    subset_lengths: tuple[int, ...] | None = field(
        default=None,
        converter=convert_optional_int_list,
        validator=[NON_EMPTY, IntRange(1, 1024, optional=True, entries=1024)],
    )
