"""The levels of timm's networks: which there are, which are asked for, and what timm states of them."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from composer.adapters.timm.networks import create
from composer.catalogue.picking import counted_from_0
from composer.contracts.rules import Refusal, Refused
from composer.parts import Timm


def levels(part: Timm, network: Any, channels: int, device: str) -> tuple[int, ...]:
    """The levels asked for, counted from 0; timm's own choice where none are. Raises Refused for what it has not."""
    if part.out_indices is None:
        if not part.features_only:
            network = create(evolve(part, features_only=True, tokens=False, norm=False), channels, device)
        return tuple(network.feature_info.out_indices)
    # timm's wrapper fails without a word on a level that it has not, so it is the plain network that is asked.
    plain = create(evolve(part, features_only=False), channels, device)
    indices = counted_from_0(part.out_indices, count_of(plain))
    if isinstance(indices, Refusal):
        raise Refused(indices)
    return indices


def count_of(network: Any) -> int:
    """How many levels a network has in all; timm's wrapper keeps the list of them to itself."""
    return len(getattr(network.feature_info, "info", network.feature_info))


def stated(part: Timm, network: Any, indices: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The channels and reductions that timm states for the levels."""
    if part.features_only:
        return tuple(network.feature_info.channels()), tuple(network.feature_info.reduction())
    infos = [network.feature_info[index] for index in indices]
    # SAM's final norm stands behind a neck that narrows.
    width = "num_chs_norm" if part.norm and all("num_chs_norm" in info for info in infos) else "num_chs"
    return tuple(info[width] for info in infos), tuple(info["reduction"] for info in infos)
