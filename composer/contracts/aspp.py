"""What the heads of atrous spatial pyramid pooling give. No torch here."""

from __future__ import annotations

from attrs import evolve

from composer.contracts.dispatch import contract
from composer.contracts.rules import Outcome, Promise, index_in, maps_only
from composer.feature import Features
from composer.parts import ASPPRegressionHead, ASPPSegmentationHead


@contract.register(ASPPSegmentationHead)
def _(head: ASPPSegmentationHead, features: Features) -> Outcome:
    return _on_the_first_grid(head.positions, features, head.num_classes)


@contract.register(ASPPRegressionHead)
def _(head: ASPPRegressionHead, features: Features) -> Outcome:
    return _on_the_first_grid(head.positions, features, head.out_channels)


def _on_the_first_grid(positions: tuple[int, ...], features: Features, channels: int) -> Outcome:
    """Every map is brought to the grid of the first that is taken, so nothing has to be whole."""
    if refusal := index_in(features, positions, "in_index"):
        return refusal
    chosen = tuple(features[index] for index in positions)
    return maps_only(chosen) or Promise(features=[evolve(chosen[0], channels=channels)])
