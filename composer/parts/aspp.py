"""Atrous spatial pyramid pooling: decoders that predict. Names and defaults are TerraTorch's. No torch here."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import field, frozen

from composer.parts.fields import BOOL, CHANNELS, INDEX, NON_EMPTY, RATE, Choice, IntRange, convert_int_list
from composer.parts.kinds import Decoder

TRANSFORMS = (None, "resize_concat")


def _convert_list(value: int | Iterable[int]) -> int | tuple[int, ...]:
    return tuple(value) if isinstance(value, list | tuple) else value  # type: ignore[return-value]


@frozen(kw_only=True)
class _ASPPHead(Decoder):
    """What both heads have in common."""

    channels: int = field(validator=CHANNELS)
    dilations: tuple[int, ...] = field(default=(1, 6, 12, 18), converter=convert_int_list, validator=IntRange(1, 256))
    align_corners: bool = field(default=False, validator=BOOL)
    head_dropout_ratio: float = field(default=0.3, validator=RATE)
    in_index: int | tuple[int, ...] = field(default=-1, converter=_convert_list, validator=[NON_EMPTY, INDEX])
    input_transform: str | None = field(default=None, validator=Choice(TRANSFORMS))
    includes_head: bool = field(default=True, validator=BOOL)

    def __attrs_post_init__(self) -> None:
        if isinstance(self.in_index, tuple) != (self.input_transform == "resize_concat"):
            raise ValueError("in_index is a list where input_transform is resize_concat, and a whole number elsewhere")

    @property
    def positions(self) -> tuple[int, ...]:
        """Which features are taken."""
        return self.in_index if isinstance(self.in_index, tuple) else (self.in_index,)


@frozen(kw_only=True)
class ASPPSegmentationHead(_ASPPHead):
    """Class scores from one map, by convolutions of several dilations beside its mean. Needs no head.

    With `input_transform: resize_concat`, `in_index` is a list of maps, which are brought to the grid of the first
    of them and concatenated. `includes_head: false` says that a head follows all the same.
    """

    num_classes: int = field(default=2, validator=CHANNELS)


@frozen(kw_only=True)
class ASPPRegressionHead(_ASPPHead):
    """Numbers from one map, by convolutions of several dilations beside its mean. Needs no head.

    With `input_transform: resize_concat`, `in_index` is a list of maps, which are brought to the grid of the first
    of them and concatenated. `includes_head: false` says that a head follows all the same.
    """

    out_channels: int = field(default=1, validator=CHANNELS)
