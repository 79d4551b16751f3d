"""The levels of timm's networks: which there are, which are asked for, and what timm states of them."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from composer.adapters.timm.networks import create_timm_network
from composer.catalogue.picking import normalize_indices
from composer.contracts.rules import Rejection, RejectionError
from composer.parts import Timm


def resolve_timm_levels(part: Timm, network: Any, channels: int, device: str) -> tuple[int, ...]:
    """The levels asked for, counted from 0; timm's own choice where none are. Raises Refused for what it has not."""
    if part.out_indices is None:
        if not part.features_only:
            network = create_timm_network(evolve(part, features_only=True, tokens=False, norm=False), channels, device)
        return tuple(network.feature_info.out_indices)
    # timm's wrapper fails without a word on a level that it has not, so it is the plain network that is asked.
    plain = create_timm_network(evolve(part, features_only=False), channels, device)
    indices = normalize_indices(part.out_indices, count_levels(plain))
    if isinstance(indices, Rejection):
        raise RejectionError(indices)
    return indices


def count_levels(network: Any) -> int:
    """How many levels a network has in all; timm's wrapper keeps the list of them to itself."""
    return len(getattr(network.feature_info, "info", network.feature_info))


def get_channels_and_reductions(
    part: Timm, network: Any, indices: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The channels and reductions that timm states for the levels."""
    if part.features_only:
        return tuple(network.feature_info.channels()), tuple(network.feature_info.reduction())
    infos = [network.feature_info[index] for index in indices]
    # SAM's final norm stands behind a neck that narrows.
    width = "num_chs_norm" if part.norm and all("num_chs_norm" in info for info in infos) else "num_chs"
    return tuple(info[width] for info in infos), tuple(info["reduction"] for info in infos)
