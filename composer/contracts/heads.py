"""What heads give. No torch here."""

from __future__ import annotations

from fractions import Fraction

from attrs import evolve

from composer.contracts.dispatch import contract
from composer.contracts.rules import (
    ContractResult,
    Outputs,
    Rejection,
    compute_exact_multiple,
    require,
    require_maps,
    scale_stride,
    to_exact_grid,
)
from composer.feature import MAP, VECTOR, Feature, Features
from composer.parts import ClassificationHead, EmbeddingHead, RegressionHead, ScalarHead, SegmentationHead


@contract.register(SegmentationHead)
def _(head: SegmentationHead, features: Features) -> ContractResult:
    return (
        require_maps(features)
        or _require_one_feature(features)
        or Outputs(features=[evolve(features[0], channels=head.num_classes)])
    )


@contract.register(RegressionHead)
def _(head: RegressionHead, features: Features) -> ContractResult:
    if refusal := require_maps(features) or _require_one_feature(features):
        return refusal
    if not head.learned_upscale_layers:
        return Outputs(features=[evolve(features[0], channels=head.num_outputs)])
    taken = to_exact_grid(features[0])
    stride = scale_stride(taken.stride, Fraction(1, 2**head.learned_upscale_layers))
    return Outputs(
        features=[evolve(taken, channels=head.num_outputs, stride=stride)], sizes=compute_exact_multiple(taken)
    )


@contract.register(ClassificationHead)
def _(head: ClassificationHead, features: Features) -> ContractResult:
    return _infer_image_vector(features, head.num_classes)


@contract.register(ScalarHead)
def _(head: ScalarHead, features: Features) -> ContractResult:
    return _infer_image_vector(features, head.num_outputs)


@contract.register(EmbeddingHead)
def _(head: EmbeddingHead, features: Features) -> ContractResult:
    if features:
        return Outputs(features=features)
    return Rejection(
        code="count", kind="policy", expected="takes at least one feature, or there is nothing to give", got="none"
    )


def _infer_image_vector(features: Features, channels: int) -> ContractResult:
    return (
        require(features, lambda f: f.axes.startswith(VECTOR), f'channels second: a map "{MAP}" or a vector "{VECTOR}"')
        or _require_one_feature(features)
        or Outputs(features=[Feature(channels=channels, stride=None, axes=VECTOR)])
    )


def _require_one_feature(features: Features) -> Rejection | None:
    if len(features) == 1:
        return None
    return Rejection(
        code="count", kind="raises", expected="takes one feature", repair="put a decoder before it: IdentityDecoder"
    )
