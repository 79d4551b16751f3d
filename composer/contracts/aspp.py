"""What the heads of atrous spatial pyramid pooling give. No torch here."""

from __future__ import annotations

from attrs import evolve

from composer.contracts.dispatch import contract
from composer.contracts.rules import ContractResult, Outputs, require_indices, require_maps
from composer.feature import Features
from composer.parts import ASPPRegressionHead, ASPPSegmentationHead


@contract.register(ASPPSegmentationHead)
def _(head: ASPPSegmentationHead, features: Features) -> ContractResult:
    return _infer_aspp(head.positions, features, head.num_classes)


@contract.register(ASPPRegressionHead)
def _(head: ASPPRegressionHead, features: Features) -> ContractResult:
    return _infer_aspp(head.positions, features, head.out_channels)


def _infer_aspp(positions: tuple[int, ...], features: Features, channels: int) -> ContractResult:
    """Every map is brought to the grid of the first that is taken, so nothing has to be whole."""
    if refusal := require_indices(features, positions, "in_index"):
        return refusal
    chosen = tuple(features[index] for index in positions)
    return require_maps(chosen) or Outputs(features=[evolve(chosen[0], channels=channels)])
