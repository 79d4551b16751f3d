"""Which maps a head of mmseg takes, and in which order. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from composer.contracts.rules import Rejection
from composer.feature import Features, format_count
from composer.parts.mmseg import MULTI_MAP_HEADS, Mmseg


@frozen
class SelectedMaps:
    """The features that flow in, and the positions of those that a head takes."""

    features: Features
    positions: tuple[int, ...]

    @property
    def maps(self) -> Features:
        """Those that are taken, in the order in which they are."""
        return tuple(self.features[position] for position in self.positions)


def require_in_index_type(head: Mmseg, told: Mapping[str, Any]) -> Rejection | None:
    """Refuse a list where one map is taken, and one index where several are."""
    given = told["in_index"]
    concatenates = told.get("input_transform") == "resize_concat"
    if isinstance(given, tuple) and head.name not in MULTI_MAP_HEADS and not concatenates:
        able = "input_transform" in head.defaults[head.name]
        repair = "input_transform: resize_concat" if able else f"in_index: {given[-1]}"
        return _reject_in_index("takes one map, so in_index is a whole number", list(given), repair)
    if isinstance(head.in_index, int) and (head.name in MULTI_MAP_HEADS or concatenates):
        return _reject_in_index("takes several maps, so in_index is a list", given, f"in_index: [{given}]")
    return None


def _reject_in_index(expected: str, got: object, repair: str) -> Rejection:
    return Rejection(code="type", kind="raises", expected=expected, got=str(got), repair=repair, about="in_index")


def resolve_positions(name: str, told: Mapping[str, Any], features: Features) -> tuple[int, ...]:
    """The positions of what a head takes: of all, where it takes several and is not told which."""
    given = told["in_index"]
    if isinstance(given, tuple):
        return given
    several = name in MULTI_MAP_HEADS or told.get("input_transform") == "resize_concat"
    return tuple(range(len(features))) if several else (given,)


def require_two_maps(taken: SelectedMaps) -> Rejection | None:
    """Refuse other than two maps, where one is compared with the other."""
    if len(taken.positions) == 2:
        return None
    return Rejection(
        code="count",
        kind="raises",
        expected="takes two maps",
        got=format_count(len(taken.positions), "map"),
        repair="in_index: [-2, -1]",
        about="in_index",
    )


def require_selected_finest_first(taken: SelectedMaps) -> Rejection | None:
    """Refuse maps upside down: the scores are at the grid of the first of them."""
    strides = [f.stride for f in taken.maps if f.stride is not None]
    if strides == sorted(strides):
        return None
    order = sorted(range(len(strides)), key=strides.__getitem__)
    return Rejection(
        code="order",
        kind="policy",
        expected="gives scores at the grid of the first map, so strides must not decrease",
        repair=f"in_index: {[taken.positions[place] for place in order]}",
    )


def require_finer_first_map(taken: SelectedMaps) -> Rejection | None:
    """Refuse a first map that is coarser than the one it is to refine."""
    first, refined = taken.features[0].stride, taken.maps[0].stride
    if first is None or refined is None or first <= refined:
        return None
    order = sorted(range(len(taken.features)), key=lambda place: taken.features[place].stride or 0)
    return Rejection(
        code="order",
        kind="policy",
        expected="refines a map with the first of all, so that one must not be coarser",
        got=f"stride {first} for {refined}",
        repair=f"necks: [SelectIndices: {{indices: {order}}}]",
    )
